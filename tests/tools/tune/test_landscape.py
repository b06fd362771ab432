"""Strategies on landscapes that were recorded on an H100: every launch config of two workloads.

DeepSeek-V3 TP16 in block fp8, where each kernel takes long to compile, and Mixtral 8x7B TP2 in bf16, where the space is
large and measuring takes long.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.tune.journal import Journal
from tools.tune.policy import Budget, Policies, SearchPolicy
from tools.tune.protocol import Compiled, Event, Screened, kernel_of
from tools.tune.replay import ReplayRunner
from tools.tune.search import InOrder, JobQueue, Strategy, search, usual_strategy
from tools.tune.space import Space, candidates
from tools.tune.tuner import baselines

HERE = Path(__file__).parent
SECONDS = {"landscape.jsonl.gz": 10.0, "landscape_mixtral.jsonl.gz": 14.0}
"""Of search, as the landscape's clock has it: less than a quarter of what compiling everything takes."""


@dataclass(frozen=True)
class Outcome:
    """regret: of a row's best against the best that was recorded, in per cent."""

    regrets: tuple[float, ...]
    kernels: int
    measurements: int
    seconds: float

    def __str__(self) -> str:
        median, worst = statistics.median(self.regrets), max(self.regrets)
        return (
            f"median regret {median:.2f} %, worst {worst:.2f} %, {self.kernels} kernels, "
            f"{self.measurements} measurements, {self.seconds:.0f} s of the landscape's clock"
        )


@pytest.fixture(scope="module", params=SECONDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def landscape(name: str) -> Journal:
    return Journal.read(HERE / name)


@pytest.fixture(scope="module")
def space(landscape: Journal) -> Space:
    return candidates(landscape.header.subject)


@pytest.fixture(scope="module")
def best_us(landscape: Journal) -> dict[int, float]:
    best: dict[int, float] = {}
    for entry in landscape.entries:
        event = entry.event
        if isinstance(event, Screened) and event.status is Status.OK:
            num_tokens = event.job.num_tokens
            best[num_tokens] = min(best.get(num_tokens, math.inf), event.total_us)
    return best


def run(landscape: Journal, space: Space, best_us: dict[int, float], strategy: Strategy, policies: Policies) -> Outcome:
    subject, batch_sizes = landscape.header.subject, tuple(sorted(best_us))
    wanted = {m: baselines(subject, m) for m in batch_sizes}
    seen: list[Event] = []
    runner = ReplayRunner(landscape)
    queue = JobQueue(subject, runner, policies.search.give_up_ratio, seen.append)
    search(subject, space, batch_sizes, wanted, strategy, policies, queue)
    regrets = tuple(100.0 * (queue.measurements.best_us(m, 0) / best_us[m] - 1.0) for m in batch_sizes)
    kernels = sum(event.kernels for event in seen if isinstance(event, Compiled))
    return Outcome(regrets, kernels, sum(isinstance(event, Screened) for event in seen), runner.clock_s)


def usual(space: Space, landscape: Journal, best_us: dict[int, float]) -> Strategy:
    subject = landscape.header.subject
    wanted: list[LaunchConfig] = [config for m in best_us for config in baselines(subject, m)]
    return usual_strategy(space, wanted, SearchPolicy())


def test_finds_what_exhaustive_search_finds_in_a_fraction_and_beats_random_search(
    name: str, landscape: Journal, space: Space, best_us: dict[int, float], capsys: pytest.CaptureFixture[str]
) -> None:
    budget = Budget(SECONDS[name], panel_share=0.0)
    ours = run(landscape, space, best_us, usual(space, landscape, best_us), Policies(budget=budget))
    chance = [
        run(landscape, space, best_us, InOrder.shuffled(space.kernels, seed), Policies(budget=budget))
        for seed in range(3)
    ]
    oracle_policies = Policies(search=SearchPolicy.exhaustive(), budget=Budget(math.inf))
    everything = {kernel: place for place, kernel in enumerate(space.kernels)}
    oracle = run(landscape, space, best_us, InOrder(everything), oracle_policies)
    with capsys.disabled():
        told = [
            name,
            f"neighbours first: {ours}",
            *(f"random search: {one}" for one in chance),
            f"exhaustive: {oracle}",
        ]
        sys.stdout.writelines(f"\n{line}" for line in told)

    assert statistics.median(ours.regrets) <= 1.0
    assert max(ours.regrets) <= 2.0
    assert ours.kernels < oracle.kernels / 2
    assert ours.measurements < oracle.measurements / 8
    assert max(oracle.regrets) == 0.0
    assert max(ours.regrets) < min(max(one.regrets) for one in chance)


def test_it_was_recorded_with_this_space(landscape: Journal, space: Space) -> None:
    """Else the replay would call part of the space «not recorded», and regrets would mean nothing."""
    recorded = {kernel_of(e.event.job.config) for e in landscape.entries if isinstance(e.event, Compiled)}
    assert set(space.kernels) <= recorded
