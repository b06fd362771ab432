"""One run of the bench: finds the device, measures ceilings, compares workload by workload, writes as it goes."""

from __future__ import annotations

import datetime
import platform
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.bench.contenders import EngineKernel, OwnKernel
from tools.bench.engine_kernel import EngineKernelError, cut, engine_version
from tools.bench.report import CeilingFigures, Environment, Report, to_json, to_markdown
from tools.bench.request import Request, RequestError, WorkloadRequest, read_workload
from tools.bench.results import WorkloadResult
from tools.bench.spread import spread
from tools.compile.pool import CompilePool
from tools.kernel_hash import kernel_sha256
from tools.registry import Device, load_devices, load_models, normalise_device_name

BUSY_BYTES = 2 << 30


def run(request: Request, argv: Sequence[str], progress: Callable[[str], None]) -> tuple[Report, str]:
    """(report, what goes to stdout). RequestError: nothing was run."""
    torch = _torch_with_gpu()
    engine = EngineKernel(request.engine_path.resolve())
    try:
        engine.check()
    except EngineKernelError as error:
        raise RequestError(str(error)) from error
    reported = torch.cuda.get_device_name()
    device = load_devices().get(reported)
    if device is None or device.target is None or device.target.backend != "cuda" or not device.smem_bytes_per_block:
        raise RequestError(f"device: expected an NVIDIA GPU of configs/registry/devices.json, found {reported!r}.")
    models = load_models()
    wanted = [read_workload(text, models, reported) for text in request.workloads]
    notes = _check_memory(torch, wanted, max(request.batch_sizes))

    from tools.bench.ceilings import measure_ceilings

    with torch.cuda.stream(torch.cuda.Stream()):
        ceilings = measure_ceilings(torch.device("cuda", torch.cuda.current_device()))
        progress(f"ceilings: {ceilings}")
        report = Report(
            _environment(torch, reported, engine.path),
            f"python -m tools.bench {shlex.join(_shown(argv[1:], request))}",
            CeilingFigures(
                ceilings.copy_bytes_per_s / 1e9,
                ceilings.dense_bf16_per_s / 1e12,
                ceilings.dense_8bit_per_s / 1e12,
                ceilings.dense_8bit_measured,
            ),
            (),
            notes,
        )
        with CompilePool(request.jobs) as pool:
            for work in wanted:
                done = report.workloads
                for result in _compare(torch, request, engine, device, ceilings, work, pool, progress):
                    report = replace(report, workloads=(*done, result))
                    _write(report, request.output)
                torch.cuda.empty_cache()
    report = replace(report, complete=True)
    paths = _write(report, request.output)
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
    from tools.bench.layer import LayerShape

    assert device.target is not None
    assert device.arch is not None
    assert device.smem_bytes_per_block is not None
    workload, sizes = work.shard.workload, work.shard.shape
    shape = LayerShape(workload.E, workload.N, sizes.K, sizes.top_k, work.quant)
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


def _torch_with_gpu() -> Any:
    try:
        import torch
    except ImportError as error:
        raise RequestError(
            f"expected torch, found none ({error}). Fix: run on a machine with torch and a GPU."
        ) from error
    if not torch.cuda.is_available() or torch.version.hip is not None:
        raise RequestError("expected an NVIDIA GPU, found none that torch can use. Fix: run where there is one.")
    return torch


def _check_memory(torch: Any, wanted: Sequence[WorkloadRequest], num_tokens: int) -> tuple[str, ...]:
    from tools.bench.layer import LayerShape

    free, total = torch.cuda.mem_get_info()
    for work in wanted:
        workload, sizes = work.shard.workload, work.shard.shape
        shape = LayerShape(workload.E, workload.N, sizes.K, sizes.top_k, work.quant)
        need = shape.memory_bytes(num_tokens)
        if need > free:
            raise RequestError(
                f"{work.title}: expected {need / 2**30:.1f} GiB of free GPU memory, found {free / 2**30:.1f}. "
                "Fix: a larger tp or ep, or fewer tokens."
            )
    if total - free > BUSY_BYTES:
        return (f"{(total - free) / 2**30:.1f} GiB of the GPU were in use at the start: somebody else may disturb.",)
    return ()


def _environment(torch: Any, device: str, engine_path: Path) -> Environment:
    import triton

    return Environment(
        datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        device,
        _driver(),
        str(torch.version.cuda),
        str(torch.__version__),
        str(triton.__version__),
        platform.python_version(),
        f"vLLM {engine_version(engine_path) or '(version unknown)'}",
        cut(engine_path).sha256,
        kernel_sha256(),
    )


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _shown(arguments: Sequence[str], request: Request) -> list[str]:
    """The command without this machine's folders: the engine's file by its name, no output folder."""
    kept = [
        argument
        for before, argument in zip(("", *arguments), arguments, strict=False)
        if "--output" not in (before, argument.partition("=")[0])
    ]
    return [argument.replace(str(request.engine_path), request.engine_path.name) for argument in kept]


def _write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Replaces both files whole, so that a run that is cut off leaves what it finished."""
    folder.mkdir(parents=True, exist_ok=True)
    device = normalise_device_name(report.environment.device)
    stem = f"{report.environment.date}-engine-comparison-{device}-triton-{report.environment.triton}"
    paths = folder / f"{stem}.md", folder / f"{stem}.json"
    for path, text in zip(paths, (to_markdown(report), to_json(report)), strict=True):
        partial = path.with_suffix(f"{path.suffix}.partial")
        partial.write_text(text, "utf-8")
        partial.replace(path)
    return paths
