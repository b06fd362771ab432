"""The engines at hand, to judge files on: named on a command line or installed. None is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kernels.problem import Flavour
from tools.cli import engine_paths
from tools.errors import UserError
from tools.measure import engine_kernel
from tools.measure.engine_kernel import EngineKernelError
from tools.portfolio.shipped_files import EnginePackage, find_engine, find_kernel, shipped_files
from tools.registry.devices import Device
from tools.registry.sharding import Engine
from tools.store.config_file import ConfigFile


@dataclass(frozen=True)
class EngineAtHand:
    """kernel: the file that its kernel is cut out of. package: the whole engine; None: its kernel lies there alone."""

    kernel: Path
    package: EnginePackage | None = None


@dataclass(frozen=True)
class EngineHere:
    """kernel: the file that its kernel is cut out of. shipped: by this store's names what it ships for a GPU."""

    engine: Engine
    kernel: Path
    shipped: Mapping[str, Path] = field(default_factory=dict)


def engine_arguments(texts: Iterable[str]) -> dict[Engine, Path]:
    """Each «vllm=PATH» of a command line's `--engine`. UserError."""
    return {Engine(name): path for name, path in engine_paths("--engine", texts, [*Engine]).items()}


def engines_at_hand(asked: Mapping[Engine, Path]) -> tuple[dict[Engine, EngineAtHand], tuple[str, ...]]:
    """(those asked for, and of the others those installed; a line for each that files aren't judged on, or not beside
    what it ships). UserError: one that was asked for has no kernel that can be cut out."""
    found, notes = {}, []
    for engine in Engine:
        path = asked.get(engine) or _installed(engine)
        if path is None:
            notes.append(f"no source of {engine} at hand: nothing is judged on its kernel. Fix: --engine {engine}=PATH")
            continue
        try:
            kernel = find_kernel(Flavour(engine.value), path)
            engine_kernel.cut(kernel)
        except (UserError, EngineKernelError) as error:
            if engine in asked:
                raise UserError(f"--engine {engine}: {error}") from error
            notes.append(f"{engine} is installed, but nothing is judged on its kernel: {error}")
            continue
        try:
            found[engine] = EngineAtHand(kernel, find_engine(Flavour(engine.value), path))
        except UserError as error:
            found[engine] = EngineAtHand(kernel)
            notes.append(f"{engine}: files are judged on its kernel, but not beside those that it ships: {error}")
    return found, tuple(notes)


def on_device(sources: Mapping[Engine, EngineAtHand], device: Device, triton: str) -> dict[Engine, EngineHere]:
    """With what each ships for the GPU, as it reads it under this Triton. UserError: a folder can't be listed."""
    return {
        engine: EngineHere(engine, source.kernel, _shipped(source.package, device, triton))
        for engine, source in sources.items()
    }


def _shipped(package: EnginePackage | None, device: Device, triton: str) -> dict[str, Path]:
    if package is None:
        return {}
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
