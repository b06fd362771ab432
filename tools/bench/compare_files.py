"""One bench of tuned files: reads them, finds the device, compiles and measures, writes reports and records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.bench import session
from tools.bench.candidates import NO_FILE, Plan, Say, make_plan, read_files
from tools.bench.files_report import FileResult, FilesReport, to_json, to_markdown
from tools.bench.request import FilesRequest
from tools.bench.session import Gpu, engine_kernel, today
from tools.compile.pool import CompilePool
from tools.errors import UserError
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.engine_kernel import engine_version
from tools.measure.gpu import check_memory
from tools.measure.kernels import EngineKernel, OwnKernel
from tools.measure.verdict import RowVerdict, score
from tools.registry.devices import normalise_device_name
from tools.store.config_file import ConfigFile
from tools.store.files import canonical_record, read_file, record_path, write_file
from tools.store.record import with_line
from tools.store.strict_json import Json
from tools.text import shown_path


def run(request: FilesRequest, say: Say) -> tuple[bool, str]:
    """(whether no row is slower and all was written, what goes to stdout). UserError: nothing was measured."""
    if request.output is not None:
        session.check_folder(request.output)
    files = read_files(request, say)
    gpu = Gpu.here()
    engine = None if request.engine_path is None else engine_kernel(request.engine_path)
    plans = [make_plan(file, request, gpu.device) for file in files]
    largest = [(shown_path(p.file.found.path), shape, max(p.batch_sizes)) for p in plans for shape in p.shapes]
    for note in check_memory(gpu.torch, largest):
        say(note)
    report = _measure_all(gpu, request, engine, plans, say)
    if request.output is not None:
        for path in write(report, request.output):
            say(f"written: {shown_path(path)}")
    is_good = not report.is_slower
    for plan, file in zip(plans, report.files, strict=True) if request.writes_record else ():
        try:
            say(f"written: {shown_path(note_in_record(plan.file, report, file))}")
        except NoEvidenceError as error:
            say(f"not written: {error}")
            is_good = False
    return is_good, to_json(report) if request.as_json else to_markdown(report)


def write(report: FilesReport, folder: Path) -> tuple[Path, Path]:
    """Markdown and JSON, whole or not at all, beside those of other runs."""
    first = session.file_name_part(report.files[0].name.removesuffix(".json"))
    what = first if len(report.files) == 1 else f"{len(report.files)}-files"
    kernel = "own" if report.engine_version is None else "vllm"
    stem = f"{report.date}-bench-{what}-{kernel}-kernel-triton-{report.environment.triton}"
    device = normalise_device_name(report.environment.device_name)
    if device not in stem:
        stem = f"{stem}-{device}"
    return session.write(session.claim(folder, stem), to_markdown(report), to_json(report))


def _measure_all(
    gpu: Gpu, request: FilesRequest, engine: EngineKernel | None, plans: list[Plan], say: Say
) -> FilesReport:
    from tools.bench.time_files import Arena, Match, compile_all, measure
    from tools.measure.ceilings import measure_ceilings

    torch, device = gpu.torch, gpu.device
    engine_version_ = None if engine is None else engine_version(engine.path) or "unknown"
    contender = engine or OwnKernel()
    assert device.target is not None
    assert device.arch is not None
    place = torch.device("cuda", torch.cuda.current_device())
    done: list[FileResult] = []
    with CompilePool(request.jobs) as pool, torch.cuda.stream(torch.cuda.Stream()):
        matches = []
        for plan in plans:
            assert plan.file.workload is not None
            matches.append(Match(plan.file.workload, plan.shapes, plan.candidates, plan.batch_sizes))
        l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        arch = device.arch.replace("_", "")
        # Before the ceilings: nobody else should be on the GPU, nor many processes on the cores, while it is timed.
        blank = Arena(contender, device.target, arch, None, l2_bytes, place, request.routing)  # type: ignore[arg-type]
        failures = [compile_all(match, blank, pool) for match in matches]
        pool.close()
        arena = replace(blank, ceilings=measure_ceilings(place))
        for plan, match, failed in zip(plans, matches, failures, strict=True):
            rows = []
            for row in _rows(torch, plan, measure(match, arena, failed)):
                rows.append(row)
                told = ", ".join(
                    f"{name} {duel.verdict} ({duel.ratio.median:.3f})" if duel.ratio else f"{name} {duel.verdict}"
                    for name, duel in row.duels.items()
                )
                say(f"{plan.name}, M={row.num_tokens}: against {told}")
            shapes = tuple(f"K={shape.hidden_size}, top_k={shape.top_k}" for shape in plan.shapes)
            names = tuple(candidate.name for candidate in plan.candidates)
            done.append(FileResult(plan.name, shapes, names, tuple(rows), plan.notes))
            torch.cuda.empty_cache()
    return FilesReport(gpu.environment(), today(), request.routing, kernel_sha256(), engine_version_, tuple(done))


def _rows(torch: Any, plan: Plan, rows: Iterator[RowVerdict]) -> Iterator[RowVerdict]:
    """UserError: the GPU's memory ran out, for all that was free at the start."""
    try:
        yield from rows
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{plan.name}: expected enough GPU memory, found none left. Fix: fewer tokens, or a GPU of its own."
        ) from error


class NoEvidenceError(UserError):
    """A bench that a record can't speak of. One line for a person."""


def note_in_record(file: ConfigFile, report: FilesReport, result: FileResult) -> Path:
    """Adds `engine_checked` (on an engine's kernel) or `verified_with` (on ours) to the record; returns its path.

    NoEvidenceError: the file doesn't run everywhere, or met nobody; the record stays as it is.
    """
    path = record_path(file.found.root, file.found.relative)
    record = read_file(path).document
    assert isinstance(record, dict)
    own, *others = result.candidates
    failed = [row.num_tokens for row in result.rows if row.measured[own].us is None]
    if failed:
        raise NoEvidenceError(f"{shown_path(path)}: expected every row to run, found M={failed[0]} failed.")
    scores = {name: found for name in others if (found := score(result.rows, name))}
    triton, date = report.environment.triton, report.date
    line: dict[str, Json]
    if report.engine_version is not None:
        engine = scores.get(NO_FILE)
        if engine is None:
            raise NoEvidenceError(f"{shown_path(path)}: expected {NO_FILE} to run, found that it failed everywhere.")
        key, same = "engine_checked", ["engine", "version", "triton"]
        ratios = {"worst_ratio": round(engine.worst_ratio, 4), "geomean_ratio": round(engine.geomean_ratio, 4)}
        line = {"engine": "vllm", "version": report.engine_version, "triton": triton, "date": date, **ratios}
    else:
        if not scores:
            raise NoEvidenceError(f"{shown_path(path)}: expected somebody to compare with, found that all failed.")
        key, same = "verified_with", ["triton"]
        worst = max(found.worst_ratio for found in scores.values())
        line = {"triton": triton, "date": date, "worst_loss_pct": round(100.0 * (worst - 1.0), 2)}
    write_file(path, canonical_record(with_line(record, key, line, same)))
    return path
