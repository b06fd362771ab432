"""What the store has of a wanted name: its file, the method that measured it, and the engines that it is judged on."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from fused_moe_configs.gains import loses
from fused_moe_configs.naming import ENGINE_NAMES
from tools.checkout import reference_triton
from tools.errors import MachineError, UserError
from tools.launch.heuristic_version import FOLLOWED, outdated
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.panel import RULE, PromotionPolicy
from tools.portfolio.progress import ProgressLine
from tools.portfolio.wanted import Wanted
from tools.registry.sharding import Engine
from tools.store.existing import Existing, Place, existing_at
from tools.store.files import version_folder
from tools.store.record import CheckedShipped, EngineChecked, Record
from tools.store.workload import Shape
from tools.tune.policy import PanelPolicy
from tools.tune.request import DEFAULT_BATCH_SIZES


class Standing(enum.StrEnum):
    """How far a name is."""

    DONE = "done"
    """Measured by today's method, its search not cut short and each usual row decided among enough finalists, and
    judged on the kernel of every engine that reads it."""
    HELD = "held"
    """An older method measured it; judged by today's on the same kernels, it loses nowhere."""
    UNJUDGED = "not judged"
    """Measured by today's method, but not judged on the kernel of every engine that reads it."""
    INCOMPLETE = "incomplete"
    """Measured by today's method, but not all that is asked of it; or its `_down` file is lost, or another."""
    OLDER = "older method"
    MISSING = "missing"
    BROKEN = "broken"


GOOD = frozenset({Standing.DONE, Standing.HELD})


@dataclass(frozen=True)
class Method:
    """What figures are measured with today. A file of another is of an older method."""

    triton: str = field(default_factory=reference_triton)
    kernel_sha256: str = field(default_factory=kernel_sha256)
    rule: str = RULE


@dataclass(frozen=True)
class Item:
    """A wanted name and what there is of it. rank: from 1. why: what it lacks, or how it came to stand so.

    record: of this file's measurement. judged: by engine, its newest line. is_older: an older method measured it.
    is_apart: up and down are to be tried apart. unserved: shapes of the name that it wasn't measured for. line: what a
    run wrote of the name last.
    """

    rank: int
    wanted: Wanted
    standing: Standing
    why: tuple[str, ...] = ()
    record: Record | None = None
    judged: Mapping[Engine, EngineChecked] = field(default_factory=dict)
    has_down: bool = False
    is_older: bool = False
    is_apart: bool = False
    unserved: tuple[Shape, ...] = ()
    line: ProgressLine | None = None

    @property
    def name(self) -> str:
        return self.wanted.name

    @property
    def can_hold(self) -> bool:
        """Whether judging says enough of an older file: it was measured for all that the name must serve."""
        return self.record is not None and not self.unserved

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be known of a file that is there."""
        return (*self.why, *_of_judgements(self.judged))

    @property
    def unjudged(self) -> tuple[Engine, ...]:
        return tuple(engine for engine in self.wanted.judges if engine not in self.judged)


def look_up(
    rank: int, wanted: Wanted, configs: Path, line: ProgressLine | None, method: Method, *, down: bool = False
) -> Item:
    """configs: the folder of tiers. line: the last that a run wrote of the name. down: up and down are to be apart."""
    place = Place(configs, PurePosixPath(wanted.name))
    try:
        existing, twin = existing_at(place), existing_at(place.down)
    except MachineError:  # it says nothing of the name
        raise
    except UserError as error:
        return Item(rank, wanted, Standing.BROKEN, (str(error),), line=line)
    if existing is None:
        why = (line.reason,) if line is not None and line.reason else ()
        # A `_down` file alone the tuner replaces, and asks for what that takes.
        return Item(rank, wanted, Standing.MISSING, why, has_down=twin is not None, is_apart=down, line=line)
    record, unproven = _of_measurement(existing.record, existing.data)
    older = (unproven,) if record is None else tuple(_older(record, method))
    judged = {} if record is None else judged_of(record, method.triton, twin.data if twin is not None else None)
    served = {named.shape for named in record.shapes} if record is not None else set()
    unserved = tuple(shape for shape in wanted.shapes if shape not in served)
    if down_fault := _down_fault(place.down, twin):  # only tuning again tells whether there is to be one
        return Item(rank, wanted, Standing.INCOMPLETE, (down_fault,), record=record, is_apart=True, line=line)
    item = Item(
        rank,
        wanted,
        Standing.DONE,
        record=record,
        judged=judged,
        has_down=twin is not None,
        is_older=bool(older),
        is_apart=down,
        unserved=unserved,
        line=line,
    )
    if older:
        holds = [_holds(line, record, method) for line in judged.values()] if record is not None else []
        standing = Standing.HELD if holds and all(holds) and item.can_hold else Standing.OLDER
        item = replace(item, standing=standing, why=(*older, *_unserved(unserved)))
    elif record is not None and (lacks := tuple(_lacks(record, unserved, list(existing.entries), down=down))):
        item = replace(item, standing=Standing.INCOMPLETE, why=lacks)
    if item.standing in GOOD and item.unjudged:
        item = replace(item, standing=Standing.UNJUDGED, why=(*older, f"not judged on {', '.join(item.unjudged)}"))
    return item


def _down_fault(place: Place, twin: Existing | None) -> str:
    """Why the `_down` file isn't the one that its record is of, as a kill in mid-write leaves them. Empty: it is, or
    there is none. twin: what stands at `place`."""
    if twin is None:
        return f"{place.path.name}, with which it was judged, is missing" if place.record_path.exists() else ""
    if twin.record is None:
        return f"{place.path.name} has no record"
    if not twin.record.speaks_of(twin.data):
        return f"{place.path.name} is not what its record is of"
    return ""


def _of_measurement(record: Record | None, data: bytes) -> tuple[Record | None, str]:
    """The record, where it is of a measurement of these bytes; else why there is none."""
    if record is None or not record.is_measured:
        return None, "no record of a measurement"
    if not record.speaks_of(data):
        return None, "its record is of other bytes than the file's"
    return record, ""


def faster_shipped(judged: Mapping[Engine, EngineChecked]) -> dict[Engine, CheckedShipped]:
    """By engine that ships one, the file of its own that was measured to be faster than ours."""
    shipped = {engine: line.shipped for engine, line in judged.items() if line.shipped is not None}
    return {engine: each for engine, each in shipped.items() if is_faster(each)}


def is_faster(shipped: CheckedShipped) -> bool:
    """Whether the engine's own file was measured to be."""
    return loses(shipped.geomean_ratio)


def _of_judgements(judged: Mapping[Engine, EngineChecked]) -> Iterator[str]:
    if slower := [ENGINE_NAMES[engine] for engine, line in judged.items() if line.slower]:
        yield f"a row is slower than without the file on the kernel of {' and '.join(slower)}"
    for engine, shipped in faster_shipped(judged).items():
        yield f"{shipped.geomean_ratio:.3f} of the time of the file that {ENGINE_NAMES[engine]} ships"
    least = 1.0 - PromotionPolicy().min_improvement_pct / 100.0
    if judged and all(line.geomean_ratio > least for line in judged.values()):
        yield "nothing to gain: on the whole within a margin of what runs without a file"


def judged_of(record: Record, triton: str, down: bytes | None) -> dict[Engine, EngineChecked]:
    """By engine, the newest line of the bench under the Triton, of the day of the measurement or later.

    down: the `_down` file beside the file, None: none; a line of another says nothing. Of one day the last one: a
    record's lines stand in the order in which they came.
    """
    lines = sorted(record.engine_checked or (), key=lambda line: line.date)
    return {
        Engine(line.engine): line
        for line in lines
        if line.engine in list(Engine)
        and version_folder(line.triton) == version_folder(triton)
        and line.date >= record.date
        and line.ran_with(down)
    }


def _holds(line: EngineChecked, record: Record, method: Method) -> bool:
    """Whether today's method judged the older file on the engine's kernel, and it loses in no cell."""
    # Judged before our table of the heuristic changed, it was beside another one.
    is_beside_todays = (
        ENGINE_NAMES[line.engine] not in outdated(record) or line.version == FOLLOWED[line.engine].version
    )
    return line.rule == method.rule and not line.slower and is_beside_todays


def _older(record: Record, method: Method) -> Iterator[str]:
    assert record.environment is not None
    if version_folder(record.environment.triton) != version_folder(method.triton):
        yield f"Triton {record.environment.triton}"
    if record.kernel_sha256 != method.kernel_sha256:
        yield "an older kernel"
    if record.rule != method.rule:
        yield f"rule {record.rule or 'of before there were any'}"
    if engines := outdated(record):
        yield f"an older heuristic of {' and '.join(engines)}"


def _unserved(shapes: Sequence[Shape]) -> Iterator[str]:
    yield from (f"not measured for {shape}" for shape in shapes)


def _lacks(record: Record, unserved: Sequence[Shape], batch_sizes: Sequence[int], *, down: bool) -> Iterator[str]:
    yield from _unserved(unserved)
    if missing := [m for m in DEFAULT_BATCH_SIZES if m not in batch_sizes]:
        yield f"no row for {', '.join(map(str, missing))}"
    tuner = record.tuner
    assert tuner is not None  # a measured record has it, by the schema
    if tuner.cut_short is None or tuner.least_finalists is None:
        yield "its record doesn't say whether its search was cut short"
    if tuner.cut_short:
        yield "its search was cut short"
    least = PanelPolicy().finalists
    if tuner.least_finalists is not None and tuner.least_finalists < least:
        yield f"a row was decided among {tuner.least_finalists} finalists, fewer than {least}"
    if down and tuner.settings.get("separate_down") is not True:
        yield "up and down were not tried apart"
