"""How the registries' JSON is read: field by field, with errors that name the entry and both values."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.checkout import CONFIGS
from tools.errors import UserError
from tools.store.files import read_file

REGISTRY_FOLDER = CONFIGS / "registry"
SCHEMA_VERSION = 1
_CORRECT = "correct it as the schema in schema/ says"


class RegistryError(UserError):
    """A registry that can't be read, or a name that it doesn't hold. The message is for people.

    `reason` and `fix` are the message's parts, for findings that name the file themselves.
    """

    def __init__(self, reason: str, fix: str = "", path: Path | None = None) -> None:
        self.reason, self.fix = reason, fix
        where = "" if path is None else f"{path}: "
        super().__init__(f"{where}{reason}. Fix: {fix}." if fix else f"{where}{reason}")


@dataclass(frozen=True)
class RegistryEntry:
    """One entry of a registry; each fault names the entry, the field and both values."""

    fields: Any
    path: Path
    where: str

    def __post_init__(self) -> None:
        if not isinstance(self.fields, Mapping):
            raise RegistryError(f"{self.where}: expected an object, found {self.fields!r}", _CORRECT, self.path)

    def error(self, key: str, expected: str, found: object) -> RegistryError:
        shown = "nothing" if found is None else repr(found)
        return RegistryError(f"{self.where}: {key}: expected {expected}, found {shown}", _CORRECT, self.path)

    def text(self, key: str) -> str:
        value = self.fields.get(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, "a text", value)
        return value

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if key in self.fields else None

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.fields.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, "a list of texts", value)
        return tuple(value)

    def count(self, key: str) -> int:
        value = self.fields.get(key)
        if not _is_count(value):
            raise self.error(key, "a whole number of at least 1", value)
        return int(value)

    def optional_count(self, key: str) -> int | None:
        return self.count(key) if key in self.fields else None

    def counts(self, key: str) -> tuple[int, ...]:
        value = self.fields.get(key, [])
        if not isinstance(value, list) or not all(map(_is_count, value)):
            raise self.error(key, "a list of whole numbers of at least 1", value)
        return tuple(value)

    def flag(self, key: str, *, absent: bool) -> bool:
        value = self.fields.get(key, absent)
        if not isinstance(value, bool):
            raise self.error(key, "true or false", value)
        return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def read_entries(path: Path, key: str) -> list[Any]:
    """The entries under `key`. RegistryError: no regular file, no strict JSON, another version, no list."""
    content = read_file(path)
    for fault in content.faults:
        raise RegistryError(f"can't be read: {fault}", fault.fix, path)
    document = content.document
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise RegistryError(f"schema_version: expected {SCHEMA_VERSION}, found {version!r}", _CORRECT, path)
    rows = document.get(key)
    if not isinstance(rows, list):
        raise RegistryError(f"{key}: expected a list, found {rows!r}", _CORRECT, path)
    return rows


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


def near(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the known names that look like `name`, ignoring case, the nearest first."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    return [by_folded[hit] for hit in difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)]


def unknown(kind: str, name: str, hits: list[str], where: str) -> str:
    """What to tell about a name that no entry has."""
    hint = f"Did you mean {' or '.join(hits)}? " if hits else ""
    return f"{kind}: expected one of {where}, found {name!r}. {hint}Fix: correct the name, or add the {kind} there."
