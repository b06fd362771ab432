"""One bench of tuned files: reads them, finds the device, compiles and measures, writes reports and records."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.bench import report_files
from tools.bench.contestants import (
    ContestantError,
)
from tools.bench.files_plan import Plan, Say, make_plan, read_files
from tools.bench.files_record import NoEvidenceError, note_in_record
from tools.bench.files_report import BenchReport, FileReport, to_json, to_markdown
from tools.bench.files_request import FilesRequest
from tools.bench.request import RequestError
from tools.compile.pool import CompilePool
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.engine_kernel import EngineKernelError, engine_version
from tools.measure.gpu import check_memory, driver, find_device, torch_with_gpu
from tools.measure.statistics import RowVerdict
from tools.registry.devices import Device, normalise_device_name
from tools.text import shown_path


def run(request: FilesRequest, say: Say) -> tuple[bool, str]:
    """(whether no row is slower and all was written, what goes to stdout). RequestError: nothing was measured."""
    if request.output is not None:
        report_files.check_folder(request.output)
    files = read_files(request, say)
    torch = torch_with_gpu()
    name, device = find_device(torch)
    try:
        plans = [make_plan(file, request, device) for file in files]
    except ContestantError as error:
        raise RequestError(str(error)) from error
    largest = [(shown_path(p.file.found.path), shape, max(p.batch_sizes)) for p in plans for shape in p.shapes]
    notes = check_memory(torch, largest)
    for note in notes:
        say(note)
    report = _measure_all(torch, request, plans, device, _environment(torch, request, name), say)
    if request.output is not None:
        for path in write(report, request.output, name):
            say(f"written: {shown_path(path)}")
    is_good = not report.is_slower
    for plan, file in zip(plans, report.files, strict=True) if request.writes_record else ():
        try:
            say(f"written: {shown_path(note_in_record(plan.file, request, report, file))}")
        except NoEvidenceError as error:
            say(f"not written: {error}")
            is_good = False
    return is_good, to_json(report) if request.as_json else to_markdown(report)


def write(report: BenchReport, folder: Path, device_name: str) -> tuple[Path, Path]:
    """Markdown and JSON, whole or not at all, beside those of other runs."""
    first = report_files.file_name_part(report.files[0].name.removesuffix(".json"))
    what = first if len(report.files) == 1 else f"{len(report.files)}-files"
    kernel = "own" if report.environment["kernel"].startswith("own") else "vllm"
    stem = f"{report.environment['date']}-bench-{what}-{kernel}-kernel-triton-{report.environment['triton']}"
    device = normalise_device_name(device_name)
    if device not in stem:
        stem = f"{stem}-{device}"
    return report_files.write(report_files.claim(folder, stem), to_markdown(report), to_json(report))


def _measure_all(
    torch: Any,
    request: FilesRequest,
    plans: list[Plan],
    device: Device,
    environment: Mapping[str, str],
    say: Say,
) -> BenchReport:
    from tools.bench.files import Arena, Match, compile_all, measure
    from tools.measure.gpu import measure_ceilings
    from tools.measure.kernels import EngineKernel, OwnKernel

    contender = OwnKernel() if request.engine_path is None else EngineKernel(request.engine_path.resolve())
    if isinstance(contender, EngineKernel):
        try:
            contender.check()
        except EngineKernelError as error:
            raise RequestError(str(error)) from error
    assert device.target is not None
    assert device.arch is not None
    gpu = torch.device("cuda", torch.cuda.current_device())
    done: list[FileReport] = []
    with CompilePool(request.jobs) as pool, torch.cuda.stream(torch.cuda.Stream()):
        matches = []
        for plan in plans:
            assert plan.file.workload is not None
            matches.append(Match(plan.file.workload, plan.shapes, plan.contestants, plan.batch_sizes))
        l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        arch = device.arch.replace("_", "")
        # Before the ceilings: nobody else should be on the GPU, nor many processes on the cores, while it is timed.
        blank = Arena(contender, device.target, arch, None, l2_bytes, gpu, request.routing)  # type: ignore[arg-type]
        failures = [compile_all(match, blank, pool) for match in matches]
        pool.close()
        arena = replace(blank, ceilings=measure_ceilings(gpu))
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
            names = tuple(contestant.name for contestant in plan.contestants)
            done.append(FileReport(plan.name, shapes, names, tuple(rows), plan.notes))
            torch.cuda.empty_cache()
    return BenchReport(environment, tuple(done))


def _rows(torch: Any, plan: Plan, rows: Iterator[RowVerdict]) -> Iterator[RowVerdict]:
    """RequestError: the GPU's memory ran out, for all that was free at the start."""
    try:
        yield from rows
    except torch.OutOfMemoryError as error:
        raise RequestError(
            f"{plan.name}: expected enough GPU memory, found none left. Fix: fewer tokens, or a GPU of its own."
        ) from error


def _environment(torch: Any, request: FilesRequest, device_name: str) -> dict[str, str]:
    import triton

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    engine = {}
    if request.engine_path is not None:
        engine = {"engine": engine_version(request.engine_path) or "unknown"}
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": device_name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "sm_count": str(properties.multi_processor_count),
        "driver": driver(),
        "cuda": str(torch.version.cuda),
        "torch": str(torch.__version__),
        "triton": str(triton.__version__),
        "python": platform.python_version(),
        "kernel": f"vLLM {engine['engine']}'s own" if engine else f"own, {kernel_sha256()[:12]}",
        "routing": request.routing,
        **engine,
    }
