"""The published command: fused-moe-configs where | explain | export | doctor."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from . import __version__, machine
from .api import explain, where
from .exporting import summary, write_export
from .lookup import DTYPES, REFERENCE_TRITON, ConfigError, get_config_file_name, printable, release

BACKENDS = {
    "bf16, fp16": "read: Triton is the automatic choice",
    "block fp8": "read under tensor parallelism; under expert parallelism FlashInfer or CUTLASS goes first",
    "per-tensor or per-channel fp8": "not read unless the Triton backend is chosen: FlashInfer or CUTLASS goes first",
    "int4_w4a16, grouped int8_w8a16": "another kernel runs (for int4 and few tokens a CUDA one)",
    "int8_w8a8": "never asked for: vLLM reads the file of bf16",
}


class _OutputError(Exception):
    """stdout could not be written; its cause is the OSError."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 good, 1 nothing found or a broken file, 2 bad use or impossible on this machine, 130 Ctrl-C.

    A closed or full output is no traceback, and nothing is left in a buffer: where Python's own flush at its exit
    fails, the process would end with 120 instead.
    """
    # A closed stream is None, and print writes to stdout then what was meant for stderr.
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        _print()  # what argparse has printed
    except _OutputError as error:
        code = _without_output(error.__cause__)
    except KeyboardInterrupt:
        code = 130
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _run(arguments: list[str] | None) -> int:
    try:
        options = vars(_parser().parse_args(arguments))
    except SystemExit as end:  # --help, --version, bad use
        return int(end.code or 0)
    try:
        return int(options.pop("run")(**options))
    except OSError as error:
        place = printable(error.filename or options.get("destination"))
        found = error.strerror or error
        _say(f"error: {place}: expected to write there, found: {found}. Fix: name another place")
    except (ValueError, RuntimeError) as error:
        _say(f"error: {error}")
        return 1 if isinstance(error, ConfigError) else 2
    return 2


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")  # for the process's life


def _without_output(error: BaseException | None) -> int:
    if isinstance(error, BrokenPipeError):  # the reader has seen enough
        return 0
    found = getattr(error, "strerror", None) or error
    _say(f"error: the output: expected to write there, found: {found}. Fix: name another place")
    return 2


def _print(*lines: object) -> None:
    """At once, so that a failure is stdout's and none of the files'."""
    try:
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)
    except OSError as error:
        raise _OutputError from error


def _say(*lines: str) -> None:
    """On stderr. Where it can't be written, the work goes on."""
    with contextlib.suppress(OSError):
        print(*lines, sep="\n", file=sys.stderr, flush=True)


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
    command.set_defaults(run=_explain)
    command.add_argument("--siblings", action="store_true", help="without a file, read that of a sibling GPU")
    command.add_argument("E", type=int, help="experts on the rank")
    command.add_argument("N", type=int, help="intermediate size per shard")
    command = commands.add_parser("export", help="write an engine's own layout", parents=[machine])
    command.set_defaults(run=_export)
    command.add_argument("destination", metavar="DEST", help="what the engine's variable is set to")
    command.add_argument("--engine", required=True, choices=("vllm", "sglang"))
    wish = "the engine's own configs folder, copied first; auto: that of the installed engine"
    command.add_argument("--overlay", metavar="DIR", help=wish)
    command.add_argument("--siblings", action="store_true", help="GPUs without a file get that of a sibling GPU")
    command = commands.add_parser("doctor", help="what is installed and used here", parents=[workload, machine])
    command.set_defaults(run=_doctor)
    command.add_argument("--model-like", nargs=2, type=int, metavar=("E", "N"), help="explain such a workload too")
    return parser


def _block_shape(text: str) -> tuple[int, int]:
    try:
        block_n, block_k = text.strip("[]").split(",")
        return int(block_n), int(block_k)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected n,k such as 128,128, found {text!r}") from None


def _where() -> int:
    _print(where())
    return 0


def _explain(**workload: Any) -> int:
    lookup = explain(**workload)
    _print(lookup)
    return 0 if lookup.winner else 1


def _export(destination: str, engine: str, **options: Any) -> int:
    done = write_export(where(), destination, engine, **options)
    if done.notes:
        _say(*done.notes)
    _print(*summary(done, where()))
    return 0 if done.is_whole else 1


def _doctor(model_like: list[int] | None, device_name: str | None, triton_version: str | None, **workload: Any) -> int:
    E, N = model_like or (1, 1)
    # Refused even where nothing here would come to use it.
    get_config_file_name(E, N, "any" if device_name is None else device_name, **workload)
    release(REFERENCE_TRITON if triton_version is None else triton_version)
    tuned = [path for pattern in ("E=*.json", "*_*/E=*.json") for path in where().glob(pattern)]
    facts = {"fused_moe_configs": f"{__version__}, {len(tuned)} tuned files in {where()}"}
    try:
        facts["GPU"] = device_name = machine.device_name() if device_name is None else device_name
    except RuntimeError as error:
        if model_like:
            raise
        facts["GPU"] = f"none. {error}"
    for package in ("triton", "torch", "vllm", "sglang"):
        facts[package] = machine.version_of(package) or "not installed"
    facts["reference Triton"] = REFERENCE_TRITON
    facts |= machine.engine_folders()
    facts |= {f"vLLM on Hopper, {kind}": reads for kind, reads in BACKENDS.items()}
    _print(*(f"{what}: {fact}" for what, fact in facts.items()))
    if model_like:
        _print(explain(E, N, device_name=device_name, triton_version=triton_version, **workload))
    return 0
