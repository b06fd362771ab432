"""The published command: fused-moe-configs where | explain | export | doctor."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from . import ConfigError, __version__, _environment, explain, where
from ._chain import DTYPES, USER_FOLDER
from ._export import write_export
from ._reference import REFERENCE_TRITON

BACKENDS = {
    "bf16, fp16": "read: Triton is the automatic choice",
    "block fp8": "read under tensor parallelism; under expert parallelism FlashInfer or CUTLASS goes first",
    "per-tensor or per-channel fp8": "not read unless the Triton backend is chosen: FlashInfer or CUTLASS goes first",
    "int4_w4a16, grouped int8_w8a16": "another kernel runs (for int4 and few tokens a CUDA one)",
    "int8_w8a8": "never asked for: vLLM reads the file of bf16",
}


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 good, 1 nothing found or a broken file, 2 bad use or impossible on this machine."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = vars(_parser().parse_args(arguments))
    try:
        code = int(options.pop("run")(**options))
        sys.stdout.flush()
        return code
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fused-moe-configs", description="Tuned configs of the fused MoE Triton kernel.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="where | explain | export | doctor")
    machine, workload = (argparse.ArgumentParser(add_help=False) for _ in range(2))
    machine.add_argument("--triton-version", metavar="X", help="such as 3.8.0")
    machine.add_argument("--device-name", metavar="D", help="as the driver reports it")
    workload.add_argument("--dtype", help=f"{', '.join(DTYPES)}; nothing for bf16 and fp16")
    workload.add_argument("--block-shape", type=_block_shape, metavar="n,k")
    workload.add_argument("--per-channel-quant", action="store_true")
    workload.add_argument("--down", action="store_true", help="the down projection's own file")
    command = commands.add_parser("where", help="print the configs folder")
    command.set_defaults(run=_where)
    command = commands.add_parser("explain", help="every place looked at", parents=[workload, machine])
    command.add_argument("E", type=int, help="experts on the rank")
    command.add_argument("N", type=int, help="intermediate size per shard")
    command.set_defaults(run=_explain)
    command = commands.add_parser("export", help="write an engine's own layout", parents=[machine])
    command.add_argument("destination", metavar="DEST", help="what the engine's variable is set to")
    command.add_argument("--engine", required=True, choices=("vllm", "sglang"))
    command.add_argument("--overlay", metavar="DIR", help="the engine's own configs folder, copied first")
    command.set_defaults(run=_export)
    command = commands.add_parser("doctor", help="what is installed and used here", parents=[workload, machine])
    command.add_argument("--model-like", nargs=2, type=int, metavar=("E", "N"), help="explain such a workload too")
    command.set_defaults(run=_doctor)
    return parser


def _block_shape(text: str) -> tuple[int, int]:
    block_n, block_k = text.strip("[]").split(",")
    return int(block_n), int(block_k)


def _where() -> int:
    print(where())
    return 0


def _explain(**workload: Any) -> int:
    lookup = explain(**workload)
    print(lookup)
    return 0 if lookup.winner else 1


def _export(**options: Any) -> int:
    written, notes = write_export(str(where()), **options)
    print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
    print(f"{len(written)} file{'s' * (len(written) != 1)} written to {options['destination']}")
    return 0


def _doctor(model_like: list[int] | None, **workload: Any) -> int:
    versions = {package: _environment.version_of(package) for package in ("triton", "torch", "vllm", "sglang")}
    facts = {"fused_moe_configs": f"{__version__}, {len([*where().rglob('E=*.json')])} tuned files in {where()}"}
    try:
        gpu = workload["device_name"] = workload["device_name"] or _environment.device_name()
        facts["GPU"] = gpu
    except RuntimeError as error:
        facts["GPU"] = f"none. {error}"
    facts |= {package: version or "not installed" for package, version in versions.items()}
    facts["reference Triton"] = REFERENCE_TRITON
    for variable, pattern in ((USER_FOLDER, "*.json"), ("SGLANG_MOE_CONFIG_DIR", "configs/triton_*/*.json")):
        folder = os.environ.get(variable)
        count = (
            f"{len([*Path(folder).glob(pattern)])} files {pattern}" if folder and Path(folder).is_dir() else "no folder"
        )
        facts[variable] = f"{folder}: {count}" if folder else "not set"
    facts |= {f"vLLM on Hopper, {kind}": reads for kind, reads in BACKENDS.items()}
    print(*(f"{what}: {fact}" for what, fact in facts.items()), sep="\n")
    if model_like and workload["device_name"]:
        print(explain(model_like[0], model_like[1], **workload))
    return 0


if __name__ == "__main__":
    sys.exit(main())
