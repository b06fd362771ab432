"""From tuned files to distinct kernels: which files a change concerns, which binaries their rows need and share.

Imports neither torch nor triton. K and top_k come from the file's record, else from a registered model with that E
and N, else they are assumed; the name doesn't say them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernels.launch_config import LaunchConfig
from kernels.problem import Problem, Projection, QuantMode, Routing
from tools.checkout import CHECKOUT
from tools.measure.kernels import KernelTask
from tools.measure.layer import LayerShape
from tools.registry.devices import DeviceRegistry, Target
from tools.registry.models import ModelRegistry
from tools.registry.shapes import assumed_shape, quant_mode_of, shapes_of
from tools.store.config_file import ConfigFile
from tools.store.rows import rows_text
from tools.store.workload import Workload

COMPILABLE = frozenset(
    {
        *(("cuda", arch) for arch in (80, 86, 89, 90, 100, 103, 120, 121)),
        ("hip", "gfx942"),
        ("hip", "gfx950"),
    }
)
"""(backend, architecture) that Triton's wheel builds for on a machine without a GPU, 3.6.0 to 3.9.0."""


CONCERNS_ALL = ("kernels/", "tools/", "configs/registry/", "pyproject.toml")
"""What every file's outcome hangs on: the kernel, the check, the devices' limits, the reference Triton."""


def concerns_all(changed: Iterable[str]) -> list[str]:
    """Those of the changed paths on which every file's outcome hangs. Paths as for `concerned`."""
    return [name for name in changed if name.startswith(CONCERNS_ALL)]


def concerned(files: Iterable[ConfigFile], changed: Iterable[str]) -> list[ConfigFile]:
    """Those of the files that changed; all of them where something changed that each hangs on.

    changed: paths relative to the checkout, with slashes.
    """
    names = set(changed)
    if concerns_all(names):
        return list(files)
    return [file for file in files if _relative(file.found.path) in names]


def _relative(path: Path) -> str:
    """To the checkout; empty for a path outside it."""
    absolute = path.absolute()
    return absolute.relative_to(CHECKOUT).as_posix() if absolute.is_relative_to(CHECKOUT) else ""


@dataclass(frozen=True)
class FileRow:
    """One projection of one row of a file. Many rows share a kernel."""

    file: ConfigFile
    num_tokens: int
    projection: str


@dataclass(frozen=True)
class Note:
    """Why a file, or a part of it, is not compiled, or on which assumption it is."""

    file: ConfigFile
    message: str
    fix: str


@dataclass(frozen=True)
class Unread:
    """What of a file can't be read, so that it isn't compiled: a fault of the file, unlike a note."""

    file: ConfigFile
    message: str
    fix: str


@dataclass(frozen=True)
class RejectedRow:
    """Rows of a file that a rule forbids before anything is compiled."""

    row: FileRow
    message: str


@dataclass(frozen=True)
class Binary:
    """A distinct compiled kernel and the rows that run it."""

    task: KernelTask
    rows: tuple[FileRow, ...]


@dataclass(frozen=True)
class CompilePlan:
    """The distinct kernels of a set of files, and what can't be compiled at all."""

    binaries: tuple[Binary, ...]
    rejected: tuple[RejectedRow, ...]
    notes: tuple[Note, ...]
    unread: tuple[Unread, ...] = ()


def make_plan(files: Iterable[ConfigFile], devices: DeviceRegistry, models: ModelRegistry) -> CompilePlan:
    """Every file's kernels, each binary once."""
    tasks: dict[Hashable, KernelTask] = {}
    rows: dict[Hashable, list[FileRow]] = {}
    rejected: list[RejectedRow] = []
    notes: list[Note] = []
    unread: list[Unread] = []
    for file in files:
        unread += unread_of(file)
        for item in _items(file, devices, models):
            if isinstance(item, Note):
                notes.append(item)
            elif isinstance(item, RejectedRow):
                rejected.append(item)
            else:
                row, task = item
                key = task.key
                tasks.setdefault(key, task)
                rows.setdefault(key, []).append(row)
    binaries = tuple(Binary(task, tuple(rows[key])) for key, task in tasks.items())
    return CompilePlan(binaries, tuple(rejected), tuple(notes), tuple(unread))


def unread_of(file: ConfigFile) -> list[Unread]:
    """The whole file with its first fault, or the rows that are no launch configs; empty where all can be read."""
    for fault in file.content.faults:
        return [Unread(file, f"not compiled: {fault}", fault.fix)]
    if file.workload is None:
        first = file.name.faults[0]
        return [Unread(file, f"not compiled: {first.message}", first.fix)]
    rows = sorted(set(file.batch_sizes) - set(file.launch_configs))
    fix = "mend what `nox -s validate` says of it"
    if rows and file.launch_configs:
        return [Unread(file, f"{rows_text(rows, file.batch_sizes)}: not compiled: expected launch configs", fix)]
    return [] if file.launch_configs else [Unread(file, "not compiled: expected launch configs, found none", fix)]


_Item = tuple[FileRow, KernelTask] | RejectedRow | Note


def _items(file: ConfigFile, devices: DeviceRegistry, models: ModelRegistry) -> Iterator[_Item]:
    workload = file.workload
    if workload is None or not file.launch_configs:
        return  # `unread_of` says why
    target = _target(file, workload, devices)
    quant = quant_mode_of(workload)
    if isinstance(target, Note) or quant is None:
        yield from [target] if isinstance(target, Note) else []
        yield from [_no_kernel(file, workload)] if quant is None else []
        return
    shapes, assumed = shapes_of(file, models), assumed_shape(workload.E)
    if not shapes:
        message = f"assumed K={assumed.K}, top_k={assumed.top_k}: no registered model has this E and N"
        yield Note(file, message, "add the model to configs/registry/models.json")
    layers = [LayerShape.of(workload, shape, quant) for shape in shapes or (assumed,)]
    yield from _launches(file, layers, target)


def _target(file: ConfigFile, workload: Workload, devices: DeviceRegistry) -> Target | Note:
    device = devices.get(workload.device_name)
    fix = "add its architecture to configs/registry/devices.json once you are sure of it"
    if device is None:
        return Note(file, f"not compiled: unknown device {workload.device_name!r}", fix)
    if device.target is None:
        return Note(file, f"not compiled: no architecture that Triton compiles for is known of {device.name}", fix)
    if device.target[:2] not in COMPILABLE:
        message = f"not compiled: Triton doesn't build for {device.arch} without its GPU"
        return Note(file, message, "bench the file on the device")
    return device.target


def _no_kernel(file: ConfigFile, workload: Workload) -> Note:
    message = f"not compiled: this project has no kernel for {workload.dtype or 'bf16'} as the name gives it"
    return Note(file, message, "engines run another kernel for it: bench the file there")


def _launches(file: ConfigFile, layers: Sequence[LayerShape], target: Target) -> Iterator[_Item]:
    """Shapes that differ in what no launch shows (over how many ranks the others are spread) count once."""
    names = ("down",) if file.workload and file.workload.down else ("up", "down")
    for num_tokens, config in file.launch_configs.items():
        launches: dict[tuple[str, Projection, bool], tuple[Routing, QuantMode]] = {}
        for layer in layers:
            routing = layer.routing(num_tokens)
            for name, projection in zip(("up", "down"), layer.projections, strict=True):
                launches.setdefault((name, projection, routing.is_naive), (routing, layer.quant))
        for (name, projection, _), (routing, quant) in launches.items():
            if name not in names:
                continue
            row = FileRow(file, num_tokens, name)
            try:
                problem = Problem(projection, routing, quant, _as_ours(config), target.kernel_arch)
            except ValueError as error:
                yield RejectedRow(row, str(error))
            else:
                yield row, KernelTask(problem, target)


def _as_ours(config: LaunchConfig) -> LaunchConfig:
    """SGLang's USE_TMA chooses another load path, which this kernel doesn't have; the tile is checked without it."""
    return replace(config, USE_TMA=None, grf_mode=None)
