"""One run of the bench: finds the device, measures ceilings, compares workload by workload, writes as it goes."""

from __future__ import annotations

import datetime
import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.bench import report_files
from tools.bench.report import CeilingFigures, Environment, Report, to_json, to_markdown
from tools.bench.request import Request, RequestError, WorkloadRequest, read_workload
from tools.bench.results import WorkloadResult
from tools.bench.spread import spread
from tools.compile.pool import CompilePool
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.engine_kernel import EngineKernelError, cut, engine_version
from tools.measure.gpu import check_memory, driver, find_device, torch_with_gpu
from tools.measure.kernels import EngineKernel, OwnKernel
from tools.measure.layer import LayerShape
from tools.registry.devices import Device, normalise_device_name
from tools.registry.models import load_models


def run(request: Request, argv: Sequence[str], progress: Callable[[str], None]) -> tuple[Report, str]:
    """(report, what goes to stdout). RequestError: nothing was run."""
    report_files.check_folder(request.output)
    torch = torch_with_gpu()
    engine = EngineKernel(request.engine_path.resolve())
    try:
        engine.check()
    except EngineKernelError as error:
        raise RequestError(str(error)) from error
    reported, device = find_device(torch)
    models = load_models()
    wanted = [read_workload(text, models, reported) for text in request.workloads]
    largest = max(request.batch_sizes)
    notes = check_memory(torch, [(work.title, _layer_shape(work), largest) for work in wanted])

    from tools.measure.gpu import measure_ceilings

    with torch.cuda.stream(torch.cuda.Stream()):
        ceilings = measure_ceilings(torch.device("cuda", torch.cuda.current_device()))
        progress(f"ceilings: {ceilings}")
        report = Report(
            _environment(torch, reported, engine.path),
            f"python -m tools.bench {shlex.join(_shown(argv[1:], request))}",
            CeilingFigures(
                ceilings.memory_bytes_per_s / 1e9,
                ceilings.dense_bf16_per_s / 1e12,
                ceilings.dense_8bit_per_s / 1e12,
                ceilings.dense_8bit_measured,
            ),
            (),
            notes,
        )
        path: Path | None = None
        with CompilePool(request.jobs) as pool:
            for work in wanted:
                done = report.workloads
                for result in _compare(torch, request, engine, device, ceilings, work, pool, progress):
                    report = replace(report, workloads=(*done, result))
                    path = path or _claim(report, wanted, request.output)
                    _write(report, path)
                torch.cuda.empty_cache()
    report = replace(report, complete=True)
    paths = _write(report, path or _claim(report, wanted, request.output))
    progress(f"written: {', '.join(map(str, paths))}")
    return report, to_json(report) if request.as_json else to_markdown(report)


def _compare(
    torch: Any,
    request: Request,
    engine: EngineKernel,
    device: Device,
    ceilings: Any,
    work: WorkloadRequest,
    pool: CompilePool,
    progress: Callable[[str], None],
) -> Any:
    from tools.bench.engine_comparison import Setting, compare

    assert device.target is not None
    assert device.arch is not None
    assert device.smem_bytes_per_block is not None
    workload, sizes = work.shard.workload, work.shard.shape
    shape = _layer_shape(work)
    try:
        configs = spread(
            request.launch_configs,
            arch=device.arch,
            dtype=workload.dtype,
            block_shape=workload.block_shape,
            smem_limit_bytes=device.smem_bytes_per_block,
        )
    except ValueError as error:
        raise RequestError(str(error)) from error
    properties = torch.cuda.get_device_properties(0)
    setting = Setting(
        OwnKernel(),
        engine,
        device.target,
        device.arch.replace("_", ""),
        ceilings,
        properties.L2_cache_size,
        torch.device("cuda", torch.cuda.current_device()),
    )
    blank = WorkloadResult(work.title, workload.file_name(), sizes.K, sizes.top_k, {}, 0.0)
    progress(f"{work.title}: {len(configs)} launch configs, M {' '.join(map(str, request.batch_sizes))}")
    return compare(
        setting, shape, configs, request.batch_sizes, pool, blank, lambda line: progress(f"{work.title}: {line}")
    )


def _layer_shape(work: WorkloadRequest) -> LayerShape:
    workload, sizes = work.shard.workload, work.shard.shape
    return LayerShape(workload.E, workload.N, sizes.K, sizes.top_k, work.quant)


def _environment(torch: Any, device: str, engine_path: Path) -> Environment:
    import triton

    return Environment(
        datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        device,
        driver(),
        str(torch.version.cuda),
        str(torch.__version__),
        str(triton.__version__),
        platform.python_version(),
        f"vLLM {engine_version(engine_path) or '(version unknown)'}",
        cut(engine_path).sha256,
        kernel_sha256(),
    )


def _shown(arguments: Sequence[str], request: Request) -> list[str]:
    """The command without this machine's folders: the engine's file by its name, no output folder."""
    kept = [
        argument
        for before, argument in zip(("", *arguments), arguments, strict=False)
        if "--output" not in (before, argument.partition("=")[0])
    ]
    return [argument.replace(str(request.engine_path), request.engine_path.name) for argument in kept]


def _claim(report: Report, wanted: Sequence[WorkloadRequest], folder: Path) -> Path:
    what = report_files.file_name_part(wanted[0].title) if len(wanted) == 1 else f"{len(wanted)}-workloads"
    device = normalise_device_name(report.environment.device)
    stem = f"{report.environment.date}-engine-comparison-{what}-{device}-triton-{report.environment.triton}"
    return report_files.claim(folder, stem)


def _write(report: Report, path: Path) -> tuple[Path, Path]:
    """Replaces both files whole, so that a run that is cut off leaves what it finished."""
    return report_files.write(path, to_markdown(report), to_json(report))
