"""Every schema is described, and every keyword in it is exercised by a fixture.

Coverage is measured by mutation: a keyword is taken out (or a choice, or a required key), and some fixture must then
get another number of violations. A keyword that can be lost without a fixture noticing is a keyword without a fixture.
"""

from __future__ import annotations

import copy
import functools
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tools.checkout import CHECKOUT

SCHEMAS = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text("utf-8"))
    for path in sorted((CHECKOUT / "schema").glob("*.schema.json"))
}
FIXTURES = CHECKOUT / "tests" / "schema" / "fixtures"

Pointer = tuple[str | int, ...]

ANNOTATIONS = {"$schema", "$id", "title", "description", "$comment", "examples", "default"}
MAPS_OF_SCHEMAS = {"properties", "$defs", "patternProperties", "dependentSchemas"}
LISTS_OF_SCHEMAS = {"allOf", "anyOf", "oneOf", "prefixItems"}
CONDITION_PARTS = {"if", "then", "else"}
NEVER = "[^\\s\\S]"


def fixtures(kind: str) -> list[Any]:
    paths = sorted(FIXTURES.glob(f"*/{kind}/*.json"))
    return [pytest.param(path.parent.parent.name, path, id=f"{path.parent.parent.name}-{path.stem}") for path in paths]


@functools.cache
def documents(name: str) -> tuple[Any, ...]:
    return tuple(json.loads(path.read_text("utf-8")) for path in sorted((FIXTURES / name).glob("*/*.json")))


def validator(name: str, schema: Any) -> jsonschema_rs.Draft202012Validator:
    pairs = [(f"json-schema:///{key}.schema.json", value) for key, value in {**SCHEMAS, name: schema}.items()]
    return jsonschema_rs.Draft202012Validator(schema, registry=jsonschema_rs.Registry(pairs))


def violations(name: str, schema: Any) -> list[int]:
    """The number of violations of each fixture of `name` against `schema`."""
    check = validator(name, schema)
    return [0 if check.is_valid(document) else len(list(check.iter_errors(document))) for document in documents(name)]


@functools.cache
def usual_violations(name: str) -> list[int]:
    return violations(name, SCHEMAS[name])


def subschemas(schema: Any, at: Pointer = ()) -> Iterator[tuple[Pointer, dict[str, Any]]]:
    """Every schema inside a schema with its place. Boolean schemas are keywords of their parent."""
    if not isinstance(schema, dict):
        return
    yield at, schema
    for key, value in schema.items():
        if key in MAPS_OF_SCHEMAS:
            for name, inner in value.items():
                yield from subschemas(inner, (*at, key, name))
        elif key in LISTS_OF_SCHEMAS:
            for position, inner in enumerate(value):
                yield from subschemas(inner, (*at, key, position))
        elif isinstance(value, dict) and key not in ANNOTATIONS | {"const", "enum"}:
            yield from subschemas(value, (*at, key))


def strings(document: Any) -> Iterator[str]:
    """Every string in a document, keys among them."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict | list | tuple):
        for inner in [*document, *(document.values() if isinstance(document, dict) else ())]:
            yield from strings(inner)


def mutants(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(what was lost, the schema without it) for every keyword, choice, required key and property."""
    for at, inner in subschemas(schema):
        for key, value in inner.items():
            if key in ANNOTATIONS or key == "$defs" or key in CONDITION_PARTS - {"if"}:
                continue
            if key == "type" and "if" in at:
                continue  # a condition's type only spares other types the condition: nothing can tell
            where = "/".join(map(str, (*at, key)))
            if key != "properties":
                yield where, _changed(schema, at, lambda s, key=key: s.pop(key))
            if key in {"required", "enum", "type", *LISTS_OF_SCHEMAS} and isinstance(value, list) and len(value) > 1:
                for position, member in enumerate(value):
                    lost = f"{where}: {member if isinstance(member, str | int) else position}"
                    yield lost, _changed(schema, at, lambda s, key=key, position=position: s[key].pop(position))
            if key == "properties":
                for name in value:
                    yield (
                        f"{where}/{name} ever used",
                        _changed(schema, at, lambda s, n=name: s["properties"].update({n: False})),
                    )
            if key == "pattern":
                yield f"{where} ever matched", _changed(schema, at, lambda s: s.update(pattern=NEVER))


def _changed(schema: dict[str, Any], at: Pointer, change: Any) -> dict[str, Any]:
    mutant = copy.deepcopy(schema)
    inner: Any = mutant
    for step in at:
        inner = inner[step]
    change(inner)
    return mutant


class TestFixtures:
    @pytest.mark.parametrize(("name", "path"), fixtures("valid"))
    def test_a_valid_fixture_is_accepted(self, name: str, path: Path) -> None:
        errors = validator(name, SCHEMAS[name]).iter_errors(json.loads(path.read_text("utf-8")))
        assert [str(error) for error in errors] == []

    @pytest.mark.parametrize(("name", "path"), fixtures("invalid"))
    def test_an_invalid_fixture_has_exactly_one_violation(self, name: str, path: Path) -> None:
        errors = list(validator(name, SCHEMAS[name]).iter_errors(json.loads(path.read_text("utf-8"))))
        assert len(errors) == 1, [str(error)[:500] for error in errors]

    def test_every_fixture_lies_in_a_folder_that_says_its_schema_and_its_kind(self) -> None:
        folders = {path.relative_to(FIXTURES).parts[:-1] for path in FIXTURES.rglob("*") if path.is_file()}
        assert folders == {(name, kind) for name in SCHEMAS for kind in ("valid", "invalid")}

    def test_no_two_fixtures_of_a_schema_are_the_same(self) -> None:
        for name in SCHEMAS:
            texts = [json.dumps(document, sort_keys=True) for document in documents(name)]
            assert len(set(texts)) == len(texts), name


@pytest.mark.parametrize("name", SCHEMAS)
class TestSchemas:
    def test_it_is_a_schema_of_the_2020_12_draft_named_like_its_file(self, name: str) -> None:
        jsonschema_rs.meta.validate(SCHEMAS[name])
        assert SCHEMAS[name]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert SCHEMAS[name]["$id"] == f"{name}.schema.json"

    def test_every_definition_and_property_is_described(self, name: str) -> None:
        """In place, or by what it refers to."""
        bare = [
            "/".join(map(str, at))
            for at, inner in subschemas(SCHEMAS[name])
            if len(at) >= 2 and at[-2] in {"properties", "$defs"} and not CONDITION_PARTS & set(at)
            if not inner.get("description", "").strip() and not ("$ref" in inner and at[-2] == "properties")
        ]
        assert bare == []

    def test_every_pattern_is_said_in_words(self, name: str) -> None:
        """By its title, which is what people read where a value doesn't match."""
        assert [at for at, inner in subschemas(SCHEMAS[name]) if "pattern" in inner and not inner.get("title")] == []

    def test_no_pattern_lets_a_newline_through_at_the_end(self, name: str) -> None:
        """Python's $ matches before it too; hence (?!\\n)$, which says the same in every dialect."""
        for _, inner in subschemas(SCHEMAS[name]):
            if "pattern" not in inner:
                continue
            pattern = inner["pattern"]
            assert pattern.startswith("^")
            assert pattern.endswith("(?!\\n)$")
            fast = jsonschema_rs.Draft202012Validator({"pattern": pattern})
            matching = [text for text in strings(documents(name)) if re.search(pattern, text)]
            assert matching, pattern
            for text in matching:
                assert fast.is_valid(text)
                assert not fast.is_valid(text + "\n")
                assert not re.search(pattern, text + "\n")

    def test_every_keyword_is_exercised_by_a_fixture(self, name: str) -> None:
        survivors = [
            lost for lost, mutant in mutants(SCHEMAS[name]) if violations(name, mutant) == usual_violations(name)
        ]
        assert survivors == []


@pytest.mark.parametrize("name", ["landscape.jsonl.gz", "landscapes/mixtral.jsonl.gz"])
def test_a_recorded_landscape_is_valid_line_by_line(name: str) -> None:
    check = validator("landscape", SCHEMAS["landscape"])
    with gzip.open(CHECKOUT / "tests" / "tools" / "tune" / name, "rt", encoding="utf-8") as lines:
        header, *others = map(json.loads, lines)
    assert "format" in header
    assert len(others) > 10_000
    assert all(map(check.is_valid, [header, *others]))


class TestCoverageItself:
    """The measure must notice what it is there to notice."""

    @pytest.mark.parametrize(
        ("place", "keyword", "value", "lost"),
        [
            (("$defs", "count"), "maximum", 10**9, "$defs/count/maximum"),
            (
                ("$defs", "launch_config", "properties", "grf_mode", "enum"),
                3,
                "64",
                "$defs/launch_config/properties/grf_mode/enum: 64",
            ),
            (
                ("$defs", "launch_config", "properties"),
                "unroll",
                {"$ref": "#/$defs/count"},
                "$defs/launch_config/properties/unroll/$ref",
            ),
            (("$defs", "batch_size"), "maxLength", 20, "$defs/batch_size/maxLength"),
        ],
    )
    def test_a_new_keyword_without_a_fixture_is_found(
        self, place: Pointer, keyword: Any, value: Any, lost: str
    ) -> None:
        def add(inner: Any) -> None:
            if isinstance(inner, list):
                inner.append(value)
            else:
                inner[keyword] = value

        schema = _changed(SCHEMAS["tuned_config"], place, add)
        usual = violations("tuned_config", schema)
        survivors = [place for place, mutant in mutants(schema) if violations("tuned_config", mutant) == usual]
        assert lost in survivors
