"""The engines at hand: where one's kernel stands in its source, and the tuned files that it ships. None is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from fused_moe_configs.exporting.overlay import PACKAGED
from tools.errors import UserError
from tools.launch.heuristic_version import ENGINE_NAMES
from tools.measure import engine_kernel
from tools.measure.engine_kernel import EngineKernelError, engine_version
from tools.registry.sharding import Engine
from tools.store.config_file import MAY_BE_SILENT, ConfigFile
from tools.store.files import TUNED_FILE, read_file, version_folder
from tools.store.tiers import Found, Role, version_of_folder
from tools.store.workload import Layout, Workload, parse_file_name
from tools.text import printable, shown_path

KERNELS: Mapping[Engine, tuple[str, ...]] = MappingProxyType(
    {
        Engine.VLLM: ("model_executor/layers/fused_moe/fused_moe.py",),
        Engine.SGLANG: (
            "kernels/ops/moe/fused_moe_triton_kernels.py",
            "srt/layers/moe/moe_runner/triton_utils/fused_moe_triton_kernels.py",
            "srt/layers/moe/fused_moe_triton/fused_moe_triton_kernels.py",
        ),
    }
)
"""Where an engine's kernel stands below its package, newest releases first."""


@dataclass(frozen=True)
class EngineHere:
    """An engine's source. kernel: the file that its kernel is cut out of. configs None: without its own tuned files."""

    engine: Engine
    kernel: Path
    configs: Path | None = None

    @property
    def version(self) -> str:
        return engine_version(self.kernel, self.engine.value) or "unknown"

    def shipped(self, workload: Workload, triton: str) -> Path | None:
        """The file that the engine reads under this Triton where no folder is named. None: it ships none.

        SGLang takes its folder of the very version, else the newest that has the file.
        """
        if self.configs is None:
            return None
        if self.engine is Engine.VLLM:
            found = [self.configs / workload.file_name(Layout.VLLM)]
        else:
            versions = {v: path for path in self.configs.glob("triton_*") if (v := version_of_folder(path.name))}
            running = version_of_folder(version_folder(triton))
            order = sorted(versions, key=lambda version: (version == running, version), reverse=True)
            found = [versions[version] / workload.file_name(Layout.SGLANG) for version in order]
        return next((path for path in found if path.is_file() and _is_whole(path)), None)


def engine_argument(text: str) -> tuple[Engine, Path]:
    """«vllm=PATH» of a command line. UserError."""
    name, _, path = text.partition("=")
    if name not in list(Engine) or not path:
        raise UserError(f"--engine: expected vllm=PATH or sglang=PATH, found {printable(text)!r}.")
    return Engine(name), Path(path)


def engines_at_hand(named: Iterable[tuple[Engine, Path]]) -> tuple[dict[Engine, EngineHere], tuple[str, ...]]:
    """(those named, and of the others those installed; a line for each whose kernel can't be had)."""
    asked = dict(named)
    found, faults = {}, []
    for engine in Engine:
        try:
            here = find_at(engine, asked[engine]) if engine in asked else find_installed(engine)
            if here is not None:
                engine_kernel.cut(here.kernel)
                found[engine] = here
        except (UserError, EngineKernelError) as error:
            faults.append(f"--engine {engine}: {error} Nothing is judged on its kernel.")
    return found, tuple(faults)


def find_at(engine: Engine, path: Path) -> EngineHere:
    """path: the kernel's own file, the engine's package, or the folder that holds it. UserError: it is none of them."""
    path = path.resolve()
    if path.is_file():
        return EngineHere(engine, path)
    for package in (path, path / engine.value):
        kernel = _first_file(package, KERNELS[engine])
        if kernel is not None:
            return EngineHere(engine, kernel, _configs(engine, package))
    raise UserError(
        f"{shown_path(path)}: expected {ENGINE_NAMES[engine]} with {KERNELS[engine][0]}, found none. "
        f"Fix: name its package, the folder that holds it, or the kernel's file."
    )


def find_installed(engine: Engine) -> EngineHere | None:
    """The one that this Python would import. None: there is none."""
    try:
        spec = importlib.util.find_spec(engine.value)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        kernel = _first_file(Path(folder), KERNELS[engine])
        if kernel is not None:
            return EngineHere(engine, kernel, _configs(engine, Path(folder)))
    return None


def _is_whole(path: Path) -> bool:
    """Whether a bench can run every row of it."""
    found = Found(path, path.parent, PurePosixPath(path.name), Role.CONFIG)
    file = ConfigFile(found, parse_file_name(path.name, Layout.SGLANG), read_file(path, TUNED_FILE), MAY_BE_SILENT)
    return bool(file.launch_configs) and len(file.launch_configs) == len(file.document or {})


def _first_file(package: Path, places: Sequence[str]) -> Path | None:
    return next((package / place for place in places if (package / place).is_file()), None)


def _configs(engine: Engine, package: Path) -> Path | None:
    return next((package / place for place in PACKAGED[engine.value] if (package / place).is_dir()), None)
