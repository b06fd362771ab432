"""One bench of tuned files: reads them, finds the device, compiles and measures, writes reports and records."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools import store
from tools.bench.contestants import (
    HEURISTIC,
    NO_FILE,
    Contestant,
    ContestantError,
    against,
    clamped,
    heuristics,
    of_file,
)
from tools.bench.device import check_memory, driver, find_device, torch_with_gpu
from tools.bench.engine_kernel import EngineKernelError, engine_version
from tools.bench.files_report import BenchReport, FileReport, to_json, to_markdown
from tools.bench.files_request import FilesRequest
from tools.bench.layer import LayerShape
from tools.bench.request import RequestError
from tools.bench.verdict import score
from tools.compile.pool import CompilePool
from tools.config_file import ConfigFile, load
from tools.kernel_hash import kernel_sha256
from tools.registry import Device, load_models
from tools.shapes import ASSUMED_SHAPE, quant_mode_of, shapes_of
from tools.strict_json import Json

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A file and whom it meets, before the GPU is asked for anything."""

    file: ConfigFile
    shapes: tuple[LayerShape, ...]
    contestants: tuple[Contestant, ...]
    batch_sizes: tuple[int, ...]
    notes: tuple[str, ...]


def run(request: FilesRequest, say: Say) -> tuple[BenchReport, str]:
    """(report, what goes to stdout). RequestError: nothing was run."""
    files = read_files(request)
    torch = torch_with_gpu()
    name, device = find_device(torch)
    try:
        plans = [make_plan(file, request, device) for file in files]
    except ContestantError as error:
        raise RequestError(str(error)) from error
    largest = [(store.shown(p.file.found.path), shape, max(p.batch_sizes)) for p in plans for shape in p.shapes]
    notes = check_memory(torch, largest)
    for note in notes:
        say(note)
    report = _measure_all(torch, request, plans, device, _environment(torch, request, name), say)
    if request.output is not None:
        for path in write(report, request.output, name):
            say(f"written: {store.shown(path)}")
    if request.writes_record:
        for plan, file in zip(plans, report.files, strict=True):
            say(f"written: {store.shown(note_in_record(plan.file, request, report, file))}")
    return report, to_json(report) if request.as_json else to_markdown(report)


def read_files(request: FilesRequest) -> list[ConfigFile]:
    """RequestError: a path isn't there, nothing to bench in it, or no record to write into."""
    try:
        found = store.discover(request.paths, request.layout)
    except OSError as error:
        raise RequestError(f"expected files or folders, found {store.printable(str(error))}.") from error
    files = [file for file in load(found, request.layout).configs if file.workload is None or not file.workload.down]
    if not files:
        raise RequestError("expected at least one tuned file (a _down file is part of its up file), found none.")
    for file in files if request.writes_record else ():
        record = store.record_path(file.found.root, file.found.relative)
        if not isinstance(store.read(record).document, dict):
            raise RequestError(
                f"--write-record: expected a record {store.shown(record)}, found none. Fix: tune the file."
            )
    return files


def make_plan(file: ConfigFile, request: FilesRequest, device: Device) -> Plan:
    """ContestantError: a file that can't be read, of another device, or without a kernel here."""
    own = of_file(store.shown(file.found.path), file)
    workload = file.workload
    assert workload is not None
    if workload.device_name not in device.names:
        raise ContestantError(f"{own.name}: expected a file of this GPU, {device.name}, found {workload.device_name}.")
    quant = quant_mode_of(workload)
    if quant is None:
        raise ContestantError(f"{own.name}: expected a dtype that this kernel runs, found {workload.dtype}.")
    batch_sizes = request.batch_sizes or tuple(file.launch_configs)
    rivals = [c for what in request.against for c in _rivals(what, file, batch_sizes, device)]
    shapes = shapes_of(file, load_models())
    notes = [] if shapes else [f"assumed K={ASSUMED_SHAPE.K}, top_k={ASSUMED_SHAPE.top_k}: nobody says them"]
    contestants = (replace(own, name="this file"), *rivals)
    notes += [
        f"{contestant.name}, M={m}: BLOCK_SIZE_K clamped to {clamped(entry, workload).BLOCK_SIZE_K}, as vLLM does"
        for contestant in contestants
        for m in batch_sizes
        if clamped(entry := contestant.entry(m), workload) != entry
    ]
    layers = tuple(
        LayerShape(workload.E, workload.N, shape.K, shape.top_k, quant) for shape in shapes or (ASSUMED_SHAPE,)
    )
    return Plan(file, layers, contestants, batch_sizes, tuple(notes))


def write(report: BenchReport, folder: Path, device_name: str) -> tuple[Path, Path]:
    """Markdown and JSON, whole or not at all."""
    first = re.sub(r"[^A-Za-z0-9._=-]+", "_", Path(report.files[0].name).stem).strip("_")
    what = first if len(report.files) == 1 else f"{len(report.files)}-files"
    kernel = "own" if report.environment["kernel"].startswith("own") else "vllm"
    stem = f"{report.environment['date']}-bench-{what}-{kernel}-kernel-triton-{report.environment['triton']}"
    if device_name.replace(" ", "_") not in stem:
        stem = f"{stem}-{device_name.replace(' ', '_')}"
    paths = folder / f"{stem}.md", folder / f"{stem}.json"
    for path, text in zip(paths, (to_markdown(report), to_json(report)), strict=True):
        store.write(path, text.encode())
    return paths


def note_in_record(file: ConfigFile, request: FilesRequest, report: BenchReport, result: FileReport) -> Path:
    """Adds `engine_checked` (on an engine's kernel) or `verified_with` (on ours) to the record; returns its path."""
    path = store.record_path(file.found.root, file.found.relative)
    record = store.read(path).document
    assert isinstance(record, dict)
    rival = NO_FILE if NO_FILE in result.contestants else result.contestants[1]
    total = score(result.rows, rival)
    if total is None:
        raise RequestError(f"--write-record: expected rows that both ran, found none against {rival}.")
    triton, date = report.environment["triton"], report.environment["date"]
    line: dict[str, Json]
    same: tuple[str, ...]
    if request.engine_path is not None:
        key, same = "engine_checked", ("engine", "version", "triton")
        ratios = {"worst_ratio": round(total.worst_ratio, 4), "geomean_ratio": round(total.geomean_ratio, 4)}
        line = {"engine": "vllm", "version": report.environment["engine"], "triton": triton, "date": date, **ratios}
    else:
        key, same = "verified_with", ("triton",)
        loss_pct = max(score(result.rows, name).worst_ratio for name in result.contestants[1:])  # type: ignore[union-attr]
        line = {"triton": triton, "date": date, "worst_loss_pct": round(100.0 * (loss_pct - 1.0), 2)}
    store.write(path, store.canonical_record(_with_line(record, key, line, same)))
    return path


def _with_line(
    record: Mapping[str, Json], key: str, line: Mapping[str, Json], same: tuple[str, ...]
) -> dict[str, Json]:
    """The line instead of an older one of the same kind; `verified` stays last."""
    lines = record.get(key)
    known = [old for old in lines if isinstance(old, dict)] if isinstance(lines, list) else []
    kept: list[Json] = [old for old in known if any(old.get(name) != line[name] for name in same)]
    rest = {name: value for name, value in record.items() if name not in (key, "verified")}
    return {**rest, key: [*kept, dict(line)], "verified": record.get("verified")}


def _rivals(what: str, file: ConfigFile, batch_sizes: tuple[int, ...], device: Device) -> tuple[Contestant, ...]:
    assert file.workload is not None
    return heuristics(file.workload, batch_sizes, device) if what == HEURISTIC else (against(what, file),)


def _measure_all(
    torch: Any,
    request: FilesRequest,
    plans: list[Plan],
    device: Device,
    environment: Mapping[str, str],
    say: Say,
) -> BenchReport:
    from tools.bench.ceilings import measure_ceilings
    from tools.bench.contenders import EngineKernel, OwnKernel
    from tools.bench.files import Arena, Match, compile_all, measure

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
            for row in measure(match, arena, failed):
                rows.append(row)
                told = ", ".join(
                    f"{name} {duel.verdict} ({duel.ratio.median:.3f})" if duel.ratio else f"{name} {duel.verdict}"
                    for name, duel in row.duels.items()
                )
                say(f"{plan.file.found.path.name}, M={row.num_tokens}: against {told}")
            shapes = tuple(f"K={shape.hidden_size}, top_k={shape.top_k}" for shape in plan.shapes)
            names = tuple(contestant.name for contestant in plan.contestants)
            done.append(FileReport(plan.file.found.path.name, shapes, names, tuple(rows), plan.notes))
            torch.cuda.empty_cache()
    return BenchReport(environment, tuple(done))


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
