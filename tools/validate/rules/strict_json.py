"""Lenient parsers disagree about duplicate keys, NaN and byte order marks; a strict file reads the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store.config_file import ConfigFile
from tools.validate.model import Context, FileRule, Issue

_KINDS = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """The bytes are one strict JSON object of a sane size."""
    for fault in file.content.faults:
        yield Issue(str(fault), fault.fix)
    if not file.content.faults and not isinstance(file.content.document, dict):
        found = _KINDS.get(type(file.content.document), "a number")
        yield Issue(f"expected an object at the top level, found {found}", "write {batch size: launch config}")


RULE = FileRule("strict-json", "The file is readable, strict JSON with an object at the top.", check)
