"""fused-moe-configs doctor: what is installed and used here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fused_moe_configs import __version__, machine
from fused_moe_configs.api import explain, where
from fused_moe_configs.lookup import REFERENCE_TRITON, get_config_file_name, release

from .console import machine_arguments, show, workload_arguments

if TYPE_CHECKING:
    from .console import Commands

BACKENDS = {
    "bf16, fp16": "read: Triton is the automatic choice",
    "block fp8": "read under tensor parallelism; under expert parallelism FlashInfer or CUTLASS goes first",
    "per-tensor or per-channel fp8": "not read unless the Triton backend is chosen: FlashInfer or CUTLASS goes first",
    "int4_w4a16, grouped int8_w8a16": "another kernel runs (for int4 and few tokens a CUDA one)",
    "int8_w8a8": "never asked for: vLLM reads the file of bf16",
}


def add_to(commands: Commands) -> None:
    parents = [workload_arguments(), machine_arguments()]
    command = commands.add_parser("doctor", help="what is installed and used here", parents=parents)
    command.set_defaults(run=run)
    command.add_argument("--model-like", nargs=2, type=int, metavar=("E", "N"), help="explain such a workload too")


def run(model_like: list[int] | None, device_name: str | None, triton_version: str | None, **workload: Any) -> int:
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
    show(*(f"{what}: {fact}" for what, fact in facts.items()))
    if model_like:
        show(explain(E, N, device_name=device_name, triton_version=triton_version, **workload))
    return 0
