"""What comparing files and comparing kernels share on the GPU: compiling, a row's inputs, its floor, its launches.

Needs a GPU, except `compile_all`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch

from kernels.problem import Flavour
from tools.bench.request import Say
from tools.bench.session import Gpu
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.launch.layer_config import LayerConfig
from tools.measure.gpu import Ceilings, measure_ceilings
from tools.measure.inputs import RowInputs, Weights, num_routings
from tools.measure.kernels import Kernel, KernelTask, problems_of
from tools.measure.layer import DOWN, UP, LayerShape, Load, row_bytes, row_operations
from tools.measure.panel import RoutingKind
from tools.measure.recorded_routing import RoutingSource
from tools.measure.row import RowBench
from tools.measure.seeds import Purpose, seed_of
from tools.measure.statistics import floor_us
from tools.measure.timing import Replay, capture
from tools.registry.devices import Device

# ---------------------------------------------------------------
# Compiling, on all cores and before anything is timed


@dataclass(frozen=True)
class NotTimed:
    """Why a launch config is not timed. kernel: which of the compared ones."""

    kernel: str
    status: str
    message: str


@dataclass(frozen=True)
class CompiledKernels:
    """outcomes: number of kernels by status. failed and spilling: what isn't fit to be timed, by batch size.

    By batch size because small ones run another mode of the kernel: one mode may compile where the other doesn't.
    """

    outcomes: Mapping[str, int]
    failed: Mapping[int, Mapping[LayerConfig, NotTimed]]
    spilling: Mapping[int, Mapping[LayerConfig, NotTimed]]


def compile_all(
    kernels: Sequence[Kernel],
    shapes: Sequence[LayerShape],
    configs: Mapping[int, Sequence[LayerConfig]],
    device: Device,
    pool: CompilePool,
    say: Say = lambda _line: None,
) -> CompiledKernels:
    """Up and down of every kernel with every launch config. configs: by batch size."""
    assert device.target is not None
    arch = device.target.kernel_arch
    tasks: dict[Hashable, KernelTask] = {}
    sharing: dict[Hashable, set[tuple[int, LayerConfig]]] = {}
    failed: dict[int, dict[LayerConfig, NotTimed]] = {num_tokens: {} for num_tokens in configs}
    spilling: dict[int, dict[LayerConfig, NotTimed]] = {num_tokens: {} for num_tokens in configs}
    wanted = [(m, config) for m, row in configs.items() for config in dict.fromkeys(row)]
    for (num_tokens, config), kernel, shape in itertools.product(wanted, kernels, shapes):
        try:
            problems = problems_of(kernel, shape, num_tokens, config, arch)
        except ValueError as error:
            failed[num_tokens][config] = NotTimed(kernel.name, Status.CONSTRAINTS.value, str(error))
            continue
        for problem in problems:
            task = KernelTask(problem, device.target, kernel)
            tasks.setdefault(task.key, task)
            sharing.setdefault(task.key, set()).add((num_tokens, config))
    say(f"compiling {len(tasks)} kernels")
    outcomes: Counter[str] = Counter()
    keys = list(tasks)
    for index, outcome in pool.run(tasks.values()):
        outcomes[outcome.status.value] += 1
        name = tasks[keys[index]].kernel.name
        # All that run this kernel: one left out would be compiled in this process, which a crash takes down.
        for num_tokens, config in sharing[keys[index]]:
            if outcome.status is not Status.OK:
                failed[num_tokens][config] = NotTimed(name, outcome.status.value, outcome.message)
            elif outcome.resources is not None and outcome.resources.spills:
                message = f"{outcome.resources.frame_bytes} bytes of stack a thread"
                spilling[num_tokens][config] = NotTimed(name, "spills", message)
    return CompiledKernels(outcomes, failed, spilling)


# ---------------------------------------------------------------
# A row: one batch size of one shape


@dataclass(frozen=True)
class Floor:
    """The least time of up and down together, and what sets it: memory or compute. num_bytes and operations: least."""

    us: float
    bound: str
    num_bytes: float
    operations: float


def floor_of(ceilings: Ceilings, shape: LayerShape, num_tokens: int, load: Load, flavour: Flavour) -> Floor:
    """From the ceilings, for what the routings bring to the rank, as the engine aligns it."""
    num_bytes = row_bytes(shape, num_tokens, load, flavour)
    operations = row_operations(shape, load)
    dense_per_s = ceilings.dense_per_s(8 if shape.quant.quantizes_activations else 16)
    us, bound = floor_us(num_bytes, operations, ceilings.memory_bytes_per_s, dense_per_s)
    return Floor(us, bound, num_bytes, operations)


@dataclass(frozen=True)
class Setup:
    """What stays the same for all rows of a run. arch as `kernels.launch` spells it."""

    kernels: tuple[Kernel, ...]
    arch: str
    ceilings: Ceilings
    l2_bytes: int
    device: torch.device

    @classmethod
    def measured(cls, gpu: Gpu, kernels: Sequence[Kernel]) -> Setup:
        """Measures the ceilings, on a stream that isn't the default. Nothing else should run on GPU or cores."""
        assert gpu.device.target is not None  # `find_measurable` hands on none without
        place = gpu.torch.device("cuda", gpu.torch.cuda.current_device())
        l2_bytes = gpu.torch.cuda.get_device_properties(place).L2_cache_size
        return cls(tuple(kernels), gpu.device.target.kernel_arch, measure_ceilings(place), l2_bytes, place)

    def row(self, shape: LayerShape, weights: Weights, num_tokens: int) -> RowBench:
        """With as many draws of uniform routing as keep the weights cold."""
        count = num_routings(shape, num_tokens, self.l2_bytes)
        seed = seed_of(Purpose.JUDGEMENT, num_tokens, 0, RoutingKind.UNIFORM, 0)
        inputs = RowInputs(shape, weights, num_tokens, count, RoutingSource(), seed)
        return RowBench(shape, weights, inputs, self.arch)

    def floor(self, row: RowBench) -> Floor:
        """In the first kernel's flavour."""
        inputs = row.inputs
        flavour = self.kernels[0].flavour
        return floor_of(self.ceilings, row.shape, inputs.routing.num_tokens, inputs.load, flavour)

    def check(self, row: RowBench, config: LayerConfig) -> None:
        """Up and down of every kernel against the reference. AssertionError: wrong numbers."""
        for kernel, projection in itertools.product(self.kernels, (UP, DOWN)):
            row.check(kernel, config, projection)

    def captured(self, row: RowBench, config: LayerConfig) -> list[Replay]:
        """One of each kernel; a sample is a layer's up and down, in its order: SGLang's launches overlap."""
        return [capture(row.layers(kernel, config), a_sample=2) for kernel in self.kernels]
