"""The project's JSON Schemas (2020-12, in schema/): a fast verdict, and in plain words what is wrong.

jsonschema-rs says within microseconds whether a document follows its schema. Only where it doesn't, jsonschema goes
over the document once more, within bounds, and what it finds is worded here: «64 / num_warps: expected an integer of
at least 1, found "4"».
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.checkout import CHECKOUT, damaged
from tools.store.strict_json import Json
from tools.text import printable

if TYPE_CHECKING:
    import jsonschema_rs
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

SCHEMA_FOLDER = CHECKOUT / "schema"

_FIRST = 100
"""Faults of one document that are listed."""

_MOST_STEPS = 5_000
"""Keywords that jsonschema checks in a document before it stops: a tenth of a second. A record takes 1,700."""

_LONGEST = 80
"""Characters of one key or text of the document that are shown."""

_TOP_LEVEL = "top level"

_Place = tuple[str | int, ...]


@dataclass(frozen=True)
class SchemaFault:
    """A place in a document, as «64 / num_warps», and what is wrong there. Both are short and printable."""

    where: str
    message: str


def is_valid(name: str, document: Json) -> bool:
    """Whether the document follows `schema/NAME.schema.json`, in which an integer is never written as 8.0.

    JSON Schema lets 8.0 pass for an integer; Triton and other readers don't. The document is one of strict JSON.
    """
    return _follows(validator(name), document)


def faults(name: str, document: Json) -> list[SchemaFault]:
    """Every violation of schema `name` in the document, empty where `is_valid`.

    Of very many only the first hundred, and a last line that says so. Keys that one entry lacks are one fault.
    """
    if is_valid(name, document):
        return []
    found, is_cut = _explained(name, document)
    if not found:
        expected = f"expected a document as in schema/{name}.schema.json"
        return [SchemaFault(_TOP_LEVEL, f"{expected}, found one that is too large to say where it differs")]
    if is_cut:
        first = "only the first fault is" if len(found) == 1 else f"only the first {len(found)} faults are"
        found.append(SchemaFault(_TOP_LEVEL, f"{first} listed"))
    return found


# ---------------------------------------------------------------
# The two validators


def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    """jsonschema-rs's validator of `schema/NAME.schema.json`; references between schemas resolve in the folder."""
    return _compiled(f"{name}.schema.json")


def _follows(check: jsonschema_rs.Draft202012Validator, document: Json) -> bool:
    try:
        if not check.is_valid(document):
            return False
        if not _may_hold_whole_float(document):
            return True
        fractions = _with_fractions(document)
        return fractions is document or check.is_valid(fractions)
    except UnicodeEncodeError:  # half a surrogate pair
        return False


@functools.cache
def _compiled(reference: str) -> jsonschema_rs.Draft202012Validator:
    """Of a schema's file, or of a part of it, as in `record.schema.json#/$defs/row`."""
    import jsonschema_rs  # a command line is checked before any document is

    schemas = [(f"json-schema:///{key}", value) for key, value in _schemas().items()]
    try:
        registry = jsonschema_rs.Registry(schemas)
        return jsonschema_rs.Draft202012Validator({"$ref": f"json-schema:///{reference}"}, registry=registry)
    except ValueError as error:  # a file is gone, or holds no schema
        raise damaged(SCHEMA_FOLDER, error) from error


class TooManyStepsError(Exception):
    """A document so large that jsonschema would take seconds for it."""


def explainer(name: str, most_steps: int | None = None) -> Validator:
    """jsonschema's validator of the same schema: slow, but it says what is wrong. Of 8.0 too.

    With `most_steps` it leaves out the parts that jsonschema-rs finds valid, and its methods raise TooManyStepsError
    once more keywords were to be checked than that.
    """
    # Here, because it takes 0.08 s to import, which a sound file needn't wait for.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    steps = itertools.count(1)

    def counted(keyword: _Keyword) -> _Keyword:
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            if most_steps is not None and next(steps) > most_steps:
                raise TooManyStepsError
            yield from keyword(validator, value, instance, schema) or ()

        return check

    def is_integer(_: object, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    refer: _Keyword = Draft202012Validator.VALIDATORS["$ref"]

    def refer_unless_valid(validator: Any, reference: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not (isinstance(instance, dict | list) and _follows(_compiled(reference), instance)):
            yield from refer(validator, reference, instance, schema) or ()

    keywords = {**Draft202012Validator.VALIDATORS, **_OWN_KEYWORDS}
    if most_steps is not None:
        keywords["$ref"] = refer_unless_valid
    strict = extend(
        Draft202012Validator,
        {key: counted(keyword) for key, keyword in keywords.items()},
        type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer),
    )
    resources = [(key, DRAFT202012.create_resource(schema)) for key, schema in _schemas().items()]
    return strict(_schemas()[f"{name}.schema.json"], registry=Registry().with_resources(resources))


@functools.cache
def _schemas() -> Mapping[str, Any]:
    """By file name. References name their file; a schema that names its dialect makes jsonschema go on without us.

    MachineError: one can't be read.
    """
    return {path.name: _schema(path) for path in SCHEMA_FOLDER.glob("*.schema.json")}


def _schema(path: Path) -> Any:
    def part(fields: dict[str, Any]) -> dict[str, Any]:
        reference = fields.get("$ref")
        is_inside = isinstance(reference, str) and reference.startswith("#")
        return {**fields, "$ref": f"{path.name}{reference}"} if is_inside else fields

    try:
        schema = json.loads(path.read_text("utf-8"), object_hook=part)
        del schema["$schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    return schema


_WHOLE = re.compile(r"\.0(?![0-9])")


def _may_hold_whole_float(document: Json) -> bool:
    """Mostly not, which Python's own spelling of the document says at a tenth of a copy's cost."""
    try:
        spelled = repr(document)
        return "e+" in spelled or (".0" in spelled and _WHOLE.search(spelled) is not None)
    except (RecursionError, ValueError):  # nested deeper than calls, an integer of over 4300 digits
        return True


def _with_fractions(document: Json) -> Json:
    """A copy with 0.5 for every whole float, in which a schema that wants integers objects to each of them.

    The document itself where it holds none. 0.5 lies within the bounds of every number in these schemas that isn't an
    integer.
    """
    copied = [document]
    is_other = False
    todo: list[tuple[Any, Any]] = [(copied, 0)]  # a stack: documents can nest deeper than calls
    while todo:
        holder, key = todo.pop()
        value = holder[key]
        if isinstance(value, dict):
            holder[key] = inner = dict(value)
            todo += [(inner, name) for name, below in value.items() if isinstance(below, dict | list | float)]
        elif isinstance(value, list):
            holder[key] = items = list(value)
            todo += [(items, place) for place, below in enumerate(value) if isinstance(below, dict | list | float)]
        elif isinstance(value, float) and value.is_integer():
            holder[key] = 0.5
            is_other = True
    return copied[0] if is_other else document


# ---------------------------------------------------------------
# jsonschema's keywords that differ here

_Keyword = Callable[[Any, Any, Any, Any], Iterable["ValidationError"] | None]


def _const(_: Any, wanted: Json, value: Json, __: Any) -> Iterator[ValidationError]:
    """As strict as the integers: 1.0 isn't 1."""
    yield from _enum(_, [wanted], value, __)


def _enum(_: Any, choices: Sequence[Json], value: Json, __: Any) -> Iterator[ValidationError]:
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        yield _error("another value")


def _additional_properties(check: Any, allowed: Any, value: Json, schema: Any) -> Iterator[ValidationError]:
    """In the document's order; jsonschema's own comes out of a set, and differs from run to run."""
    if not isinstance(value, dict):
        return
    unknown = [key for key in value if key not in schema.get("properties", {})]
    if allowed is False:
        if unknown:
            yield _error("unknown keys")
        return
    for key in unknown:
        yield from check.descend(value[key], allowed, path=key)


def _unique_items(_: Any, wanted: bool, value: Json, __: Any) -> Iterator[ValidationError]:
    """In one pass; jsonschema compares each pair where the items can't be sorted."""
    if wanted and isinstance(value, list) and _repeated(value) is not None:
        yield _error("an item twice")


def _any_of(check: Any, alternatives: Sequence[Any], value: Json, _: Any) -> Iterator[ValidationError]:
    branches = _tried(check, alternatives, value)
    if all(branches):
        yield _error("no alternative fits", itertools.chain.from_iterable(branches))


def _one_of(check: Any, alternatives: Sequence[Any], value: Json, _: Any) -> Iterator[ValidationError]:
    branches = _tried(check, alternatives, value)
    if all(branches):
        yield _error("no alternative fits", itertools.chain.from_iterable(branches))
    elif branches.count([]) > 1:
        yield _error("several alternatives fit")


def _tried(check: Any, alternatives: Sequence[Any], value: Json) -> list[list[ValidationError]]:
    """The first errors of each; jsonschema makes them all, which may be hundreds of thousands."""
    tried = [check.descend(value, schema, schema_path=place) for place, schema in enumerate(alternatives)]
    return [list(itertools.islice(errors, _FIRST + 1)) for errors in tried]


_OWN_KEYWORDS: Mapping[str, _Keyword] = {
    "additionalProperties": _additional_properties,
    "anyOf": _any_of,
    "const": _const,
    "enum": _enum,
    "oneOf": _one_of,
    "uniqueItems": _unique_items,
}


def _error(message: str, context: Iterable[ValidationError] = ()) -> ValidationError:
    from jsonschema import ValidationError

    return ValidationError(message, context=list(context))


def _repeated(items: Sequence[Json]) -> int | None:
    """The place of the first item that stands before it already."""
    seen: set[str] = set()
    for place, item in enumerate(items):
        text = json.dumps(item, sort_keys=True)
        if text in seen:
            return place
        seen.add(text)
    return None


# ---------------------------------------------------------------
# From errors to faults


def _explained(name: str, document: Json) -> tuple[list[SchemaFault], bool]:
    """(the first faults, whether there may be more)"""
    # An entry's missing keys, which different keywords may find, are one line: the one without a message of its own.
    lines: dict[tuple[_Place, str], dict[str, None]] = {}
    is_cut = False
    try:
        errors = explainer(name, _MOST_STEPS).iter_errors(document)
        for error in itertools.chain.from_iterable(map(_leaves, errors)):
            place = tuple(error.absolute_path)
            if error.validator == "required":
                lines.setdefault((place, ""), {}).update(dict.fromkeys(_missing(error)))
            else:
                lines[place, _message(error)] = {}
            if len(lines) > _FIRST:
                is_cut = True
                break
    except (TooManyStepsError, RecursionError):
        is_cut = True
    found = [
        SchemaFault(_shown(place), _shorten(printable(message or _are_missing(list(missing)))))
        for (place, message), missing in itertools.islice(lines.items(), _FIRST)
    ]
    return found, is_cut


def _leaves(error: ValidationError) -> Iterator[ValidationError]:
    """What is wrong with a value that may also be null: of itself it says only that no alternative fits."""
    branches = _branches(error)
    others = [found for found in branches if not (_is_at(found, error, "type") and found[0].validator_value == "null")]
    if len(others) == 1 and not _is_at(others[0], error, *_EXPECTATIONS):
        for inner in others[0]:
            yield from _leaves(inner)
    else:
        yield error


def _branches(error: ValidationError) -> list[list[ValidationError]]:
    """The errors of each alternative of anyOf or oneOf; empty for other keywords."""
    by_alternative: dict[Any, list[ValidationError]] = {}
    for inner in error.context or ():
        by_alternative.setdefault(inner.relative_schema_path[0], []).append(inner)
    return list(by_alternative.values())


def _is_at(branch: Sequence[ValidationError], outer: ValidationError, *keywords: str) -> bool:
    """Whether an alternative fails by one of these keywords alone, on the very value that has the alternatives."""
    (first, *more) = branch
    is_there = len(first.absolute_path) == len(outer.absolute_path) and not _is_of_key(first)
    return is_there and not more and first.validator in keywords


def _is_of_key(error: ValidationError) -> bool:
    """A key's fault has the place of the object that holds the key."""
    return "propertyNames" in error.absolute_schema_path


# ---------------------------------------------------------------
# Words

_EXPECTATIONS = (
    "type",
    "enum",
    "const",
    "pattern",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
"""The keywords that say of a value by itself what it should be."""


def _message(error: ValidationError) -> str:
    """What is wrong, without the place."""
    value, wanted = error.instance, error.validator_value
    keyword = str(error.validator)
    if keyword in _EXPECTATIONS:
        expected = f"expected {_expected(error.schema)}"
        return f"key {_found(value)}: {expected}" if _is_of_key(error) else f"{expected}, found {_found(value)}"
    match keyword:
        case "required":
            return _are_missing(_missing(error))
        case "dependentRequired":
            needed = {key: other for other, keys in wanted.items() if other in value for key in keys}
            return "; ".join(f"{key} is missing, which {needed[key]} needs" for key in needed if key not in value)
        case "additionalProperties":
            known = list(error.schema.get("properties", {}))
            return _are_unknown([key for key in value if key not in known], known)
        case "uniqueItems":
            return f"expected each item once, found {_found(value[_repeated(value) or 0])} again"
        case "not":
            return _not(error.schema, wanted, value)
        case "anyOf" | "oneOf":
            return _alternatives(error)
    return f"expected what the schema's {keyword} says, found {_found(value)}"


def _not(schema: Mapping[str, Any], unwanted: Mapping[str, Any], value: Json) -> str:
    if "title" in schema:
        return f"expected {schema['title']}, found {_found(value)}"
    if "required" in unwanted:
        return f"expected only one of {_joined(unwanted['required'], 'and')}, found both"
    return f"expected another value, found {_found(value)}"


def _alternatives(error: ValidationError) -> str:
    from jsonschema.exceptions import best_match

    branches = _branches(error)
    if not branches:
        return f"expected what one alternative says, found what several say: {_found(error.instance)}"
    if all(_is_at(branch, error, *_EXPECTATIONS) for branch in branches):
        expected = _joined([_expected(branch[0].schema) for branch in branches], "or")
        return f"expected {expected}, found {_found(error.instance)}"
    if all(_is_at(branch, error, "required") for branch in branches):
        return f"{_joined([key for branch in branches for key in _missing(branch[0])], 'or')} is missing"
    return "; or ".join(_from(best_match(branch), len(error.absolute_path)) for branch in branches)


def _from(error: ValidationError, depth: int) -> str:
    """The message with the place below that of the alternatives, which lies `depth` levels deep."""
    place = list(error.absolute_path)[depth:]
    return f"{_shown(place)}: {_message(error)}" if place else _message(error)


def _expected(schema: Mapping[str, Any]) -> str:
    """What a value should be, as its schema's title says, else as its keywords do. A document's title is its name."""
    if "title" in schema and "$id" not in schema:
        most = f", at most {schema['maxLength']} characters" if "maxLength" in schema else ""
        return f"{schema['title']}{most}"
    if "const" in schema:
        return _found(schema["const"])
    if "enum" in schema:
        return _joined([_found(choice) for choice in schema["enum"]], "or")
    named = schema.get("type") or next((kind for keyword, kind in _KIND.items() if keyword in schema), "value")
    types = [named] if isinstance(named, str) else sorted(named, key="null".__ne__)
    return _joined([_of_type(kind, schema) for kind in types], "or")


_KIND: Mapping[str, str] = {
    "pattern": "string",
    "minLength": "string",
    "maxLength": "string",
    "minItems": "array",
    "maxItems": "array",
    "minProperties": "object",
    "maxProperties": "object",
    "minimum": "number",
    "exclusiveMinimum": "number",
    "maximum": "number",
}
"""The type that a keyword speaks of, where the schema names none beside it."""


def _of_type(kind: str, schema: Mapping[str, Any]) -> str:
    match kind:
        case "integer" | "number":
            noun = "an integer" if kind == "integer" else "a number"
            return noun + _range(schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum"))
        case "string":
            return "a text" + _count(schema.get("minLength"), schema.get("maxLength"), "character")
        case "array":
            return "a list" + _count(schema.get("minItems"), schema.get("maxItems"), "item")
        case "object":
            return "an object" + _count(schema.get("minProperties"), schema.get("maxProperties"), "key")
        case "boolean":
            return "true or false"
    return kind


def _range(least: float | None, above: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {_found(least)} to {_found(most)}"
    bounds = (("of at least", least), ("above", above), ("and at most" if above is not None else "of at most", most))
    return "".join(f" {words} {_found(bound)}" for words, bound in bounds if bound is not None)


def _count(least: int | None, most: int | None, noun: str) -> str:
    if least is not None and least == most:
        return f" of {_counted(least, noun)}"
    if least is not None and most is not None:
        return f" of {least} to {_counted(most, noun)}"
    if least is not None:
        return f" of at least {_counted(least, noun)}"
    return "" if most is None else f" of at most {_counted(most, noun)}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _found(value: Json) -> str:
    """A value as JSON; of a long or nested one how much it is."""
    match value:
        case str():
            shown = json.dumps(value[:_LONGEST], ensure_ascii=False)
            return shown if len(value) <= _LONGEST else f'{shown[:-1]}…" ({len(value)} characters)'
        case dict():
            return f"an object of {_counted(len(value), 'key')}" if value else "an empty object"
        case list():
            return f"a list of {_counted(len(value), 'item')}" if value else "an empty list"
        case int() if abs(value) >= 10**40:
            return "an integer of over 40 digits"
    return json.dumps(value)


def _missing(error: ValidationError) -> list[str]:
    return [key for key in error.validator_value if key not in error.instance]


def _are_missing(keys: Sequence[str]) -> str:
    return f"{_joined(keys, 'and')} {'is' if len(keys) == 1 else 'are'} missing"


def _are_unknown(keys: Sequence[str], known: Sequence[str]) -> str:
    """The first few of them, and for one that is misspelt how it is spelt."""
    shown = [_key(key) + _alike(key, known) for key in keys[:5]]
    more = [f"{len(keys) - 5} more"] if len(keys) > 5 else []
    return f"unknown {'key' if len(keys) == 1 else 'keys'} {_joined([*shown, *more], 'and')}"


def _alike(key: str, known: Sequence[str]) -> str:
    alike = difflib.get_close_matches(key[:_LONGEST], known, 1, 0.75)
    return f" (did you mean {alike[0]}?)" if alike else ""


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w.+-]+", key) and len(key) <= _LONGEST else _found(key)


def _joined(parts: Sequence[str], word: str) -> str:
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}" if len(parts) > 1 else parts[0]


def _shown(place: Iterable[str | int]) -> str:
    parts = [_shorten(printable(_shorten(str(part), _LONGEST)), 2 * _LONGEST) for part in itertools.islice(place, 32)]
    return _shorten(" / ".join(parts)) or _TOP_LEVEL


def _shorten(text: str, limit: int = 300) -> str:
    """From the middle: a message begins with what was expected, and ends with what was found."""
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[1 - limit // 2 :]}"
