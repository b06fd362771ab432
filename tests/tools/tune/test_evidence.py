"""The record beside a tuned file: valid by its schema, and every figure where the schema says it is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest

from kernels.problem import Flavour
from tests.tools.tune.decided import (
    COUNTS,
    DOWN_ENTRY,
    ENTRY,
    HEURISTIC,
    HEURISTICS,
    INCUMBENT,
    PART,
    RUN,
    blocks,
    record_of,
    row,
    with_down,
)
from tools.measure.panel import Choice, Panel, Part, Ratio, RoutingKind
from tools.pull_request.changes import Version
from tools.store import schemas
from tools.store.files import sha256
from tools.store.record import Decision, Record, ShapeOfModels
from tools.store.workload import Shape
from tools.tune import evidence
from tools.tune.protocol import Subject
from tools.tune.tuner import Between, RowResult

CONFIG = b"{}\n"


def record(subject: Subject, *rows: RowResult) -> dict[str, Any]:
    document = evidence.record(subject, rows, COUNTS, RUN, CONFIG, None).to_json()
    assert schemas.faults("record", document) == []
    return document


def test_says_what_was_measured_where_and_how(subject: Subject) -> None:
    document = record(subject, row(64, 100.0, 120.0))
    rows = document.pop("rows")
    assert document == {
        "schema_version": 1,
        "workload": {
            "E": 8,
            "N": 7168,
            "device_name": "NVIDIA_H100_80GB_HBM3",
            "dtype": None,
            "block_shape": None,
            "per_channel_quant": False,
            "down": False,
        },
        "shapes": [{"K": 4096, "top_k": 2, "models": ["mistralai/Mixtral-8x7B-v0.1 tp=2"]}],
        "source": "measured",
        "environment": RUN.environment.to_json(),
        "kernel_sha256": "ab" * 32,
        "heuristics": {engine: heuristic.to_json() for engine, heuristic in HEURISTICS.items()},
        "config_sha256": sha256(CONFIG),
        "tuner": {
            "settings": {"routing": "panel"},
            "seconds": 28.7,
            "kernels_compiled": 120,
            "measurements": 640,
            "outcomes": {"ok": 100, "constraints": 20},
            "cut_short": False,
            "least_finalists": 0,
        },
        "date": "2026-01-31",
        "rule": "parts-1",
        "draws": {"search": 0, "choice": 1 << 60},
        "verified": None,
    }
    assert list(rows) == ["64"]


def test_a_row_holds_medians_and_their_spread(subject: Subject) -> None:
    found = record(subject, row(64, 100.0, 120.0, incumbent_us=110.0))["rows"]["64"]
    assert found["latency_us"] == {"median": 100.0, "p10": 98.4, "p90": 101.6, "samples": 5}
    assert found["baseline_us"]["median"] == 120.0
    assert found["incumbent_us"]["median"] == 110.0
    assert found["decision"] == "promote"
    assert "by_shape" not in found


def test_what_was_not_there_is_null_or_left_out(subject: Subject) -> None:
    found = record(subject, row(64, 100.0, 120.0))["rows"]["64"]
    assert found["incumbent_us"] is None
    assert not {"baselines", "bounded", "unbounded", "up_us"} & set(found)


def test_with_decision_baseline_latency_and_baseline_are_one_measurement(subject: Subject) -> None:
    decided = row(64, 100.0, 120.0)
    choice = replace(decided.choice, entry=HEURISTIC, decision=Decision.BASELINE)
    found = record(subject, replace(decided, choice=choice))["rows"]["64"]
    assert found["latency_us"] == found["baseline_us"]
    assert found["decision"] == "baseline"


def of_parts(**us: tuple[float, float]) -> RowResult:
    """By «engine_routing», the entry's and the heuristic's time; SGLang's heuristic is the incumbent's config."""
    names = {"uniform": RoutingKind.UNIFORM, "skewed": RoutingKind.SKEW_03, "recorded": RoutingKind.RECORDED}
    heuristics = {Flavour.VLLM: HEURISTIC, Flavour.SGLANG: INCUMBENT}
    times = {}
    for name, (own_us, heuristic_us) in us.items():
        engine, kind = name.split("_")
        part = Part(Flavour(engine), 0, names[kind])
        times[part] = {ENTRY: blocks(own_us), heuristics[part.engine]: blocks(heuristic_us)}
    panel = Panel(heuristics, 8, {part: row for part, row in times.items() if part.routing is not RoutingKind.RECORDED})
    told = Panel(heuristics, 8, {part: row for part, row in times.items() if part.routing is RoutingKind.RECORDED})
    return RowResult(64, Choice(ENTRY, Decision.PROMOTE, 0.9), panel, told=told if told.times else None)


def test_the_headline_is_of_the_engine_where_the_entry_loses_most(subject: Subject) -> None:
    decided = of_parts(vllm_uniform=(90.0, 100.0), vllm_skewed=(99.0, 100.0), sglang_uniform=(97.0, 100.0))
    found = record(subject, decided)["rows"]["64"]
    assert (found["latency_us"]["median"], found["baseline_us"]["median"]) == (97.0, 100.0)
    assert {name: pair["latency_us"]["median"] for name, pair in found["by_engine"].items()} == {
        "vllm": 90.0,
        "sglang": 97.0,
    }
    assert {name: pair["latency_us"]["median"] for name, pair in found["by_routing"].items()} == {
        "uniform": 97.0,
        "skew_0.3": 99.0,
    }
    assert [(part["engine"], part["routing"], part["ratio"]) for part in found["parts"]] == [
        ("vllm", "uniform", 0.9),
        ("vllm", "skew_0.3", 0.99),
        ("sglang", "uniform", 0.97),
    ]
    assert found["score"] == 0.9


def test_a_bench_compares_with_vllms_figures_where_the_headline_is_sglangs(subject: Subject) -> None:
    """It runs the kernel in vLLM's flavour, in pull requests and at night."""
    document = record(subject, of_parts(vllm_uniform=(90.0, 100.0), sglang_uniform=(97.0, 100.0)))
    known = Record.read(document).rows[64].on_benchs_kernel
    assert (known.latency_us.median, known.baseline_us.median) == (90.0, 100.0)
    version = Version(PurePosixPath("a.json"), None, json.dumps(document).encode())
    assert (version.medians_us(), version.medians_us("baseline_us")) == ({64: 90.0}, {64: 100.0})


def test_beside_vllms_headline_stands_sglangs_heuristic_where_it_was_played_too(subject: Subject) -> None:
    played = of_parts(vllm_uniform=(90.0, 100.0), sglang_uniform=(80.0, 100.0))
    panel = played.panel.with_blocks(PART, {INCUMBENT: blocks(130.0)})
    found = record(subject, replace(played, panel=panel))["rows"]["64"]
    assert found["latency_us"]["median"] == 90.0
    assert {engine: us["median"] for engine, us in found["baselines"].items()} == {"sglang": 130.0}
    for other in (played, of_parts(vllm_uniform=(90.0, 100.0), sglang_uniform=(97.0, 100.0))):
        assert "baselines" not in record(subject, other)["rows"]["64"]


def test_a_row_that_nothing_bounds_says_so_and_where(subject: Subject) -> None:
    decided = of_parts(vllm_uniform=(90.0, 100.0), sglang_uniform=(104.0, 100.0))
    choice = replace(decided.choice, unbounded=(Part(Flavour.SGLANG, 0, RoutingKind.UNIFORM),))
    found = record(subject, replace(decided, choice=choice))["rows"]["64"]
    assert found["bounded"] is False
    assert found["unbounded"] == [{"engine": "sglang", "shape": 0, "routing": "uniform"}]


def test_recorded_routing_is_told_beside_the_parts_that_decide(subject: Subject) -> None:
    found = record(subject, of_parts(vllm_uniform=(90.0, 100.0), vllm_recorded=(95.0, 100.0)))["rows"]["64"]
    assert found["by_routing"]["recorded"]["latency_us"]["median"] == 95.0
    assert [part["routing"] for part in found["parts"]] == ["uniform", "recorded"]


def test_what_entries_do_between_their_batch_sizes_is_in_the_record(subject: Subject) -> None:
    between = [Between(12, 8, Ratio(0.95, 0.97, 0.99, 4))]
    document = evidence.record(subject, [row(8, 9.0, 10.0)], COUNTS, RUN, CONFIG, None, between).to_json()
    assert schemas.faults("record", document) == []
    assert document["between"] == {"12": {"entry_of": 8, "ratio": 0.97, "low": 0.95, "high": 0.99}}
    assert Record.read(document).to_json() == document


def test_a_record_reads_back_as_it_is(subject: Subject) -> None:
    decided = of_parts(vllm_uniform=(90.0, 100.0), sglang_uniform=(97.0, 100.0), vllm_recorded=(95.0, 100.0))
    document = record(subject, decided)
    assert Record.read(document).to_json() == document


@pytest.mark.parametrize(("num_tokens", "bound"), [(1, "memory"), (65536, "compute")])
def test_the_floor_is_what_the_gpu_cannot_beat(subject: Subject, num_tokens: int, bound: str) -> None:
    found = record(subject, row(num_tokens, 1e6, 1e6))["rows"][str(num_tokens)]
    assert found["bound"] == bound
    assert found["floor_us"] > 0
    if num_tokens == 1:
        # Two experts' weights, 2 · N · K up and N · K down in bf16, at the rate of a copy; activations are next to it.
        assert found["floor_us"] == pytest.approx(2 * 3 * 7168 * 4096 * 2 / 2.4e12 * 1e6, rel=0.01)


def test_the_floor_of_a_spread_layer_is_one_ranks(subject: Subject) -> None:
    spread = replace(subject, shapes=(ShapeOfModels(Shape(4096, 2, ep=8)),))
    whole, ranks = (record(s, row(65536, 1e6, 1e6))["rows"]["65536"]["floor_us"] for s in (subject, spread))
    # An eighth of the pairs, whose products bound it.
    assert ranks / whole == pytest.approx(1 / 8, rel=0.01)


def test_the_floor_is_of_the_experts_that_the_routings_reached(subject: Subject) -> None:
    on_average, counted = (
        record(subject, row(2, 1e6, 1e6, active_experts=experts))["rows"]["2"]["floor_us"]
        for experts in ({}, {PART: dict.fromkeys(range(99), 2.0)})
    )
    # Two tokens with two experts each of eight reach 3.5 on average; skewed or by chance they reach fewer.
    assert counted / on_average == pytest.approx(2.0 / 3.5, rel=0.01)


def test_it_is_of_the_blocks_that_the_entry_played(subject: Subject) -> None:
    """Others played more: a floor of theirs lay above every time of Mixtral's entry for four tokens."""
    found = row(2, 1e6, 1e6)
    own = found.panel.times[PART][ENTRY]
    theirs = range(max(own) + 1, max(own) + 9)
    with_others, alone = (
        record(subject, replace(found, active_experts={PART: experts}))["rows"]["2"]["floor_us"]
        for experts in (dict.fromkeys(own, 2.0) | dict.fromkeys(theirs, 3.5), dict.fromkeys(own, 2.0))
    )
    assert with_others == alone


def test_without_rates_there_is_no_floor(subject: Subject) -> None:
    run = replace(RUN, rates=None)
    document = evidence.record(subject, [row(64, 100.0, 120.0)], COUNTS, run, CONFIG, None).to_json()
    assert schemas.faults("record", document) == []
    assert not {"floor_us", "bound"} & set(document["rows"]["64"])


def test_several_shapes_show_their_worst_at_the_top_and_each_below(subject: Subject) -> None:
    two = replace(subject, shapes=(*subject.shapes, ShapeOfModels(Shape(2048, 4))))
    second = replace(PART, placement=1)
    times = {
        PART: {ENTRY: blocks(100.0), HEURISTIC: blocks(130.0)},
        second: {ENTRY: blocks(60.0), HEURISTIC: blocks(61.0)},
    }
    decided = replace(row(64, 1.0, 1.0), panel=Panel({Flavour.VLLM: HEURISTIC}, 8, times))
    document = record(two, decided)
    found = document["rows"]["64"]
    assert found["latency_us"]["median"] == 60.0
    assert found["baseline_us"]["median"] == 61.0
    assert [(s["K"], s["top_k"], s["latency_us"]["median"]) for s in found["by_shape"]] == [
        (4096, 2, 100.0),
        (2048, 4, 60.0),
    ]
    assert document["shapes"][1] == {"K": 2048, "top_k": 4, "models": []}


def test_rows_ascend_as_numbers_and_kept_ones_stay(subject: Subject) -> None:
    old = evidence.record(subject, [row(8, 50.0, 60.0), row(64, 999.0, 999.0)], COUNTS, RUN, CONFIG, None)
    found = evidence.record(subject, [row(64, 100.0, 120.0), row(512, 1.0, 2.0)], COUNTS, RUN, CONFIG, old)
    rows = found.to_json()["rows"]
    assert list(rows) == ["8", "64", "512"]
    assert rows["8"] == old.rows[8].to_json()
    assert rows["64"]["latency_us"]["median"] == 100.0


def test_a_down_record_holds_downs_own_figures(subject: Subject) -> None:
    rows = [with_down(64, 90.0, 120.0), with_down(512, 300.0, 330.0, entry=ENTRY)]
    document = evidence.down_record(subject, rows, COUNTS, RUN, CONFIG, None).to_json()
    assert schemas.faults("record", document) == []
    assert document["workload"]["down"] is True
    gaining, other = document["rows"]["64"], document["rows"]["512"]
    assert (gaining["latency_us"]["median"], gaining["baseline_us"]["median"]) == (27.0, 40.0)
    assert (other["latency_us"]["median"], other["baseline_us"]["median"]) == (100.0, 110.0)
    assert (gaining["decision"], other["decision"]) == ("promote", "promote")


def test_a_down_row_that_gains_nothing_has_the_rows_own_decision(subject: Subject) -> None:
    rows = [with_down(64, 90.0, 120.0), with_down(512, 300.0, 330.0, entry=ENTRY)]
    kept = [replace(row, choice=replace(row.choice, decision=Decision.RETAIN)) for row in rows]
    document = evidence.down_record(subject, kept, COUNTS, RUN, CONFIG, None).to_json()
    assert [row["decision"] for row in document["rows"].values()] == ["promote", "retain"]


def test_entries_are_the_files() -> None:
    rows = [with_down(64, 90.0, 120.0), with_down(512, 300.0, 330.0, entry=ENTRY)]
    assert evidence.entries(rows) == {64: ENTRY, 512: ENTRY}
    assert evidence.down_entries(rows) == {64: DOWN_ENTRY, 512: ENTRY}
    assert evidence.down_entries(rows[1:]) is None


def test_more_tokens_never_have_a_lower_floor(subject: Subject) -> None:
    floors = [evidence.floor_of(subject, row(m, 1.0, 1.0), RUN.rates)[0] for m in (1, 2, 16, 256, 4096) if RUN.rates]
    assert floors == sorted(floors)
    assert all(math.isfinite(floor) for floor in floors)


def test_says_whether_the_search_was_cut_short_and_how_many_it_left_to_decide_among(subject: Subject) -> None:
    rows = [replace(row(1, 100.0, 120.0), finalists=6), replace(row(64, 100.0, 120.0), finalists=4)]
    run = replace(RUN, is_cut_short=True)
    tuner = evidence.record(subject, rows, COUNTS, run, CONFIG, None).to_json()["tuner"]
    assert (tuner["cut_short"], tuner["least_finalists"]) == (True, 4)


@pytest.mark.parametrize(
    ("earlier", "now", "expected"),
    [
        ((True, 2), (False, 6), (True, 2)),
        ((False, 6), (True, 2), (True, 2)),
        ((False, 5), (False, 6), (False, 5)),
        ((None, None), (False, 6), (None, None)),
        ((None, None), (True, 6), (True, None)),
    ],
    ids=["cut before", "cut now", "never cut", "not known", "cut now, not known before"],
)
def test_a_search_is_as_whole_as_that_of_every_row_that_stays(
    earlier: tuple[bool | None, int | None],
    now: tuple[bool, int],
    expected: tuple[bool | None, int | None],
    subject: Subject,
) -> None:
    """A name of which one row was tuned again, and the rest cut short before, was taken for finished."""
    old = record_of(subject, [1, 64])
    assert old.tuner is not None
    kept = replace(old, tuner=replace(old.tuner, cut_short=earlier[0], least_finalists=earlier[1]))
    run, again = replace(RUN, is_cut_short=now[0]), replace(row(1, 100.0, 120.0), finalists=now[1])

    def found(*rows: RowResult) -> tuple[bool | None, int | None]:
        tuner = evidence.record(subject, rows, COUNTS, run, CONFIG, kept).tuner
        assert tuner is not None
        return tuner.cut_short, tuner.least_finalists

    assert found(again) == expected
    assert found(again, replace(again, num_tokens=64)) == now, "no row stays"
