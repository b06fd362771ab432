"""The engines at hand, to judge files on: named on a command line or installed. None is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kernels.problem import Flavour
from tools.errors import UserError
from tools.measure import engine_kernel
from tools.measure.engine_kernel import EngineKernelError
from tools.portfolio.shipped_files import EnginePackage, find_engine, shipped_files
from tools.registry.devices import Device
from tools.registry.sharding import Engine
from tools.store.config_file import ConfigFile
from tools.text import printable


@dataclass(frozen=True)
class EngineHere:
    """kernel: the file that its kernel is cut out of. shipped: by this store's names what it ships for a GPU."""

    engine: Engine
    kernel: Path
    shipped: Mapping[str, Path] = field(default_factory=dict)


def engine_argument(text: str) -> tuple[Engine, Path]:
    """«vllm=PATH» of a command line. UserError."""
    name, _, path = text.partition("=")
    if name not in list(Engine) or not path:
        raise UserError(f"--engine: expected vllm=PATH or sglang=PATH, found {printable(text)!r}.")
    return Engine(name), Path(path)


def engines_at_hand(named: Iterable[tuple[Engine, Path]]) -> tuple[dict[Engine, EnginePackage], tuple[str, ...]]:
    """(those named, and of the others those installed; a line for each whose kernel can't be had)."""
    asked = dict(named)
    found, faults = {}, []
    for engine in Engine:
        path = asked.get(engine) or _installed(engine)
        if path is None:
            continue
        try:
            package = find_engine(Flavour(engine.value), path)
            engine_kernel.cut(package.kernel)
            found[engine] = package
        except (UserError, EngineKernelError) as error:
            faults.append(f"--engine {engine}: {error} Nothing is judged on its kernel.")
    return found, tuple(faults)


def on_device(packages: Mapping[Engine, EnginePackage], device: Device, triton: str) -> dict[Engine, EngineHere]:
    """With what each ships for the GPU, as it reads it under this Triton. UserError: a folder can't be listed."""
    return {
        engine: EngineHere(engine, package.kernel, _shipped(package, device, triton))
        for engine, package in packages.items()
    }


def _shipped(package: EnginePackage, device: Device, triton: str) -> dict[str, Path]:
    files, _ = shipped_files(package, device.name, triton)
    return {each.workload.file_name(): each.up.found.path for each in files if not each.fault and _is_whole(each.up)}


def _is_whole(file: ConfigFile) -> bool:
    """Whether a bench can run every row of it."""
    return bool(file.launch_configs) and len(file.launch_configs) == len(file.document or {})


def _installed(engine: Engine) -> Path | None:
    """The package that this Python would import. None: there is none."""
    try:
        spec = importlib.util.find_spec(engine.value)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None
