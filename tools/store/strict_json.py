"""JSON as strictly as a tuned file must be: what parses here parses the same in every engine and language."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

Json = Any
"""A parsed document: dict, list, str, int, float, bool or None."""

_BOM = b"\xef\xbb\xbf"
_MAX_DEPTH = 32
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = " \t\r\n"
_TEXT_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True)
class Fault:
    """Why bytes are not strict JSON. line and column count from 1, where the parser knows them."""

    message: str
    fix: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = "" if self.line is None else f"line {self.line}, column {self.column}: "
        return where + self.message


class _NonFiniteError(ValueError):
    pass


class _NotStrictError(ValueError):
    """What is wrong, the careful way says."""


def parse(data: bytes, *, most_lists: int | None = None) -> tuple[Json, tuple[Fault, ...]]:
    """Parses UTF-8 JSON and lists every fault. The document is None where nothing could be read. Never raises.

    Faults beyond broken syntax: a byte order mark, duplicate keys, NaN and infinities, numbers too
    large for a float, half a surrogate pair, nesting over 32 levels, more objects and lists than most_lists.
    """
    try:
        return _quickly(data, most_lists), ()
    except (ValueError, RecursionError):
        return _carefully(data, most_lists)


def _quickly(data: bytes, most_lists: int | None) -> Json:
    """What is sound, as nearly every document is. ValueError, RecursionError: it may not be."""
    text = data.decode()
    if _too_much(text, most_lists) or _SURROGATE.search(text):
        raise _NotStrictError
    return _STRICT.decode(text)


def _unique(items: list[tuple[str, Json]]) -> dict[str, Json]:
    document = dict(items)
    if len(document) < len(items):
        raise _NotStrictError
    return document


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _NotStrictError
    return value


def _refused(constant: str) -> float:
    raise _NotStrictError(constant)


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refused)


def _carefully(data: bytes, most_lists: int | None) -> tuple[Json, tuple[Fault, ...]]:
    """With every fault."""
    faults: list[Fault] = []
    if not data.strip():
        return None, (Fault("expected a JSON object, found an empty file", "restore the file or remove it"),)
    if data.startswith(_BOM):
        faults.append(Fault("starts with a UTF-8 byte order mark", "save it without one", 1, 1))
        data = data.removeprefix(_BOM)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        byte = f"byte 0x{data[error.start]:02x}"
        faults.append(Fault(f"expected UTF-8, found {byte}", "save the file as UTF-8", line, column))
        return None, tuple(faults)
    if (fault := _too_much(text, most_lists)) is not None:
        return None, (*faults, fault)

    def pairs(items: list[tuple[str, Json]]) -> dict[str, Json]:
        document = dict(items)
        if len(document) < len(items):
            repeated = sorted(key for key, count in Counter(key for key, _ in items).items() if count > 1)
            shown = ", ".join(repr(key[:40]) for key in repeated[:5])
            faults.append(Fault(f"duplicate keys: {shown}", "keep one of each: parsers take the last silently"))
        return document

    def constant(name: str) -> float:
        raise _NonFiniteError(name)

    def number(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise _NonFiniteError(digits if len(digits) <= 40 else f"{digits[:40]}…")
        return value

    try:
        document = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_float=number)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode()
        return document, tuple(faults)
    except json.JSONDecodeError as error:
        faults.append(_syntax_fault(error))
    except _NonFiniteError as error:
        faults.append(Fault(f"{error} is no finite number", "write a finite number"))
    except UnicodeEncodeError:
        faults.append(Fault("holds half a surrogate pair (\\ud800 to \\udfff)", "write the character itself"))
    except (ValueError, RecursionError):
        faults.append(Fault("cannot be read: a number of over 4300 digits", "write numbers of fewer digits"))
    return None, tuple(faults)


_SYNTAX = (
    ("Expecting property name", "expected a key in double quotes", "write the key in double quotes"),
    ("Expecting ',' delimiter", "expected a comma or the closing bracket", "write what is missing there"),
    ("Expecting ':' delimiter", "expected a colon after the key", "write a colon there"),
    ("Expecting value", "expected a value", "write a value there"),
    ("Extra data", "expected the end of the file behind the document, found more", "remove what follows"),
    ("Unterminated string", "expected a double quote that ends the text", "end the text that begins there"),
    ("Invalid control character", "expected a text on one line", "write \\n, \\t or \\u00XX for what stands there"),
    ("Invalid \\", "expected an escape that JSON has", "write the backslash twice, or another escape"),
)
"""How Python's messages begin, what they mean, and the way out."""


def _syntax_fault(error: json.JSONDecodeError) -> Fault:
    """Where a comma is too many or missing, the place is the comma's: Python names what it meets next, lines later."""
    text = error.doc
    before = text[: error.pos].rstrip(_SPACE)
    place, message, fix = error.pos, "not JSON", "correct the syntax at that place"
    for begins, meaning, way_out in _SYNTAX:
        if error.msg.startswith(begins):
            message, fix = f"not JSON: {meaning}", way_out
    closing = text[error.pos : error.pos + 1]
    if error.msg.startswith("Illegal trailing comma") or (closing in ("}", "]") and before.endswith(",")):
        place = error.pos if text[error.pos : error.pos + 1] == "," else len(before) - 1
        message, fix = "not JSON: expected no comma before the closing bracket", "remove the comma"
    elif error.msg.endswith("delimiter") and "\n" in text[len(before) : error.pos]:
        place = len(before)
    line_start = text.rfind("\n", 0, place) + 1
    return Fault(message, fix, text.count("\n", 0, place) + 1, place - line_start + 1)


def _too_much(text: str, most_lists: int | None) -> Fault | None:
    """The fault of a text that nests too deeply or opens too many objects and lists. It is read no further than there.

    Cheap, where the parser's time and memory would go into thousands of small objects.
    """
    if text.count("[") + text.count("{") <= min(_MAX_DEPTH, _MAX_DEPTH if most_lists is None else most_lists):
        return None
    depth = opened = 0
    for match in _TEXT_OR_BRACKET.finditer(text):
        if match[0] in "[{":
            depth += 1
            opened += 1
            if depth > _MAX_DEPTH:
                return Fault(f"nested over {_MAX_DEPTH} levels", "write it flatter: the store's files have few levels")
            if most_lists is not None and opened > most_lists:
                message = f"expected at most {most_lists} objects and lists, found more"
                return Fault(message, "make it smaller: the store's files hold hundreds")
        elif match[0] in "]}":
            depth -= 1
    return None
