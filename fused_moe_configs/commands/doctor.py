"""fused-moe-configs doctor: what is installed and used here."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from fused_moe_configs import __version__, machine
from fused_moe_configs.api import where
from fused_moe_configs.index import tuned_files
from fused_moe_configs.lookup import REFERENCE_TRITON, USER_FOLDER, get_config_file_name, release
from fused_moe_configs.naming import ENGINES

from .console import machine_arguments, quantisation_arguments, show
from .of_model import asked_model, model_arguments

if TYPE_CHECKING:
    from .console import Commands

SIDE_EFFECTS = (
    f"in vLLM {USER_FOLDER} switches more than MoE files: LoRA on experts takes its own files from it, no longer "
    "settings derived from the MoE file, and Mamba reads headdim=… files from it"
)


def add_to(commands: Commands) -> None:
    parents = [model_arguments(), quantisation_arguments(), machine_arguments()]
    command = commands.add_parser(
        "doctor",
        help="what is installed and used here, what a model gets, or what a server's log says",
        description="What is installed and used here. With --model: the backend that each engine runs for it and "
        "whether that reads tuned files, the file that it gets, how old that is, and what to do next; exit 1 where an "
        "engine reads tuned files and there is none, or a broken one, 2 where no GPU is named. With --engine-log: "
        "which tuned files a server read and missed, and what answers each miss; exit 1 where one was missed or the "
        "log speaks of none.",
        parents=parents,
    )
    command.set_defaults(run=run)
    command.add_argument("--engine", choices=ENGINES, help="beside --model; default: what is installed, or else both")
    command.add_argument(
        "--engine-log",
        action="extend",
        nargs="+",
        metavar="FILE",
        help="a log of vLLM or SGLang, plain or packed (gzip, bzip2, xz), the parts of a rotated one, or - for stdin",
    )
    command.add_argument(
        "--format", choices=("text", "json"), default="text", dest="output", help="of the answer about a model or a log"
    )


def run(
    model: str | None, tp: int | None, ep: int | None, engine: str | None,
    device_name: str | None, triton_version: str | None,
    engine_log: list[str] | None, output: str, **quantisation: Any,
) -> int:  # fmt: skip
    # Refused even where nothing here would come to use it.
    get_config_file_name(1, 1, "any" if device_name is None else device_name)
    release(REFERENCE_TRITON if triton_version is None else triton_version)
    if engine_log:
        from . import engine_log as of_log  # packed logs need modules that nothing else does

        beside = {"--model": model, "--tp": tp, "--ep": ep, "--engine": engine, "--device-name": device_name}
        beside |= {f"--{name.replace('_', '-')}": value for name, value in quantisation.items()}
        if wrong := [flag for flag, value in beside.items() if value not in (None, False)]:
            found = ", ".join(wrong)
            raise ValueError(
                f"--engine-log: expected no question of a model beside it, found {found}. Fix: leave it out"
            )
        return of_log.run(list(dict.fromkeys(engine_log)), output, triton_version)
    asked = asked_model(model, tp, ep, engine, quantisation)
    if asked is None and any(quantisation.values()):
        raise ValueError("--dtype and scales: expected them beside --model, found them alone. Fix: name the model")
    if output == "json" and asked is None:
        raise ValueError("--format json: expected --model or --engine-log beside it, found neither. Fix: leave it out")
    facts = {"fused_moe_configs": f"{__version__}, {len(tuned_files(where()))} tuned files in {where()}"}
    why_none = None
    try:
        facts["GPU"] = device_name = machine.device_name() if device_name is None else device_name
    except RuntimeError as error:
        why_none = error
        facts["GPU"] = f"none. {error}"
    for package in ("triton", "torch", *ENGINES):
        facts[package] = machine.version_of(package) or "not installed"
    facts["reference Triton"] = REFERENCE_TRITON
    facts |= machine.engine_folders()
    if os.environ.get(USER_FOLDER):
        facts["note"] = SIDE_EFFECTS
    if asked is None:
        facts |= _backends(device_name)
        _show(facts)
        return 0
    from .prospect import look

    engines = (engine,) if engine else tuple(filter(machine.version_of, ENGINES)) or ENGINES
    prospects = look(asked, engines, device_name, triton_version)
    if any(USER_FOLDER in prospect.next_step for prospect in prospects):
        facts["note"] = SIDE_EFFECTS
    if output == "json":
        engines_json = [prospect.to_json() for prospect in prospects]
        show(json.dumps({"facts": facts, "engines": engines_json}, indent=4, ensure_ascii=False))
    else:
        _show(facts)
        show(*(line for prospect in prospects for line in prospect.lines()))
    if why_none is not None:
        raise why_none
    return 1 if any(prospect.lacks_file for prospect in prospects) else 0


def _show(facts: dict[str, str]) -> None:
    show(*(f"{what}: {fact}" for what, fact in facts.items()))


def _backends(device_name: str | None) -> dict[str, str]:
    """What each engine runs on this GPU, or on Hopper where there is none, by kind of weights."""
    from fused_moe_configs.backends import choose_release, read_engines, usual_backends
    from fused_moe_configs.registry import ServingError, arch_of

    arch = "sm_90" if device_name is None else arch_of(device_name, where())
    facts = {}
    for engine in ENGINES:
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
