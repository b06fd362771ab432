"""One run of the bench: finds the device, measures ceilings, compares workload by workload, writes as it goes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernels.problem import QuantMode
from tools.bench import session
from tools.bench.kernels_report import (
    CeilingFigures,
    ComparedKernels,
    KernelsReport,
    WorkloadResult,
    to_json,
    to_markdown,
)
from tools.bench.request import KernelsRequest
from tools.bench.sample import sample
from tools.bench.session import Gpu, engine_kernel, today
from tools.compile.pool import CompilePool
from tools.errors import UserError
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.engine_kernel import cut, engine_version
from tools.measure.gpu import check_memory
from tools.measure.kernels import EngineKernel, OwnKernel
from tools.measure.layer import LayerShape
from tools.registry.devices import Device, normalise_device_name
from tools.registry.models import Model, ModelRegistry, load_models
from tools.registry.sharding import Engine, Shard, shard


@dataclass(frozen=True)
class WorkloadRequest:
    """A model on one rank. title: as it was asked for."""

    title: str
    model: Model
    shard: Shard
    quant: QuantMode


def run(request: KernelsRequest, arguments: Sequence[str], progress: Callable[[str], None]) -> tuple[bool, str]:
    """(whether every criterion holds, what goes to stdout). UserError: nothing was run."""
    session.check_folder(request.output)
    gpu = Gpu.here()
    torch = gpu.torch
    engine = engine_kernel(request.engine_path)
    models = load_models()
    wanted = [read_workload(text, models, gpu.name) for text in request.workloads]
    largest = max(request.batch_sizes)
    notes = check_memory(torch, [(work.title, _layer_shape(work), largest) for work in wanted])

    from tools.measure.ceilings import measure_ceilings

    with torch.cuda.stream(torch.cuda.Stream()):
        ceilings = measure_ceilings(torch.device("cuda", torch.cuda.current_device()))
        progress(f"ceilings: {ceilings}")
        report = KernelsReport(
            gpu.environment(),
            _kernels(engine.path),
            today(),
            f"python -m tools.bench {shlex.join(_shown(arguments, request))}",
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
                for result in _compare(torch, request, engine, gpu.device, ceilings, work, pool, progress):
                    report = replace(report, workloads=(*done, result))
                    path = path or _claim(report, wanted, request.output)
                    _write(report, path)
                torch.cuda.empty_cache()
    report = replace(report, complete=True)
    paths = _write(report, path or _claim(report, wanted, request.output))
    progress(f"written: {', '.join(map(str, paths))}")
    return report.passed, to_json(report) if request.as_json else to_markdown(report)


def read_workload(text: str, models: ModelRegistry, device_name: str) -> WorkloadRequest:
    """`MODEL tp=N [ep=N]` as one rank of vLLM sees it. UserError: unknown, indivisible, no kernel."""
    name, *sizes = text.split()
    matches = [re.fullmatch(r"(tp|ep)=([1-9][0-9]{0,4})", size) for size in sizes]
    if not all(matches):
        raise UserError(f'--workload: expected "MODEL tp=N [ep=N]", found {text!r}.')
    sizes_by_name = {match[1]: int(match[2]) for match in matches if match}
    tp, ep = (sizes_by_name.get(size, 1) for size in ("tp", "ep"))
    model = models.find(name)
    found = shard(model, Engine.VLLM, device_name=device_name, tp=tp, ep=ep)
    quant = _quant_mode(model, found)
    if not model.gated:
        raise UserError(f"{name}: expected gated experts, found {model.id} without a gate. Fix: another model.")
    return WorkloadRequest(text, model, found, quant)


def _quant_mode(model: Model, found: Shard) -> QuantMode:
    """The kernel's mode. UserError: there is no kernel for the dtype here."""
    workload, stored = found.workload, model.quantisation
    compute_type = "fp16" if stored.dtype == "fp16" else "bf16"
    try:
        return QuantMode(workload.dtype, compute_type, stored.per_channel_quant, workload.block_shape)
    except ValueError as error:
        raise UserError(f"{model.id}: {error}") from error


def _compare(
    torch: Any,
    request: KernelsRequest,
    engine: EngineKernel,
    device: Device,
    ceilings: Any,
    work: WorkloadRequest,
    pool: CompilePool,
    progress: Callable[[str], None],
) -> Any:
    from tools.bench.time_kernels import Setup, compare

    assert device.target is not None
    assert device.arch is not None
    assert device.smem_bytes_per_block is not None
    workload, sizes = work.shard.workload, work.shard.shape
    shape = _layer_shape(work)
    try:
        configs = sample(
            request.launch_configs,
            arch=device.arch,
            dtype=workload.dtype,
            block_shape=workload.block_shape,
            smem_limit_bytes=device.smem_bytes_per_block,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    properties = torch.cuda.get_device_properties(0)
    setup = Setup(
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
        setup, shape, configs, request.batch_sizes, pool, blank, lambda line: progress(f"{work.title}: {line}")
    )


def _layer_shape(work: WorkloadRequest) -> LayerShape:
    workload, sizes = work.shard.workload, work.shard.shape
    return LayerShape(workload.E, workload.N, sizes.K, sizes.top_k, work.quant)


def _kernels(engine_path: Path) -> ComparedKernels:
    engine = f"vLLM {engine_version(engine_path) or '(version unknown)'}"
    return ComparedKernels(engine, cut(engine_path).sha256, kernel_sha256())


def _shown(arguments: Sequence[str], request: KernelsRequest) -> list[str]:
    """The command without this machine's folders: the engine's file by its name, no output folder."""
    kept = [
        argument
        for before, argument in zip(("", *arguments), arguments, strict=False)
        if "--output" not in (before, argument.partition("=")[0])
    ]
    return [argument.replace(str(request.engine_path), request.engine_path.name) for argument in kept]


def _claim(report: KernelsReport, wanted: Sequence[WorkloadRequest], folder: Path) -> Path:
    what = session.file_name_part(wanted[0].title) if len(wanted) == 1 else f"{len(wanted)}-workloads"
    device = normalise_device_name(report.environment.device_name)
    stem = f"{report.date}-engine-comparison-{what}-{device}-triton-{report.environment.triton}"
    return session.claim(folder, stem)


def _write(report: KernelsReport, path: Path) -> tuple[Path, Path]:
    """Replaces both files whole, so that a run that is cut off leaves what it finished."""
    return session.write(path, to_markdown(report), to_json(report))
