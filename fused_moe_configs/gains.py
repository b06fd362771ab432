"""What a tuned file gains, from its record: its time over that of an engine's own heuristic, which runs without it, and
over that of the file that the engine ships.

The one owner of these questions: the index asks here, and `list`, `doctor` and the site after it. Standard library
only, Python 3.10. A record is a parsed document of schema/record.schema.json; of another one, KeyError, TypeError and
others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .lookup import REFERENCE_TRITON, release
from .naming import ENGINES

UNIFORM = "uniform"
ROUTINGS = (UNIFORM, "skew_1.0", "skew_0.3", "recorded")
_Json = Any  # a parsed JSON document
_Ratios = dict[int, float]


class Gain(NamedTuple):
    """A file's time over that of the engine's heuristic under a routing, by batch size: 0.93 is 7 % less time.

    routing: as `ROUTINGS`.
    """

    engine: str
    routing: str
    ratios: Mapping[int, float]

    @property
    def is_uniform(self) -> bool:
        return self.routing == UNIFORM

    @property
    def geomean_ratio(self) -> float:
        """Of all batch sizes, rounded as everything shows it."""
        return round(math.exp(sum(map(math.log, self.ratios.values())) / len(self.ratios)), 4)

    @property
    def worst_ratio(self) -> float:
        return round(max(self.ratios.values()), 4)


MARGIN = 0.01
"""What is less is no difference: the promotion rule's."""


def loses(ratio: float) -> bool:
    """Whether a file that takes `ratio` of another's time is slower than it, by more than the margin."""
    return ratio > 1.0 + MARGIN


class BesideShipped(NamedTuple):
    """A file's time over that of the one of its name that an engine ships, on that engine's kernel, uniform routing.

    sha256: of the shipped file's bytes. geomean, worst: of the batch sizes.
    """

    sha256: str
    geomean: float
    worst: float

    @property
    def is_slower(self) -> bool:
        return loses(self.geomean)


def beside_shipped(record: Mapping[str, _Json]) -> dict[str, BesideShipped]:
    """By engine, what its newest judgement of these figures says, under the Triton that they are of.

    Without engines that ship none.
    """
    own = record.get("environment", {}).get("triton", REFERENCE_TRITON)
    lines = [
        line
        for line in record.get("engine_checked", ())
        if line["date"] >= record["date"] and "shipped" in line and release(line["triton"]) == release(own)
    ]
    newest = {line["engine"]: line["shipped"] for line in sorted(lines, key=lambda line: line["date"])}
    return {
        engine: BesideShipped(
            str(newest[engine]["sha256"]), newest[engine]["geomean_ratio"], newest[engine]["worst_ratio"]
        )
        for engine in ENGINES
        if engine in newest
    }


def gains(record: Mapping[str, _Json]) -> tuple[Gain, ...]:
    """Of the whole file, an engine and a routing each: every batch size at the shape where it gains least.

    Rows without parts, as older records have them, tell medians alone, under uniform routing.
    """
    return _in_order(_worst(record, lambda _: True))


def gains_at(record: Mapping[str, _Json], place: int) -> tuple[Gain, ...]:
    """As `gains`, at one of the record's shapes alone; without those that some row doesn't tell of this shape."""
    whole = _worst(record, lambda _: True)
    if len(record["shapes"]) == 1:
        return _in_order(whole)
    own = _worst(record, lambda shape: shape == place)
    return _in_order({key: ratios for key, ratios in own.items() if ratios.keys() == whole[key].keys()})


def _in_order(found: Mapping[tuple[str, str], Mapping[int, float]]) -> tuple[Gain, ...]:
    order = [(engine, routing) for engine in ENGINES for routing in ROUTINGS]
    return tuple(Gain(*key, found[key]) for key in order if key in found)


def _worst(record: Mapping[str, _Json], is_asked: Callable[[int | None], bool]) -> dict[tuple[str, str], _Ratios]:
    """By engine and routing; of the asked shapes, the largest ratio of each batch size."""
    found: dict[tuple[str, str], _Ratios] = {}
    engine = "sglang" if record["workload"].get("down") else "vllm"  # it alone reads a file for down
    for num_tokens, row in sorted((int(key), row) for key, row in record.get("rows", {}).items()):
        for of, routing, shape, ratio in _parts(row, record["shapes"], engine):
            if is_asked(shape):
                ratios = found.setdefault((of, routing), {})
                ratios[num_tokens] = max(ratio, ratios.get(num_tokens, ratio))
    return found


def _parts(
    row: Mapping[str, _Json], shapes: Sequence[_Json], engine: str
) -> Iterator[tuple[str, str, int | None, float]]:
    """Engine, routing, the shape's place among the record's, and ratio. Place None: of the shape that does worst.

    engine: whose a row without parts is.
    """
    if row.get("parts"):
        for part in row["parts"]:
            yield part["engine"], part["routing"], part["shape"], part["ratio"]
    elif row.get("by_engine"):
        for of, pair in row["by_engine"].items():
            yield of, UNIFORM, None, _ratio(pair, pair["baseline_us"])
    else:
        yield engine, UNIFORM, None, _ratio(row, row["baseline_us"])
        for own in row.get("by_shape", ()):
            place = next((i for i, shape in enumerate(shapes) if sizes(shape) == sizes(own)), None)
            yield engine, UNIFORM, place, _ratio(own, own["baseline_us"])
        for of, baseline_us in row.get("baselines", {}).items():
            yield of, UNIFORM, None, _ratio(row, baseline_us)


def _ratio(times: Mapping[str, _Json], baseline_us: Mapping[str, _Json]) -> float:
    return float(times["latency_us"]["median"] / baseline_us["median"])


def sizes(shape: Mapping[str, _Json]) -> tuple[int, int, int, int]:
    """(K, top_k, ep, fused_shared_experts) of a record's shape; the last two are left out there where 1 and 0."""
    return int(shape["K"]), int(shape["top_k"]), shape.get("ep", 1), shape.get("fused_shared_experts", 0)
