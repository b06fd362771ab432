"""Two pictures that also stand in the README: what is covered, and what was gained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tools.site import charts
from tools.site.boards import Tally
from tools.site.files import TunedFile
from tools.site.render import gpu, title_of, workload_of

MOST_BARS = 12


def by_gpu(files: Iterable[TunedFile]) -> list[TunedFile]:
    """As a table has them: by GPU, that with most files first, then by experts and size."""
    files = tuple(files)
    held = Counter(file.device_name for file in files)

    def place(file: TunedFile) -> tuple[Any, ...]:
        of = file.workload
        sizes = (of.E, of.N) if of else (0, 0)
        return of is None, -held[file.device_name], file.device_name, *sizes, file.name, file.path

    return sorted(files, key=place)


def gains_chart(gains: Sequence[TunedFile], style: str = "") -> str:
    """The largest gains of `gains` over vLLM's heuristic. style: where the picture stands alone."""
    bars = [
        charts.Bar(title_of(file), workload_of(file), (1 - file.known.ratios["vllm"].geomean) * 100)
        for file in gains
        if "vllm" in file.known.ratios
    ][:MOST_BARS]
    title = "Time over vLLM's own heuristic, geometric mean of all batch sizes"
    return charts.bar_chart("gains-chart", title, bars, style=style) or _empty(
        "gains-chart", "Nothing was measured yet", style
    )


def coverage_chart(tallies: Sequence[Tally], style: str = "") -> str:
    """Of the files that people's models ask for: how many are here, a GPU each. style: as above."""
    stacks = [
        charts.Stack(
            f"{gpu(tally.device.name)}: {tally.wanted - tally.missing} of {tally.wanted}",
            (
                ("tuned", "verified", tally.verified),
                ("shipped", "claimed", tally.claimed),
                ("part", "in part", tally.in_part),
                ("published", "taken over", tally.published),
                ("none", "none yet", tally.missing),
            ),
        )
        for tally in tallies
    ]
    title = "Tuned files that the registry's placements ask for"
    drawn = charts.stack_chart("coverage", title, stacks, style=style)
    return drawn or _empty("coverage", "Nothing is asked for", style)


def _empty(identifier: str, words: str, style: str) -> str:
    """A picture that a README can name is always there."""
    return charts.bar_chart(identifier, words, [charts.Bar("no file yet", "", 0.0)], style=style)
