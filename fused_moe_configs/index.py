"""What is known of each tuned file: who reads it, what it gains, since when, and whether main measured it.

A checkout has that in its records. Wheel and sdist leave those at home and hold `configs/index.json` instead, which the
build (`hatch_build.py`) writes with `to_json(build(configs))`; schema/index.schema.json describes it. Standard library
only, Python 3.10, because it runs where a user builds a wheel.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .evidence import is_signed
from .lookup import REFERENCE_TRITON, ConfigError, exists, read_json, shown, version_folders

INDEX = "index.json"
RECORDS = "records"
SCHEMA_VERSION = 1
MAX_BYTES = 2**26
_Json = Any  # a parsed JSON document


class IndexedShape(NamedTuple):
    """What a tuned file gains at one of the shapes behind its name.

    K: hidden size. top_k: experts per token. ep: expert parallel size. models, geomean_ratio: as in `IndexedFile`, of
    this shape alone; None where its figures don't stand apart.
    """

    K: int
    top_k: int
    ep: int
    fused_shared_experts: int
    models: tuple[str, ...]
    geomean_ratio: float | None

    @classmethod
    def of(cls, shape: Mapping[str, _Json], geomean_ratio: float | None) -> IndexedShape:
        """shape: as a record has it, and the index after it."""
        K, top_k, models = int(shape["K"]), int(shape["top_k"]), tuple(map(str, shape["models"]))
        return cls(K, top_k, shape.get("ep", 1), shape.get("fused_shared_experts", 0), models, geomean_ratio)

    def to_json(self) -> dict[str, _Json]:
        shape: dict[str, _Json] = {"K": self.K, "top_k": self.top_k}
        shape |= {"ep": self.ep} if self.ep > 1 else {}
        shape |= {"fused_shared_experts": self.fused_shared_experts} if self.fused_shared_experts else {}
        return {"shape": shape | {"models": [*self.models]}, "geomean_ratio": self.geomean_ratio}


class IndexedFile(NamedTuple):
    """A tuned file.

    file: path below configs/, with slashes. models: those that read it, as in «mistralai/Mixtral-8x7B-v0.1 tp=2».
    triton: the version that it is for; None for older figures of an unknown one. date: of the figures, YYYY-MM-DD.
    geomean_ratio: its time over that of vLLM's heuristic, which runs without a file, as a geometric mean over its batch
    sizes, each under the shape where it gains least; worst_ratio: that of the worst one. Both None where nothing was
    measured here.
    evidence: "verified": main measured these very figures again. "claimed": the author's word. "published": taken over
    from another project, without figures of ours. None: no record speaks of these bytes.
    sha256: of the file's bytes. shapes: those that it was measured at.
    """

    file: str
    models: tuple[str, ...]
    triton: str | None
    date: str | None
    geomean_ratio: float | None
    worst_ratio: float | None
    evidence: str | None
    sha256: str
    shapes: tuple[IndexedShape, ...] = ()

    @property
    def name(self) -> str:
        return self.file.rpartition("/")[2]

    @property
    def gain(self) -> str:
        """As in «-1.9 % time»: over that without a file."""
        return _gain(self.geomean_ratio)

    def gain_at(self, is_asked: Callable[[IndexedShape], bool]) -> str:
        """As `gain`, of the asked shapes: the one that gains least. Of the whole file where none stands apart."""
        ratios = [each.geomean_ratio for each in self.shapes if each.geomean_ratio is not None and is_asked(each)]
        return _gain(max(ratios, default=self.geomean_ratio))

    def to_json(self) -> dict[str, _Json]:
        shapes = [shape.to_json() for shape in self.shapes]
        return {**self._asdict(), "models": [*self.models], "shapes": shapes}


def _gain(ratio: float | None) -> str:
    return "not measured" if ratio is None else f"{(ratio - 1) * 100:+.1f} % time"


def to_json(files: list[IndexedFile]) -> dict[str, _Json]:
    return {
        "schema_version": SCHEMA_VERSION,
        "files": [entry.to_json() for entry in files],
    }


def to_bytes(files: list[IndexedFile]) -> bytes:
    """The index file's bytes: the same for the same folder."""
    return f"{json.dumps(to_json(files), indent=4, ensure_ascii=False)}\n".encode()


def indexed(configs: Path) -> list[IndexedFile]:
    """From the index where the build wrote one, else from the records. ConfigError: one of them is broken."""
    return read(configs / INDEX) if exists(configs / INDEX) else build(configs)


# ---------------------------------------------------------------
# From records


def build(configs: Path) -> list[IndexedFile]:
    """Of every tuned file below the folder, in order of its path. ConfigError: a file or its record can't be used."""
    return [of_file(configs, path, triton) for path, triton in tuned_files(configs)]


def tuned_files(configs: Path) -> list[tuple[Path, str | None]]:
    """Every tuned file below the folder, in order of its path, and the Triton that its folder is for."""
    folders = [(configs, REFERENCE_TRITON), (configs / "legacy_configs", None)]
    folders += [(folder, ".".join(map(str, version))) for version, folder in version_folders(configs).items()]
    return sorted((path, triton) for folder, triton in folders for path in folder.glob("E=*.json"))


def of_file(configs: Path, path: Path, triton: str | None) -> IndexedFile:
    """Of one of `tuned_files`. ConfigError: it or its record can't be used."""
    file = path.relative_to(configs)
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}. Fix: make it readable") from error
    record_path = configs / RECORDS / file
    if not exists(record_path):
        return IndexedFile(file.as_posix(), (), triton, None, None, None, None, sha256)
    # Not of the pairs that read_json has: its check that no key stands twice is the validator's.
    record = json.loads(read_json(record_path)[0])
    try:
        return of_record(record, file.as_posix(), triton, sha256)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        wish = f"expected a record as schema/record.schema.json has it, found another at {error}"
        raise ConfigError(record_path, f"{wish}. Fix: ./nox -s validate says where") from error


def of_record(record: Mapping[str, _Json], file: str, triton: str | None, sha256: str) -> IndexedFile:
    """Of a file with these bytes beside this record; of what is none by the schema, KeyError, TypeError and others."""
    models = dict.fromkeys(str(model) for shape in record["shapes"] for model in shape["models"])
    if record["config_sha256"] != sha256:
        return IndexedFile(file, tuple(models), triton, None, None, None, None, sha256)
    rows = [*record.get("rows", {}).values()]
    ratios = [_ratio(row) for row in rows]
    worst = round(max(ratios), 4) if ratios else None
    measured_with = record.get("environment", {}).get("triton")
    source = "claimed" if record["source"] == "measured" else "published"
    evidence = "verified" if is_signed(record) else source
    shapes = [IndexedShape.of(shape, _geomean(_ratios_at(shape, record["shapes"], rows))) for shape in record["shapes"]]
    figures = (_geomean(ratios), worst, evidence, sha256, tuple(shapes) if rows else ())
    return IndexedFile(file, tuple(models), triton or measured_with, str(record["date"]), *figures)


def _geomean(ratios: list[float]) -> float | None:
    return round(math.exp(sum(map(math.log, ratios)) / len(ratios)), 4) if ratios else None


def _ratio(row: Mapping[str, _Json]) -> float:
    """The row's time over the heuristic's, of the shape where it gains least."""
    return max(_time_over_heuristics(each) for each in (row, *row.get("by_shape", ())))


def _ratios_at(shape: Mapping[str, _Json], shapes: list[_Json], rows: list[Mapping[str, _Json]]) -> list[float]:
    """Of each row at this shape; empty where some row doesn't say it."""
    if len(shapes) == 1:
        return [*map(_ratio, rows)]
    found = [each for row in rows for each in row.get("by_shape", ()) if _sizes(each) == _sizes(shape)]
    return [*map(_time_over_heuristics, found)] if len(found) == len(rows) else []


def _time_over_heuristics(times: Mapping[str, _Json]) -> float:
    return float(times["latency_us"]["median"] / times["baseline_us"]["median"])


def _sizes(shape: Mapping[str, _Json]) -> tuple[_Json, ...]:
    return tuple(shape.get(key) for key in ("K", "top_k", "ep", "fused_shared_experts"))


# ---------------------------------------------------------------
# From the index


def read(path: Path) -> list[IndexedFile]:
    """What the build wrote. ConfigError: it isn't that."""
    try:
        document = dict(read_json(path, MAX_BYTES)[1])
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {shown(document['schema_version'])}")
        return [_of_index(dict(pairs)) for pairs in document["files"]]
    except ConfigError as error:
        reason = str(error.reason)
    except KeyError as error:
        reason = f"no {error.args[0]}"
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise ConfigError(path, f"expected the index that the build wrote, found another: {reason}. Fix: install again")


def _of_index(fields: Mapping[str, _Json]) -> IndexedFile:
    values = {key: fields[key] for key in IndexedFile._fields}
    ratios = [values[key] for key in ("geomean_ratio", "worst_ratio") if values[key] is not None]
    ratios += [ratio for pairs in values["shapes"] if (ratio := dict(pairs)["geomean_ratio"]) is not None]
    texts = [values["file"], values["sha256"]]
    texts += [values[key] for key in ("triton", "date", "evidence") if values[key] is not None]
    if not isinstance(values["models"], list) or not all(isinstance(text, str) for text in texts + values["models"]):
        raise ValueError(f"fields of another type for {shown(values['file'])}")
    if not all(type(ratio) in (int, float) and ratio > 0 for ratio in ratios):
        raise ValueError(f"a ratio that is none for {shown(values['file'])}")
    shapes = [dict(pairs) for pairs in values["shapes"]]
    at = [IndexedShape.of(dict(each["shape"]), each["geomean_ratio"]) for each in shapes]
    return IndexedFile(**values | {"models": tuple(values["models"]), "shapes": tuple(at)})
