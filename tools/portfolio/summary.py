"""What a run did, at its end: a table of the names that it came to, and what a name costs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fused_moe_configs.naming import ENGINE_NAMES
from tools.portfolio.drive import Finished
from tools.portfolio.progress import Outcome, ProgressLine
from tools.portfolio.status import DeviceStatus, counts_line, short_name
from tools.portfolio.stock import Item
from tools.registry.devices import Device
from tools.registry.sharding import Engine
from tools.text import aligned, counted

_HEAD = (
    *("rank", "file", "(K, top_k)", "tuned s"),
    *(f"judged on {ENGINE_NAMES[engine]} s" for engine in Engine),
    *(f"of {ENGINE_NAMES[engine]}'s {what}" for engine in Engine for what in ("heuristic", "file")),
    *("standing", "outcome"),
)


def to_text(states: Sequence[DeviceStatus], finished: Sequence[Finished], not_begun: Sequence[Item]) -> str:
    """A table a GPU. states: as they are now. Ratios are the geometric mean, and from the best to the worst row."""
    by_name = {done.item.name: done for done in finished}
    left = {item.name for item in not_begun}
    return "\n\n".join("\n".join(_lines(state, by_name, left)) for state in states)


def _lines(state: DeviceStatus, finished: Mapping[str, Finished], left: set[str]) -> Iterator[str]:
    yield counts_line(state)
    rows = []
    for item in state.items:
        if item.name in finished:
            line = finished[item.name].line
            rows.append(_cells(item, state.device, line, f"{line.outcome}: {line.reason}".removesuffix(": ")))
        elif item.name in left:
            rows.append(_cells(item, state.device, None, "not begun"))
    yield from aligned(_HEAD, rows) if rows else ()


def _cells(item: Item, device: Device, line: ProgressLine | None, outcome: str) -> tuple[str, ...]:
    seconds = [line.seconds_of(step) if line is not None else None for step in (None, *(each.value for each in Engine))]
    return (
        str(item.rank),
        short_name(item, device),
        str(len(item.wanted.shapes)),
        *("-" if each is None else f"{each:.0f}" for each in seconds),
        *(text for engine in Engine for text in _ratios(item, engine)),
        item.standing.value,
        outcome,
    )


def _ratios(item: Item, engine: Engine) -> tuple[str, str]:
    """Over the engine's heuristic, and over the file that it ships."""
    line = item.judged.get(engine)
    if line is None:
        return "-", "-"
    heuristic = _ratio(line.geomean_ratio, line.best_ratio, line.worst_ratio)
    shipped = line.shipped
    beside = "-" if shipped is None else _ratio(shipped.geomean_ratio, shipped.best_ratio, shipped.worst_ratio)
    return heuristic, beside


def _ratio(geomean: float, best: float | None, worst: float) -> str:
    return f"{geomean:.3f} ({'?' if best is None else f'{best:.3f}'} to {worst:.3f})"


def totals(finished: Sequence[Finished]) -> Iterator[str]:
    """GPU minutes a name, by its number of (K, top_k), and what of all passed outside tuner and bench."""
    tuned: dict[int, list[float]] = {}
    for done in finished:
        if done.line.outcome is Outcome.TUNED:
            tuned.setdefault(len(done.item.wanted.shapes), []).append(done.line.seconds / 60.0)
    for shapes, minutes in sorted(tuned.items()):
        mean = sum(minutes) / len(minutes)
        yield (
            f"{counted(len(minutes), 'name')} of {shapes} (K, top_k) tuned and judged: {mean:.2f} GPU minutes a name, "
            f"{max(minutes):.2f} at most"
        )
    total_s = sum(done.line.seconds for done in finished)
    if total_s:
        share = sum(done.line.overhead_s for done in finished) / total_s
        yield f"{total_s:.0f} s of GPUs, {share:.1%} of it outside tuner and bench"
