"""Faults of a document against a schema, worded for people."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import entry, table
from tools.store import schemas


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


def test_what_may_be_null_is_faulted_by_what_else_it_should_be() -> None:
    path = schemas.SCHEMA_FOLDER.parent / "tests/schema/fixtures/record/valid/all_keys.json"
    document = json.loads(path.read_text("utf-8"))
    document["verified"] = {**document["verified"], "commit": "main"}
    assert schemas.faults("record", document) == [
        schemas.SchemaFault("verified / commit", '"main" does not match "^[0-9a-f]{40}$"')
    ]
    assert schemas.faults("record", {**document, "verified": "yes"}) == [
        schemas.SchemaFault("verified", '"yes" is not of type "object"')
    ]


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


class TestFloatsForIntegers:
    """JSON Schema lets 8.0 pass for an integer; the store doesn't."""

    def record(self, **changes: Any) -> dict[str, Any]:
        path = schemas.SCHEMA_FOLDER.parent / "tests/schema/fixtures/record/valid/all_keys.json"
        return {**json.loads(path.read_text("utf-8")), **changes}

    def test_each_is_a_fault_with_its_place(self) -> None:
        document = self.record(schema_version=1.0)
        document["workload"]["E"] = 8.0
        document["workload"]["block_shape"] = [128, 64.0]
        assert schemas.faults("record", document) == [
            schemas.SchemaFault("schema_version", "expected an integer, found 1.0"),
            schemas.SchemaFault("workload / E", "expected an integer, found 8.0"),
            schemas.SchemaFault("workload / block_shape / 1", "expected an integer, found 64.0"),
        ]

    def test_times_and_ratios_may_be_whole(self) -> None:
        document = self.record()
        latency = {"median": 10.0, "p10": 9.0, "p90": 11.0, "samples": 20}
        document["rows"] = {"1": {"latency_us": latency, "baseline_us": latency, "decision": "promote"}}
        document["tuner"]["seconds"] = 3.0
        assert schemas.faults("record", document) == []

    def test_other_faults_are_listed_too_and_none_twice(self) -> None:
        found = schemas.faults("tuned_config", {"64": entry(num_warps=4.0, num_stages=-1.0, GROUP_SIZE_M="1")})
        assert [fault.where for fault in found] == ["64 / GROUP_SIZE_M", "64 / num_stages", "64 / num_warps"]
