"""What a run tells at its end. The table for people is kept whole in report.golden.txt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from kernels.launch_config import LaunchConfig
from tests.tools.tune.decided import COUNTS, ENTRY, H100_RATES, row, samples, with_down
from tools.store.record import Decision, ShapeOfModels
from tools.store.workload import Shape
from tools.tune.evidence import Rates
from tools.tune.protocol import Subject
from tools.tune.report import TuneSummary, lines, to_json, to_text

GOLDEN = Path(__file__).with_name("report.golden.txt")


def summary(subject: Subject, rates: Rates | None = H100_RATES) -> TuneSummary:
    """A row of each kind."""
    heuristic = (samples(2810.0),)
    rows = [
        row(1, 155.0, 171.0, sglang=(samples(180.25),)),
        with_down(64, 640.0, 800.0),
        row(512, 712.4, 712.5, decision=Decision.RETAIN, incumbent=(samples(712.4),)),
        row(
            4096,
            0.0,
            0.0,
            entry=LaunchConfig(128, 128, 64, 16, 8, 3),
            decision=Decision.BASELINE,
            chosen=heuristic,
            baseline=heuristic,
        ),
    ]
    return TuneSummary(
        subject.workload.file_name(),
        ("K=4096 top_k=2",),
        lines(subject, rows, rates),
        28.73,
        COUNTS,
        ("configs/a.json", "configs/records/a.json"),
        ("another process uses the GPU (3.0 GiB at the start); timings may be noisy",),
    )


def test_the_table(subject: Subject) -> None:
    assert to_text(summary(subject)) + "\n" == GOLDEN.read_text("utf-8")


def test_without_rates_no_share_of_the_floor_is_told(subject: Subject) -> None:
    text = to_text(summary(subject, rates=None))
    assert [line.split()[6] for line in text.splitlines()[2:6]] == ["-"] * 4
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
        "files": ["configs/a.json", "configs/records/a.json"],
        "notes": ["another process uses the GPU (3.0 GiB at the start); timings may be noisy"],
    }
    assert [line["num_tokens"] for line in rows] == [1, 64, 512, 4096]
    assert rows[0] == {
        "num_tokens": 1,
        "heuristic_us": 171.0,
        "sglang_us": 180.25,
        "incumbent_us": None,
        "new_us": 155.0,
        "gain_pct": 9.36,
        "floor_share": rows[0]["floor_share"],
        "decision": "promote",
        "entry": ENTRY.to_entry(),
        "down_gain_pct": None,
    }
    assert 0.0 < rows[0]["floor_share"] < 1.0
    assert rows[1]["down_gain_pct"] == 4.0


def test_a_line_is_of_the_shape_that_loses_most(subject: Subject) -> None:
    two = replace(subject, shapes=(*subject.shapes, ShapeOfModels(Shape(2048, 4))))
    both = row(64, 0.0, 0.0, shape=1, chosen=(samples(100.0), samples(60.0)), baseline=(samples(300.0), samples(80.0)))
    (line,) = lines(two, [both], None)
    assert (line.new_us, line.heuristic_us, line.gain_pct) == (60.0, 80.0, 25.0)
