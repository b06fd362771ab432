"""What a survey found: each file that an engine ships for a GPU, over having none, and beside ours. Pure.

schema/survey.schema.json describes the document. Reading checks nothing that the schema does: `Survey.read` takes a
document that is valid, `read_survey` a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fused_moe_configs.naming import ENGINE_NAMES
from kernels.problem import Flavour
from tools.errors import UserError
from tools.measure.panel import LARGEST_RATIO, Ratio
from tools.measure.statistics import geomean
from tools.store import schemas
from tools.store.files import read_file
from tools.store.record import Environment, HeuristicVersion, ShapeOfModels
from tools.store.strict_json import Json
from tools.store.workload import Layout, parse_file_name
from tools.text import cell, code, counted, shown_path, table

SCHEMA_VERSION = 1


class SurveyError(UserError):
    """A file that holds no survey."""


@dataclass(frozen=True)
class SurveyRow:
    """One batch size of one shape: medians over blocks in µs, of up and down together, and paired ratios.

    shipped and ours: over the heuristic. over_shipped: ours over the shipped file. None: there is none, or it failed;
    failure says why one of them has no time, and is empty where all have one.
    """

    num_tokens: int
    heuristic_us: float | None
    shipped_us: float | None
    ours_us: float | None = None
    shipped: Ratio | None = None
    ours: Ratio | None = None
    over_shipped: Ratio | None = None
    failure: str = ""

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> SurveyRow:
        ratios = {name: _ratio(document[name]) for name in ("shipped", "ours", "over_shipped")}
        return cls(**{**document, **ratios})

    def to_json(self) -> dict[str, Json]:
        """Inverse of `read`."""
        return {name: dict(vars(v)) if isinstance(v, Ratio) else v for name, v in vars(self).items()}

    @property
    def fails(self) -> bool:
        """Whether the shipped file has no time. That the heuristic or ours has none says nothing of it."""
        return bool(self.failure) and self.shipped_us is None


def _ratio(document: Mapping[str, Json] | None) -> Ratio | None:
    return None if document is None else Ratio(**document)


@dataclass(frozen=True)
class SurveyedShape:
    """A shape behind the file's name, with the models that have it."""

    shape: ShapeOfModels
    rows: tuple[SurveyRow, ...]

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> SurveyedShape:
        return cls(ShapeOfModels.read(document["shape"]), tuple(map(SurveyRow.read, document["rows"])))

    def to_json(self) -> dict[str, Json]:
        """Inverse of `read`."""
        return {"shape": self.shape.to_json(), "rows": [row.to_json() for row in self.rows]}


@dataclass(frozen=True)
class Total:
    """Of ratios of time: the geometric mean, the worst row with its batch size, rows that are more than 2 % slower."""

    geomean: float
    worst: float
    worst_at: int
    slower_rows: int

    @property
    def loses(self) -> bool:
        """On average, or on a row beyond doubt."""
        return self.geomean > 1.0 or self.slower_rows > 0


@dataclass(frozen=True)
class SurveyedFile:
    """name: as this store spells it. file, down: below the engine's folder; ours: below configs. None: there is none.

    unmeasured: shapes that the registry has behind the name and this survey doesn't.
    """

    name: str
    file: str
    down: str | None
    ours: str | None
    shapes: tuple[SurveyedShape, ...]
    unmeasured: int = 0

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> SurveyedFile:
        return cls(**{**document, "shapes": tuple(map(SurveyedShape.read, document["shapes"]))})

    def to_json(self) -> dict[str, Json]:
        """Inverse of `read`."""
        return {**vars(self), "shapes": [shape.to_json() for shape in self.shapes]}

    @property
    def rows(self) -> tuple[SurveyRow, ...]:
        return tuple(row for shape in self.shapes for row in shape.rows)

    @property
    def shipped_total(self) -> Total | None:
        """The shipped file over the heuristic. None: no row ran both."""
        return _total((row.num_tokens, row.shipped) for row in self.rows)

    @property
    def ours_total(self) -> Total | None:
        """Our file over the heuristic."""
        return _total((row.num_tokens, row.ours) for row in self.rows)

    @property
    def over_shipped_total(self) -> Total | None:
        """Our file over the shipped one."""
        return _total((row.num_tokens, row.over_shipped) for row in self.rows)

    @property
    def failures(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(row.failure for row in self.rows if row.failure))

    @property
    def fails(self) -> bool:
        """Whether the shipped file does, on some row."""
        return any(row.fails for row in self.rows)

    @property
    def loses(self) -> bool:
        """Whether the shipped file loses to having none. One that fails loses."""
        total = self.shipped_total
        return self.fails or (total is not None and total.loses)


def _total(found: Iterable[tuple[int, Ratio | None]]) -> Total | None:
    ratios = [(num_tokens, ratio) for num_tokens, ratio in found if ratio is not None]
    if not ratios:
        return None
    worst_at, worst = max(ratios, key=lambda each: each[1].mean)
    slower = sum(ratio.is_slower for _, ratio in ratios)
    return Total(geomean(ratio.mean for _, ratio in ratios), worst.mean, worst_at, slower)


@dataclass(frozen=True)
class LeftOut:
    """A file that is shipped for the GPU and isn't measured, or not at all shapes. is_missing: it could have been."""

    file: str
    reason: str
    is_missing: bool = False


@dataclass(frozen=True)
class Survey:
    """date: YYYY-MM-DD, in UTC. heuristic: which one the engine's is, as timed. gpu_seconds: that timing took."""

    engine: Flavour
    version: str
    date: str
    environment: Environment
    heuristic: HeuristicVersion
    batch_sizes: tuple[int, ...]
    gpu_seconds: float
    files: tuple[SurveyedFile, ...]
    left_out: tuple[LeftOut, ...]

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> Survey:
        """A document that is valid by schema/survey.schema.json."""
        fields = {key: value for key, value in document.items() if key != "schema_version"}
        return cls(
            **{
                **fields,
                "engine": Flavour(document["engine"]),
                "environment": Environment.read(document["environment"]),
                "heuristic": HeuristicVersion(**document["heuristic"]),
                "batch_sizes": tuple(document["batch_sizes"]),
                "files": tuple(map(SurveyedFile.read, document["files"])),
                "left_out": tuple(LeftOut(**each) for each in document["left_out"]),
            }
        )

    def to_json(self) -> dict[str, Json]:
        """Inverse of `read`."""
        return {
            "schema_version": SCHEMA_VERSION,
            **vars(self),
            "engine": self.engine.value,
            "environment": self.environment.to_json(),
            "heuristic": dict(vars(self.heuristic)),
            "batch_sizes": list(self.batch_sizes),
            "files": [file.to_json() for file in self.files],
            "left_out": [dict(vars(each)) for each in self.left_out],
        }

    @property
    def is_whole(self) -> bool:
        """Whether all that was to be measured was: every file, at each of its shapes."""
        return not any(each.is_missing for each in self.left_out)

    @property
    def unmeasured(self) -> frozenset[str]:
        """Names that the engine ships a file for, none of which was measured; as this store spells them."""
        layout = Layout(self.engine.value)
        names = (parse_file_name(PurePosixPath(each.file).name, layout) for each in self.left_out)
        left_out = {name.workload.file_name() for name in names if name.workload is not None}
        return frozenset(left_out - {file.name for file in self.files})


_FIX = "Fix: write it anew, by portfolio survey, or remove it."


def read_survey(path: Path) -> Survey:
    """SurveyError: unreadable, or no survey."""
    content = read_file(path)
    if content.faults:
        raise SurveyError(f"{shown_path(path)}: expected a survey, found {content.faults[0].message}. {_FIX}")
    if faults := schemas.faults("survey", content.document):
        raise SurveyError(f"{shown_path(path)}: {faults[0].where}: {faults[0].message}. {_FIX}")
    return Survey.read(content.document)


def to_text(survey: Survey) -> str:
    """The document as it is written."""
    return json.dumps(survey.to_json(), indent=1, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------
# For people


@dataclass(frozen=True)
class Figures:
    """Of all surveyed files over having none. geomean None: no file ran."""

    files: int
    geomean: float | None
    slower_files: int
    files_with_slower_rows: int
    slower_rows: int
    rows: int
    failing: int


def figures(files: Sequence[SurveyedFile], *, ours: bool = False) -> Figures:
    """Of the shipped files, or of ours where there are such. A file counts once in the mean, whatever its rows."""
    kept = [file for file in files if not ours or file.ours is not None]
    totals = [total for file in kept if (total := file.ours_total if ours else file.shipped_total) is not None]
    return Figures(
        files=len(kept),
        geomean=geomean(total.geomean for total in totals) if totals else None,
        slower_files=sum(total.geomean > 1.0 for total in totals),
        files_with_slower_rows=sum(total.slower_rows > 0 for total in totals),
        slower_rows=sum(total.slower_rows for total in totals),
        rows=sum((row.ours if ours else row.shipped) is not None for file in kept for row in file.rows),
        failing=sum(file.fails for file in kept),
    )


def to_markdown(survey: Survey) -> str:
    """The board: three figures, a line a file, the worst first, and what isn't measured."""
    name, environment = ENGINE_NAMES[survey.engine], survey.environment
    lines = [
        f"# What {name} {survey.version} ships for the {environment.device_name}",
        "",
        f"Measured on {survey.date} with Triton {environment.triton} on {name}'s own kernel, uniform routing, "
        f"M = {', '.join(map(str, survey.batch_sizes))}, each file as {name} reads it. Ratios of time, up and down "
        f"together: less is faster. Slower: more than {(LARGEST_RATIO - 1.0) * 100:.0f} % on average, and beyond doubt "
        "slower at all.",
        "",
        *(f"- {line}" for line in _summary(survey)),
        "",
    ]
    ranked = sorted(survey.files, key=_badness, reverse=True)
    head = ["file", "shipped / none", "worst row", "slower rows", "ours / none", "worst row", "ours / shipped"]
    lines += table(head, [_line(file) for file in ranked]) if ranked else ["No file was measured."]
    failing = [(file, failure) for file in ranked for failure in file.failures]
    if failing:
        lines += ["", "## Rows that fail", ""]
        lines += [f"- {code(file.file)}: {cell(failure)}" for file, failure in failing]
    if survey.left_out:
        lines += ["", "## Not measured", "", *(f"- {code(each.file)}: {cell(each.reason)}" for each in survey.left_out)]
    return "\n".join(lines) + "\n"


def _summary(survey: Survey) -> Iterator[str]:
    name, shipped = ENGINE_NAMES[survey.engine], figures(survey.files)
    if shipped.geomean is None:
        yield "No file ran."
        return
    yield (
        f"{counted(shipped.files, 'file')} of {name}'s: all together they {_saving(shipped.geomean)} of the kernel's "
        f"time (geometric mean {shipped.geomean:.3f})."
    )
    yield (
        f"{shipped.slower_files} slower than having none; {shipped.files_with_slower_rows} with a slower row, "
        f"{shipped.slower_rows} of {shipped.rows} rows; {shipped.failing} that fail on some row."
    )
    ours = figures(survey.files, ours=True)
    if ours.geomean is None:
        yield "This project has no file for any of these names."
        return
    yield (
        f"This project's files for {ours.files} of these names: {ours.geomean:.3f} of no file's time, "
        f"{ours.slower_files} slower than having none, {ours.slower_rows} of {ours.rows} rows slower."
    )


def _saving(ratio: float) -> str:
    """As in «save 2.7 %»; what rounds to nothing is neither."""
    percent = f"{abs(ratio - 1.0) * 100:.1f}"
    return "save nothing" if percent == "0.0" else f"{'cost' if ratio > 1.0 else 'save'} {percent} %"


def _badness(file: SurveyedFile) -> tuple[bool, float, str]:
    total = file.shipped_total
    return file.fails, total.geomean if total else 0.0, file.file


def _line(file: SurveyedFile) -> list[str]:
    shipped, ours, over = file.shipped_total, file.ours_total, file.over_shipped_total
    return [
        code(file.file) + (" with `_down`" if file.down else ""),
        *(_mean(shipped), _worst(shipped), str(shipped.slower_rows) if shipped else "–"),
        *(_mean(ours), _worst(ours), _mean(over)),
    ]


def _mean(total: Total | None) -> str:
    return f"{total.geomean:.3f}" if total else "–"


def _worst(total: Total | None) -> str:
    return f"{total.worst:.3f} (M={total.worst_at})" if total else "–"
