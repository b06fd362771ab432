"""Charts: well-formed, to scale, escaped, and empty where there is nothing to draw."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.tools.site.stores import BOOM
from tools.site.charts import Bar, Curve, Stack, bar_chart, gain_chart, stack_chart, standalone_style, time_chart

LINES = [
    Curve("this file", "tuned", {1: 100.0, 64: 1000.0, 4096: 10000.0}),
    Curve("floor", "floor", {1: 50.0, 4096: 90.0}),
]


def marks(drawing: str, style: str) -> list[tuple[float, float]]:
    """Of a line with round marks; that of the legend is the last."""
    (group,) = (each for each in ET.fromstring(drawing).iter("g") if each.get("class") == style)
    return [(float(mark.get("cx", "0")), float(mark.get("cy", "0"))) for mark in group.iter("circle")]


def test_both_scales_are_logarithmic() -> None:
    (_, low), (_, middle), (_, high), _ = marks(time_chart("t", "Time", LINES), "tuned")
    assert low - middle == pytest.approx(middle - high, abs=0.2)
    (left, _), (centre, _), (right, _), _ = marks(time_chart("t", "Time", LINES), "tuned")
    assert centre - left == pytest.approx(right - centre, abs=0.2)


def test_faster_lies_below_zero() -> None:
    drawing = gain_chart("g", "Gain", [Curve("over vLLM", "tuned", {1: 0.9, 2: 1.05})])
    (zero,) = (line for line in ET.fromstring(drawing).iter("line") if line.get("class") == "zero")
    (_, faster), (_, slower), _ = marks(drawing, "tuned")
    assert slower < float(zero.get("y1", "0")) < faster


def test_a_screen_reader_is_told_what_it_is() -> None:
    root = ET.fromstring(time_chart("t", "Time of a file", LINES))
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", "t-title")
    assert root.findtext("title") == "Time of a file"


@pytest.mark.parametrize("values", [{1: 5.0}, {1: 5.0, 2: 5.0}, {64: 1e-3}, {1: 1e9, 16384: 1e-3}])
def test_whatever_was_measured_is_drawn(values: dict[int, float]) -> None:
    for draw in (time_chart, gain_chart):
        drawing = draw("x", "x", [Curve("x", "tuned", values)])
        assert len(marks(drawing, "tuned")) == len(values) + 1
        assert "nan" not in drawing


def test_nothing_is_drawn_of_nothing() -> None:
    assert time_chart("t", "t", [Curve("x", "tuned", {})]) == gain_chart("g", "g", []) == ""
    assert bar_chart("b", "b", []) == stack_chart("s", "s", [Stack("x", (("none", "x", 0),))]) == ""


def test_no_text_can_be_markup() -> None:
    drawings = [
        time_chart("t", BOOM, [Curve(BOOM, "tuned", {1: 1.0})]),
        bar_chart("b", BOOM, [Bar(BOOM, BOOM, 1.0)]),
        stack_chart("s", BOOM, [Stack(BOOM, (("none", BOOM, 1),))]),
    ]
    for drawing in drawings:
        assert not list(ET.fromstring(drawing).iter("img"))
        assert "<img" not in drawing


def test_a_picture_that_stands_alone_brings_its_style_for_light_and_dark() -> None:
    drawing = bar_chart("b", "b", [Bar("x", "y", 7.0)], style=standalone_style())
    root = ET.fromstring(drawing)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in (root.findtext("{http://www.w3.org/2000/svg}style") or "")


def test_a_bar_is_as_long_as_its_gain_and_a_loss_has_none() -> None:
    drawing = bar_chart("b", "b", [Bar("a", "", 10.0), Bar("b", "", 5.0), Bar("c", "", -3.0)])
    long, half, none = (float(bar.get("width", "0")) for bar in ET.fromstring(drawing).iter("rect"))
    assert half == pytest.approx(long / 2, abs=0.2)
    assert none == 1
    assert "−10.0 %" in drawing
    assert "+3.0 %" in drawing
