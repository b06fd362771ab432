"""Main's own word stands beside what it names, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import NAME, Store, signed, table
from tools.store.files import canonical_config, canonical_record
from tools.store.record import Record
from tools.store.workload import Layout
from tools.validate.rules.verified import RULE


@pytest.fixture
def record(store: Store) -> dict[str, Any]:
    """What the record of a measured file says, without main's word."""
    path = store.measured(store.config(record=False))
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def write(store: Store, record: dict[str, Any]) -> None:
    store.record_of(store.root / NAME).write_bytes(canonical_record(record))


def test_a_word_on_this_very_evidence_is_fine(store: Store, record: dict[str, Any]) -> None:
    assert store.findings(RULE) == []
    write(store, signed(record))
    assert store.findings(RULE) == []


@pytest.mark.parametrize("key", ["rows", "environment", "kernel_sha256", "date", "source", "config_sha256"])
def test_one_that_names_other_evidence_is_an_error(store: Store, record: dict[str, Any], key: str) -> None:
    write(store, {**signed(record), key: "other"})
    (finding,) = store.findings(RULE)
    assert finding.path.endswith(f"records/{NAME}")
    assert finding.message.startswith("verified.evidence_sha256: expected ")
    assert store.findings(RULE, layout=Layout.VLLM) == []


def test_it_does_not_speak_of_a_check_that_a_contributor_claims(store: Store, record: dict[str, Any]) -> None:
    check = {"engine": "vllm", "version": "0.33.0", "triton": "3.8.0", "date": "2026-01-01"}
    forged = {**record, "engine_checked": [{**check, "worst_ratio": 0.5, "geomean_ratio": 0.5}]}
    write(store, {**forged, "verified": signed(record)["verified"]})
    assert store.findings(RULE) == []


def test_one_beside_other_bytes_is_the_record_rules_business(store: Store, record: dict[str, Any]) -> None:
    write(store, signed(record))
    (store.root / NAME).write_bytes(canonical_config(table(num_stages=4)))
    (finding,) = store.findings()
    assert (finding.rule, finding.message.split(":")[0]) == ("record", "config_sha256")


def test_what_it_says_to_do_ends_it(store: Store, record: dict[str, Any]) -> None:
    write(store, {**signed(record), "date": "2026-01-02"})
    (finding,) = store.findings(RULE)
    assert finding.fix.startswith("set verified to null")
    write(store, {**record, "date": "2026-01-02", "verified": None})
    assert store.findings(RULE) == []
    assert Record.read({**record, "verified": None}).verified is None
