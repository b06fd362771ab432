"""Times our kernel beside an engine's: the same inputs and launch configs, in turn. Needs a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from kernels.fused_experts import fused_experts
from kernels.launch_config import LaunchConfig
from tools.bench.comparison import CompiledKernels, NotTimed, Setup, compile_all
from tools.bench.kernels_report import KernelsRow, LayerFigures, Pair, WorkloadResult
from tools.bench.request import Say
from tools.bench.sample import KernelComparison
from tools.compile.machine import MachineFault, fault_of
from tools.compile.pool import CompilePool
from tools.errors import UserError, reason_of
from tools.launch.layer_config import LayerConfig
from tools.measure.inputs import RowInputs, make_weights, sorted_rows
from tools.measure.layer import DOWN, UP
from tools.measure.row import RowBench
from tools.measure.timing import LaunchCall, Policy, capture, medians_us
from tools.registry.devices import Device

FINALISTS = 5
CONFIRM = Policy(min_rounds=6, max_rounds=16, budget_ms=1000.0)

Failures = Mapping[LaunchConfig, NotTimed]


def compare(
    setup: Setup, device: Device, work: KernelComparison, pool: CompilePool, say: Say
) -> Iterator[WorkloadResult]:
    """Compiles everything, then yields the result so far after each batch size. On a stream that isn't the default.

    setup.kernels: ours, then the engine's.
    """
    started, shape = time.monotonic(), work.shape
    configs = dict.fromkeys(work.batch_sizes, tuple(map(LayerConfig.of, work.configs)))
    compiled = compile_all(setup.kernels, [shape], configs, device, pool, say)
    seconds = time.monotonic() - started
    say(f"compiled {dict(compiled.outcomes)} in {seconds:.0f} s")
    result = WorkloadResult(
        work.title,
        work.workload.file_name(),
        shape.hidden_size,
        shape.top_k,
        compiled.outcomes,
        compile_seconds=seconds,
        seconds=seconds,
    )
    yield result
    failures = not_timed(compiled)
    weights = make_weights(shape, setup.device)
    for num_tokens in work.batch_sizes:
        timer = _PairTimer(setup, setup.row(shape, weights, num_tokens))
        row = timer.run(work.configs, failures)
        if not row.finalists:
            raise UserError(
                f"{work.title}: M={num_tokens}: expected a launch config that runs, found none; the first: "
                f"{row.pairs[0].message.partition(chr(10))[0][:300]}. Fix: more of them (--launch-configs)."
            )
        result = result.with_row(row)
        if num_tokens == 1 and shape.ep == 1:  # the whole layer has no rank
            result = replace(result, layer=timer.layer(row.own_winner.config))
        result = replace(result, seconds=time.monotonic() - started)
        say(
            f"M={num_tokens}: {len(row.timed)} of {len(row.pairs)} timed, ratio {row.geomean_ratio:.3f}, best "
            f"{row.own_winner.own_us:.1f} µs, {row.floor_us / row.own_winner.own_us:.0%} of the floor, "
            f"{result.seconds:.0f} s"
        )
        yield result


def not_timed(compiled: CompiledKernels) -> Failures:
    """A launch config is timed at every batch size or at none, so that all rows are about the same ones.

    The tuner drops what spills as well: its time is the register allocator's.
    """
    found: dict[LaunchConfig, NotTimed] = {}
    for rows in (compiled.failed, compiled.spilling):
        for row in rows.values():
            for config, why in row.items():
                found.setdefault(config.up, why)
    return found


class _PairTimer:
    """One batch size: checks, times, confirms."""

    def __init__(self, setup: Setup, row: RowBench) -> None:
        self._setup, self._row = setup, row

    def run(self, configs: Sequence[LaunchConfig], failures: Failures) -> KernelsRow:
        inputs, floor = self._row.inputs, self._setup.floor(self._row)
        pairs = tuple(self._pair(config, failures.get(config)) for config in configs)
        return KernelsRow(
            inputs.routing.num_tokens,
            inputs.routing_of(self._setup.kernels[0].flavour).is_naive,
            inputs.num_routings,
            inputs.load.active_experts,
            floor.num_bytes,
            floor.operations,
            floor.us,
            floor.bound,
            grouped_mm_us(inputs),
            pairs,
            self._confirm([pair for pair in pairs if pair.status == "ok"]),
        )

    def layer(self, config: LaunchConfig) -> LayerFigures:
        own, both = self._setup.kernels[0], LayerConfig.of(config)
        products = (self._row.launches(own, both, UP), self._row.launches(own, both, DOWN))
        return layer_overhead(self._row.inputs, config.to_entry(), products)  # type: ignore[arg-type]  # integers only

    def _pair(self, config: LaunchConfig, failure: NotTimed | None) -> Pair:
        if failure is not None:
            return Pair(config, failure.status, message=f"{failure.kernel}: {failure.message}")
        try:
            self._setup.check(self._row, LayerConfig.of(config))
            return self._timed([config], Policy())[0]
        except AssertionError as error:
            return Pair(config, "correctness", message=str(error))
        except torch.OutOfMemoryError:
            raise
        except (OSError, MemoryError) as error:  # launching writes into Triton's cache
            raise (fault_of(error) or MachineFault(reason_of(error))).error() from error
        # Triton raises what it likes at launch; an illegal address makes every later launch fail too, and shows.
        except Exception as error:
            return Pair(config, "runtime", message=f"{type(error).__name__}: {error}")

    def _confirm(self, pairs: list[Pair]) -> tuple[Pair, ...]:
        best = [sorted(pairs, key=key)[:FINALISTS] for key in (lambda p: p.own_us, lambda p: p.engine_us)]
        configs = list(dict.fromkeys(pair.config for pair in (*best[0], *best[1])))
        return self._timed(configs, CONFIRM) if configs else ()

    def _timed(self, configs: Sequence[LaunchConfig], policy: Policy) -> tuple[Pair, ...]:
        replays = [replay for config in configs for replay in self._setup.captured(self._row, LayerConfig.of(config))]
        times_us = medians_us(replays, policy)
        times = zip(configs, times_us[::2], times_us[1::2], strict=True)
        return tuple(Pair(config, "ok", own_us, engine_us) for config, own_us, engine_us in times)


# ---------------------------------------------------------------
# Reference points: torch's grouped product, and the layer as a whole


def grouped_mm_us(inputs: RowInputs) -> float | None:
    """`torch._grouped_mm`, up plus down, on rows that lie sorted by expert already: no gather, no padding.

    None for quantised weights, or where this torch doesn't have it or refuses.
    """
    if inputs.shape.quant.dtype is not None or not hasattr(torch, "_grouped_mm"):
        return None
    pairs = inputs.routing.num_pairs
    ends = [sorted_rows(ids, inputs.shape.num_experts) for ids in inputs.topk_ids]
    replays = []
    for projection in (UP, DOWN):
        weight = inputs.weights.w[projection].transpose(1, 2)
        rows = torch.randn((pairs, weight.shape[1]), device=weight.device).to(weight.dtype)
        launches = [_grouped_launch(rows, weight, end) for end in ends]
        try:
            replays.append(capture(launches))
        except (RuntimeError, ValueError):
            return None
    return sum(medians_us(replays))


def _grouped_launch(rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> LaunchCall:
    return lambda: torch._grouped_mm(rows, weight, offs=ends)


def layer_overhead(
    inputs: RowInputs, entry: Mapping[str, int], products: tuple[list[LaunchCall], list[LaunchCall]]
) -> LayerFigures:
    """`fused_experts` against the given launches of up and down with the same launch config."""

    def layer(routing: int) -> LaunchCall:
        return lambda: fused_experts(
            inputs.hidden_states,
            *inputs.weights.w,
            inputs.topk_weights[routing],
            inputs.topk_ids[routing],
            config=entry,
            quant=inputs.shape.quant,
            scales=inputs.weights.as_scales,
        )

    layers = capture([layer(routing) for routing in range(inputs.num_routings)])
    both = capture([launch for pair in zip(*products, strict=True) for launch in pair])
    whole_us, single_us = medians_us([layers, both], Policy(max_rounds=20))
    return LayerFigures(inputs.routing.num_tokens, whole_us, 2 * single_us)
