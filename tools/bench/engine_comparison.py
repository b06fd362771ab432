"""Our kernel against an engine's: the same inputs and launch configs, timed in turn. Needs a GPU."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from kernels.launch_config import LaunchConfig
from kernels.problem import Problem, Routing
from tools.bench.peers import grouped_mm_us, layer_overhead
from tools.bench.results import LayerFigures, Pair, Row, WorkloadResult
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.measure.gpu import Ceilings
from tools.measure.inputs import RowInputs, Weights, make_weights, num_routings
from tools.measure.kernels import Kernel, KernelTask
from tools.measure.layer import DOWN, UP, LayerShape, row_bytes, row_operations
from tools.measure.row import RowBench
from tools.measure.statistics import floor_us
from tools.measure.timing import Policy, capture, measure
from tools.registry.devices import Target

FINALISTS = 5
CONFIRM = Policy(min_rounds=6, max_rounds=16, budget_ms=1000.0)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """What stays the same for all workloads of a run. arch as `kernels.launch` spells it."""

    own: Kernel
    engine: Kernel
    target: Target
    arch: str
    ceilings: Ceilings
    l2_bytes: int
    device: torch.device

    @property
    def contenders(self) -> tuple[Kernel, Kernel]:
        return self.own, self.engine


def compare(
    setting: Setting,
    shape: LayerShape,
    configs: Sequence[LaunchConfig],
    batch_sizes: Sequence[int],
    pool: CompilePool,
    blank: WorkloadResult,
    progress: Progress,
) -> Iterator[WorkloadResult]:
    """Compiles everything, then yields the result so far after each batch size. On a stream that isn't the default."""
    started = time.monotonic()
    outcomes, failures = _compile_all(setting, shape, configs, batch_sizes, pool, progress)
    compiled_s = time.monotonic() - started
    result = replace(blank, compile_outcomes=outcomes, compile_seconds=compiled_s, seconds=compiled_s)
    progress(f"compiled {dict(outcomes)} in {compiled_s:.0f} s")
    yield result
    weights = make_weights(shape, setting.device)
    for num_tokens in batch_sizes:
        count = num_routings(shape, num_tokens, setting.l2_bytes)
        bench = _RowBench(setting, shape, weights, RowInputs(shape, weights, num_tokens, count, seed=num_tokens))
        row = bench.run(configs, failures)
        if not row.finalists:
            raise RuntimeError(f"M={num_tokens}: no launch config ran; the first: {row.pairs[0].message}")
        result = result.with_row(row)
        if num_tokens == 1:
            result = replace(result, layer=bench.layer(row.own_winner.config))
        result = replace(result, seconds=time.monotonic() - started)
        progress(
            f"M={num_tokens}: {len(row.timed)} of {len(row.pairs)} timed, ratio {row.geomean_ratio:.3f}, best "
            f"{row.own_winner.own_us:.1f} µs, {row.floor_us / row.own_winner.own_us:.0%} of the floor, "
            f"{result.seconds:.0f} s"
        )
        yield result


Failures = dict[LaunchConfig, tuple[str, str]]
"""(status, message) of what is not timed."""


def _compile_all(
    setting: Setting,
    shape: LayerShape,
    configs: Sequence[LaunchConfig],
    batch_sizes: Sequence[int],
    pool: CompilePool,
    progress: Progress,
) -> tuple[Counter[str], Failures]:
    tasks: dict[object, tuple[LaunchConfig, KernelTask]] = {}
    failures: Failures = {}
    for config in configs:
        for contender in setting.contenders:
            for num_tokens in batch_sizes:
                routing = Routing(num_tokens, shape.top_k, shape.num_experts)
                for projection in shape.projections:
                    problem = Problem(projection, routing, shape.quant, config, setting.arch)
                    task = KernelTask(problem, setting.target, contender)
                    tasks.setdefault(task.key, (config, task))
    planned = list(tasks.values())
    progress(f"compiling {len(planned)} kernels")
    outcomes: Counter[str] = Counter()
    for index, outcome in pool.run(task for _, task in planned):
        outcomes[outcome.status.value] += 1
        if outcome.status is not Status.OK:
            config, task = planned[index]
            failures[config] = outcome.status.value, f"{task.kernel.name}: {outcome.message}"
        elif outcome.resources is not None and outcome.resources.spills:
            # The tuner drops it as well: where a kernel spills, its time is the register allocator's.
            config, task = planned[index]
            frame = outcome.resources.frame_bytes
            failures.setdefault(config, ("spills", f"{task.kernel.name}: {frame} bytes of stack a thread"))
    return outcomes, failures


class _RowBench:
    """One batch size: checks, times, confirms."""

    def __init__(self, setting: Setting, shape: LayerShape, weights: Weights, inputs: RowInputs) -> None:
        self._setting, self._shape, self._inputs = setting, shape, inputs
        self._bench = RowBench(shape, weights, inputs, setting.arch)

    def run(self, configs: Sequence[LaunchConfig], failures: Failures) -> Row:
        inputs, ceilings = self._inputs, self._setting.ceilings
        num_tokens = inputs.routing.num_tokens
        pairs = tuple(
            Pair(config, failures[config][0], message=failures[config][1]) if config in failures else self._pair(config)
            for config in configs
        )
        num_bytes = row_bytes(self._shape, num_tokens, inputs.active_experts)
        operations = row_operations(self._shape, num_tokens)
        operand_bits = 8 if self._shape.quant.quantizes_activations else 16
        floor, bound = floor_us(num_bytes, operations, ceilings.memory_bytes_per_s, ceilings.dense_per_s(operand_bits))
        return Row(
            num_tokens,
            inputs.routing.is_naive,
            inputs.num_routings,
            inputs.active_experts,
            num_bytes,
            operations,
            floor,
            bound,
            grouped_mm_us(inputs),
            pairs,
            self._confirm([pair for pair in pairs if pair.status == "ok"]),
        )

    def layer(self, config: LaunchConfig) -> LayerFigures:
        own = self._setting.own
        products = (self._bench.launches(own, config, UP), self._bench.launches(own, config, DOWN))
        return layer_overhead(self._inputs, config.to_entry(), products)

    def _pair(self, config: LaunchConfig) -> Pair:
        try:
            for contender in self._setting.contenders:
                for projection in (UP, DOWN):
                    self._bench.check(contender, config, projection)
            return self._timed([config], Policy())[0]
        except AssertionError as error:
            return Pair(config, "correctness", message=str(error))
        except torch.OutOfMemoryError:
            raise
        # Triton raises what it likes at launch; an illegal address makes every later launch fail too, and shows.
        except Exception as error:
            return Pair(config, "runtime", message=f"{type(error).__name__}: {error}")

    def _confirm(self, pairs: list[Pair]) -> tuple[Pair, ...]:
        best = [sorted(pairs, key=key)[:FINALISTS] for key in (lambda p: p.own_us, lambda p: p.engine_us)]
        configs = list(dict.fromkeys(pair.config for pair in (*best[0], *best[1])))
        return self._timed(configs, CONFIRM) if configs else ()

    def _timed(self, configs: Sequence[LaunchConfig], policy: Policy) -> tuple[Pair, ...]:
        replays = [
            capture(self._bench.launches(contender, config, projection))
            for config in configs
            for contender in self._setting.contenders
            for projection in (UP, DOWN)
        ]
        medians = [samples.median_us for samples in measure(replays, policy)]
        return tuple(Pair.of_times(config, medians[4 * i : 4 * i + 4]) for i, config in enumerate(configs))
