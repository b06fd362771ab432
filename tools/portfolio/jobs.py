"""What is done for a name, as data: which of tuner and bench run, in which order, with which arguments. Pure."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.measure.layer import LayerShape, memory_bytes
from tools.portfolio.engines import EngineHere
from tools.portfolio.stock import GOOD, Item, Standing, faster_shipped
from tools.portfolio.wanted import Wanted
from tools.registry.devices import Device
from tools.registry.shapes import quant_mode_of
from tools.registry.sharding import Engine
from tools.store.record import Record
from tools.tune.request import DEFAULT_BATCH_SIZES, arguments_of
from tools.tune.space import loads_by_descriptors
from tools.tune.subject import ModelSource, Parallel


class Order(enum.StrEnum):
    """What a job does."""

    TUNE = "tune, then judge"
    JUDGE = "judge"
    WHERE_IT_LOSES = "judge, then tune where it loses"


@dataclass(frozen=True)
class JudgeOn:
    """An engine's own kernel. shipped: the file that the engine ships under the name; None: none."""

    engine: str
    kernel: str
    shipped: str | None = None


@dataclass(frozen=True)
class Job:
    """One name. tune: arguments of `python -m tools.tune`, but for where it writes and how many processes it takes."""

    name: str
    device_name: str
    order: Order
    tune: tuple[str, ...]
    judges: tuple[JudgeOn, ...]

    @classmethod
    def read(cls, text: str) -> Job:
        """Inverse of `to_text`."""
        document: dict[str, Any] = json.loads(text)
        judges = tuple(JudgeOn(**each) for each in document["judges"])
        return cls(**{**document, "order": Order(document["order"]), "tune": tuple(document["tune"]), "judges": judges})

    def to_text(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class Skip:
    """Why nothing is done for a name that isn't finished. One line."""

    reason: str


@dataclass(frozen=True)
class TunerBudget:
    """time_budget_s: of the tuner, for one (K, top_k); it takes more for each further one by itself."""

    time_budget_s: float = 90.0

    def budget_of(self, item: Item) -> float:
        """Twice as much where the search was cut short before."""
        tuner = item.record.tuner if item.record is not None else None
        again = item.standing is Standing.INCOMPLETE and tuner is not None and tuner.cut_short
        return self.time_budget_s * (2.0 if again else 1.0)


def job_of(item: Item, device: Device, engines: Mapping[Engine, EngineHere], budget: TunerBudget) -> Job | Skip | None:
    """None: it is finished, as far as these engines can judge it."""
    if item.standing is Standing.BROKEN:
        return Skip("; ".join(item.why))
    judging = [engines[engine] for engine in item.wanted.judges if engine in engines]
    if item.standing in GOOD:
        judging = [here for here in judging if _has_a_rival(item, here)]
        if not judging:
            return None
    elif item.standing is Standing.UNJUDGED:
        unjudged = [here for here in judging if here.engine in item.unjudged]
        if not unjudged:
            return Skip(f"not judged on {', '.join(item.unjudged)}: no source of it at hand. Fix: --engine NAME=PATH")
        judging = judging if item.is_older else unjudged
    if fault := _why_impossible(item.wanted, device):
        return Skip(fault)
    sglang = engines.get(Engine.SGLANG)
    gains_apart = sglang is not None and _gains_apart(item.wanted, device)
    is_apart = item.is_apart or item.has_down or gains_apart
    apart = tried_apart(item.record, sglang.kernel if sglang else None) if is_apart else None
    if isinstance(apart, Skip):
        if _order(item, ()) is Order.TUNE:
            return apart
        apart = TriedApart()  # it is only judged
    tune = tune_arguments(item.wanted, budget.budget_of(item), apart)
    judges = tuple(_judge(here, item.wanted) for here in judging)
    return Job(item.name, device.name, _order(item, judges), tuple(tune), judges)


def _gains_apart(wanted: Wanted, device: Device) -> bool:
    """Whether down with `USE_TMA` gains much: on 15 such names of H100 and H200 3 to 20 % of both projections' time."""
    loads = device.target is not None and loads_by_descriptors(device.target)
    return loads and Engine.SGLANG in wanted.engines and wanted.workload.block_shape == (128, 128)


def _has_a_rival(item: Item, here: EngineHere) -> bool:
    """Whether the engine ships a file under the name, beside which ours wasn't measured: it was judged without. One
    that is only held is judged without, since it stays where it loses nowhere."""
    line = item.judged.get(here.engine) if item.standing is Standing.DONE else None
    return line is not None and line.shipped is None and item.name in here.shipped


def tried_apart(record: Record | None, kernel: Path | None) -> TriedApart | Skip:
    """record: of the file that is tuned again. kernel: SGLang's own, where it is at hand.

    Skip: its `_down` file was tuned on that kernel, so that down may run `USE_TMA`, which is tried with it alone.
    """
    tuner = record.tuner if record is not None else None
    if kernel is None and tuner is not None and "down_kernel" in tuner.settings:
        return Skip(
            "its _down file was tuned on SGLang's kernel, and no source of it is at hand. Fix: --engine sglang=PATH"
        )
    return TriedApart(kernel)


def _order(item: Item, judges: Sequence[JudgeOn]) -> Order:
    if item.standing in GOOD:
        return Order.JUDGE
    if item.is_older and judges and item.can_hold:
        return Order.WHERE_IT_LOSES
    return Order.JUDGE if item.standing is Standing.UNJUDGED else Order.TUNE


def source_of(wanted: Wanted) -> tuple[ModelSource, Engine]:
    """What the tuner is asked for, and whose file of it."""
    first = wanted.uses[0]
    return ModelSource(first.model, Parallel(first.tp, first.ep), first.asked), first.engine


@dataclass(frozen=True)
class TriedApart:
    """Up and down are tried apart. kernel: SGLang's own, where it is at hand: down is tried with USE_TMA too."""

    kernel: Path | None = None


def tune_arguments(wanted: Wanted, budget_s: float, apart: TriedApart | None = None) -> Iterator[str]:
    """Of `python -m tools.tune`, but for where it writes and how many processes it takes."""
    source, engine = source_of(wanted)
    yield from arguments_of(source)
    yield from ("--engine", engine.value, "--time-budget", f"{budget_s:g}", "--format", "json")
    yield from ("--all-shapes",) if wanted.is_placed else ()
    if apart is not None:
        yield "--separate-down"
        yield from ("--kernel", f"{Engine.SGLANG.value}={apart.kernel}") if apart.kernel else ()


def _judge(here: EngineHere, wanted: Wanted) -> JudgeOn:
    shipped = here.shipped.get(wanted.name)
    return JudgeOn(here.engine.value, str(here.kernel), str(shipped) if shipped is not None else None)


def _why_impossible(wanted: Wanted, device: Device) -> str:
    """Empty: the GPU has the memory, and this project the kernel."""
    quant = quant_mode_of(wanted.workload)
    if quant is None:
        return f"no kernel here runs {wanted.workload.dtype}"
    layers = [LayerShape.of(wanted.workload, shape, quant) for shape in wanted.shapes]
    gib = memory_bytes(layers, max(DEFAULT_BATCH_SIZES)) / 2**30
    if device.memory_gib is not None and gib > device.memory_gib:
        return f"not enough memory: expected at least {gib:.1f} GiB, found {device.memory_gib} GiB"
    return ""


def down_names(items: Sequence[Item], count: int) -> tuple[str, ...]:
    """The names of most experts that SGLang reads, which alone reads `_down` files; first those where it ships a faster
    file than ours: its own have USE_TMA for down."""
    read = [item for item in items if Engine.SGLANG in item.wanted.engines]

    def order(item: Item) -> tuple[bool, int, int]:
        return Engine.SGLANG not in faster_shipped(item.judged), -item.wanted.workload.E, item.rank

    return tuple(item.name for item in sorted(read, key=order)[:count])


def bench_arguments(config: Path, judge: JudgeOn, jobs: int, *, with_shipped: bool) -> list[str]:
    """Of `python -m tools.bench`: the file on an engine's own kernel, noted in its record."""
    shipped = ["--against", judge.shipped] if with_shipped and judge.shipped is not None else []
    return [
        *("files", str(config), "--kernel", f"{judge.engine}={judge.kernel}", "--against", "heuristic", *shipped),
        *("--write-record", "--format", "json", "--jobs", str(jobs)),
    ]
