"""`bench files`: reads tuned files, compiles and measures them, writes reports and notes in records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fused_moe_configs.naming import ENGINE_NAMES
from kernels.problem import Flavour
from tools.bench import session
from tools.bench.candidates import NO_FILE, THIS_FILE, FileComparison, Judging, comparison_of, read_files
from tools.bench.files_report import FileResult, FilesReport, Judge, to_json, to_markdown
from tools.bench.request import FilesRequest, Say
from tools.bench.session import Gpu, engine_kernel
from tools.cli import check_folder
from tools.compile.pool import CompilePool
from tools.dates import today
from tools.errors import MachineError, UserError
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.engine_kernel import engine_version
from tools.measure.gpu import check_memory, measure_ceilings, release
from tools.measure.judgement import PartVerdict, RowVerdict, score, worst_of
from tools.measure.kernels import EngineKernel, Kernel, OwnKernel
from tools.measure.panel import RULE, RoutingKind
from tools.measure.recorded_routing import read_recorded_routing
from tools.registry.devices import load_devices, normalise_device_name
from tools.store.config_file import ConfigFile
from tools.store.files import RECORD, lock, read_file, record_path, write_file
from tools.store.record import CheckedRouting, CheckedShipped, EngineChecked, VerifiedWith, as_record
from tools.text import printable, shown_path


def run(request: FilesRequest, say: Say) -> tuple[bool, str]:
    """(whether no row is slower and all was written, what goes to stdout). UserError: nothing was measured."""
    if request.output is not None:
        check_folder(request.output, "--output")
    files = read_files(request, say)
    devices = load_devices()
    comparisons = [comparison_of(file, request, devices) for file in files]  # all that a wrong word may end, first
    for file in files if request.writes_record else ():
        check_folder(record_path(file.found.root, file.found.relative).parent, "--write-record")
    judging = _judging(request)
    if judging.recorded is not None:
        for shape in dict.fromkeys(shape for comparison in comparisons for shape in comparison.shapes):
            judging.recorded.check(shape)
    engine = None if request.engine is None else engine_kernel(request.engine)  # before anything starts
    with CompilePool(request.jobs) as pool:
        pool.start()
        report = _measured(comparisons, judging, engine, pool, say)
    for file, result in zip(files, report.files, strict=True) if request.writes_record else ():
        try:
            say(f"written: {shown_path(note_in_record(file, report, result))}")
        except UserError as error:
            report = _not_written(report, str(error), say)
        except OSError as error:
            report = _not_written(report, session.not_written(error), say)
    if request.output is not None:  # behind the records, so that its JSON says which line is missing there
        try:
            for path in write(report, request.output):
                say(f"written: {shown_path(path)}")
        except OSError as error:  # what was measured is still printed
            report = _not_written(report, session.not_written(error), say)
    is_good = not report.is_slower and not report.not_written
    return is_good, to_json(report) if request.as_json else to_markdown(report)


def _not_written(report: FilesReport, why: str, say: Say) -> FilesReport:
    say(f"not written: {why}")
    return replace(report, not_written=(*report.not_written, printable(why)))


def _measured(
    comparisons: Sequence[FileComparison],
    judging: Judging,
    engine: EngineKernel | None,
    pool: CompilePool,
    say: Say,
) -> FilesReport:
    """UserError: nothing was measured."""
    gpu = Gpu.here()
    for comparison in comparisons:
        wanted = comparison.workload.device_name
        if wanted not in gpu.device.names:
            raise UserError(f"{comparison.name}: expected a file of this GPU, {gpu.device.name}, found {wanted}.")
    largest = [(each.name, each.shapes, max(each.batch_sizes)) for each in comparisons]
    for note in check_memory(gpu.torch, largest):
        say(note)
    return compare(gpu, comparisons, engine, judging, pool, say)


def _judging(request: FilesRequest) -> Judging:
    """UserError: a file without a recorded routing."""
    match request.routing:
        case None:
            return Judging(series=request.series, most_blocks=request.most_blocks)
        case RoutingKind() as kind:
            return Judging((kind,), series=request.series, most_blocks=request.most_blocks)
        case path:
            recorded = read_recorded_routing(path)
            return Judging((RoutingKind.RECORDED,), recorded, series=request.series, most_blocks=request.most_blocks)


def compare(
    gpu: Gpu,
    comparisons: Sequence[FileComparison],
    engine: EngineKernel | None,
    judging: Judging,
    pool: CompilePool,
    say: Say,
) -> FilesReport:
    """Compiles and measures. engine None: on our own kernel, in each engine's flavour. pool: is closed in between.

    UserError: the GPU's memory ran out, for all that was free at the start. MachineError: a launch broke it.
    """
    from tools.bench.time_files import compile_file, measure, player_of

    torch = gpu.torch
    judges: Sequence[Kernel] = [OwnKernel(flavour=flavour) for flavour in Flavour] if engine is None else [engine]
    kernels = {kernel.flavour: kernel for kernel in judges}
    done: list[FileResult] = []
    with torch.cuda.stream(torch.cuda.Stream()):
        failures = [compile_file(comparison, kernels, gpu.device, pool) for comparison in comparisons]
        pool.close()  # while anything is timed, few processes should be on the cores
        place = torch.device("cuda", torch.cuda.current_device())
        ceilings = measure_ceilings(place)
        for comparison, failed in zip(comparisons, failures, strict=True):
            player = player_of(comparison, judging, kernels, gpu, place)
            rows = []
            found = measure(comparison, judging, player, ceilings, failed)
            for row in _with_a_sound_gpu(torch, comparison.name, found):
                rows.append(row)
                say(f"{comparison.name}, M={row.num_tokens}: {_told(row)}")
            shapes = tuple(str(layer.shape) for layer in comparison.shapes)
            names = tuple(candidate.name for candidate in comparison.candidates)
            rows.sort(key=lambda row: row.num_tokens)
            notes, shipped, down = comparison.notes, comparison.shipped, comparison.down
            done.append(FileResult(comparison.name, shapes, names, tuple(rows), notes, shipped, down))
            del player
            release(torch)
    judge = None if engine is None else Judge(engine.flavour, engine_version(engine.path, engine.name) or "unknown")
    return FilesReport(gpu.environment(), today().isoformat(), judging, kernel_sha256(), judge, tuple(done))


def _with_a_sound_gpu(torch: Any, name: str, rows: Iterator[RowVerdict]) -> Iterator[RowVerdict]:
    from tools.measure.blocks import ContextLost

    try:
        yield from rows
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name}: expected enough GPU memory, found none left. Fix: fewer tokens, or a GPU of its own."
        ) from error
    except ContextLost as error:
        raise MachineError(
            f"{name}: expected launches after which the GPU answers, found that one broke its context ({error}). "
            "Fix: leave out the batch size at which it stopped (--num-tokens), or tune the file again."
        ) from error


def _told(row: RowVerdict) -> str:
    """The part where it does worst, of each engine."""
    by_engine = {part.part.engine: [p for p in row.parts if p.part.engine is part.part.engine] for part in row.parts}
    worst = [worst_of(parts) for parts in by_engine.values()]
    return "; ".join(f"{part.part}: {_against(part)}" for part in worst)


def _against(part: PartVerdict) -> str:
    """The verdict behind the number that it is of: «heuristic faster (0.652)» was read as if the heuristic won."""
    if part.own.us is None:
        return f"{THIS_FILE} failed: {part.own.message}"
    rivals = {name: f"the {name}" if name == NO_FILE else name for name in part.duels}
    return ", ".join(
        f"{duel.ratio.mean:.3f} of {rivals[name]}'s time: {duel.verdict}" if duel.ratio else f"{rivals[name]} failed"
        for name, duel in part.duels.items()
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
    or `_down` file stands there by now; the record stays as it is.
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
    if not record.speaks_of(file.content.data):
        raise NoEvidenceError(
            f"{shown_path(path)}: expected the record of {shown_path(file.found.path)}, found that of other bytes. "
            "Fix: tune the workload again (nox -s validate says more)."
        )
    if result.down is not None and not result.down.is_there_still:
        told = "none, found one" if result.down.data is None else "the one that was measured, found another or none"
        raise NoEvidenceError(f"{shown_path(result.down.path)}: expected {told} by now. Fix: measure again.")
    failed = [row.num_tokens for row in result.rows for part in row.parts if part.own.us is None]
    if failed:
        raise NoEvidenceError(f"{shown_path(path)}: expected every row to run, found M={failed[0]} failed.")
    if report.judge is not None:
        record = record.with_engine_checked(_checked(path, report, report.judge, result))
    else:
        uniform = [score(result.rows, name, routing=RoutingKind.UNIFORM) for name in result.candidates[1:]]
        worst = max((found.worst_ratio for found in uniform if found), default=None)
        if worst is None:
            raise NoEvidenceError(f"{shown_path(path)}: nothing to compare with: every baseline failed.")
        line = VerifiedWith(report.environment.triton, report.date, round(100.0 * (worst - 1.0), 2))
        record = record.with_verified_with(line)
    write_file(path, record.to_bytes())
    return path


def _checked(path: Path, report: FilesReport, judge: Judge, result: FileResult) -> EngineChecked:
    """NoEvidenceError: the engine's heuristic runs nowhere."""
    by_routing = {
        kind.value: CheckedRouting(round(found.worst_ratio, 4), round(found.geomean_ratio, 4), found.slower)
        for kind in report.judging.kinds
        if (found := score(result.rows, NO_FILE, routing=kind))
    }
    uniform = score(result.rows, NO_FILE, routing=RoutingKind.UNIFORM)
    if uniform is None:
        raise NoEvidenceError(
            f"{shown_path(path)}: expected {ENGINE_NAMES[judge.flavour]}'s heuristic to run, found that it failed "
            "everywhere."
        )
    return EngineChecked(
        judge.flavour.value,
        judge.version,
        report.environment.triton,
        report.date,
        round(uniform.worst_ratio, 4),
        round(uniform.geomean_ratio, 4),
        by_routing,
        {report.judging.purpose.name.lower(): report.judging.first_seed},
        round(uniform.best_ratio, 4),
        RULE,
        _beside_shipped(result),
        result.down.sha256 if result.down is not None else None,
    )


def _beside_shipped(result: FileResult) -> CheckedShipped | None:
    if result.shipped is None:
        return None
    found = score(result.rows, result.shipped.name, routing=RoutingKind.UNIFORM)
    if found is None:
        return None
    ratios = (round(ratio, 4) for ratio in (found.worst_ratio, found.geomean_ratio, found.best_ratio))
    return CheckedShipped(result.shipped.sha256, *ratios)
