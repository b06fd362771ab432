"""What is known of each tuned file: who reads it, what it gains, since when, and whether main measured it.

A checkout has that in its records. Wheel and sdist leave those at home and hold `configs/index.json` instead, which the
build (`hatch_build.py`) writes with `to_json(build(configs))`; schema/index.schema.json describes it. Standard library
only, Python 3.10, because it runs where a user builds a wheel.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from . import gains
from .evidence import is_signed
from .gains import BesideShipped
from .lookup import (
    INDEX,
    REFERENCE_TRITON,
    RESTORE,
    UNDO,
    USER_FOLDER,
    ConfigError,
    exists,
    read_bytes,
    read_json,
    shown,
    version_folders,
)
from .naming import shape_text

RECORDS = "records"
EVIDENCE = ("verified", "claimed", "published", None)
"""As `IndexedFile` has it."""
SCHEMA_VERSION = 1
MAX_BYTES = 2**26
LARGEST_RATIO = 1e6
"""Of times: no measured one comes near."""
_Json = Any  # a parsed JSON document


class Ratios(NamedTuple):
    """A file's time over that of an engine's heuristic, which runs without it, under uniform routing.

    geomean: geometric mean of its batch sizes. worst: of the one that gains least.
    """

    geomean: float
    worst: float

    @property
    def gain(self) -> str:
        """As in «-1.9 % time»."""
        return f"{(self.geomean - 1) * 100:+.1f} % time"


class IndexedShape(NamedTuple):
    """What a tuned file gains at one of the shapes behind its name.

    K: hidden size. top_k: experts per token. ep: expert parallel size. models, ratios: as in `IndexedFile`, of this
    shape alone; without an engine whose figures don't stand apart.
    """

    K: int
    top_k: int
    ep: int
    fused_shared_experts: int
    models: tuple[str, ...]
    ratios: Mapping[str, Ratios]

    @classmethod
    def of(cls, shape: Mapping[str, _Json], ratios: Mapping[str, Ratios]) -> IndexedShape:
        """shape: as a record has it, and the index after it."""
        return cls(*gains.sizes(shape), tuple(map(str, shape["models"])), ratios)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(K, top_k, ep, fused_shared_experts): what the file's name doesn't say."""
        return self[:4]

    def __str__(self) -> str:
        return shape_text(*self.sizes)

    def to_json(self) -> dict[str, _Json]:
        shape: dict[str, _Json] = {"K": self.K, "top_k": self.top_k}
        shape |= {"ep": self.ep} if self.ep > 1 else {}
        shape |= {"fused_shared_experts": self.fused_shared_experts} if self.fused_shared_experts else {}
        return {"shape": shape | {"models": [*self.models]}, "ratios": _by_engine(self.ratios)}


class IndexedFile(NamedTuple):
    """A tuned file.

    file: path below configs/, with slashes. models: those that read it, as in «mistralai/Mixtral-8x7B-v0.1 tp=2».
    triton: the version that it is for; None for older figures of an unknown one. date: of the figures, YYYY-MM-DD.
    ratios: by engine, each batch size at the shape where the file gains least; empty where nothing was measured here.
    evidence: "verified": main measured these very figures again. "claimed": the author's word. "published": taken over
    from another project, without figures of ours. None: no record speaks of these bytes.
    sha256: of the file's bytes. shapes: those that it was measured at. beside_shipped: by engine, how it compares with
    the file of its name that the engine ships.
    """

    file: str
    models: tuple[str, ...]
    triton: str | None
    date: str | None
    ratios: Mapping[str, Ratios]
    evidence: str | None
    sha256: str
    shapes: tuple[IndexedShape, ...] = ()
    # By its type nobody writes into it; a mapping proxy couldn't go from one of the site's processes to another.
    beside_shipped: Mapping[str, BesideShipped] = {}

    @classmethod
    def without_figures(
        cls, file: str, sha256: str, triton: str | None = None, models: Iterable[str] = ()
    ) -> IndexedFile:
        """Of which no record speaks."""
        return cls(file, tuple(models), triton, None, {}, None, sha256)

    @property
    def name(self) -> str:
        return self.file.rpartition("/")[2]

    def gain(self, engine: str, is_asked: Callable[[IndexedShape], bool] | None = None) -> str:
        """As in «-1.9 % time»: over that without a file, in the engine; or «not measured».

        is_asked: of these shapes, that at which it gains least; of the whole file where none stands apart.
        """
        shapes = filter(is_asked, self.shapes) if is_asked else ()
        asked = [shape.ratios[engine] for shape in shapes if engine in shape.ratios]
        found = max(asked, default=self.ratios.get(engine))
        return found.gain if found else "not measured"

    def ratios_at(self, sizes: tuple[int, int, int, int]) -> Mapping[str, Ratios]:
        """By engine, for a model of these sizes, as `IndexedShape` has them; the whole file's where none stand apart.

        Empty: it wasn't measured for such a model, though it may serve one.
        """
        shape = next((shape for shape in self.shapes if shape.sizes == sizes), None)
        return {**self.ratios, **shape.ratios} if shape else {}

    def to_json(self) -> dict[str, _Json]:
        return {
            **self._asdict(),
            "models": [*self.models],
            "ratios": _by_engine(self.ratios),
            "shapes": [shape.to_json() for shape in self.shapes],
            "beside_shipped": _by_engine(self.beside_shipped),
        }


def _by_engine(found: Mapping[str, Ratios] | Mapping[str, BesideShipped]) -> dict[str, _Json]:
    return {engine: each._asdict() for engine, each in found.items()}


def to_json(files: list[IndexedFile]) -> dict[str, _Json]:
    return {
        "schema_version": SCHEMA_VERSION,
        "files": [entry.to_json() for entry in files],
    }


def to_bytes(files: list[IndexedFile]) -> bytes:
    """The index file's bytes: the same for the same folder."""
    return f"{json.dumps(to_json(files), indent=4, ensure_ascii=False)}\n".encode()


def indexed(configs: Path) -> list[IndexedFile]:
    """From the index where the build wrote one, else from the records.

    ConfigError: one of them is broken, a folder of tuned files has neither, or its index is of other files than are
    there.
    """
    path = configs / INDEX
    if not exists(path):
        files = build(configs)
        if files and not exists(configs / RECORDS):
            wish = "expected the index that the build wrote, or a checkout's records, found neither"
            raise ConfigError(path, f"{wish}. {RESTORE}")
        return files
    known = {entry.file: entry for entry in read(path)}
    there = {file.relative_to(configs).as_posix(): file for file, _ in tuned_files(configs)}
    if left_out := there.keys() - known.keys():
        found = f"expected every tuned file in it, found {len(left_out)} that it leaves out, such as {min(left_out)}"
        raise ConfigError(path, f"{found}. Fix: move what you put there to ${USER_FOLDER}; else {UNDO}")
    if gone := known.keys() - there.keys():
        found = f"expected the files that it names, found {len(gone)} that are not there, such as {shown(min(gone))}"
        raise ConfigError(path, f"{found}. {RESTORE}")
    for file, entry in known.items():
        if entry.sha256 != _sha256(there[file]):
            raise ConfigError(there[file], f"expected the bytes that the package brought, found others. {RESTORE}")
    return [*known.values()]


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


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


def is_store(folder: Path) -> bool:
    """Whether tuned files are kept there as in this repository: beside a registry of devices, or with their records.

    One that can't be read is none.
    """
    try:
        return (folder / "registry" / "devices.json").is_file() or any((folder / RECORDS).glob("E=*.json"))
    except OSError:
        return False


def of_file(configs: Path, path: Path, triton: str | None) -> IndexedFile:
    """Of one of `tuned_files`. ConfigError: it or its record can't be used."""
    file, sha256 = path.relative_to(configs), _sha256(path)
    record_path = configs / RECORDS / file
    if not exists(record_path):
        return IndexedFile.without_figures(file.as_posix(), sha256, triton)
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
        return IndexedFile.without_figures(file, sha256, triton, models)
    measured_with = record.get("environment", {}).get("triton")
    source = "claimed" if record["source"] == "measured" else "published"
    evidence = "verified" if is_signed(record) else source
    ratios = _ratios(gains.gains(record))
    shapes = [
        IndexedShape.of(shape, _ratios(gains.gains_at(record, place)))
        for place, shape in enumerate(record["shapes"] if ratios else ())
    ]
    date = str(record["date"])
    beside = gains.beside_shipped(record)
    return IndexedFile(
        file, tuple(models), triton or measured_with, date, ratios, evidence, sha256, tuple(shapes), beside
    )


def _ratios(found: Iterable[gains.Gain]) -> dict[str, Ratios]:
    return {gain.engine: Ratios(gain.geomean_ratio, gain.worst_ratio) for gain in found if gain.is_uniform}


# ---------------------------------------------------------------
# From the index


class _OtherIndexError(ValueError):
    """What stands there in place of what the build writes, in a few words."""


def read(path: Path) -> list[IndexedFile]:
    """What the build wrote. ConfigError: it isn't that."""
    try:
        document = dict(read_json(path, MAX_BYTES)[1])
        if document["schema_version"] != SCHEMA_VERSION:
            raise _OtherIndexError(f"schema_version {shown(document['schema_version'])}")
        files = [_of_index(dict(pairs)) for pairs in document["files"]]
        if twice := [name for name, count in Counter(each.file for each in files).items() if count > 1]:
            raise _OtherIndexError(f"{shown(twice[0])} twice")
        return files
    except ConfigError as error:
        reason = str(error.reason).partition(". Fix: ")[0]
    except _OtherIndexError as error:
        reason = str(error)
    except KeyError as error:
        reason = f"no {error.args[0]}"
    except (TypeError, ValueError):  # in Python's words, which say nothing to people
        reason = "values of another type"
    raise ConfigError(path, f"expected the index that the build wrote, found another: {reason}. {RESTORE}")


def _of_index(fields: Mapping[str, _Json]) -> IndexedFile:
    values = {key: fields[key] for key in IndexedFile._fields}
    texts = [values["file"], values["sha256"]]
    texts += [values[key] for key in ("triton", "date", "evidence") if values[key] is not None]
    if values["evidence"] not in EVIDENCE:
        raise _OtherIndexError(f"evidence {shown(values['evidence'])} for {shown(values['file'])}")
    if not isinstance(values["models"], list) or not all(isinstance(text, str) for text in texts + values["models"]):
        raise _OtherIndexError(f"fields of another type for {shown(values['file'])}")
    shapes = [dict(pairs) for pairs in values["shapes"]]
    try:
        at = [IndexedShape.of(dict(each["shape"]), _ratios_of_index(each["ratios"])) for each in shapes]
        values |= {"models": tuple(values["models"]), "ratios": _ratios_of_index(values["ratios"]), "shapes": tuple(at)}
        values["beside_shipped"] = _shipped_of_index(values["beside_shipped"])
    except _OtherIndexError as error:
        raise _OtherIndexError(f"{error} for {shown(values['file'])}") from error
    return IndexedFile(**values)


def _ratios_of_index(pairs: _Json) -> dict[str, Ratios]:
    found = {engine: Ratios(**dict(ratios)) for engine, ratios in dict(pairs).items()}
    _check_ratios(ratio for ratios in found.values() for ratio in ratios)
    return found


def _shipped_of_index(pairs: _Json) -> dict[str, BesideShipped]:
    found = {engine: BesideShipped(**dict(shipped)) for engine, shipped in dict(pairs).items()}
    _check_ratios(ratio for each in found.values() for ratio in (each.geomean, each.worst))
    if not all(isinstance(each.sha256, str) for each in found.values()):
        raise _OtherIndexError("a sha256 that is none")
    return found


def _check_ratios(ratios: Iterable[_Json]) -> None:
    if not all(type(ratio) in (int, float) and 0 < ratio <= LARGEST_RATIO for ratio in ratios):
        raise _OtherIndexError("a ratio that is none")
