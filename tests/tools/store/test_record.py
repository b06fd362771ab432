"""The record: read, written and edited without a loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fused_moe_configs.evidence import UNSIGNED, evidence_sha256, is_signed
from tools.checkout import CHECKOUT, CONFIGS
from tools.store.files import read_file, sha256
from tools.store.record import (
    CheckedRouting,
    CheckedShipped,
    Decision,
    EngineChecked,
    Environment,
    Latency,
    Record,
    RecordError,
    Source,
    Verified,
    VerifiedWith,
    as_record,
)
from tools.store.workload import Shape, Workload

FIXTURES = CHECKOUT / "tests" / "schema" / "fixtures" / "record"
ALL_KEYS = FIXTURES / "valid" / "all_keys.json"


def document(path: Path = ALL_KEYS) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


def record(path: Path = ALL_KEYS) -> Record:
    return Record.read(document(path))


class TestReadingAndWriting:
    @pytest.mark.parametrize("path", sorted((CONFIGS / "records").rglob("*.json")), ids=lambda path: path.name)
    def test_a_shipped_record_comes_out_byte_for_byte(self, path: Path) -> None:
        assert as_record(read_file(path)).to_bytes() == path.read_bytes()

    @pytest.mark.parametrize("path", sorted((FIXTURES / "valid").glob("*.json")), ids=lambda path: path.stem)
    def test_every_valid_one_says_the_same_afterwards(self, path: Path) -> None:
        once = record(path)
        assert Record.read(once.to_json()) == once

    @pytest.mark.parametrize("name", ["all_keys", "nulls_and_the_other_choices"])
    def test_no_key_is_lost(self, name: str) -> None:
        path = FIXTURES / "valid" / f"{name}.json"
        assert record(path).to_json() == document(path)

    def test_its_parts_have_types(self) -> None:
        found = record()
        row = found.rows[min(found.rows)]
        assert isinstance(found.workload, Workload)
        assert isinstance(found.shapes[0].shape, Shape)
        assert isinstance(row.latency_us, Latency)
        assert isinstance(row.decision, Decision)

    def test_rows_are_written_in_order(self) -> None:
        found = record()
        backwards = replace(found, rows=dict(reversed(found.rows.items())))
        assert backwards.to_bytes() == found.to_bytes()

    @pytest.mark.parametrize(
        ("data", "says"),
        [(b"{", "not JSON"), (b"[]", "top level"), (b'{"schema_version": 1}', "schema/record.schema.json")],
    )
    def test_what_is_no_record_is_refused_with_a_way_out(self, tmp_path: Path, data: bytes, says: str) -> None:
        path = tmp_path / "record.json"
        path.write_bytes(data)
        with pytest.raises(RecordError, match=r"Fix: ") as caught:
            as_record(read_file(path))
        assert says in str(caught.value)

    def test_one_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RecordError, match="not found"):
            as_record(read_file(tmp_path / "record.json"))


class TestWhoseItIs:
    def test_it_speaks_of_the_bytes_that_were_hashed_and_no_others(self) -> None:
        found = replace(record(), config_sha256=sha256(b"{}\n"))
        assert found.speaks_of(b"{}\n")
        assert not found.speaks_of(b"{}")

    def test_published_figures_are_none_of_ours(self) -> None:
        published = record(FIXTURES / "valid" / "least_published.json")
        assert (published.source, published.is_measured, published.rows) == (Source.PUBLISHED, False, {})


class TestLinesOfBenches:
    NEW = VerifiedWith("3.9.0", "2026-01-02", 0.5)
    CHECKED = EngineChecked("vllm", "0.33.0", "3.8.0", "2026-01-02", 1.0, 0.9)

    def test_a_line_is_added(self) -> None:
        found = replace(record(), verified_with=None)
        assert found.with_verified_with(self.NEW).verified_with == (self.NEW,)

    def test_it_replaces_the_one_of_the_same_triton_and_no_other(self) -> None:
        other = replace(self.NEW, triton="3.7.0")
        found = replace(record(), verified_with=(self.NEW, other))
        newer = replace(self.NEW, worst_loss_pct=0.1)
        assert found.with_verified_with(newer).verified_with == (other, newer)

    @pytest.mark.parametrize("change", [{"engine": "sglang"}, {"version": "0.34.0"}, {"triton": "3.9.0"}])
    def test_an_engines_line_replaces_only_its_own(self, change: dict[str, str]) -> None:
        other = replace(self.CHECKED, **change)  # type: ignore[arg-type]
        found = replace(record(), engine_checked=(self.CHECKED, other))
        newer = replace(self.CHECKED, worst_ratio=1.1)
        assert found.with_engine_checked(newer).engine_checked == (other, newer)

    def test_what_was_said_of_the_shipped_file_stays_where_a_new_bench_does_not_meet_it(self) -> None:
        shipped = CheckedShipped("ab" * 32, 1.01, 0.95, 0.7)
        found = replace(record(), engine_checked=(replace(self.CHECKED, shipped=shipped),))
        assert found.with_engine_checked(self.CHECKED).engine_checked == (replace(self.CHECKED, shipped=shipped),)
        newer = replace(self.CHECKED, shipped=replace(shipped, geomean_ratio=0.9))
        assert found.with_engine_checked(newer).engine_checked == (newer,)

    def test_a_line_is_read_as_it_is_written(self) -> None:
        routing = {"uniform": CheckedRouting(1.0, 0.9, 0), "skew_0.3": CheckedRouting(1.1, 0.9, 2)}
        shipped = CheckedShipped("ab" * 32, 1.01, 0.95, 0.7)
        line = replace(self.CHECKED, by_routing=routing, best_ratio=0.6, rule="parts-1", shipped=shipped)
        line = replace(line, down_sha256="cd" * 32)
        assert EngineChecked.read(line.to_json()) == line
        assert line.slower == 2

    @pytest.mark.parametrize(("down", "may_speak"), [(b"{}", True), (b"{ }", False), (None, False)])
    def test_a_line_speaks_of_a_file_beside_the_down_file_that_it_ran_with(
        self, down: bytes | None, may_speak: bool
    ) -> None:
        assert replace(self.CHECKED, down_sha256=sha256(b"{}")).ran_with(down) is may_speak
        assert self.CHECKED.ran_with(down), "an older one doesn't say"

    def test_an_older_line_says_nothing_of_routings_and_stays_as_it_is(self) -> None:
        line = {"engine": "vllm", "version": "0.33.0", "triton": "3.8.0", "date": "2026-01-02"}
        older = {**line, "worst_ratio": 1.0, "geomean_ratio": 0.9}
        assert EngineChecked.read(older) == self.CHECKED
        assert self.CHECKED.to_json() == older

    def test_an_engines_lines_go_alone_and_the_last_with_the_list(self) -> None:
        other = replace(self.CHECKED, engine="sglang")
        both = replace(record(), engine_checked=(self.CHECKED, other, replace(other, version="0.5.0")))
        assert both.without_checks_on("sglang").engine_checked == (self.CHECKED,)
        assert both.without_checks_on("sglang").without_checks_on("vllm").engine_checked is None

    def test_lines_stay_with_the_bytes_that_they_speak_of(self) -> None:
        old = replace(record(), verified_with=(self.NEW,), engine_checked=None)
        bare = replace(old, verified_with=None)
        assert bare.with_lines_of(old).verified_with == (self.NEW,)
        assert replace(bare, config_sha256="0" * 64).with_lines_of(old).verified_with is None


class TestMainsWord:
    """It vouches for the evidence that it names, beside the bytes that this evidence names."""

    CONFIG = b"{}\n"
    LINE = Verified("gpu", "https://example.org/", "a" * 40, "2026-01-01", "0" * 64)

    def verified(self) -> Record:
        return replace(record(), config_sha256=sha256(self.CONFIG)).with_verified(self.LINE)

    def test_what_it_names_is_verified_and_reads_back_as_such(self) -> None:
        found = self.verified()
        assert found.is_verified(self.CONFIG)
        assert Record.read(json.loads(found.to_bytes())).is_verified(self.CONFIG)
        assert not found.with_verified(None).is_verified(self.CONFIG)

    def test_it_names_neither_itself_nor_the_order_of_keys(self) -> None:
        found = self.verified()
        assert found.evidence_sha256 == found.with_verified(None).evidence_sha256
        assert evidence_sha256(dict(reversed(found.to_json().items()))) == found.evidence_sha256

    def test_other_bytes_of_the_file_are_claimed(self) -> None:
        assert not self.verified().is_verified(b"{ }\n")

    @pytest.mark.parametrize("key", sorted(set(document()) - set(UNSIGNED)))
    def test_whatever_else_changes_is_claimed(self, key: str) -> None:
        changed = {**self.verified().to_json(), key: "other"}
        assert not is_signed(changed)

    def test_models_may_be_named_later(self) -> None:
        found = self.verified()
        shapes = tuple(replace(shape, models=("new/model tp=1",)) for shape in found.shapes)
        assert replace(found, shapes=shapes).is_verified(self.CONFIG)
        other = replace(found.shapes[0], shape=Shape(128, 1))
        assert not replace(found, shapes=(other, *found.shapes[1:])).is_verified(self.CONFIG)

    @pytest.mark.parametrize("shapes", [None, "x", [None], [{"models": 1}], {"K": 1}, "\ud800"])
    def test_a_hostile_document_is_just_another_one(self, shapes: object) -> None:
        assert not is_signed({"shapes": shapes, "verified": {"evidence_sha256": "0" * 64}})

    def test_what_contributors_saw_is_never_signed_and_never_undoes_mains_word(self) -> None:
        found = self.verified()
        with_lines = found.with_verified_with(TestLinesOfBenches.NEW).with_engine_checked(TestLinesOfBenches.CHECKED)
        assert with_lines != found
        assert with_lines.is_verified(self.CONFIG)
        assert with_lines.evidence_sha256 == found.evidence_sha256


def test_the_spread_is_half_of_what_lies_between_the_tenths() -> None:
    assert Latency(100.0, 98.0, 104.0, 20).spread_pct == pytest.approx(3.0)


class TestEnvironment:
    def test_what_is_written_is_read_back_in_the_schemas_order(self) -> None:
        written = document()["environment"]
        backwards = dict(reversed(written.items()))
        assert list(Environment.read(backwards).to_json().items()) == list(written.items())

    def test_what_is_not_known_stays_null(self) -> None:
        unknown = {**document()["environment"], "driver": None, "cuda": None}
        assert Environment.read(unknown).to_json() == unknown
