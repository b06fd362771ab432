"""The project's JSON Schemas (2020-12, in schema/), compiled once, with faults worded for people."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass

import jsonschema_rs

from tools.checkout import CHECKOUT
from tools.store.strict_json import Json

SCHEMA_FOLDER = CHECKOUT / "schema"

_NO_NULL = ' is not of type "null"'

_FIRST = 100
_MOST_COPIED = 5_000_000
"""Violations times characters of the document, from which on violations are no longer worded one by one."""


@dataclass(frozen=True)
class SchemaFault:
    """A place in a document, as «64 / num_warps», and what is wrong there."""

    where: str
    message: str


@functools.cache
def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    """The compiled schema `schema/NAME.schema.json`; references between schemas resolve inside the folder."""
    schemas = {path.name: json.loads(path.read_text("utf-8")) for path in SCHEMA_FOLDER.glob("*.schema.json")}
    registry = jsonschema_rs.Registry([(f"json-schema:///{key}", value) for key, value in schemas.items()])
    return jsonschema_rs.Draft202012Validator(schemas[f"{name}.schema.json"], registry=registry)


def faults(name: str, document: Json) -> list[SchemaFault]:
    """Every violation of schema `name` in the document, empty where it is valid.

    Of a large document with very many violations only the first hundred and the number of the others. A number
    like 8.0 where an integer is due is one too: JSON Schema lets it pass, Triton and other readers don't.
    """
    found = _violations(name, document)
    if len(found) > _FIRST:
        return found
    return [*found, *_floats_for_integers(name, document, {fault.where for fault in found})]


def _violations(name: str, document: Json) -> list[SchemaFault]:
    check = validator(name)
    if check.is_valid(document):
        return []
    errors = check.evaluate(document).errors()
    # Each error that iter_errors makes holds copies of its surroundings: a megabyte of wrong keys would take terabytes.
    if len(errors) * len(repr(document)) > _MOST_COPIED:
        first = [SchemaFault(_place(error["instanceLocation"]), _shorten(error["error"])) for error in errors[:_FIRST]]
        others = len(errors) - len(first)
        return [*first, SchemaFault("top level", f"{others} further violations")] if others else first
    return [
        SchemaFault(_shorten(" / ".join(map(str, error.instance_path))) or "top level", _shorten(error.message))
        for outer in check.iter_errors(document)
        for error in _inner(outer)
    ]


def _inner(error: jsonschema_rs.ValidationError) -> Iterator[jsonschema_rs.ValidationError]:
    """What is wrong with a value that may also be null: itself it says only that no alternative fits."""
    alternatives = getattr(error.kind, "context", None) or []
    others = [found for found in alternatives if not (len(found) == 1 and found[0].message.endswith(_NO_NULL))]
    if len(others) == len(alternatives) - 1 == 1:
        for inner in others[0]:
            yield from _inner(inner)
    else:
        yield error


def _floats_for_integers(name: str, document: Json, known: set[str]) -> Iterator[SchemaFault]:
    """Whole floats are fractions in a copy of the document; where the schema then objects, it wants an integer."""
    whole: dict[str, float] = {}
    fractions = _as_fractions(document, "", whole)
    errors = validator(name).evaluate(fractions).errors() if whole else []
    for pointer in dict.fromkeys(error["instanceLocation"] for error in errors):
        if pointer in whole and _place(pointer) not in known:
            yield SchemaFault(_place(pointer), f"expected an integer, found {whole[pointer]!r}")


def _as_fractions(value: Json, pointer: str, whole: dict[str, float]) -> Json:
    """The value with 0.5 for every whole float; `whole` takes up each by its JSON pointer."""
    if isinstance(value, dict):
        escaped = {key: str(key).replace("~", "~0").replace("/", "~1") for key in value}
        return {key: _as_fractions(inner, f"{pointer}/{escaped[key]}", whole) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_fractions(inner, f"{pointer}/{place}", whole) for place, inner in enumerate(value)]
    if isinstance(value, float) and value.is_integer():
        whole[pointer] = value
        return 0.5  # lies within the bounds of every number in these schemas that isn't an integer
    return value


def _place(pointer: str) -> str:
    parts = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
    return _shorten(" / ".join(parts)) or "top level"


def _shorten(message: str, limit: int = 200) -> str:
    """From the middle: a message begins with what was found, and ends with what was expected."""
    return message if len(message) <= limit else f"{message[: limit // 2]}…{message[1 - limit // 2 :]}"
