"""A survey's GPU half: compiles what is launched for each file, checks it, and times it in blocks of fresh draws."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence

import torch

from tools.bench.session import Gpu
from tools.compile.machine import MachineFault, fault_of
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.errors import reason_of
from tools.launch.layer_config import LayerConfig
from tools.measure.inputs import RowInputs, Weights, make_weights, num_routings
from tools.measure.kernels import Kernel, KernelTask, problems_of
from tools.measure.layer import DOWN, UP, LayerShape
from tools.measure.panel import MIN_BLOCKS, RoutingKind
from tools.measure.recorded_routing import RoutingSource
from tools.measure.row import RowBench
from tools.measure.seeds import Purpose, seed_of
from tools.measure.timing import Replay, capture, play_blocks
from tools.portfolio.survey import GpuLostError, Launched, NotMeasuredError, Say, TimedRow
from tools.portfolio.survey_plan import BATCH_SIZES, Contest, RowConfigs
from tools.registry.devices import Target
from tools.store.record import Environment

NUM_CHECKED_TOKENS = 8

Failures = Mapping[Launched, str]


class Surveyor:
    """Times launches of one kernel, the engine's own."""

    def __init__(
        self, environment: Environment, kernel: Kernel, target: Target, device: torch.device, l2_bytes: int
    ) -> None:
        self.environment = environment
        self._kernel, self._target, self._device, self._l2_bytes = kernel, target, device, l2_bytes

    @classmethod
    def here(cls, gpu: Gpu, kernel: Kernel) -> Surveyor:
        """On the current GPU."""
        assert gpu.device.target is not None  # `find_device` hands on none without
        device = torch.device("cuda", torch.cuda.current_device())
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        return cls(gpu.environment(), kernel, gpu.device.target, device, l2_bytes)

    def compile(self, contests: Sequence[Contest], jobs: int, say: Say) -> Failures:
        """Every binary, each once, before anything is timed. What can't be launched, and why."""
        tasks: dict[Hashable, KernelTask] = {}
        sharing: dict[Hashable, set[Launched]] = {}
        failures: dict[Launched, str] = {}
        for launched in dict.fromkeys(_launched(contests, self._kernel)):
            layer, num_tokens, config = launched
            try:
                problems = problems_of(self._kernel, layer, num_tokens, config, self._target.kernel_arch)
            except ValueError as error:
                failures[launched] = str(error)
                continue
            for task in (KernelTask(problem, self._target, self._kernel) for problem in problems):
                try:
                    key = task.key
                except AssertionError as error:  # tensor descriptors of rows that they can't describe
                    failures[launched] = str(error)
                    break
                tasks.setdefault(key, task)
                sharing.setdefault(key, set()).add(launched)
        say(f"compiling {len(tasks)} kernels")
        keys = list(tasks)
        with CompilePool(jobs) as pool:
            for number, outcome in pool.run(tasks.values()):
                if outcome.status is not Status.OK:
                    why = f"{outcome.status.value}: {outcome.message}"
                    failures.update(dict.fromkeys(sharing[keys[number]], why))
        return failures

    def measure(
        self, layer: LayerShape, place: int, rows: Mapping[int, RowConfigs], failures: Failures
    ) -> list[TimedRow]:
        """rows: by batch size. place: of the shape among those behind its name.

        NotMeasuredError: too large for this GPU. GpuLostError: a launch broke the context.
        """
        need, (free, _) = layer.memory_bytes(max(rows)), torch.cuda.mem_get_info()
        if need > free:
            raise NotMeasuredError(f"{layer.shape} takes {_gib(need)} of GPU memory, {_gib(free)} are free")
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                weights = make_weights(layer, self._device)
                return [self._row(layer, weights, place, m, configs, failures) for m, configs in rows.items()]
        except torch.OutOfMemoryError as error:
            raise NotMeasuredError(f"{layer.shape}: the GPU's memory ran out") from error
        finally:
            torch.cuda.empty_cache()

    def _row(
        self,
        layer: LayerShape,
        weights: Weights,
        place: int,
        num_tokens: int,
        configs: RowConfigs,
        failures: Failures,
    ) -> TimedRow:
        seed = functools.partial(seed_of, num_tokens=num_tokens, place=place, kind=RoutingKind.UNIFORM)
        count = num_routings(layer, num_tokens, self._l2_bytes)
        inputs = RowInputs(layer, weights, num_tokens, count, RoutingSource(), seed(Purpose.SEARCH, block=0))
        row = RowBench(layer, weights, inputs, self._target.kernel_arch, NUM_CHECKED_TOKENS)
        failed = {config: why for config in configs.distinct if (why := failures.get((layer, num_tokens, config)))}
        replays: dict[LayerConfig, Replay] = {}
        for config in configs.distinct:
            if config in failed:
                continue
            try:
                replays[config] = self._captured(row, config)
            except torch.OutOfMemoryError:
                raise
            except (OSError, MemoryError) as error:  # launching writes into Triton's cache
                raise (fault_of(error) or MachineFault(reason_of(error))).error() from error
            except Exception as error:  # Triton raises what it likes at launch
                failed[config] = f"{type(error).__name__}: {error}".split("\n")[0]
                _survive(failed[config])
        blocks = range(MIN_BLOCKS)
        deals = [functools.partial(inputs.deal, RoutingSource(), seed(Purpose.JUDGEMENT, block=b)) for b in blocks]
        times = play_blocks(list(replays.values()), deals) if replays else []
        return TimedRow(num_tokens, dict(zip(replays, map(tuple, times), strict=True)), failed)

    def _captured(self, row: RowBench, config: LayerConfig) -> Replay:
        """AssertionError: wrong numbers."""
        for projection in (UP, DOWN):
            row.check(self._kernel, config, projection)
        return capture(row.layers(self._kernel, config), 2, a_sample=2, is_played=True)


def _launched(contests: Sequence[Contest], kernel: Kernel) -> Iterator[Launched]:
    for contest in contests:
        rows = [(m, config) for m in BATCH_SIZES for config in contest.configs(m, kernel.flavour).distinct]
        yield from ((layer, m, config) for _, layer in contest.shapes for m, config in rows)


def _survive(failure: str) -> None:
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise GpuLostError(f"the GPU doesn't answer any more, after {failure}") from error


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
