"""How figures are written."""

from __future__ import annotations

MINUS = "−"
_SHADES = ((0.75, "g5"), (0.88, "g4"), (0.94, "g3"), (0.97, "g2"), (0.99, "g1"), (1.005, "g0"))


def percent(ratio: float) -> str:
    """«−6.7 %» for 0.933."""
    value = round((ratio - 1) * 100, 1)
    return f"{MINUS if value < 0 else '+' if value > 0 else ''}{abs(value):.1f} %"


def shade(ratio: float | None) -> str:
    """The class of a cell's colour: by how much time is saved; «loss» where none is."""
    if ratio is None:
        return ""
    return next((name for limit, name in _SHADES if ratio <= limit), "loss")


def microseconds(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}".replace(",", " ")
