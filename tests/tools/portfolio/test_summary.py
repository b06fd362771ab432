from __future__ import annotations

from dataclasses import replace

import pytest

from tests import builders
from tests.tools.portfolio.stocked import H100, TODAY, Stocked, wanted
from tools.portfolio.drive import Finished
from tools.portfolio.progress import Outcome, ProgressLine, Step
from tools.portfolio.status import DeviceStatus
from tools.portfolio.stock import Item, Method, look_up
from tools.portfolio.summary import to_text, totals
from tools.registry.sharding import Engine
from tools.store.record import CheckedShipped

TUNED, SKIPPED, LEFT, BEFORE = "E=64,N=1408", "E=64,N=1024", "E=128,N=192", "E=64,N=896"


@pytest.fixture
def items(stocked: Stocked) -> list[Item]:
    stocked.tune(TUNED)
    shipped = CheckedShipped("ab" * 32, 1.02, 0.95, 0.7)
    stocked.judge(TUNED, Engine.VLLM, 0.9, 1.004, best_ratio=0.6, shipped=shipped)
    stocked.judge(TUNED, Engine.SGLANG, 0.8, 0.99)
    stocked.tune(BEFORE, judged_on=None)
    names = (TUNED, SKIPPED, LEFT, BEFORE)
    return [look_up(n, wanted(name), stocked.folders.configs, None, Method()) for n, name in enumerate(names, start=1)]


def tuned(item: Item, seconds: float = 100.0) -> Finished:
    steps = (Step("vllm", 1, 4.0), Step(None, 0, 60.4), Step("vllm", 0, 12.0), Step("sglang", 0, 18.6))
    return Finished(
        item, ProgressLine(item.name, Outcome.TUNED, TODAY, seconds=seconds, overhead_s=seconds / 96.0, steps=steps)
    )


def test_the_table_has_what_the_run_came_to_in_the_order_of_rank(items: list[Item]) -> None:
    skipped = Finished(items[1], ProgressLine(items[1].name, Outcome.SKIPPED, TODAY, "not enough memory"))
    state = DeviceStatus(builders.devices().find(H100), tuple(items))
    head, titles, *rows = to_text([state], [skipped, tuned(items[0])], [items[2]]).splitlines()
    assert head == f"{H100}: 4 wanted files: 2 done, 2 missing"
    columns = [
        *("rank", "file", "(K, top_k)", "tuned s", "judged on vLLM s", "judged on SGLang s"),
        *("of vLLM's heuristic", "of vLLM's file", "of SGLang's heuristic", "of SGLang's file", "standing", "outcome"),
    ]
    starts = [titles.index(column) for column in columns]
    cells = [[row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for row in rows]
    assert cells == [
        [
            *("1", TUNED, "1", "60", "16", "19"),
            *("0.900 (0.600 to 1.004)", "0.950 (0.700 to 1.020)", "0.800 (? to 0.990)", "-", "done", "tuned"),
        ],
        ["2", SKIPPED, "1", *["-"] * 7, "missing", "skipped: not enough memory"],
        ["3", LEFT, "3", *["-"] * 7, "missing", "not begun"],
    ]


def test_minutes_a_name_are_told_by_its_number_of_shapes(items: list[Item]) -> None:
    three = replace(items[0], wanted=items[2].wanted)
    assert list(totals([tuned(items[0], 60.0), tuned(items[0], 120.0), tuned(three, 180.0)])) == [
        "2 names of 1 (K, top_k) tuned and judged: 1.50 GPU minutes a name, 2.00 at most",
        "1 name of 3 (K, top_k) tuned and judged: 3.00 GPU minutes a name, 3.00 at most",
        "360 s of GPUs, 1.0% of it outside tuner and bench",
    ]


def test_a_run_that_came_to_nothing_has_no_totals(items: list[Item]) -> None:
    skipped = Finished(items[1], ProgressLine(items[1].name, Outcome.SKIPPED, TODAY, "not enough memory"))
    assert list(totals([skipped])) == []
