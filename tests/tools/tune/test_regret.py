"""What the usual search's choice loses against an exhaustive landscape's, on that landscape's blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.tools.tune.decided import ENTRY, HEURISTIC, PART, row
from tools.compile.outcome import Status
from tools.measure.panel import Choice, Part, Ratio, RoutingKind
from tools.store.record import Decision
from tools.tune.journal import Journal, JournalEntry, JournalHeader
from tools.tune.protocol import BlockJob, Measured, Series, Subject
from tools.tune.regret import Regret, regret_line, regrets
from tools.tune.tuner import RowResult

BEST = replace(ENTRY, num_stages=3)
LATE = replace(ENTRY, num_stages=2)


def measured(us: dict[LaunchConfig, float], pace: float = 1.0) -> Measured:
    """Four blocks, a draw the same for all. pace: of the clock."""
    job = BlockJob(64, PART, tuple(us), 0, 4)
    draws = (1.0, 1.05, 0.97, 1.02)
    return Measured(job, tuple(Series(c, Status.OK, tuple(pace * t * d for d in draws)) for c, t in us.items()), 0.1)


def landscape(subject: Subject, *events: Measured) -> Journal:
    return Journal(JournalHeader(subject, {}, {}), tuple(JournalEntry(event, 0.0) for event in events))


def chosen(entry: LaunchConfig) -> RowResult:
    return row(64, 90.0, 100.0, choice=Choice(entry, Decision.PROMOTE, 0.9))


def test_a_worse_choice_is_told_by_how_much(subject: Subject) -> None:
    events = measured({HEURISTIC: 100.0, BEST: 90.0, ENTRY: 91.8})
    (found,) = regrets(landscape(subject, events), [chosen(ENTRY)])
    assert (found.entry, found.best) == (ENTRY, BEST)
    assert found.pct == pytest.approx(2.0)
    assert "worst 2.00 % (M=64)" in regret_line([found])


def test_what_ran_down_behind_anothers_up_is_no_rows_time(subject: Subject) -> None:
    behind = measured({HEURISTIC: 100.0, BEST: 50.0})
    behind = replace(behind, job=replace(behind.job, up=HEURISTIC))
    (found,) = regrets(landscape(subject, measured({HEURISTIC: 100.0, ENTRY: 90.0}), behind), [chosen(ENTRY)])
    assert found.best == ENTRY


def test_the_same_choice_loses_nothing(subject: Subject) -> None:
    (found,) = regrets(landscape(subject, measured({HEURISTIC: 100.0, BEST: 90.0})), [chosen(BEST)])
    assert found.pct == 0.0


def test_who_came_late_is_compared_at_the_others_pace(subject: Subject) -> None:
    """The clock was a tenth slower when the late one was played beside the heuristic once more."""
    late = measured({HEURISTIC: 100.0, LATE: 90.9}, pace=1.1)
    (found,) = regrets(landscape(subject, measured({HEURISTIC: 100.0, BEST: 90.0}), late), [chosen(LATE)])
    assert found.pct == pytest.approx(1.0)


def test_a_part_that_the_search_did_not_play_does_not_choose_the_best(subject: Subject) -> None:
    elsewhere = measured({HEURISTIC: 100.0, BEST: 120.0, ENTRY: 90.0})
    elsewhere = replace(elsewhere, job=replace(elsewhere.job, part=Part(Flavour.SGLANG, 0, RoutingKind.UNIFORM)))
    events = measured({HEURISTIC: 100.0, BEST: 90.0, ENTRY: 95.0}), elsewhere
    (found,) = regrets(landscape(subject, *events), [chosen(BEST)])
    assert found.best == BEST


def test_the_line_has_the_median_and_the_worst_and_what_is_missing() -> None:
    ratios = {1: 1.01, 8: 1.05, 64: 0.99, 512: None}
    found = [
        Regret(num_tokens, ENTRY, BEST, mean and Ratio(mean, mean, mean, 4)) for num_tokens, mean in ratios.items()
    ]
    line = "slower than the exhaustive search that was recorded: median 1.00 %, worst 5.00 % (M=8)"
    assert regret_line(found) == f"{line}; not compared: M=512"
    assert regret_line(found[:-1]) == line


def test_a_row_of_which_the_landscape_has_no_blocks_is_not_compared(subject: Subject) -> None:
    (found,) = regrets(landscape(subject), [chosen(ENTRY)])
    assert found.pct is None


def test_a_choice_that_the_landscape_lacks_is_said(subject: Subject) -> None:
    (found,) = regrets(landscape(subject, measured({HEURISTIC: 100.0, BEST: 90.0})), [chosen(LATE)])
    assert found.pct is None
    assert regret_line([found]) == "against the exhaustive search that was recorded: no row can be compared"
