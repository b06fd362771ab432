"""What a file gains, from its record: by engine and routing, of the whole file and of each shape."""

from __future__ import annotations

from typing import Any

import pytest

from fused_moe_configs.gains import MARGIN, BesideShipped, Gain, beside_shipped, gains, gains_at
from tests import builders

SHAPES = [{"K": 4096, "top_k": 2, "models": []}, {"K": 2048, "top_k": 8, "ep": 2, "models": []}]


def part(ratio: float, shape: int = 0, engine: str = "vllm", routing: str = "uniform") -> dict[str, Any]:
    return {"engine": engine, "shape": shape, "routing": routing, "ratio": ratio, "low": 0.1, "high": 2.0, "blocks": 4}


def pair(latency_us: float, baseline_us: float) -> dict[str, Any]:
    return {"latency_us": builders.times(latency_us), "baseline_us": builders.times(baseline_us)}


def record(*rows: dict[str, Any], shapes: Any = SHAPES, **workload: Any) -> dict[str, Any]:
    return {
        "workload": {"E": 8, **workload},
        "shapes": shapes,
        "rows": {str(2**place): row for place, row in enumerate(rows)},
    }


def uniform(found: tuple[Gain, ...]) -> dict[str, dict[int, float]]:
    return {gain.engine: dict(gain.ratios) for gain in found if gain.is_uniform}


# As today's tuner writes it. The headline is of the engine that does worst there: SGLang, and no word of vLLM's gain.
TWO_ENGINES = [part(0.9), part(0.7, shape=1), part(0.99, engine="sglang"), part(0.6, shape=1, engine="sglang")]
ROW = {**pair(99.0, 100.0), "by_engine": {"vllm": pair(50.0, 100.0), "sglang": pair(99.0, 100.0)}}


def test_each_engine_has_its_own_gain_of_the_shape_where_it_does_worst():
    assert uniform(gains(record({**ROW, "parts": TWO_ENGINES}))) == {"vllm": {1: 0.9}, "sglang": {1: 0.99}}


def test_a_shape_has_the_gains_of_its_own_parts():
    found = record({**ROW, "parts": TWO_ENGINES})
    assert uniform(gains_at(found, 0)) == {"vllm": {1: 0.9}, "sglang": {1: 0.99}}
    assert uniform(gains_at(found, 1)) == {"vllm": {1: 0.7}, "sglang": {1: 0.6}}


def test_each_routing_stands_apart_and_uniform_before_skewed():
    parts = [part(0.8, routing="skew_0.3"), part(0.9), part(0.85, routing="skew_1.0")]
    found = gains(record({**ROW, "parts": parts}))
    assert [(gain.routing, gain.ratios[1]) for gain in found] == [
        ("uniform", 0.9), ("skew_1.0", 0.85), ("skew_0.3", 0.8),
    ]  # fmt: skip


def test_what_some_row_does_not_tell_of_a_shape_is_not_its_gain():
    one = [part(0.9), part(0.7, shape=1), part(0.8, engine="sglang")]
    found = record({**ROW, "parts": one}, {**ROW, "parts": [part(0.9), part(0.8, engine="sglang")]})
    assert uniform(gains_at(found, 1)) == {}
    assert uniform(gains_at(found, 0)) == {"vllm": {1: 0.9, 2: 0.9}, "sglang": {1: 0.8, 2: 0.8}}


def test_the_only_shape_has_the_whole_files():
    found = record(ROW, shapes=SHAPES[:1])
    assert gains_at(found, 0) == gains(found) != ()


def test_without_parts_the_medians_of_each_engine_tell():
    assert uniform(gains(record(ROW))) == {"vllm": {1: 0.5}, "sglang": {1: 0.99}}
    assert gains_at(record(ROW), 0) == (), "they are of the shape that does worst, whichever that is"


def test_older_rows_tell_one_kernels_time_over_both_heuristics():
    by_shape = [{**shape, **pair(us, 100.0)} for shape, us in zip(SHAPES, (99.0, 80.0), strict=True)]
    found = record({**pair(80.0, 100.0), "baselines": {"sglang": builders.times(160.0)}, "by_shape": by_shape})
    assert uniform(gains(found)) == {"vllm": {1: 0.99}, "sglang": {1: 0.5}}, "whichever shape is on top"
    assert [uniform(gains_at(found, place)) for place in (0, 1)] == [{"vllm": {1: 0.99}}, {"vllm": {1: 0.8}}]


def test_an_older_rows_shape_is_found_however_its_usual_placement_is_written():
    shapes = [{"K": 4096, "top_k": 2, "ep": 2}, {"K": 4096, "top_k": 2}]
    plain = {"K": 4096, "top_k": 2, "ep": 1, "fused_shared_experts": 0, **pair(80.0, 100.0)}
    found = record({**pair(80.0, 100.0), "by_shape": [plain]}, shapes=shapes)
    assert (gains_at(found, 0), uniform(gains_at(found, 1))) == ((), {"vllm": {1: 0.8}})


def test_batch_sizes_come_in_order_whatever_the_records():
    rows = {str(num_tokens): {"parts": [part(0.9)]} for num_tokens in (1024, 8, 64)}
    (gain,) = gains({**record(), "rows": rows})
    assert list(gain.ratios) == [8, 64, 1024]


def test_ratios_are_shown_to_four_places():
    (gain,) = gains(record({"parts": [part(2 / 3)]}))
    assert (gain.geomean_ratio, gain.worst_ratio) == (0.6667, 0.6667)


def test_a_gain_is_the_geometric_mean_and_its_worst_row():
    (gain,) = gains(record({"parts": [part(0.5)]}, {"parts": [part(0.98)]}))
    assert (gain.geomean_ratio, gain.worst_ratio) == (0.7, 0.98)


def test_a_published_record_gains_nothing():
    published = {"workload": {"E": 8}, "shapes": SHAPES}
    assert gains(published) == gains_at(published, 1) == ()


@pytest.mark.parametrize("row", [{}, {"parts": [{}]}, {"parts": 1}, {"by_engine": {"vllm": {}}}, pair(1.0, 0.0), []])
def test_what_is_no_record_raises_what_the_index_takes_for_that(row):
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError)):
        gains(record(row))


def test_a_file_for_down_alone_gains_on_sglang_which_alone_reads_it():
    assert uniform(gains(record(pair(90.0, 100.0), down=True))) == {"sglang": {1: 0.9}}
    assert uniform(gains(record(pair(90.0, 100.0)))) == {"vllm": {1: 0.9}}


# ---------------------------------------------------------------
# Beside what an engine ships


def judged(engine: str, date: str, geomean: float | None, triton: str = "3.8.0") -> dict[str, Any]:
    """geomean None: the engine ships no file."""
    shipped = {"sha256": "a" * 64, "worst_ratio": 1.5, "geomean_ratio": geomean, "best_ratio": 0.9}
    line = {"engine": engine, "date": date, "triton": triton, "geomean_ratio": 0.8}
    return line if geomean is None else {**line, "shipped": shipped}


def beside(*lines: dict[str, Any]) -> dict[str, float]:
    """By engine, the geometric mean, of a record of 2026-11-26."""
    found = beside_shipped({"date": "2026-11-26", "engine_checked": lines})
    assert all(each == BesideShipped("a" * 64, each.geomean, 1.5) for each in found.values())
    return {engine: each.geomean for engine, each in found.items()}


def test_beside_the_shipped_file_each_engine_has_its_newest_word():
    lines = [
        judged("sglang", "2026-11-27", 1.21),
        judged("vllm", "2026-11-26", 0.9),
        judged("sglang", "2026-11-26", 1.1),
    ]
    assert beside(*lines) == {"vllm": 0.9, "sglang": 1.21}
    assert beside(judged("sglang", "2026-11-26", 1.1), judged("sglang", "2026-11-26", 1.2)) == {"sglang": 1.2}


def test_what_another_triton_says_is_of_other_kernels():
    lines = [judged("sglang", "2026-11-26", 1.05), judged("sglang", "2026-11-27", 0.95, "3.6.0")]
    assert beside(*lines) == {"sglang": 1.05}
    of_3_6 = {"date": "2026-11-26", "environment": {"triton": "3.6.0+git"}, "engine_checked": lines}
    assert {engine: each.geomean for engine, each in beside_shipped(of_3_6).items()} == {"sglang": 0.95}


def test_what_was_said_of_earlier_figures_or_where_none_is_shipped_is_nothing():
    assert beside(judged("sglang", "2026-11-25", 1.21), judged("vllm", "2026-11-26", None)) == {}
    assert beside_shipped({"date": "2026-11-26"}) == {}


@pytest.mark.parametrize(("geomean", "is_slower"), [(1.0, False), (1.0 + MARGIN, False), (1.0103, True), (0.5, False)])
def test_slower_is_what_loses_more_than_the_margin(geomean, is_slower):
    assert BesideShipped("a" * 64, geomean, 2.0).is_slower is is_slower
