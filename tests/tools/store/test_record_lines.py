"""Lines that a later bench adds to a record."""

from __future__ import annotations

import pytest

from tests.builders import signed
from tools.store.record import is_signed, with_line

LINE = {"triton": "3.8.0", "date": "2026-11-24", "worst_loss_pct": 0.5}
OTHER = {"triton": "3.7.0", "date": "2026-01-01", "worst_loss_pct": 1.0}
OLDER = {**LINE, "date": "2026-01-01"}


def test_the_first_line_goes_before_verified() -> None:
    record = {"rows": {}, "verified": None}
    found = with_line(record, "verified_with", LINE, ["triton"])
    assert found == {"rows": {}, "verified_with": [LINE], "verified": None}
    assert list(found) == ["rows", "verified_with", "verified"]


def test_anybodys_line_makes_the_record_a_claim_again() -> None:
    assert with_line(signed({"rows": {}}), "verified_with", LINE, ["triton"])["verified"] is None


def test_mains_own_line_is_signed_with_the_rest() -> None:
    before = signed({"rows": {}})
    found = with_line(before, "verified_with", LINE, ["triton"], is_mains=True)
    assert is_signed(found)
    assert {**found["verified"], "evidence_sha256": ""} == {**before["verified"], "evidence_sha256": ""}


def test_mains_own_line_signs_nothing_that_was_not() -> None:
    forged = {**signed({"rows": {}}), "rows": {"1": {}}}
    assert with_line(forged, "verified_with", LINE, ["triton"], is_mains=True)["verified"] is None


def test_a_line_takes_the_place_of_its_elder_alone() -> None:
    found = with_line({"verified_with": [OLDER, OTHER]}, "verified_with", LINE, ["triton"])
    assert found == {"verified_with": [OTHER, LINE], "verified": None}


def test_it_agrees_in_all_that_it_is_told_by() -> None:
    elder = {**OLDER, "engine": "vllm", "version": "0.32"}
    line = {**LINE, "engine": "vllm", "version": "0.33"}
    assert with_line({"k": [elder]}, "k", line, ["engine", "version", "triton"])["k"] == [elder, line]
    assert with_line({"k": [elder]}, "k", line, ["engine", "triton"])["k"] == [line]


@pytest.mark.parametrize("broken", [None, "3.8.0", {"triton": "3.8.0"}, ["3.8.0", None]])
def test_what_is_no_line_goes(broken: object) -> None:
    assert with_line({"k": broken}, "k", LINE, ["triton"])["k"] == [LINE]  # type: ignore[dict-item]


def test_the_record_given_stays_as_it_was() -> None:
    lines = [OTHER]
    record = {"verified_with": lines}
    with_line(record, "verified_with", LINE, ["triton"])  # type: ignore[arg-type]
    assert record == {"verified_with": [OTHER]}
