"""The record: the evidence beside a tuned file, as schema/record.schema.json has it. Pure.

Reading checks nothing that the schema does: `Record.read` takes a document that is valid, `read_record` a file.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fused_moe_configs.evidence import evidence_sha256, is_signed
from fused_moe_configs.naming import ENGINES
from tools.errors import UserError
from tools.store.files import Content, canonical_record, sha256
from tools.store.strict_json import Json
from tools.store.workload import Shape, Workload

SCHEMA_VERSION = 1

_Line = TypeVar("_Line")


class RecordError(UserError):
    """A record that can't be used. The message begins with what is wrong; the caller knows the path."""


class Source(enum.StrEnum):
    """Where a record's figures come from."""

    MEASURED = "measured"
    """This project's tuner."""
    PUBLISHED = "published"
    """Taken over from elsewhere: no figures of ours."""


class Decision(enum.StrEnum):
    """Why a row holds its entry."""

    PROMOTE = "promote"
    """A challenger, faster than what was there; beside a `_down` file perhaps with its entry alone."""
    RETAIN = "retain"
    """The incumbent: no challenger was faster by the margin."""
    BASELINE = "baseline"
    """The heuristic's own entry: nothing was faster."""


@dataclass(frozen=True)
class Environment:
    """Where figures were measured.

    device_name: as the driver reports it. compute_capability: as in 9.0; gfx942 on AMD. sm_count: multiprocessors or
    compute units. driver None: it can't be read. cuda: CUDA or ROCm version that torch was built with.
    """

    device_name: str
    compute_capability: str
    sm_count: int
    driver: str | None
    cuda: str | None
    torch: str
    triton: str
    python: str

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> Environment:
        """A document that is valid by the schema; the order of its keys is no matter."""
        return cls(**document)

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))


@dataclass(frozen=True)
class Latency:
    """Distribution of a time in µs."""

    median: float
    p10: float
    p90: float
    samples: int

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))

    @property
    def spread_pct(self) -> float:
        """Half of what lies between the 10th and the 90th percentile, in per cent of the median."""
        return 50.0 * (self.p90 - self.p10) / self.median


@dataclass(frozen=True)
class ShapeOfModels:
    """A shape behind the file's name, with the models that have it, as in «mistralai/Mixtral-8x7B-v0.1 tp=2»."""

    shape: Shape
    models: tuple[str, ...] = ()

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> ShapeOfModels:
        return cls(Shape.read(document), tuple(document["models"]))

    def to_json(self) -> dict[str, Json]:
        return {**self.shape.to_json(), "models": list(self.models)}


@dataclass(frozen=True)
class RowOfShape:
    """A row's figures for one of several shapes."""

    shape: Shape
    latency_us: Latency
    baseline_us: Latency

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> RowOfShape:
        return cls(Shape.read(document), Latency(**document["latency_us"]), Latency(**document["baseline_us"]))

    def to_json(self) -> dict[str, Json]:
        times = {"latency_us": self.latency_us.to_json(), "baseline_us": self.baseline_us.to_json()}
        return {**self.shape.to_json(), **times}


@dataclass(frozen=True)
class Compared:
    """The entry's figures and the engine's own heuristic's, over the same blocks."""

    latency_us: Latency
    baseline_us: Latency

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> Compared:
        return cls(Latency(**document["latency_us"]), Latency(**document["baseline_us"]))

    def to_json(self) -> dict[str, Json]:
        return {"latency_us": self.latency_us.to_json(), "baseline_us": self.baseline_us.to_json()}


@dataclass(frozen=True)
class RecordedPart:
    """The entry's time over the engine's heuristic's in one part: the mean, its 95 % interval, the blocks behind it.

    shape: its place among the record's. routing: as `RoutingKind` has it.
    """

    engine: str
    shape: int
    routing: str
    ratio: float
    low: float
    high: float
    blocks: int

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))

    def __str__(self) -> str:
        return f"{self.engine}, {self.routing}" + (f", shape {self.shape}" if self.shape else "")


@dataclass(frozen=True)
class PartName:
    """Which part, without figures."""

    engine: str
    shape: int
    routing: str

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))


@dataclass(frozen=True)
class RecordedBetween:
    """A batch size without an entry. entry_of: the batch size whose entry runs there. ratio: over the heuristic."""

    entry_of: int
    ratio: float
    low: float
    high: float

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))


@dataclass(frozen=True)
class RecordedRow:
    """One batch size; under uniform routing, with several shapes or engines under those where the entry does worst.

    Times in µs, of up and down projection together unless named; in the record of a `_down` file of down alone.
    baseline_us: that engine's heuristic. baselines: other engines' heuristics. bound: what sets the floor, memory or
    compute. by_routing, by_engine: where the entry does worst with each. parts: empty in older records. score: the
    geometric mean over the parts that decide. unbounded: the parts in which the entry may be slower than the bound.
    """

    latency_us: Latency
    baseline_us: Latency
    decision: Decision
    up_us: float | None = None
    down_us: float | None = None
    baselines: Mapping[str, Latency] = field(default_factory=dict)
    incumbent_us: Latency | None = None
    floor_us: float | None = None
    bound: str | None = None
    by_shape: tuple[RowOfShape, ...] = ()
    by_routing: Mapping[str, Compared] = field(default_factory=dict)
    by_engine: Mapping[str, Compared] = field(default_factory=dict)
    parts: tuple[RecordedPart, ...] = ()
    score: float | None = None
    unbounded: tuple[PartName, ...] = ()

    @property
    def is_bounded(self) -> bool:
        return not self.unbounded

    @property
    def on_benchs_kernel(self) -> Compared:
        """What times of main's runs are compared with, which are vLLM's where it reads the name.

        The headline is of the engine where the entry does worst, which may be SGLang.
        """
        return self.by_engine.get("vllm") or Compared(self.latency_us, self.baseline_us)

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> RecordedRow:
        incumbent = document.get("incumbent_us")
        return cls(
            Latency(**document["latency_us"]),
            Latency(**document["baseline_us"]),
            Decision(document["decision"]),
            document.get("up_us"),
            document.get("down_us"),
            {engine: Latency(**latency) for engine, latency in document.get("baselines", {}).items()},
            Latency(**incumbent) if incumbent else None,
            document.get("floor_us"),
            document.get("bound"),
            tuple(RowOfShape.read(row) for row in document.get("by_shape", ())),
            _compared(document.get("by_routing", {})),
            _compared(document.get("by_engine", {})),
            tuple(RecordedPart(**part) for part in document.get("parts", ())),
            document.get("score"),
            tuple(PartName(**part) for part in document.get("unbounded", ())),
        )

    def to_json(self) -> dict[str, Json]:
        baselines = {engine: latency.to_json() for engine, latency in self.baselines.items()}
        return {
            "latency_us": self.latency_us.to_json(),
            **_given(up_us=self.up_us, down_us=self.down_us),
            "baseline_us": self.baseline_us.to_json(),
            **({"baselines": baselines} if baselines else {}),
            "incumbent_us": self.incumbent_us and self.incumbent_us.to_json(),
            **_given(floor_us=self.floor_us, bound=self.bound),
            "decision": self.decision.value,
            **({"by_shape": [row.to_json() for row in self.by_shape]} if self.by_shape else {}),
            **({"by_routing": _pairs_json(self.by_routing)} if self.by_routing else {}),
            **({"by_engine": _pairs_json(self.by_engine)} if self.by_engine else {}),
            **({"parts": [part.to_json() for part in self.parts]} if self.parts else {}),
            **_given(score=self.score),
            **({"bounded": False, "unbounded": [part.to_json() for part in self.unbounded]} if self.unbounded else {}),
        }


@dataclass(frozen=True)
class HeuristicVersion:
    """Which heuristic `baseline_us` and `baselines` are of, as `tools.launch.heuristic_version` has it.

    version: of the engine's release. sha256: of its own default function, or of this project's table of it.
    """

    version: str
    sha256: str

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))


@dataclass(frozen=True)
class TunerRun:
    """How a file was found. seconds: wall time. outcomes: candidates by status.

    cut_short: the search stopped at its time limit with candidates left. least_finalists: of the search, in the row
    that has the fewest. Where rows of an earlier run stay, of both runs. None: not known, as in records from before it
    was written down.
    """

    settings: Mapping[str, Json]
    seconds: float
    kernels_compiled: int
    measurements: int
    outcomes: Mapping[str, int]
    cut_short: bool | None = None
    least_finalists: int | None = None

    def to_json(self) -> dict[str, Json]:
        return _given(**{**vars(self), "settings": dict(self.settings), "outcomes": dict(self.outcomes)})


@dataclass(frozen=True)
class VerifiedWith:
    """A bench under another Triton. worst_loss_pct: of the worst row against the fastest measured beside it."""

    triton: str
    date: str
    worst_loss_pct: float

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> VerifiedWith:
        return cls(**document)

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))


@dataclass(frozen=True)
class CheckedRouting:
    """Ratios over the rows under one routing: time of this file over time without it. slower: cells that lose."""

    worst_ratio: float
    geomean_ratio: float
    slower: int

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))


@dataclass(frozen=True)
class CheckedShipped:
    """Ratios over the rows under uniform routing: time of this file over that of the one that the engine ships.

    sha256: of the shipped file's bytes.
    """

    sha256: str
    worst_ratio: float
    geomean_ratio: float
    best_ratio: float

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))


@dataclass(frozen=True)
class EngineChecked:
    """A bench on an engine's own kernel. Ratios: time of this file over time without it, under uniform routing.

    rule: of the method that judged. shipped: None where the engine ships no file, or it wasn't met. draws: the first
    seed, as the record's own. down_sha256: of the `_down` file that ran with it, None: none did, or an older bench
    didn't say. Older records have neither best_ratio nor rule, by_routing nor draws.
    """

    engine: str
    version: str
    triton: str
    date: str
    worst_ratio: float
    geomean_ratio: float
    by_routing: Mapping[str, CheckedRouting] = field(default_factory=dict)
    draws: Mapping[str, int] = field(default_factory=dict)
    best_ratio: float | None = None
    rule: str | None = None
    shipped: CheckedShipped | None = None
    down_sha256: str | None = None

    def ran_with(self, down: bytes | None) -> bool:
        """Whether it may speak of the file beside this `_down` file (None: alone), as far as it says."""
        return self.down_sha256 is None or (down is not None and self.down_sha256 == sha256(down))

    @property
    def slower(self) -> int:
        """Cells that lose to what runs without the file, under whatever routing."""
        return sum(found.slower for found in self.by_routing.values())

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> EngineChecked:
        by_routing = {kind: CheckedRouting(**found) for kind, found in document.get("by_routing", {}).items()}
        shipped = CheckedShipped(**document["shipped"]) if "shipped" in document else None
        return cls(**{**document, "by_routing": by_routing, "draws": document.get("draws", {}), "shipped": shipped})

    def to_json(self) -> dict[str, Json]:
        by_routing = {kind: found.to_json() for kind, found in self.by_routing.items()}
        return _given(
            engine=self.engine,
            version=self.version,
            triton=self.triton,
            date=self.date,
            worst_ratio=self.worst_ratio,
            geomean_ratio=self.geomean_ratio,
            best_ratio=self.best_ratio,
            rule=self.rule,
            shipped=self.shipped and self.shipped.to_json(),
            down_sha256=self.down_sha256,
            by_routing=by_routing or None,
            draws=dict(self.draws) or None,
        )


@dataclass(frozen=True)
class Verified:
    """The main branch's own re-measurement. Only main's workflow writes it.

    evidence_sha256: of what it vouches for, as `evidence_sha256` has it; of another record it vouches for nothing.
    """

    runner: str
    run_url: str
    commit: str
    date: str
    evidence_sha256: str

    def to_json(self) -> dict[str, Json]:
        return dict(vars(self))


@dataclass(frozen=True)
class Record:
    """The evidence beside a tuned file.

    config_sha256: of the file's bytes. kernel_sha256: of the kernel's source, as `tools.launch.kernel_hash` has it.
    environment, kernel_sha256, tuner, rows: of measured figures. attribution: of published ones.
    heuristics: by engine; None where it isn't known, as in records from before it was written down.
    verified_with, engine_checked: what contributors saw on their own GPUs, claims that `verified` doesn't cover; None
    where the document has no such list, which writing keeps.
    rule: the version of the method that chose the rows. draws: the first seed of each purpose's draws. between: what
    the entries do at batch sizes between theirs.
    """

    workload: Workload
    shapes: tuple[ShapeOfModels, ...]
    source: Source
    config_sha256: str
    date: str
    attribution: str | None = None
    environment: Environment | None = None
    kernel_sha256: str | None = None
    heuristics: Mapping[str, HeuristicVersion] | None = None
    tuner: TunerRun | None = None
    rows: Mapping[int, RecordedRow] = field(default_factory=dict)
    verified_with: tuple[VerifiedWith, ...] | None = None
    engine_checked: tuple[EngineChecked, ...] | None = None
    verified: Verified | None = None
    rule: str | None = None
    draws: Mapping[str, int] = field(default_factory=dict)
    between: Mapping[int, RecordedBetween] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> Record:
        """A document that is valid by the schema."""
        environment, tuner, verified = (document.get(key) for key in ("environment", "tuner", "verified"))
        heuristics = document.get("heuristics")
        return cls(
            Workload.read(document["workload"]),
            tuple(map(ShapeOfModels.read, document["shapes"])),
            Source(document["source"]),
            document["config_sha256"],
            document["date"],
            document.get("attribution"),
            Environment.read(environment) if environment else None,
            document.get("kernel_sha256"),
            {engine: HeuristicVersion(**each) for engine, each in heuristics.items()} if heuristics else None,
            TunerRun(**tuner) if tuner else None,
            {int(num_tokens): RecordedRow.read(row) for num_tokens, row in document.get("rows", {}).items()},
            _lines(VerifiedWith.read, document.get("verified_with")),
            _lines(EngineChecked.read, document.get("engine_checked")),
            Verified(**verified) if verified else None,
            document.get("rule"),
            document.get("draws", {}),
            {int(num_tokens): RecordedBetween(**found) for num_tokens, found in document.get("between", {}).items()},
        )

    def to_json(self) -> dict[str, Json]:
        """In the order in which every record is written."""
        return {
            "schema_version": SCHEMA_VERSION,
            "workload": self.workload.to_json(),
            "shapes": [shape.to_json() for shape in self.shapes],
            "source": self.source.value,
            **_given(attribution=self.attribution, environment=self.environment and self.environment.to_json()),
            **_given(kernel_sha256=self.kernel_sha256, heuristics=self._heuristics_json()),
            "config_sha256": self.config_sha256,
            **_given(tuner=self.tuner and self.tuner.to_json()),
            **_given(rule=self.rule, draws=dict(self.draws) or None),
            "date": self.date,
            **_given(rows=self._rows_json() if self.is_measured or self.rows else None),
            **_given(between={str(m): self.between[m].to_json() for m in sorted(self.between)} or None),
            **_given(
                verified_with=None if self.verified_with is None else [line.to_json() for line in self.verified_with],
                engine_checked=None
                if self.engine_checked is None
                else [line.to_json() for line in self.engine_checked],
            ),
            "verified": self.verified and self.verified.to_json(),
        }

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return canonical_record(self.to_json())

    @property
    def is_measured(self) -> bool:
        return self.source is Source.MEASURED

    def measured_beyond(self, shapes: Iterable[ShapeOfModels]) -> tuple[ShapeOfModels, ...]:
        """What the file was measured for that isn't among the shapes, whichever models have them."""
        known = {named.shape for named in shapes}
        return tuple(named for named in self.shapes if named.shape not in known) if self.is_measured else ()

    def speaks_of(self, config: bytes) -> bool:
        """Whether these are the bytes of the tuned file that was recorded."""
        return self.config_sha256 == sha256(config)

    @property
    def evidence_sha256(self) -> str:
        """What `verified` has to name: see the function."""
        return evidence_sha256(self.to_json())

    def is_verified(self, config: bytes) -> bool:
        """Whether main's own run measured this very evidence and these bytes of the tuned file; else it is claimed."""
        return self.verified is not None and is_signed(self.to_json()) and self.speaks_of(config)

    def with_verified(self, line: Verified | None) -> Record:
        """With main's line, which then speaks of this very record whatever it named before; None: with none."""
        return replace(self, verified=line and replace(line, evidence_sha256=self.evidence_sha256))

    def with_verified_with(self, line: VerifiedWith) -> Record:
        """With the line, instead of an older one of the same Triton. Main's word stays: it never covers a claim."""
        kept = (old for old in self.verified_with or () if old.triton != line.triton)
        return replace(self, verified_with=(*kept, line))

    def with_engine_checked(self, line: EngineChecked) -> Record:
        """With the line, instead of an older one of the same engine, version and Triton. `verified` as above.

        What the older one said of the file that the engine ships stays, where the new bench didn't meet that.
        """
        said = (line.engine, line.version, line.triton)
        lines = self.engine_checked or ()
        older = next((old for old in lines if (old.engine, old.version, old.triton) == said), None)
        if line.shipped is None and older is not None:
            line = replace(line, shipped=older.shipped)
        return replace(self, engine_checked=(*(old for old in lines if old is not older), line))

    def without_checks_on(self, engine: str) -> Record:
        """Without what benches on the engine's kernel said; without the list where nothing else is in it."""
        left = tuple(line for line in self.engine_checked or () if line.engine != engine)
        return replace(self, engine_checked=left or None)

    def with_lines_of(self, other: Record) -> Record:
        """With what benches said of another record's file, where that one had the same bytes."""
        if other.config_sha256 != self.config_sha256:
            return self
        return replace(self, verified_with=other.verified_with, engine_checked=other.engine_checked)

    def _heuristics_json(self) -> dict[str, Json] | None:
        if self.heuristics is None:
            return None
        return {engine: self.heuristics[engine].to_json() for engine in ENGINES}

    def _rows_json(self) -> dict[str, Json]:
        return {str(num_tokens): self.rows[num_tokens].to_json() for num_tokens in sorted(self.rows)}


def as_record(content: Content) -> Record:
    """The record that a file holds. RecordError: it can't be read, or is none by the schema."""
    from tools.store import schemas  # a command line is checked without the validators' libraries

    for fault in content.faults:
        raise RecordError(f"{fault}. Fix: {fault.fix}.")
    for schema_fault in schemas.faults("record", content.document):
        raise RecordError(f"{schema_fault.where}: {schema_fault.message}. Fix: see schema/record.schema.json.")
    return Record.read(content.document)


def _compared(document: Mapping[str, Json]) -> dict[str, Compared]:
    return {name: Compared.read(pair) for name, pair in document.items()}


def _pairs_json(pairs: Mapping[str, Compared]) -> dict[str, Json]:
    return {name: pair.to_json() for name, pair in pairs.items()}


def _given(**values: Json) -> dict[str, Json]:
    return {key: value for key, value in values.items() if value is not None}


def _lines(
    read: Callable[[Mapping[str, Json]], _Line], documents: Iterable[Mapping[str, Json]] | None
) -> tuple[_Line, ...] | None:
    return None if documents is None else tuple(read(document) for document in documents)
