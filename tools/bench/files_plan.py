"""Which tuned files are measured, beside whom, and what is to be said of it before the GPU is asked for anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tools.bench.contestants import (
    HEURISTIC,
    THIS_FILE,
    Contestant,
    ContestantError,
    against,
    heuristics,
    of_file,
    told_apart,
)
from tools.bench.files_request import FilesRequest
from tools.bench.request import RequestError
from tools.launch.heuristics import clamped
from tools.measure.layer import LayerShape
from tools.registry.devices import Device
from tools.registry.models import load_models
from tools.registry.shapes import ASSUMED_SHAPE, quant_mode_of, shapes_of
from tools.store.config_file import ConfigFile, load
from tools.store.files import discover, read_file, record_path
from tools.store.tiers import Role, why_skipped
from tools.store.workload import Workload
from tools.text import printable, shown_path

Say = Callable[[str], None]

_DOWN = "both projections run the up file's entries here, as in vLLM"


@dataclass(frozen=True)
class Plan:
    """A file and whom it meets, before the GPU is asked for anything."""

    file: ConfigFile
    shapes: tuple[LayerShape, ...]
    contestants: tuple[Contestant, ...]
    batch_sizes: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's path below the root, so that the tiers' files of one workload are told apart."""
        return printable(self.file.found.relative.as_posix())


def read_files(request: FilesRequest, say: Say) -> list[ConfigFile]:
    """What is to be measured; says what isn't, and why.

    RequestError: a path isn't there, nothing to bench in it, or no record to write into.
    """
    try:
        found = discover(request.paths, request.layout)
    except OSError as error:
        path = printable(str(error.filename or error))  # of a path that isn't there, its name is all
        told = f"found: {error.strerror or 'nothing there'}. Fix: correct the path."
        raise RequestError(f"{path}: expected a file or a folder, {told}") from error
    tree = load(found, request.layout)
    files = []
    for file in tree.configs:
        if file.workload is not None and file.workload.down:
            say(f"not measured: {shown_path(file.found.path)}, a _down file: {_DOWN}")
        else:
            files.append(file)
    for other in tree.others:
        if other.role is Role.SKIPPED:
            say(f"not measured: {shown_path(other.path)}: {'. Fix: '.join(why_skipped(other, request.layout))}")
        elif other.role is Role.UNREADABLE:
            say(f"not measured: {shown_path(other.path)}: can't be read")
    if not files:
        found_instead = f"only _down files: {_DOWN}. Fix: name the up file" if tree.configs else "none"
        raise RequestError(f"expected at least one tuned file, found {found_instead}.")
    for file in files if request.writes_record else ():
        record = record_path(file.found.root, file.found.relative)
        if not isinstance(read_file(record).document, dict):
            raise RequestError(
                f"--write-record: expected a record {shown_path(record)}, found none. Fix: tune the file."
            )
    return files


def make_plan(file: ConfigFile, request: FilesRequest, device: Device) -> Plan:
    """ContestantError: a file that can't be read, of another device, or without a kernel here."""
    own = of_file(shown_path(file.found.path), file)
    workload = file.workload
    assert workload is not None
    if workload.device_name not in device.names:
        raise ContestantError(f"{own.name}: expected a file of this GPU, {device.name}, found {workload.device_name}.")
    quant = quant_mode_of(workload)
    if quant is None:
        raise ContestantError(f"{own.name}: expected a dtype that this kernel runs, found {workload.dtype}.")
    batch_sizes = request.batch_sizes or tuple(file.launch_configs)
    rivals = told_apart({what: _rivals(what, file, batch_sizes, device) for what in request.against})
    shapes = shapes_of(file, load_models())
    notes = [] if shapes else [f"assumed K={ASSUMED_SHAPE.K}, top_k={ASSUMED_SHAPE.top_k}: nobody says them"]
    contestants = (replace(own, name=THIS_FILE), *rivals)
    notes += _clamped_notes(contestants, workload, batch_sizes)
    down = file.found.path.with_name(f"{file.found.path.stem}_down.json")
    if down.exists():
        notes.append(f"{printable(down.name)} is not measured: {_DOWN}")
    layers = tuple(
        LayerShape(workload.E, workload.N, shape.K, shape.top_k, quant) for shape in shapes or (ASSUMED_SHAPE,)
    )
    return Plan(file, layers, contestants, batch_sizes, tuple(notes))


def _clamped_notes(contestants: Sequence[Contestant], workload: Workload, batch_sizes: Sequence[int]) -> Iterator[str]:
    for contestant in contestants:
        rows = [m for m in batch_sizes if clamped(contestant.entry(m), workload) != contestant.entry(m)]
        if rows:
            limit = clamped(contestant.entry(rows[0]), workload).BLOCK_SIZE_K
            listed = ", ".join(map(str, rows))
            yield f"{contestant.name}, M={listed}: BLOCK_SIZE_K clamped to {limit}, as vLLM does"


def _rivals(what: str, file: ConfigFile, batch_sizes: tuple[int, ...], device: Device) -> tuple[Contestant, ...]:
    assert file.workload is not None
    return heuristics(file.workload, batch_sizes, device) if what == HEURISTIC else (against(what, file),)
