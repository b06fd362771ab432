"""A survey's GPU half: compiles what is launched for each file, and plays it in blocks of fresh draws."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import torch

from tools.bench.session import Gpu
from tools.compile.machine import status_of
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.errors import first_line
from tools.measure.blocks import BlockPlayer, Clock, ContextLost
from tools.measure.kernels import Kernel, KernelTask, problems_of
from tools.measure.layer import LayerShape, memory_bytes
from tools.measure.panel import MIN_BLOCKS, Part, RoutingKind
from tools.measure.seeds import Purpose
from tools.portfolio.survey import GpuLostError, Launched, Say, ShapeNotMeasuredError, TimedRow
from tools.portfolio.survey_plan import BATCH_SIZES, RowConfigs, ShippedContest
from tools.registry.devices import Target
from tools.store.record import Environment

Failures = Mapping[Launched, str]


class Surveyor:
    """Times launches of one kernel, the engine's own."""

    def __init__(
        self,
        environment: Environment,
        kernel: Kernel,
        target: Target,
        device: torch.device,
        l2_bytes: int,
        clock: Clock | None = None,
    ) -> None:
        self.environment = environment
        self._kernel, self._target, self._clock = kernel, target, clock or Clock()
        self._device, self._l2_bytes = device, l2_bytes

    @classmethod
    def here(cls, gpu: Gpu, kernel: Kernel) -> Surveyor:
        """On the current GPU."""
        assert gpu.device.target is not None  # `find_measurable` hands on none without
        device = torch.device("cuda", torch.cuda.current_device())
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        return cls(gpu.environment(), kernel, gpu.device.target, device, l2_bytes)

    def compile(self, contests: Sequence[ShippedContest], jobs: int, say: Say) -> Failures:
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

    def measure(self, layer: LayerShape, rows: Mapping[int, RowConfigs], failures: Failures) -> list[TimedRow]:
        """rows: by batch size. ShapeNotMeasuredError: too large for this GPU. GpuLostError: its context is broken."""
        most = max(rows)
        need, (free, _) = memory_bytes([layer], most), torch.cuda.mem_get_info()
        if need > free:
            raise ShapeNotMeasuredError(f"{layer.shape} takes {_gib(need)} of GPU memory, {_gib(free)} are free")
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                arch, kernel = self._target.kernel_arch, self._kernel
                player = BlockPlayer(
                    [layer], arch, self._device, self._l2_bytes, most, clock=self._clock, kernel=lambda _: kernel
                )
                return [self._row(player, num_tokens, configs, failures) for num_tokens, configs in rows.items()]
        except torch.OutOfMemoryError as error:
            raise ShapeNotMeasuredError(f"{layer.shape}: the GPU's memory ran out") from error
        except ContextLost as error:
            raise GpuLostError(f"the GPU doesn't answer any more, after {error}") from error
        finally:
            torch.cuda.empty_cache()

    def _row(self, player: BlockPlayer, num_tokens: int, configs: RowConfigs, failures: Failures) -> TimedRow:
        part, (layer,) = Part(self._kernel.flavour, 0, RoutingKind.UNIFORM), player.layers
        failed = {config: why for config in configs.distinct if (why := failures.get((layer, num_tokens, config)))}
        left = [config for config in configs.distinct if config not in failed]
        played = player.play(Purpose.JUDGEMENT, num_tokens, part, left, range(MIN_BLOCKS))
        failed |= {config: _message(error) for config, error in played.failures.items()}
        return TimedRow(num_tokens, {config: us for config, (us,) in played.us.items()}, failed)


def _launched(contests: Sequence[ShippedContest], kernel: Kernel) -> Iterator[Launched]:
    for contest in contests:
        rows = [(m, config) for m in BATCH_SIZES for config in contest.configs(m, kernel.flavour).distinct]
        yield from ((layer, m, config) for _, layer in contest.shapes for m, config in rows)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _message(error: Exception) -> str:
    """Raises what says nothing of the launch: MachineError, torch.OutOfMemoryError."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    status_of(error)
    return first_line(error)
