"""`bench files`: reads tuned files, compiles and measures them, writes reports and notes in records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.bench import session
from tools.bench.candidates import HEURISTIC_OF, FileComparison, comparison_of, read_files
from tools.bench.files_report import FileResult, FilesReport, Judge, to_json, to_markdown
from tools.bench.request import FilesRequest, Say
from tools.bench.session import Gpu, engine_kernel, today
from tools.compile.pool import CompilePool
from tools.errors import UserError
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.engine_kernel import engine_version
from tools.measure.gpu import check_memory
from tools.measure.kernels import EngineKernel, OwnKernel
from tools.measure.panel import RoutingKind
from tools.measure.recorded_routing import RoutingSource, read_recorded_routing
from tools.measure.seeds import Dealing, Purpose
from tools.measure.statistics import RowVerdict, score
from tools.registry.devices import normalise_device_name
from tools.store.config_file import ConfigFile
from tools.store.files import RECORD, lock, read_file, record_path, write_file
from tools.store.record import EngineChecked, VerifiedWith, as_record
from tools.text import shown_path


def run(request: FilesRequest, say: Say) -> tuple[bool, str]:
    """(whether no row is slower and all was written, what goes to stdout). UserError: nothing was measured."""
    if request.output is not None:
        session.check_folder(request.output)
    files = read_files(request, say)
    for file in files if request.writes_record else ():
        session.check_folder(record_path(file.found.root, file.found.relative).parent, "--write-record")
    recorded = None if isinstance(request.routing, RoutingKind) else read_recorded_routing(request.routing)
    kind = request.routing if isinstance(request.routing, RoutingKind) else RoutingKind.RECORDED
    source = RoutingSource(kind, recorded)
    gpu = Gpu.here()
    engine = None if request.engine is None else engine_kernel(request.engine)
    comparisons = [comparison_of(file, request, gpu.device) for file in files]
    for shape in dict.fromkeys(shape for comparison in comparisons for shape in comparison.shapes):
        source.check(shape)
    largest = [
        (shown_path(file.found.path), comparison.shapes, max(comparison.batch_sizes))
        for file, comparison in zip(files, comparisons, strict=True)
    ]
    for note in check_memory(gpu.torch, largest):
        say(note)
    report = compare(gpu, comparisons, engine, Dealing(source, Purpose.JUDGEMENT), request.jobs, say)
    is_good = not report.is_slower
    if request.output is not None:
        try:
            for path in write(report, request.output):
                say(f"written: {shown_path(path)}")
        except OSError as error:  # what was measured is still printed
            say(session.not_written(error))
            is_good = False
    for file, result in zip(files, report.files, strict=True) if request.writes_record else ():
        try:
            say(f"written: {shown_path(note_in_record(file, report, result))}")
        except UserError as error:
            say(f"not written: {error}")
            is_good = False
        except OSError as error:
            say(session.not_written(error))
            is_good = False
    return is_good, to_json(report) if request.as_json else to_markdown(report)


def compare(
    gpu: Gpu, comparisons: Sequence[FileComparison], engine: EngineKernel | None, dealing: Dealing, jobs: int, say: Say
) -> FilesReport:
    """Compiles and measures. engine None: on our own kernel. dealing: what of. jobs: compiling processes.

    UserError: the GPU's memory ran out, for all that was free at the start.
    """
    from tools.bench.comparison import Setup
    from tools.bench.time_files import compile_file, measure

    torch, kernel = gpu.torch, engine or OwnKernel()
    done: list[FileResult] = []
    with torch.cuda.stream(torch.cuda.Stream()):
        # All before the ceilings: while they are timed, few processes should be on the cores, and none else on the GPU.
        with CompilePool(jobs) as pool:
            failures = [compile_file(comparison, kernel, gpu.device, pool) for comparison in comparisons]
        setup = Setup.measured(gpu, [kernel], dealing)
        for comparison, failed in zip(comparisons, failures, strict=True):
            rows = []
            for row in _enough_memory(torch, comparison.name, measure(comparison, setup, failed)):
                rows.append(row)
                say(f"{comparison.name}, M={row.num_tokens}: against {_against(row)}")
            shapes = tuple(str(layer.shape) for layer in comparison.shapes)
            names = tuple(candidate.name for candidate in comparison.candidates)
            done.append(FileResult(comparison.name, shapes, names, tuple(rows), comparison.notes))
            torch.cuda.empty_cache()
    judge = None if engine is None else Judge(engine.flavour, engine_version(engine.path, engine.name) or "unknown")
    return FilesReport(gpu.environment(), today(), dealing.source.title, kernel_sha256(), judge, tuple(done))


def _enough_memory(torch: Any, name: str, rows: Iterator[RowVerdict]) -> Iterator[RowVerdict]:
    try:
        yield from rows
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name}: expected enough GPU memory, found none left. Fix: fewer tokens, or a GPU of its own."
        ) from error


def _against(row: RowVerdict) -> str:
    return ", ".join(
        f"{name} {duel.verdict} ({duel.ratio.median:.3f})" if duel.ratio else f"{name} {duel.verdict}"
        for name, duel in row.duels.items()
    )


def write(report: FilesReport, folder: Path) -> tuple[Path, Path]:
    """Markdown and JSON, whole or not at all, beside those of other runs."""
    first = session.file_name_part(report.files[0].name.removesuffix(".json"))
    what = first if len(report.files) == 1 else f"{len(report.files)}-files"
    kernel = "own" if report.judge is None else report.judge.flavour
    stem = f"{report.date}-bench-{what}-{kernel}-kernel-triton-{report.environment.triton}"
    device = normalise_device_name(report.environment.device_name)
    if device not in stem:
        stem = f"{stem}-{device}"
    return session.write(session.claim(folder, stem), to_markdown(report), to_json(report))


class NoEvidenceError(UserError):
    """A bench that a record can't speak of. One line for a person."""


def note_in_record(file: ConfigFile, report: FilesReport, result: FileResult) -> Path:
    """Adds `engine_checked` (on an engine's kernel) or `verified_with` (on ours) to the record; returns its path.

    NoEvidenceError: its figures are published ones, it doesn't run everywhere, every baseline failed, or another file
    stands there by now; the record stays as it is.
    """
    with lock(file.found.root):
        return _note_alone(file, report, result)


def _note_alone(file: ConfigFile, report: FilesReport, result: FileResult) -> Path:
    path = record_path(file.found.root, file.found.relative)
    record = as_record(read_file(path, RECORD))
    if not record.is_measured:
        raise NoEvidenceError(
            f"{shown_path(path)}: expected the record of a measured file, found published figures, which no line is "
            "added to. Fix: tune the workload, then bench its file."
        )
    if file.content.data is None or read_file(file.found.path).data != file.content.data:
        raise NoEvidenceError(
            f"{shown_path(file.found.path)}: expected the file that was measured, found another one by now. "
            "Fix: measure again."
        )
    own, *others = result.candidates
    failed = [row.num_tokens for row in result.rows if row.measured[own].us is None]
    if failed:
        raise NoEvidenceError(f"{shown_path(path)}: expected every row to run, found M={failed[0]} failed.")
    scores = {name: found for name in others if (found := score(result.rows, name))}
    triton, date = report.environment.triton, report.date
    if report.judge is not None:
        no_file = HEURISTIC_OF[report.judge.flavour]
        engine = scores.get(no_file)
        if engine is None:
            raise NoEvidenceError(f"{shown_path(path)}: expected {no_file} to run, found that it failed everywhere.")
        ratios = round(engine.worst_ratio, 4), round(engine.geomean_ratio, 4)
        flavour, version = report.judge.flavour.value, report.judge.version
        record = record.with_engine_checked(EngineChecked(flavour, version, triton, date, *ratios))
    else:
        if not scores:
            raise NoEvidenceError(f"{shown_path(path)}: nothing to compare with: every baseline failed.")
        worst = max(found.worst_ratio for found in scores.values())
        record = record.with_verified_with(VerifiedWith(triton, date, round(100.0 * (worst - 1.0), 2)))
    write_file(path, record.to_bytes())
    return path
