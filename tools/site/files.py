"""Every tuned file of the store with what is known of it: what it holds, its record, its gain. Never fails.

What can't be used is said in `fault` and counts as not measured: a page is built of every file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fused_moe_configs import index
from fused_moe_configs.gains import Gain
from fused_moe_configs.gains import gains as gains_of
from fused_moe_configs.index import IndexedFile
from fused_moe_configs.lookup import ConfigError, read_bytes, read_config
from fused_moe_configs.naming import ENGINE_NAMES
from tools.portfolio.stock import is_faster
from tools.store.files import RECORD, read_file, record_path
from tools.store.record import EngineChecked, Record, RecordedRow, RecordError, as_record
from tools.store.workload import Shape, Workload, parse_file_name


@dataclass(frozen=True)
class TunedFile:
    """A tuned file.

    path: below configs/, with slashes. slug: its page's name. known: as `index.json` has it. entries: launch config by
    batch size; empty where the file is broken. record: where it speaks of these very bytes, else None. fault: why
    there is no record or no entry; empty: nothing is wrong. gains: by engine and routing, of that record.
    beside_shipped: the newest bench of each engine, where it put this file beside the one that the engine ships.
    """

    path: str
    slug: str
    known: IndexedFile
    workload: Workload | None
    entries: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    record: Record | None = None
    fault: str = ""
    gains: tuple[Gain, ...] = ()
    beside_shipped: tuple[EngineChecked, ...] = ()

    def ratio(self, engine: str, shape: Shape) -> float | None:
        """For a model of this shape. None: it wasn't measured for that, or not on that engine's kernel."""
        found = self.known.ratios_at((shape.K, shape.top_k, shape.ep, shape.fused_shared_experts)).get(engine)
        return found.geomean if found else None

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
    def is_down(self) -> bool:
        """For the down projection alone, which SGLang alone asks for. Its figures are of that projection."""
        return self.workload is not None and self.workload.down

    @property
    def is_measured(self) -> bool:
        return bool(self.known.ratios)

    @property
    def rows(self) -> Mapping[int, RecordedRow]:
        return self.record.rows if self.record else {}

    @property
    def unbounded(self) -> tuple[int, ...]:
        """The batch sizes at which the entry may be slower than the bound, as the record says itself."""
        return tuple(num_tokens for num_tokens, row in sorted(self.rows.items()) if not row.is_bounded)

    @property
    def behind(self) -> tuple[EngineChecked, ...]:
        """Those of `beside_shipped` where the engine's own file is faster."""
        return tuple(line for line in self.beside_shipped if line.shipped and is_faster(line.shipped))


@dataclass(frozen=True)
class StoredFile:
    """Where a tuned file lies, before it is read. triton: its folder's."""

    configs: Path
    path: Path
    triton: str | None
    slug: str


def files_in(configs: Path) -> list[StoredFile]:
    """Every tuned file of the store, in order of its path. ConfigError: a folder of it can't be listed."""
    found = index.tuned_files(configs)
    slugs = unique_slugs(path.relative_to(configs).as_posix() for path, _ in found)
    return [StoredFile(configs, path, triton, slugs[path.relative_to(configs).as_posix()]) for path, triton in found]


def read_files(places: Iterable[StoredFile]) -> list[TunedFile]:
    """What is known of them. May run in a process of its own."""
    return [_read(place.configs, place.path, place.triton, place.slug) for place in places]


def _read(configs: Path, path: Path, triton: str | None, slug: str) -> TunedFile:
    relative = PurePosixPath(path.relative_to(configs).as_posix())
    workload = parse_file_name(path.name).workload
    known = IndexedFile.without_figures(str(relative), _sha256(path), triton)
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
    gains = gains_of(content.document) if record else ()
    beside = tuple(newest_of_engines(record, lambda line: line.shipped is not None))
    return TunedFile(str(relative), slug, known, workload, entries, record, " ".join(faults), gains, beside)


def newest_of_engines(record: Record | None, is_asked: Callable[[EngineChecked], bool]) -> Iterator[EngineChecked]:
    """Of benches on an engine's own kernel the newest that is asked for, an engine each."""
    lines = sorted((record and record.engine_checked) or (), key=lambda line: line.date)
    newest = {line.engine: line for line in lines if is_asked(line)}
    yield from (newest[engine] for engine in ENGINE_NAMES if engine in newest)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except ConfigError:
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
