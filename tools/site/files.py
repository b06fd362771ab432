"""Every tuned file of the store with what is known of it: what it holds, its record, its gain. Never fails.

What can't be used is said in `fault` and counts as not measured: a page is built of every file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fused_moe_configs import index
from fused_moe_configs.index import IndexedFile
from fused_moe_configs.lookup import ConfigError, read_config
from tools.launch.heuristic_version import ENGINE_NAMES
from tools.measure.statistics import geomean
from tools.store.files import RECORD, read_file, record_path
from tools.store.record import EngineChecked, Record, RecordedRow, RecordError, as_record
from tools.store.workload import Shape, Workload, parse_file_name

ROUTINGS = {
    "uniform": "uniform routing",
    "skew_1.0": "skewed routing (Dirichlet 1.0)",
    "skew_0.3": "strongly skewed routing (Dirichlet 0.3)",
    "recorded": "recorded routing",
}


@dataclass(frozen=True)
class Gains:
    """A time over that without a file, by batch size. engine: whose heuristic; routing: as `ROUTINGS`."""

    engine: str
    routing: str
    ratios: Mapping[int, float]

    @property
    def label(self) -> str:
        return (
            f"over {ENGINE_NAMES.get(self.engine, self.engine)}'s heuristic, {ROUTINGS.get(self.routing, self.routing)}"
        )

    @property
    def is_uniform(self) -> bool:
        return self.routing == "uniform"

    @property
    def geomean(self) -> float:
        return geomean(self.ratios.values())

    @property
    def worst(self) -> float:
        return max(self.ratios.values())


@dataclass(frozen=True)
class TunedFile:
    """A tuned file.

    path: below configs/, with slashes. slug: its page's name. known: as `index.json` has it. entries: launch config by
    batch size; empty where the file is broken. record: where it speaks of these very bytes, else None. fault: why
    there is no record or no entry; empty: nothing is wrong. ratios: by engine, time over that engine's heuristic under
    uniform routing, geometric mean of the batch sizes; vLLM's is that of `known`. shapes: of the figures. at: by engine
    and shape, where the record tells them apart.
    """

    path: str
    slug: str
    known: IndexedFile
    workload: Workload | None
    entries: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    record: Record | None = None
    fault: str = ""
    ratios: Mapping[str, float] = field(default_factory=dict)
    shapes: frozenset[Shape] = frozenset()
    at: Mapping[tuple[str, Shape], float] = field(default_factory=dict)

    def ratio(self, engine: str, shape: Shape) -> float | None:
        """For a model of this shape. None: it wasn't measured for that, or not on that engine's kernel."""
        if shape not in self.shapes:
            return None
        return self.at.get((engine, shape), self.ratios.get(engine))

    @property
    def name(self) -> str:
        return self.known.name

    @property
    def device_name(self) -> str:
        return self.workload.device_name if self.workload else ""

    @property
    def tier(self) -> str:
        """As people call it."""
        folder = PurePosixPath(self.path).parent.as_posix()
        return {".": "default tier", "legacy_configs": "legacy tier"}.get(folder, folder)

    @property
    def is_measured(self) -> bool:
        return self.known.geomean_ratio is not None

    @property
    def rows(self) -> Mapping[int, RecordedRow]:
        return self.record.rows if self.record else {}

    @property
    def unbounded(self) -> tuple[int, ...]:
        """The batch sizes at which the entry may be slower than the bound, as the record says itself."""
        return tuple(num_tokens for num_tokens, row in sorted(self.rows.items()) if not row.is_bounded)

    @property
    def gains(self) -> tuple[Gains, ...]:
        return gains_of(self.rows)

    @property
    def beside_shipped(self) -> tuple[EngineChecked, ...]:
        """The newest bench of each engine, where it put this file beside the one that the engine ships."""
        lines = sorted((self.record and self.record.engine_checked) or (), key=lambda line: line.date)
        newest = {line.engine: line for line in lines if line.shipped is not None}
        return tuple(newest[engine] for engine in ENGINE_NAMES if engine in newest)


def gains_of(rows: Mapping[int, RecordedRow]) -> tuple[Gains, ...]:
    """Of a record's rows, an engine and a routing each: of several shapes the one where the entry does worst.

    Rows without parts, as older records have them, tell medians over both heuristics, under uniform routing.
    """
    found: dict[tuple[str, str], dict[int, float]] = {}
    for num_tokens, row in sorted(rows.items()):
        for (engine, routing), ratio in _ratios(row).items():
            found.setdefault((engine, routing), {})[num_tokens] = ratio
    order = [(engine, routing) for engine in ENGINE_NAMES for routing in ROUTINGS]
    return tuple(Gains(*key, found[key]) for key in order if key in found)


def _ratios(row: RecordedRow) -> dict[tuple[str, str], float]:
    ratios: dict[tuple[str, str], float] = {}
    for part in row.parts:
        key = part.engine, part.routing
        ratios[key] = max(part.ratio, ratios.get(key, 0.0))
    if ratios:
        return ratios
    compared = {engine: (pair.latency_us.median, pair.baseline_us.median) for engine, pair in row.by_engine.items()}
    if not compared:
        compared = {engine: (row.latency_us.median, other.median) for engine, other in row.baselines.items()}
        worst = max(
            [(row.latency_us, row.baseline_us), *((each.latency_us, each.baseline_us) for each in row.by_shape)],
            key=lambda pair: pair[0].median / pair[1].median,
        )
        compared["vllm"] = worst[0].median, worst[1].median
    return {(engine, "uniform"): ours / theirs for engine, (ours, theirs) in compared.items()}


@dataclass(frozen=True)
class Place:
    """Where a tuned file lies, before it is read. triton: its folder's."""

    configs: Path
    path: Path
    triton: str | None
    slug: str


def files_in(configs: Path) -> list[Place]:
    """Every tuned file of the store, in order of its path. ConfigError: a folder of it can't be listed."""
    found = index.tuned_files(configs)
    slugs = unique_slugs(path.relative_to(configs).as_posix() for path, _ in found)
    return [Place(configs, path, triton, slugs[path.relative_to(configs).as_posix()]) for path, triton in found]


def read_files(places: Iterable[Place]) -> list[TunedFile]:
    """What is known of them. May run in a process of its own."""
    return [_read(place.configs, place.path, place.triton, place.slug) for place in places]


def _read(configs: Path, path: Path, triton: str | None, slug: str) -> TunedFile:
    relative = PurePosixPath(path.relative_to(configs).as_posix())
    workload = parse_file_name(path.name).workload
    known = IndexedFile(str(relative), (), triton, None, None, None, None, _sha256(path))
    faults, entries, record = list[str](), {}, None
    try:
        entries = dict(read_config(path))
    except ConfigError as error:
        faults.append(f"The file can't be used: {error.reason}.")
    place = record_path(configs, relative)
    try:
        content = read_file(place, RECORD)
        record = as_record(content)
        known = index.of_record(content.document, str(relative), triton, known.sha256)
    except RecordError as error:
        faults.append(f"Its record can't be used: {error}" if os.path.lexists(place) else "It has no record.")
    else:
        if record.config_sha256 != known.sha256:
            record = None
            faults.append("Its record speaks of other bytes.")
    ratios = {gains.engine: gains.geomean for gains in gains_of(record.rows if record else {}) if gains.is_uniform}
    if known.geomean_ratio is not None:
        ratios["vllm"] = known.geomean_ratio
    shapes = frozenset(named.shape for named in record.shapes) if record else frozenset[Shape]()
    at = _at_shapes(record) if record else {}
    return TunedFile(str(relative), slug, known, workload, entries, record, " ".join(faults), ratios, shapes, at)


def _at_shapes(record: Record) -> dict[tuple[str, Shape], float]:
    """Under uniform routing, geometric mean of the batch sizes."""
    found: dict[tuple[str, Shape], list[float]] = {}
    for part in (part for row in record.rows.values() for part in row.parts if part.routing == "uniform"):
        if part.shape < len(record.shapes):
            found.setdefault((part.engine, record.shapes[part.shape].shape), []).append(part.ratio)
    return {key: geomean(ratios) for key, ratios in found.items()}


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def slug_of(text: str) -> str:
    """As a file name and a URL hold it without escapes: letters, digits, dots, minus and underline."""
    short = re.sub(r"\.json$", "", text).replace("device_name=", "").replace("block_shape=", "").replace("dtype=", "")
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", short.replace("=", "")).strip("-.").lower()[:150] or "unnamed"


def unique_slugs(texts: Iterable[str]) -> dict[str, str]:
    """A slug each; of texts with the same one, the later ones get a number."""
    slugs, taken = dict[str, str](), set[str]()
    for text in texts:
        slug, number = slug_of(text), 2
        while slug in taken:
            slug, number = f"{slug_of(text)}-{number}", number + 1
        taken.add(slug)
        slugs[text] = slug
    return slugs
