"""The project's JSON Schemas (2020-12, in schema/), compiled once, with faults worded for people."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import jsonschema_rs

from tools.strict_json import Json

SCHEMA_FOLDER = Path(__file__).resolve().parent.parent / "schema"

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

    Of a large document with very many violations only the first hundred and the number of the others.
    """
    check = validator(name)
    if check.is_valid(document):
        return []
    errors = check.evaluate(document).errors()
    # Each error that iter_errors makes holds copies of its surroundings: a megabyte of wrong keys would take terabytes.
    if len(errors) * len(repr(document)) > _MOST_COPIED:
        first = [SchemaFault(_place(error["instanceLocation"]), _shorten(error["error"])) for error in errors[:100]]
        others = len(errors) - len(first)
        return [*first, SchemaFault("top level", f"{others} further violations")] if others else first
    return [
        SchemaFault(_shorten(" / ".join(map(str, error.instance_path))) or "top level", _shorten(error.message))
        for error in check.iter_errors(document)
    ]


def _place(pointer: str) -> str:
    parts = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
    return _shorten(" / ".join(parts)) or "top level"


def _shorten(message: str, limit: int = 200) -> str:
    return message if len(message) <= limit else f"{message[: limit - 1]}…"
