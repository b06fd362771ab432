"""What a run tells at its end. The table for people is kept whole in report.golden.txt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from kernels.problem import Flavour
from tests.tools.tune.decided import COUNTS, ENTRY, H100_RATES, HEURISTIC, INCUMBENT, PART, blocks, row, with_down
from tools.measure.panel import Choice, Panel, Part, Ratio, RoutingKind
from tools.store.record import Decision, ShapeOfModels
from tools.store.workload import Shape
from tools.tune.evidence import Rates
from tools.tune.protocol import Subject
from tools.tune.report import TuneSummary, betweens, lines, to_json, to_text
from tools.tune.tuner import Between

GOLDEN = Path(__file__).with_name("report.golden.txt")


def summary(subject: Subject, rates: Rates | None = H100_RATES) -> TuneSummary:
    """A row of each kind."""
    baseline = row(4096, 3000.0, 2810.0)
    other = Part(Flavour.SGLANG, 0, RoutingKind.SKEW_03)
    both = {**row(1, 155.0, 171.0).panel.times, other: {ENTRY: blocks(103.0), INCUMBENT: blocks(100.0)}}
    first = Panel({Flavour.VLLM: HEURISTIC, Flavour.SGLANG: INCUMBENT}, 8, both)
    rows = [
        row(1, 155.0, 171.0, panel=first, choice=Choice(ENTRY, Decision.PROMOTE, 0.95, (other,))),
        with_down(64, 640.0, 800.0),
        row(512, 712.4, 712.5, incumbent_us=712.4, decision=Decision.RETAIN),
        replace(baseline, choice=Choice(HEURISTIC, Decision.BASELINE, 1.0)),
    ]
    return TuneSummary(
        subject.workload.file_name(),
        ("K=4096 top_k=2",),
        lines(subject, rows, rates),
        28.73,
        COUNTS,
        ("configs/a.json", "configs/records/a.json"),
        ("another process uses the GPU (3.0 GiB at the start); timings may be noisy",),
        {"search": 15.25, "first engine": 8.0},
        betweens([Between(12, 8, Ratio(0.95, 0.97, 0.99, 4))]),
    )


def test_the_table(subject: Subject) -> None:
    assert to_text(summary(subject)) + "\n" == GOLDEN.read_text("utf-8")


def test_without_rates_no_share_of_the_floor_is_told(subject: Subject) -> None:
    text = to_text(summary(subject, rates=None))
    assert [line.split()[4] for line in text.splitlines()[2:6]] == ["-"] * 4
    assert to_json(summary(subject, rates=None))["rows"][0]["floor_share"] is None


def test_json_holds_what_the_table_does_and_survives_a_parser(subject: Subject) -> None:
    document = to_json(summary(subject))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    rows = document.pop("rows")
    assert document == {
        "workload": "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json",
        "shapes": ["K=4096 top_k=2"],
        "seconds": 28.7,
        "kernels_compiled": 120,
        "measurements": 640,
        "outcomes": {"ok": 100, "constraints": 20, "correctness": 0},
        "phases": {"search": 15.2, "first engine": 8.0},
        "between": [{"num_tokens": 12, "entry_of": 8, "gain_pct": 3.0}],
        "regrets_pct": {},
        "files": ["configs/a.json", "configs/records/a.json"],
        "notes": ["another process uses the GPU (3.0 GiB at the start); timings may be noisy"],
    }
    assert [line["num_tokens"] for line in rows] == [1, 64, 512, 4096]
    assert rows[0] == {
        "num_tokens": 1,
        "heuristic_us": 171.0,
        "incumbent_us": None,
        "new_us": 155.0,
        "gain_pct": 9.36,
        "gains_pct": {"vllm": 9.36, "sglang skewed": -3.0},
        "floor_share": rows[0]["floor_share"],
        "decision": "promote",
        "unbounded": ["sglang, skew_0.3"],
        "entry": ENTRY.to_entry(),
        "down_gain_pct": None,
    }
    assert 0.0 < rows[0]["floor_share"] < 1.0
    assert rows[1]["down_gain_pct"] == 4.0


def test_a_line_is_of_the_shape_that_loses_most(subject: Subject) -> None:
    two = replace(subject, shapes=(*subject.shapes, ShapeOfModels(Shape(2048, 4))))
    times = {
        PART: {ENTRY: blocks(100.0), HEURISTIC: blocks(300.0)},
        replace(PART, placement=1): {ENTRY: blocks(60.0), HEURISTIC: blocks(80.0)},
    }
    both = row(64, 1.0, 1.0, panel=Panel({Flavour.VLLM: HEURISTIC}, 8, times))
    (line,) = lines(two, [both], None)
    assert (line.new_us, line.heuristic_us, line.gain_pct) == (60.0, 80.0, 25.0)
