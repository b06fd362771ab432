"""How the registries' JSON is read: by its schema, with errors that name the entry."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fused_moe_configs.spelling import did_you_mean
from tools.checkout import CONFIGS
from tools.errors import UserError
from tools.store import schemas
from tools.store.files import read_file
from tools.store.strict_json import Json
from tools.text import printable

REGISTRY_FOLDER = CONFIGS / "registry"
_NAMES = {"devices": "name", "engines": "name", "models": "id"}


class RegistryError(UserError):
    """A registry that can't be read, or a name that it doesn't hold. The message is for people.

    `reason`, `fix` and `path` are the message's parts, for findings that name the file themselves.
    """

    def __init__(self, reason: str, fix: str = "", path: Path | None = None) -> None:
        self.reason, self.fix, self.path = reason, fix, path
        where = "" if path is None else f"{path}: "
        super().__init__(f"{where}{reason}. Fix: {fix}." if fix else f"{where}{reason}")


def read_entries(path: Path, kind: str) -> list[Mapping[str, Any]]:
    """The entries of a registry, KIND.json, valid by schema/KIND.schema.json. RegistryError: they aren't."""
    content = read_file(path)
    for fault in content.faults:
        raise RegistryError(f"can't be read: {fault}", fault.fix, path)
    for where, message in faults_by_name(kind, content.document):
        raise RegistryError(f"{where}: {message}", f"see schema/{kind}.schema.json", path)
    entries: list[Mapping[str, Any]] = content.document[kind]
    return entries


def faults_by_name(kind: str, document: Json) -> Iterator[tuple[str, str]]:
    """(where, what is wrong) for each fault by the schema; an entry goes by its name, where it has one, not its place.

    kind: devices, engines or models.
    """
    entries = document.get(kind) if isinstance(document, Mapping) else None
    for fault in schemas.faults(kind, document):
        place = re.match(rf"{kind} / ([0-9]+)", fault.where)
        entry = entries[int(place[1])] if place and isinstance(entries, list) else None
        name = entry.get(_NAMES[kind]) if isinstance(entry, Mapping) else None
        where = (
            fault.where.replace(place[0], printable(name)[:80], 1) if place and isinstance(name, str) else fault.where
        )
        yield where, fault.message


def check_order(path: Path, names: list[str]) -> None:
    """RegistryError unless the names ascend."""
    for before, after in itertools.pairwise(names):
        if after < before:
            raise RegistryError(f"expected sorted entries, found {after!r} after {before!r}", "sort them", path)


def check_unique(path: Path, names: list[str]) -> None:
    """RegistryError where a name stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise RegistryError(f"expected each name once, found {name!r} twice", "keep one", path)
        seen.add(name)


def unknown(kind: str, name: str, known: Iterable[str], where: str) -> str:
    """What to tell about a name that no entry has, with those that may be meant."""
    hint = did_you_mean(name, known)
    return f"{kind}: expected one of {where}, found {name!r}. {hint}Fix: correct the name, or add the {kind} there."
