"""`bench kernels`: our kernel beside an engine's, workload by workload; reports are written as it goes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fused_moe_configs.naming import ENGINE_NAMES
from tools.bench import session
from tools.bench.kernels_report import CeilingFigures, ComparedKernels, KernelsReport, to_json, to_markdown
from tools.bench.request import KernelsRequest, Say
from tools.bench.sample import KernelComparison, comparison_of, read_workload
from tools.bench.session import Gpu, GrowingReport, engine_kernel
from tools.cli import check_folder
from tools.compile.pool import CompilePool
from tools.dates import today
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.engine_kernel import cut, engine_version
from tools.measure.gpu import check_memory
from tools.measure.kernels import EngineKernel, OwnKernel
from tools.registry.devices import normalise_device_name
from tools.registry.models import load_models
from tools.registry.sharding import Engine


def run(request: KernelsRequest, arguments: Sequence[str], say: Say) -> tuple[bool, str]:
    """(whether every criterion holds, what goes to stdout). UserError: nothing was run."""
    check_folder(request.output, "--output")
    engine = engine_kernel(request.engine)
    models = load_models()
    for text in request.workloads:
        read_workload(text, models, "any", Engine(request.engine.flavour.value))
    gpu = Gpu.here()  # after all that a wrong path or word may end
    torch = gpu.torch
    wanted = [comparison_of(text, request, models, gpu.name, gpu.device) for text in request.workloads]
    largest = max(request.batch_sizes)
    notes = check_memory(torch, [(work.title, [work.shape], largest) for work in wanted])

    from tools.bench.comparison import Setup
    from tools.bench.time_kernels import compare

    with torch.cuda.stream(torch.cuda.Stream()), CompilePool(request.jobs) as pool:
        setup = Setup.measured(gpu, [OwnKernel(flavour=engine.flavour), engine])
        say(f"ceilings: {setup.ceilings}")
        command = f"python -m tools.bench {shlex.join(_shown(arguments, request))}"
        report = KernelsReport(
            gpu.environment(), _kernels(engine), today().isoformat(), command, _figures(setup.ceilings), (), notes
        )
        growing = GrowingReport(request.output, _stem(report, wanted), say)
        for work in wanted:
            done = report.workloads
            say(f"{work.title}: {len(work.configs)} launch configs, M {' '.join(map(str, work.batch_sizes))}")
            for result in compare(setup, gpu.device, work, pool, _titled(work.title, say)):
                report = replace(report, workloads=(*done, result))
                growing.write(to_markdown(report), to_json(report))
            torch.cuda.empty_cache()
    report = replace(report, complete=True)
    paths = growing.finish(to_markdown(report), to_json(report))  # what was measured is printed all the same
    return report.passed and bool(paths), to_json(report) if request.as_json else to_markdown(report)


def _titled(title: str, say: Say) -> Say:
    return lambda line: say(f"{title}: {line}")


def _figures(ceilings: Any) -> CeilingFigures:
    return CeilingFigures(
        ceilings.memory_bytes_per_s / 1e9,
        ceilings.dense_bf16_per_s / 1e12,
        ceilings.dense_8bit_per_s / 1e12,
        ceilings.dense_8bit_measured,
    )


def _kernels(engine: EngineKernel) -> ComparedKernels:
    version = engine_version(engine.path, engine.name) or "(version unknown)"
    return ComparedKernels(f"{ENGINE_NAMES[engine.flavour]} {version}", cut(engine.path).sha256, kernel_sha256())


def _shown(arguments: Sequence[str], request: KernelsRequest) -> list[str]:
    """The command without this machine's folders: the engine's file by its name, no output folder."""
    kept = [
        argument
        for before, argument in zip(("", *arguments), arguments, strict=False)
        if "--output" not in (before, argument.partition("=")[0])
    ]
    return [argument.replace(str(request.engine.path), request.engine.path.name) for argument in kept]


def _stem(report: KernelsReport, wanted: Sequence[KernelComparison]) -> str:
    what = session.file_name_part(wanted[0].title) if len(wanted) == 1 else f"{len(wanted)}-workloads"
    device = normalise_device_name(report.environment.device_name)
    engine = report.kernels.engine.partition(" ")[0].lower()
    return f"{report.date}-{engine}-comparison-{what}-{device}-triton-{report.environment.triton}"
