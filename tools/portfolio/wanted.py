"""Which files people want for a GPU, most wanted first. Pure: all follows from the registries and from surveys.

A file is wanted where a registered model, placed as people run it on the GPU, asks for its name in an engine whose
backend reads tuned files for such weights. What counts is who reads a name and what is there for them today:

    score = sum over models and engines that read the name of sqrt(checkpoints of the model) x urgency

Checkpoints of one model share its users, so they count by their square root. The urgency is 1 where the engine ships no
file for the name or one that loses to no file (a survey says so), and half of it where a file ships that holds.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fused_moe_configs.serving import parallel_text
from tools.registry.devices import Device
from tools.registry.models import AS_STORED, SIXTEEN_BIT, Asked, ModelRegistry
from tools.registry.shapes import (
    Placed,
    contradiction_of,
    engines_reading,
    placed_on,
    readers,
    readers_served,
)
from tools.registry.sharding import Engine
from tools.store.record import Record
from tools.store.workload import Shape, Workload


class Today(enum.StrEnum):
    """What an engine reads under a name as it is shipped."""

    UNKNOWN = "unknown"
    """No survey of the engine on this GPU measured it."""
    NOTHING = "nothing"
    LOSES = "a file that loses"
    HOLDS = "a file that holds"


URGENCY: Mapping[Today, float] = {Today.UNKNOWN: 1.0, Today.NOTHING: 1.0, Today.LOSES: 1.0, Today.HOLDS: 0.5}


@dataclass(frozen=True)
class Shipped:
    """What surveys say of the files that an engine ships for a GPU.

    loses: by name. unmeasured: names that it ships a file for which none measured. For others it ships none.
    """

    engine: Engine
    loses: Mapping[str, bool]
    unmeasured: frozenset[str] = frozenset()

    def of(self, name: str) -> Today:
        if name in self.unmeasured:
            return Today.UNKNOWN
        if name not in self.loses:
            return Today.NOTHING
        return Today.LOSES if self.loses[name] else Today.HOLDS


@dataclass(frozen=True, order=True)
class Use:
    """One way in which people run the name: a model, split over tp ranks, its experts over ep, in an engine.

    asked: what the model is quantised to while loading.
    """

    tp: int
    ep: int
    model: str
    engine: Engine
    shape: Shape = field(compare=False)
    checkpoints: int = field(default=1, compare=False)
    asked: Asked = field(default=AS_STORED, compare=False)

    def __str__(self) -> str:
        return f"{self.model} {parallel_text(self.tp, self.ep)}"


@dataclass(frozen=True)
class Wanted:
    """A name, and who reads it; the use of the fewest ranks first.

    today: by engine in which a placed model reads it. judges: the engines whose kernels the tuner chooses by, and that
    the file is judged on: also one that reads the name by rule, though it isn't known that people run it so.
    is_placed: False where no model's placement on the GPU gives the name, and the first model of these sizes is used.
    """

    workload: Workload
    uses: tuple[Use, ...]
    today: Mapping[Engine, Today]
    judges: tuple[Engine, ...]
    is_placed: bool = True

    @property
    def name(self) -> str:
        return self.workload.file_name()

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Each (K, top_k, …) that the file must serve, once."""
        return tuple(dict.fromkeys(use.shape for use in self.uses))

    @property
    def models(self) -> tuple[str, ...]:
        """As records name them, «MODEL tp=N», once."""
        return tuple(dict.fromkeys(map(str, self.uses)))

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Those in which a placed model reads the name."""
        return tuple(engine for engine in Engine if engine in self.today)

    @property
    def score(self) -> float:
        readers = {(use.model, use.engine): use.checkpoints for use in self.uses}
        return sum(math.sqrt(count) * URGENCY[self.today[engine]] for (_, engine), count in readers.items())


@dataclass(frozen=True)
class WantedList:
    """What is wanted for a GPU, by rank. notes: a line for each reader that a name can't serve."""

    device: Device
    names: tuple[Wanted, ...]
    notes: tuple[str, ...] = ()


def wanted_on(device: Device, models: ModelRegistry, surveys: Iterable[Shipped] = ()) -> WantedList:
    """surveys: of this GPU, at most one an engine."""
    by_engine = {each.engine: each for each in surveys}
    by_workload: dict[Workload, list[Placed]] = {}
    for placed in placed_on(models, device):
        by_workload.setdefault(placed.shard.workload, []).append(placed)
    found, notes = [], []
    for workload, group in by_workload.items():
        served = readers_served(group)
        if contradiction := contradiction_of(group):
            notes.append(f"{workload.file_name()}: {contradiction}; it is tuned for the first")
        if not served[0].model.gated:
            notes.append(f"{workload.file_name()}: {served[0].model.id} has no gate: nothing here tunes its layer")
            continue
        engines = dict.fromkeys(placed.engine for placed in served)
        today = {e: by_engine[e].of(workload.file_name()) if e in by_engine else Today.UNKNOWN for e in engines}
        uses = tuple(sorted(set(map(_use, served))))
        found.append(Wanted(workload, uses, today, _judges(workload, uses, models)))
    ranked = sorted(found, key=lambda wanted: (-wanted.score, wanted.uses[0].tp, wanted.name))
    return WantedList(device, tuple(ranked), tuple(sorted(notes)))


def unplaced(workload: Workload, models: ModelRegistry, record: Record | None = None) -> Wanted | None:
    """A name that no placement gives, for the first model of these sizes by arithmetic. None: there is none.

    record: of the file that is there: a model whose shape it is measured for goes first.
    """
    measured = {named.shape for named in record.shapes} if record is not None else set()
    reader = min(readers(workload, models), key=lambda each: each.shape not in measured, default=None)
    if reader is None or not reader.model.gated:
        return None
    found, stored = reader.found, reader.model.quantisation
    is_requantised = stored.dtype in SIXTEEN_BIT and workload.dtype is not None
    asked = Asked(workload.dtype, workload.block_shape, workload.per_channel_quant) if is_requantised else AS_STORED
    first, *_ = engines_reading(workload, reader.shape, models)
    engine = Engine(first.value)
    use = Use(found.tp, found.ep, reader.model.id, engine, reader.shape, len(reader.model.ids), asked)
    return Wanted(workload, (use,), {engine: Today.UNKNOWN}, _judges(workload, (use,), models), is_placed=False)


def _judges(workload: Workload, uses: Iterable[Use], models: ModelRegistry) -> tuple[Engine, ...]:
    found = {flavour.value for use in uses for flavour in engines_reading(workload, use.shape, models)}
    return tuple(engine for engine in Engine if engine.value in found)


def _use(placed: Placed) -> Use:
    placement, model = placed.placement, placed.model
    return Use(placement.tp, placement.ep, model.id, placed.engine, placed.shard.shape, len(model.ids))
