"""Faults of a document against a schema, worded for people."""

from __future__ import annotations

import pytest

from tests.tools.validate.builder import entry, table
from tools import schemas


@pytest.mark.parametrize("path", sorted(schemas.SCHEMA_FOLDER.glob("*.schema.json")), ids=lambda path: path.stem)
def test_every_schema_compiles_with_what_it_refers_to(path: schemas.Path) -> None:
    assert schemas.faults(path.name.removesuffix(".schema.json"), "no object")


def test_a_valid_document_has_no_fault() -> None:
    assert schemas.faults("tuned_config", table()) == []


def test_a_fault_says_where_and_what() -> None:
    assert schemas.faults("tuned_config", {"64": entry(num_warps="4")}) == [
        schemas.SchemaFault("64 / num_warps", '"4" is not of type "integer"')
    ]
    assert [fault.where for fault in schemas.faults("tuned_config", {})] == ["top level"]


def test_every_fault_is_listed() -> None:
    assert len(schemas.faults("tuned_config", table(num_warps=0))) == len(table())


def test_messages_are_short_whatever_the_document_holds() -> None:
    (fault,) = schemas.faults("tuned_config", {"64": entry(num_warps="x" * 10**6)})
    assert len(fault.message) == 200


@pytest.mark.parametrize("keys", [3_000, 80_000])
def test_a_document_of_nothing_but_faults_is_cut_short_and_counted(keys: int) -> None:
    found = schemas.faults("tuned_config", {f"a/b~c{i}": 0 for i in range(keys)})
    assert len(found) == 101
    # a wrong key, a wrong value for each, and too many of them
    assert found[-1] == schemas.SchemaFault("top level", f"{2 * keys + 1 - 100} further violations")
    assert any(fault.where.startswith("a/b~c") for fault in found)
