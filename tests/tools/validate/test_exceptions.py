"""Tolerated findings: the list may only shrink, so an exception that nothing needs is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import NAME, Store, table
from tools.checkout import CONFIGS
from tools.findings import Severity
from tools.store.files import canonical_config
from tools.store.workload import Layout
from tools.validate.exceptions import Exceptions, ExceptionsError
from tools.validate.rules import RULES, coverage


def exceptions(*entries: tuple[str, str]) -> Exceptions:
    return Exceptions(frozenset(entries))


class TestExceptions:
    def test_an_excepted_finding_vanishes_and_its_neighbours_stay(self, store: Store) -> None:
        store.config(table([1]))
        store.config(table([1]), folder="legacy_configs")
        findings = store.findings(coverage.RULE, exceptions=exceptions((NAME, "coverage")))
        assert [finding.path.rpartition("configs/")[2] for finding in findings] == [NAME]
        assert "legacy_configs" in findings[0].path

    def test_an_exception_is_for_one_rule(self, store: Store) -> None:
        store.config(table([1]), record=False)
        rules = {finding.rule for finding in store.findings(exceptions=exceptions((NAME, "coverage")))}
        assert rules == {"record"}

    def test_a_file_in_a_folder_is_named_from_configs_on(self, store: Store) -> None:
        store.config(table([1]), folder="legacy_configs")
        assert store.findings(coverage.RULE, exceptions=exceptions((f"legacy_configs/{NAME}", "coverage"))) == []

    @pytest.mark.parametrize("path", [NAME, "E=1,N=1,device_name=gone.json"])
    def test_an_exception_that_nothing_needs_is_an_error(self, store: Store, path: str) -> None:
        store.config()
        (finding,) = store.findings(coverage.RULE, exceptions=exceptions((path, "coverage")))
        assert finding.severity is Severity.ERROR
        assert finding.path.endswith("schema/exceptions.json")
        assert finding.message == f"expected every exception to be needed, found none of coverage on {path}"

    def test_an_exception_for_a_file_outside_the_run_is_left_in_peace(self, store: Store) -> None:
        store.config()
        elsewhere = next(path for path in CONFIGS.rglob("E=*.json")).relative_to(CONFIGS).as_posix()
        assert store.findings(coverage.RULE, exceptions=exceptions((elsewhere, "coverage"))) == []

    @pytest.mark.parametrize("whole", [True, False])
    def test_a_records_finding_is_excepted_however_the_record_was_reached(self, store: Store, whole: bool) -> None:
        path = store.config()
        path.write_bytes(canonical_config(table(num_stages=4)))
        excepted = exceptions((f"records/{NAME}", "record"))
        assert store.findings(paths=[store.root if whole else path], exceptions=excepted) == []

    def test_engines_folders_know_no_exceptions(self, store: Store) -> None:
        store.config(table([1]))
        excepted = exceptions((NAME, "coverage"))
        assert store.findings(coverage.RULE, layout=Layout.VLLM, exceptions=excepted)

    def test_the_projects_own_list_is_sound_and_names_rules_that_exist(self) -> None:
        assert {rule for _, rule in Exceptions.load().entries} <= {rule.name for rule in RULES}

    def test_a_list_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "exceptions.json"
        entries = [{"path": NAME, "rule": "coverage", "reason": "r"}]
        path.write_text(json.dumps({"schema_version": 1, "exceptions": entries}))
        assert Exceptions.load(path).entries == {(NAME, "coverage")}

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"schema_version": 2, "exceptions": []}', b"\xff"])
    def test_a_broken_list_says_where(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "exceptions.json"
        path.write_bytes(data)
        with pytest.raises(ExceptionsError, match=r"exceptions\.json: "):
            Exceptions.load(path)
