"""fused-moe-configs doctor: what is installed and used here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fused_moe_configs import __version__, machine
from fused_moe_configs.api import explain, where
from fused_moe_configs.lookup import REFERENCE_TRITON, USER_FOLDER, get_config_file_name, release

from .console import machine_arguments, show, size, workload_arguments

if TYPE_CHECKING:
    from .console import Commands

SIDE_EFFECTS = (
    "in vLLM {} switches more than MoE files: LoRA on experts takes its own files from it, no longer settings derived "
    "from the MoE file, and Mamba reads headdim=… files from it"
)


def add_to(commands: Commands) -> None:
    parents = [workload_arguments(), machine_arguments()]
    command = commands.add_parser(
        "doctor",
        help="what is installed and used here, or what a server's log says",
        description="What is installed and used here. With --engine-log: which tuned files a server read and missed, "
        "and what answers each miss; exit 1 where one was missed or the log speaks of none.",
        parents=parents,
    )
    command.set_defaults(run=run)
    command.add_argument("--model-like", nargs=2, type=size, metavar=("E", "N"), help="explain such a workload too")
    command.add_argument(
        "--engine-log",
        nargs="+",
        metavar="FILE",
        help="a log of vLLM or SGLang, plain or packed (gzip, bzip2, xz), the parts of a rotated one, or - for stdin",
    )
    command.add_argument(
        "--format", choices=("text", "json"), default="text", dest="output", help="of --engine-log's answer"
    )


def run(
    model_like: list[int] | None, device_name: str | None, triton_version: str | None,
    engine_log: list[str] | None, output: str, **workload: Any,
) -> int:  # fmt: skip
    E, N = model_like or (1, 1)
    # Refused even where nothing here would come to use it.
    get_config_file_name(E, N, "any" if device_name is None else device_name, **workload)
    release(REFERENCE_TRITON if triton_version is None else triton_version)
    if engine_log:
        from . import engine_log as of_log  # packed logs need modules that nothing else does

        if model_like or device_name is not None or any(workload.values()):
            raise ValueError("--engine-log: expected no workload and no device beside it, found one. Fix: leave it out")
        return of_log.run(engine_log, output, triton_version)
    if output == "json":
        raise ValueError("--format json: expected it beside --engine-log, found it alone. Fix: leave it out")
    facts = {"fused_moe_configs": f"{__version__}, {_tuned_files()} tuned files in {where()}"}
    try:
        facts["GPU"] = device_name = machine.device_name() if device_name is None else device_name
    except RuntimeError as error:
        facts["GPU"] = f"none. {error}"
    for package in ("triton", "torch", "vllm", "sglang"):
        facts[package] = machine.version_of(package) or "not installed"
    facts["reference Triton"] = REFERENCE_TRITON
    facts |= machine.engine_folders()
    if os.environ.get(USER_FOLDER):
        facts["note"] = SIDE_EFFECTS.format(USER_FOLDER)
    facts |= _backends(device_name)
    show(*(f"{what}: {fact}" for what, fact in facts.items()))
    if not model_like:
        return 0
    if device_name is None:
        wish = f"E={E},N={N}: expected a GPU's name to look its file up, found none"
        raise RuntimeError(f"{wish}. Fix: pass --device-name, such as NVIDIA_H100_80GB_HBM3; `list` names more")
    show(explain(E, N, device_name=device_name, triton_version=triton_version, **workload))
    return 0


def _tuned_files() -> int:
    return sum(1 for pattern in ("E=*.json", "*_*/E=*.json") for _ in where().glob(pattern))


def _backends(device_name: str | None) -> dict[str, str]:
    """What each engine runs on this GPU, or on Hopper where there is none, by kind of weights."""
    from fused_moe_configs.backends import choose_release, read_engines, usual_backends
    from fused_moe_configs.registry import ServingError, arch_of

    arch = "sm_90" if device_name is None else arch_of(device_name, where())
    facts = {}
    for engine in ("vllm", "sglang"):
        try:
            known, note = choose_release(read_engines(where()), engine, machine.version_of(engine))
        except ServingError as error:  # a version from before all that are known
            facts[engine] = str(error)
            continue
        facts |= {f"{engine} as of {known.version}": note} if note else {}
        name = f"{engine} {known.version} on {arch}"
        if arch is None:
            words = f"not known what it runs here: no architecture of {device_name} is known"
            facts[f"{engine} {known.version}"] = words
        else:
            facts |= {f"{name}, {kind}": words for kind, words in usual_backends(known, arch).items()}
    return facts
