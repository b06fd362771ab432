"""What is compared: a tuned file with another of its workload, itself at a git revision, and the heuristics."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fused_moe_configs.lookup import down_of
from fused_moe_configs.naming import ENGINE_NAMES
from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.bench.request import HEURISTIC, EngineFile, FilesRequest, Say
from tools.checkout import installed_triton, reference_triton
from tools.errors import UserError, reason_of
from tools.git import CommitError, NoGitError, file_at
from tools.launch.engine_package import down_file_of, tuned_file_folders
from tools.launch.heuristics import UnknownHeuristicError, clamped, sglang_heuristic, vllm_heuristic
from tools.launch.layer_config import LayerConfig, as_run
from tools.measure.layer import LayerShape
from tools.measure.panel import DRAWN_KINDS, Part, RoutingKind, kinds_at
from tools.measure.recorded_routing import RecordedRouting, RoutingSource
from tools.measure.seeds import BLOCKS_A_SERIES, Purpose, seeds_of
from tools.registry.devices import Device, DeviceRegistry
from tools.registry.models import load_models
from tools.registry.reading import RegistryError
from tools.registry.shapes import assumed_shape, engines_reading, quant_mode_of, shapes_of, why_not_measured
from tools.store.config_file import MAY_BE_SILENT, ConfigFile, load, nearest_batch_size
from tools.store.files import TUNED_FILE, Content, discover, read_file, record_path, sha256
from tools.store.other_kernels import other_kernel
from tools.store.record import RecordError, as_record
from tools.store.strict_json import parse
from tools.store.tiers import Role, version_of_folder, why_skipped
from tools.store.workload import Layout, Workload, parse_file_name
from tools.text import printable, shown_path

THIS_FILE = "this file"
NO_FILE = "heuristic"
"""What an engine runs without a file: on each engine's kernel its own."""
_ALONE = "it is measured with the up file beside it, for SGLang"
_UP_FOR_BOTH = "both projections run the up file's entries here, as in vLLM"
_OWN_KERNEL = (
    "its USE_TMA runs on SGLang's own kernel alone: both projections run the up file's entries here. "
    "Fix: --kernel sglang=PATH"
)


@dataclass(frozen=True)
class Candidate:
    """entries: by engine and batch size; where one is asked for that isn't there, the nearest serves it, as in both.

    down: those of the `_down` file beside a file, which SGLang reads; empty: there is none.
    """

    name: str
    entries: Mapping[Flavour, Mapping[int, LaunchConfig]]
    down: Mapping[int, LaunchConfig] = field(default_factory=dict)

    @classmethod
    def alike(cls, name: str, entries: Mapping[int, LaunchConfig]) -> Candidate:
        """The same for every engine, as a file's are."""
        return cls(name, dict.fromkeys(Flavour, entries))

    def entry(self, num_tokens: int, engine: Flavour = Flavour.VLLM) -> LaunchConfig:
        entries = self.entries[engine]
        return entries[nearest_batch_size(entries, num_tokens)]

    @property
    def uses_descriptors(self) -> bool:
        """Whether its `_down` file says USE_TMA, whose path only SGLang's own kernel has."""
        return any(entry.USE_TMA for entry in self.down.values())

    def layer(self, num_tokens: int, workload: Workload, engine: Flavour) -> LayerConfig:
        """What the engine launches."""
        down = self.down[nearest_batch_size(self.down, num_tokens)] if self.down else None
        return as_run(engine, workload, self.entry(num_tokens, engine), down)


@dataclass(frozen=True)
class Judging:
    """Under which routing files are judged, and on which draws.

    kinds: where tokens are few only those that aren't skewed, if there are any. recorded: what the kind of that name
    is of. series: of the purpose's draws; two of them share none. most_blocks: of a part; None: as many as its verdict
    needs.
    """

    kinds: tuple[RoutingKind, ...] = DRAWN_KINDS
    recorded: RecordedRouting | None = None
    purpose: Purpose = Purpose.JUDGEMENT
    series: int = 0
    most_blocks: int | None = None

    def kinds_at(self, num_tokens: int) -> tuple[RoutingKind, ...]:
        return kinds_at(num_tokens, self.kinds) or self.kinds

    @property
    def first_block(self) -> int:
        return self.series * BLOCKS_A_SERIES

    @property
    def first_seed(self) -> int:
        """Of the series: the purpose's first, moved by the blocks before it."""
        return seeds_of(self.purpose).start + self.first_block

    @property
    def title(self) -> str:
        """For reports."""
        sources = (RoutingSource(kind, self.recorded if kind is RoutingKind.RECORDED else None) for kind in self.kinds)
        return ", ".join(source.title for source in sources)


def of_file(name: str, file: ConfigFile, down: ConfigFile | None = None) -> Candidate:
    """down: the `_down` file that is read beside it. UserError: a launch config can't be read, or there is none."""
    own_down = {} if down is None else _entries(f"{name}, its _down file", down)
    return replace(Candidate.alike(name, _entries(name, file)), down=own_down)


def down_file(up: Path, package: Path | None = None) -> Path | None:
    """The `_down` file that SGLang reads with an up file: one of its own it looks for in all its folders.

    package: SGLang's. UserError: a folder of its tuned files can't be listed.
    """
    folder = Path(os.path.realpath(up)).parent
    if package is None or not folder.is_relative_to(package) or version_of_folder(folder.name) is None:
        beside = up.with_name(down_of(up.name))
        return beside if beside.exists() else None
    configs, triton = folder.parent, installed_triton() or reference_triton()  # without one nothing is timed
    try:
        return down_file_of(tuned_file_folders("sglang", configs, triton), up.name)
    except OSError as error:
        raise UserError(f"{shown_path(configs)}: can't be listed: {reason_of(error)}.") from error


def _entries(name: str, file: ConfigFile) -> Mapping[int, LaunchConfig]:
    if file.workload is None:
        fault = file.name.faults[0]
        raise UserError(f"{name}: {fault.message}. Fix: {fault.fix}.")
    if file.content.faults or not file.launch_configs:
        faults = [fault.message for fault in file.content.faults] or ["no launch config in it"]
        raise UserError(f"{name}: expected a tuned file, found {faults[0]}.")
    unread = [key for key in file.document or {} if key not in map(str, file.launch_configs)]
    if unread:
        raise UserError(
            f"{name}: expected a launch config at every batch size, found none at {printable(unread[0])!r}. "
            "Fix: mend the entry; nox -s validate says more."
        )
    return file.launch_configs


def heuristic(workload: Workload, batch_sizes: tuple[int, ...], device: Device) -> Candidate:
    """Each engine's own. UserError: none is known for the dtype."""
    is_rocm = device.vendor == "amd"
    smem_bytes = device.smem_bytes_per_block
    try:
        vllm = {m: vllm_heuristic(workload, m, is_rocm=is_rocm) for m in batch_sizes}
        sglang = {m: sglang_heuristic(workload, m, is_rocm=is_rocm, smem_bytes=smem_bytes) for m in batch_sizes}
    except UnknownHeuristicError as error:
        raise UserError(str(error)) from error
    return Candidate(NO_FILE, {Flavour.VLLM: vllm, Flavour.SGLANG: sglang})


def against(what: str, file: ConfigFile, *, reads_down: bool = False, package: Path | None = None) -> Candidate:
    """The candidate that `--against` names: a path that exists, else a git revision of the file's own path.

    reads_down: with its `_down` file. package: as `down_file` takes it. UserError: another workload, no such file or
    revision.
    """
    path = Path(what)
    if os.path.isfile(what):  # noqa: PTH113 (never raises)
        other = read(path)
        if _essence(other.workload) != _essence(file.workload):
            found = printable(path.name)
            raise UserError(f"--against: expected a file of {file.found.path.name}'s workload, found {found}.")
        # The folder says whose file it is; its name is the workload's.
        down = down_file(path, package) if reads_down else None
        return of_file(printable(path.absolute().parent.name), other, None if down is None else read(down))
    data = at_revision(what, file.found.path)
    then = replace(file, content=_content(data))
    return of_file(printable(what), then, _down_at(what, file) if reads_down else None)


def _down_at(revision: str, file: ConfigFile) -> ConfigFile | None:
    """The `_down` file as it was beside the file, which the revision has."""
    path = file.found.path.with_name(down_of(file.found.path.name))
    try:
        data = at_revision(revision, path)
    except UserError:
        return None
    name = parse_file_name(path.name, layout_of(path.name))
    return replace(file, found=replace(file.found, path=path), name=name, content=_content(data))


def _content(data: bytes) -> Content:
    document, faults = parse(data)
    return Content(data, document, tuple(faults))


def with_distinct_names(rivals: Mapping[str, Candidate]) -> tuple[Candidate, ...]:
    """All rivals, by what `--against` named; those of one name, or of the file's own, go by what named them."""
    names = Counter([THIS_FILE, *(candidate.name for candidate in rivals.values())])
    return tuple(
        candidate if names[candidate.name] == 1 else replace(candidate, name=printable(what))
        for what, candidate in rivals.items()
    )


def read(path: Path) -> ConfigFile:
    """A tuned file of any layout."""
    found = discover([path], Layout.VLLM)[0]
    name = parse_file_name(path.name, layout_of(path.name))
    return ConfigFile(found, name, read_file(path, TUNED_FILE), MAY_BE_SILENT)


def layout_of(name: str) -> Layout:
    """SGLang writes a space into block_shape, and spellings of its own; vLLM's names are canonical."""
    return Layout.SGLANG if ", " in name else Layout.REPO


def at_revision(revision: str, path: Path) -> bytes:
    """The file's bytes at a git revision, read as data. UserError: git knows neither."""
    shown = printable(revision)
    if not revision or revision.startswith("-") or ":" in revision:
        raise UserError(f"--against: expected heuristic, a file or a git revision, found {shown!r}.")
    try:
        return file_at(revision, path)
    except NoGitError as error:
        raise UserError(f"--against {shown}: expected git to run, found: {error.reason}. Fix: install git.") from error
    except CommitError as error:
        raise UserError(
            f"--against: expected heuristic, an existing file or a git revision with {path.name}, found {shown!r} "
            f"({error.reason})."
        ) from error


def _essence(workload: Workload | None) -> Workload | None:
    """What two names must share to be compared: engines spell channel scales differently."""
    return workload and replace(workload, per_channel_quant=False, down=False)


# ---------------------------------------------------------------
# Which tuned files are measured, and what is said of it before the GPU is asked for anything


@dataclass(frozen=True)
class ShippedCandidate:
    """Which of the candidates is the file that an engine ships. sha256: of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True)
class DownFile:
    """The `_down` file that ran with a file. data None: there was none at `path`."""

    path: Path
    data: bytes | None

    @property
    def sha256(self) -> str | None:
        """None: there was none."""
        return None if self.data is None else sha256(self.data)

    @property
    def is_there_still(self) -> bool:
        """Whether the same is there now, or none again."""
        return read_file(self.path, TUNED_FILE).data == self.data


@dataclass(frozen=True)
class FileComparison:
    """A tuned file, the first candidate, and what it is compared with. batch_sizes: of its rows.

    name: the file's path below the root, so that the tiers' files of one workload have different names. engines: of
    each shape, those on whose kernel, or in whose flavour of ours, it is judged. shipped: the candidate that the
    judging engine ships. down None: nothing runs a `_down` file.
    """

    name: str
    workload: Workload
    shapes: tuple[LayerShape, ...]
    candidates: tuple[Candidate, ...]
    batch_sizes: tuple[int, ...]
    engines: tuple[tuple[Flavour, ...], ...]
    notes: tuple[str, ...] = ()
    shipped: ShippedCandidate | None = None
    down: DownFile | None = None

    def parts(self, num_tokens: int, judging: Judging) -> tuple[Part, ...]:
        """Of a batch size: each engine's shapes, under every routing."""
        return tuple(
            Part(engine, place, kind)
            for engine in Flavour
            for place, engines in enumerate(self.engines)
            if engine in engines
            for kind in judging.kinds_at(num_tokens)
        )

    def entries(self, num_tokens: int, engine: Flavour) -> dict[str, LayerConfig]:
        """What the engine launches of each candidate, by its name; the file's own first."""
        return {c.name: c.layer(num_tokens, self.workload, engine) for c in self.candidates}


def read_files(request: FilesRequest, say: Say) -> list[ConfigFile]:
    """What is to be measured; says what isn't, and why.

    UserError: a path isn't there, nothing to bench in it, or no record to write into.
    """
    try:
        found = discover(request.paths, request.layout)
    except OSError as error:
        path = printable(str(error.filename or error))  # of a path that isn't there, its name is all
        found_instead = f"found: {error.strerror or 'nothing there'}. Fix: correct the path."
        raise UserError(f"{path}: expected a file or a folder, {found_instead}") from error
    tree = load(found, request.layout)
    files = []
    for file in tree.configs:
        if file.workload is not None and file.workload.down:
            say(f"not measured: {shown_path(file.found.path)}, a _down file: {_ALONE}")
        else:
            files.append(file)
    for other in tree.others:
        if other.role is Role.SKIPPED:
            say(f"not measured: {shown_path(other.path)}: {'. Fix: '.join(why_skipped(other, request.layout))}")
        elif other.role is Role.OTHER_KERNEL:
            say(f"not measured: {shown_path(other.path)}: a file of {other_kernel(other.path.name)}")
        elif other.role is Role.UNREADABLE:
            say(f"not measured: {shown_path(other.path)}: can't be read")
    if not files:
        where = ", ".join(map(shown_path, request.paths))
        found_instead = f"only a _down file: {_ALONE}. Fix: name the up file"
        if not tree.configs:
            found_instead = "none. Fix: name a tuned file, or a folder that holds some"
        raise UserError(f"{where}: expected at least one tuned file, found {found_instead}.")
    for file in files if request.writes_record else ():
        record = record_path(file.found.root, file.found.relative)
        content = file.record
        if content.data is None:
            raise UserError(f"--write-record: expected a record {shown_path(record)}, found none. Fix: tune the file.")
        try:
            as_record(content)
        except RecordError as error:
            raise UserError(f"--write-record: {shown_path(record)}: {error}") from error
    return files


def comparison_of(file: ConfigFile, request: FilesRequest, devices: DeviceRegistry) -> FileComparison:
    """Of the GPU that the file is named for, which needn't be here.

    UserError: a file that can't be read, of a GPU that nothing is known of, or without a kernel here; or `--against`
    names nothing that it can be compared with.
    """
    own = of_file(shown_path(file.found.path), file)
    workload = file.workload
    assert workload is not None
    try:
        device = devices.find_measurable(workload.device_name)
    except RegistryError as error:
        raise UserError(f"{own.name}: {error}") from error
    quant = quant_mode_of(workload)
    if quant is None:
        raise UserError(f"{own.name}: expected a dtype that this kernel runs, found {workload.dtype}.")
    batch_sizes = request.batch_sizes or tuple(file.launch_configs)
    models = load_models()
    if why := why_not_measured(workload, models):
        raise UserError(f"{own.name}: {why}.")
    shapes, assumed = shapes_of(file, models), assumed_shape(workload.E)
    notes = [] if shapes else [f"assumed K={assumed.K}, top_k={assumed.top_k}: neither record nor registry gives them"]
    judged = shapes or (assumed,)
    layers = tuple(LayerShape.of(workload, shape, quant) for shape in judged)
    engines = tuple(engines_reading(workload, shape, models) for shape in judged)
    if request.engine is not None:
        wanted = request.engine.flavour
        if not any(wanted in reading for reading in engines):
            notes.append(f"no model here asks {ENGINE_NAMES[wanted]} for this name: judged on its kernel all the same")
            engines = (tuple(Flavour),) * len(engines)
        engines = tuple(tuple(engine for engine in reading if engine is wanted) for reading in engines)
    judging = set().union(*engines)
    reads_down = Flavour.SGLANG in judging
    package = _package_of(request.engine) if reads_down else None
    down = down_file(file.found.path, package)
    twin = read(down) if reads_down and down is not None else None
    own = of_file(own.name, file, twin)
    rivals = {
        what: heuristic(workload, batch_sizes, device)
        if what == HEURISTIC
        else against(what, file, reads_down=reads_down, package=package)
        for what in request.against
    }
    candidates = (replace(own, name=THIS_FILE), *with_distinct_names(rivals))
    runs_down = reads_down and (request.engine is not None or not own.uses_descriptors)
    if request.engine is None:
        candidates = tuple(replace(each, down={}) if each.uses_descriptors else each for each in candidates)
    if Flavour.VLLM in judging:
        notes += _clamped_notes(candidates, workload, batch_sizes)
    if down is not None:
        name = printable(down.name)
        left_out = f"{name}: {_OWN_KERNEL if reads_down else _UP_FOR_BOTH}"
        notes.append(f"down runs the entries of {name} for SGLang" if runs_down else left_out)
    beside = file.found.path.with_name(down_of(file.found.path.name))
    return FileComparison(
        printable(file.found.relative.as_posix()),
        workload,
        layers,
        candidates,
        batch_sizes,
        engines,
        tuple(notes),
        _shipped(rivals, candidates, request),
        DownFile(down or beside, twin.content.data if twin else None) if runs_down else None,
    )


def _shipped(
    rivals: Mapping[str, Candidate], candidates: Sequence[Candidate], request: FilesRequest
) -> ShippedCandidate | None:
    """The first rival that lies in the package whose kernel judges."""
    package = _package_of(request.engine)
    for what, candidate in zip(rivals, candidates[1:], strict=True):
        path = Path(os.path.realpath(what))
        if package is not None and path.is_relative_to(package) and path.is_file():
            return ShippedCandidate(candidate.name, sha256(path.read_bytes()))
    return None


def _package_of(engine: EngineFile | None) -> Path | None:
    """The package that the kernel lies in. None: it lies alone."""
    if engine is None:
        return None
    # Path.resolve raises where links lead in a circle
    parents = Path(os.path.realpath(engine.path)).parents
    return next((folder for folder in parents if folder.name == engine.flavour), None)


def _clamped_notes(candidates: Sequence[Candidate], workload: Workload, batch_sizes: Sequence[int]) -> Iterator[str]:
    for candidate in candidates:
        rows = [m for m in batch_sizes if clamped(candidate.entry(m), workload) != candidate.entry(m)]
        if rows:
            limit = clamped(candidate.entry(rows[0]), workload).BLOCK_SIZE_K
            listed = ", ".join(map(str, rows))
            yield f"{candidate.name}, M={listed}: BLOCK_SIZE_K clamped to {limit}, as vLLM does"
