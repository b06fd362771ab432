"""Charts as static SVG, drawn when the site is built: they need no JavaScript and take their colours from the page.

Drawn here and not by a library: a chart is a few kilobytes in the page, follows light and dark by style sheet, is text
to a screen reader and prints in a README. Lines differ in colour, dash and mark, so that colour alone tells nothing.
A chart's figures stand in a table beside it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 520, 330
LEFT, RIGHT, BOTTOM = 52, 12, 44
LEGEND_LINE = 18
STYLE = Path(__file__).parent / "assets" / "charts.css"
"""Colours and strokes; the page's style sheet holds it too."""


@dataclass(frozen=True)
class Curve:
    """style: a class of charts.css. values: by batch size."""

    label: str
    style: str
    values: Mapping[int, float]


@dataclass(frozen=True)
class _Scale:
    """From a value to a place on the picture."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = True

    def __call__(self, value: float) -> float:
        low, high, at = map(math.log, (self.low, self.high, value)) if self.is_log else (self.low, self.high, value)
        return self.start + (self.end - self.start) * (at - low) / ((high - low) or 1.0)


def legend_rows(lines: Sequence[Curve]) -> int:
    """How many rows a legend takes: two lines beside each other."""
    return -(-len(lines) // 2)


def time_chart(identifier: str, title: str, lines: Sequence[Curve], rows: int = 0) -> str:
    """Time in µs against the batch size, both logarithmic. Empty: there is nothing to draw.

    rows: of the legend, at least, for charts that stand beside each other.
    """
    lines = [line for line in lines if line.values]
    values = [value for line in lines for value in line.values.values()]
    if not values:
        return ""
    low, high = min(values) / 1.15, max(values) * 1.15
    round_values = (digit * 10.0**power for power in range(-3, 10) for digit in (1, 2, 5))
    ticks = [tick for tick in round_values if low <= tick <= high]
    if len(ticks) > 6:
        decades = [tick for tick in ticks if math.log10(tick).is_integer()]
        ticks = decades if len(decades) > 2 else ticks[:: len(ticks) // 5]
    return _line_chart(
        identifier, title, lines, _Scale(low, high, 0, 1), {tick: f"{tick:g}" for tick in ticks}, "µs", rows
    )


def gain_chart(identifier: str, title: str, lines: Sequence[Curve], rows: int = 0) -> str:
    """Ratios as per cent of time against the batch size: below zero is faster. Empty and rows: as above."""
    lines = [Curve(line.label, line.style, {m: (r - 1) * 100 for m, r in line.values.items()}) for line in lines]
    values = [value for line in lines for value in line.values.values()]
    if not values:
        return ""
    span = max(values) - min(*values, 0.0)
    step = next(size * 10**power for power in range(12) for size in (1, 2, 5) if span / (size * 10**power) <= 6)
    low = float(min(math.floor(min(values) / step), -1) * step)
    high = float(max(math.ceil(max(values) / step), 0) * step) or step / 2
    ticks = {float(tick): f"{tick:+d} %".replace("-", "−") if tick else "0 %" for tick in _range(low, high, step)}
    scale = _Scale(low, high, 0, 1, is_log=False)
    return _line_chart(identifier, title, lines, scale, ticks, "time over that without a file", rows, zero=True)


def _range(low: float, high: float, step: int) -> Iterable[int]:
    return range(math.ceil(low / step) * step, int(high) + 1, step)


def _line_chart(
    identifier: str, title: str, lines: Sequence[Curve], scale: _Scale, ticks: Mapping[float, str], y_label: str,
    rows: int, *, zero: bool = False,
) -> str:  # fmt: skip
    sizes = sorted({num_tokens for line in lines for num_tokens in line.values})
    top = 26 + LEGEND_LINE * max(rows, legend_rows(lines))
    height = HEIGHT - 26 - LEGEND_LINE * 3 + top
    x = _Scale(sizes[0], max(sizes[-1], sizes[0] + 1), LEFT + 6, WIDTH - RIGHT - 8)
    y = _Scale(scale.low, scale.high, height - BOTTOM, top, scale.is_log)
    parts = [f'<text class="axis" x="{LEFT - 44}" y="{top - 10}">{_text(y_label)}</text>']
    for value, label in ticks.items():
        at = round(y(value), 1)
        kind = "zero" if zero and value == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{at + 4}">{_text(label)}</text>')
    for size in (4**power for power in range(9)):
        if sizes[0] <= size <= sizes[-1]:
            at = round(x(size), 1)
            parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{top}" y2="{height - BOTTOM}"/>')
            parts.append(f'<text class="tick middle" x="{at}" y="{height - BOTTOM + 17}">{size}</text>')
    parts.append(f'<text class="axis middle" x="{(LEFT + WIDTH) / 2:g}" y="{height - 8}">batch size M, tokens</text>')
    for place, line in enumerate(lines):
        points = [(round(x(size), 1), round(y(value), 1)) for size, value in sorted(line.values.items())]
        at, left = 12 + LEGEND_LINE * (place // 2), LEFT + (WIDTH - LEFT) / 2 * (place % 2)
        parts.append(f'<g class="{line.style}"><path class="line" d="M{" L".join(f"{a} {b}" for a, b in points)}"/>')
        parts += [_mark(line.style, a, b) for a, b in points]
        parts.append(f'<path class="line" d="M{left:g} {at} h28"/>{_mark(line.style, left + 14, at)}')
        parts.append(f'<text class="legend" x="{left + 36:g}" y="{at + 4}">{_text(line.label)}</text></g>')
    return _svg(identifier, title, WIDTH, height, parts)


def _mark(style: str, x: float, y: float) -> str:
    draw = _MARKS.get(style.split()[-1])
    return draw(x, y) if draw else ""


def _circle(x: float, y: float) -> str:
    return f'<circle class="mark" cx="{x:g}" cy="{y:g}" r="3"/>'


def _square(x: float, y: float) -> str:
    return f'<rect class="mark" x="{x - 2.8:g}" y="{y - 2.8:g}" width="5.6" height="5.6"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path class="mark" d="M{x:g} {y - 4:g} l4 4 l-4 4 l-4 -4 z"/>'


_MARKS: Mapping[str, Callable[[float, float], str]] = {
    "tuned": _circle, "vllm": _square, "sglang": _diamond,
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """low, value: per cent; a bar from zero to value, and a whisker to low."""

    label: str
    detail: str
    value: float
    style: str = "tuned"


def bar_chart(identifier: str, title: str, bars: Sequence[Bar], *, style: str = "") -> str:
    """Per cent of time saved, a bar each. style: of a picture that stands alone. Empty: there is nothing to draw."""
    if not bars:
        return ""
    step, width, label = 30, 760, 330
    most = max(5.0, *(bar.value for bar in bars))
    x = _Scale(0.0, most, label, width - 70, is_log=False)
    height = 34 + step * len(bars)
    parts = [f'<text class="axis strong" x="0" y="14">{_text(title)}</text>']
    for place, bar in enumerate(bars):
        y = 30 + step * place
        end = round(x(max(bar.value, 0.0)), 1)
        parts.append(f'<text class="legend end" x="{label - 12}" y="{y + 11}">{_text(bar.label)}</text>')
        parts.append(f'<text class="detail end" x="{label - 12}" y="{y + 23}">{_text(bar.detail)}</text>')
        parts.append(f'<g class="{bar.style}"><rect class="bar" x="{label}" y="{y}" width="{max(end - label, 1):g}"')
        parts.append(f' height="16" rx="2"/></g><text class="legend" x="{end + 8:g}" y="{y + 13}">')
        parts.append(f"{f'−{bar.value:.1f} %' if bar.value >= 0 else f'+{-bar.value:.1f} %'}</text>")
    return _svg(identifier, title, width, height, parts, style)


@dataclass(frozen=True)
class Stack:
    """parts: (class of charts.css, words, count), from left to right."""

    label: str
    parts: Sequence[tuple[str, str, int]]


def stack_chart(identifier: str, title: str, stacks: Sequence[Stack], *, style: str = "") -> str:
    """Counts beside each other on one line each, all of one length. Empty: there is nothing to draw."""
    stacks = [stack for stack in stacks if sum(count for _, _, count in stack.parts)]
    if not stacks:
        return ""
    width, step, label = 760, 34, 190
    height = 60 + step * len(stacks)
    parts = [f'<text class="axis strong" x="0" y="14">{_text(title)}</text>']
    at = 0.0
    for kind, words, _ in stacks[0].parts:
        parts.append(f'<g class="{kind}"><rect class="bar" x="{at:g}" y="26" width="12" height="12" rx="2"/></g>')
        parts.append(f'<text class="tick" x="{at + 18:g}" y="36">{_text(words)}</text>')
        at += 40 + 6.4 * len(words)
    for place, stack in enumerate(stacks):
        y, total = 52 + step * place, sum(count for _, _, count in stack.parts)
        parts.append(f'<text class="legend end" x="{label - 12}" y="{y + 15}">{_text(stack.label)}</text>')
        left = float(label)
        for kind, _, count in stack.parts:
            long = (width - label - 4) * count / total
            if count:
                parts.append(f'<g class="{kind}"><rect class="bar" x="{left:.1f}" y="{y}" height="22" rx="2"')
                parts.append(f' width="{max(long - 2, 1):.1f}"/></g>')
            if long > 24:
                parts.append(f'<text class="count on-{kind}" x="{left + 8:.1f}" y="{y + 16}">{count}</text>')
            left += long
    return _svg(identifier, title, width, height, parts, style)


def standalone_style() -> str:
    """For a picture outside the site's pages, which has no style sheet but its own."""
    return STYLE.read_text("utf-8")


def _svg(identifier: str, title: str, width: int, height: int, parts: Iterable[str], style: str = "") -> str:
    own = f"<style>{style}</style>" if style else ""
    space = ' xmlns="http://www.w3.org/2000/svg"' if style else ""
    return (
        f'<svg{space} class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{identifier}-title">'
        f'<title id="{identifier}-title">{_text(title)}</title>{own}{"".join(parts)}</svg>'
    )


def _text(text: str) -> str:
    return html.escape(text)
