"""--fix changes form alone, and the hash that signs the form; what it can't write is a finding."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import BAD_INPUT, NAME, NO_EXCEPTIONS, Store, context, table, without_roots_rights
from tools.findings import Severity
from tools.store.files import canonical_config
from tools.store.workload import Layout
from tools.text import shown_path
from tools.validate import fixer, runner


def test_form_is_rewritten_and_values_stay(store: Store) -> None:
    document = table([2, 1])
    path = store.file(json.dumps(document).encode())
    assert fixer.fix([store.root], Layout.REPO).rewritten == (path,)
    assert path.read_bytes() == canonical_config(table([1, 2]))
    assert json.loads(path.read_bytes()) == document
    assert fixer.fix([store.root], Layout.REPO).rewritten == ()


@pytest.mark.parametrize("data", BAD_INPUT.values(), ids=BAD_INPUT)
def test_what_is_broken_is_left_alone(store: Store, data: bytes) -> None:
    path = store.file(data)
    before = path.stat()
    fixer.fix([store.root], Layout.REPO)
    if data != BAD_INPUT["huge numbers"]:
        assert path.read_bytes() == data
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    else:
        assert json.loads(path.read_bytes()) == json.loads(data)


def test_a_version_key_is_not_thrown_away(store: Store) -> None:
    path = store.file(json.dumps({"triton_version": "3.6.0", **table()}).encode())
    assert fixer.fix([store.root], Layout.REPO).rewritten == ()
    assert json.loads(path.read_bytes())["triton_version"] == "3.6.0"


def test_links_and_foreign_files_are_not_touched(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(table()))
    (store.root / NAME).symlink_to(outside)
    store.file(json.dumps(table()).encode(), NAME, folder="other")
    assert fixer.fix([store.root], Layout.REPO).rewritten == ()
    assert outside.read_text() == json.dumps(table())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.file(json.dumps(table()).encode())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fixed = fixer.fix([store.root], Layout.REPO)
    assert fixed.rewritten == ()
    (finding,) = fixed.failures
    assert (finding.rule, finding.severity) == ("canonical-bytes", Severity.ERROR)
    assert finding.message.endswith(f"--fix can't write {finding.path}: No space left on device")
    assert path.read_bytes() == json.dumps(table()).encode()
    assert list(store.root.iterdir()) == [path]


def test_one_that_can_not_be_written_stops_no_other() -> None:
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name))
        closed = store.file(json.dumps(table()).encode(), folder="legacy_configs")
        free = store.file(json.dumps(table()).encode())
        closed.parent.chmod(0o555)
        store.root.chmod(0o777)
        with without_roots_rights():
            fixed = fixer.fix([store.root], Layout.REPO)
            report = fixed.add_to(runner.validate([store.root], context(), NO_EXCEPTIONS))
        closed.parent.chmod(0o755)
    assert fixed.rewritten == (free,)
    (finding,) = [f for f in report.findings if f.path == shown_path(closed) and f.rule == "canonical-bytes"]
    assert "can't write" in finding.message
    assert ".tmp" not in finding.message


def test_what_another_process_wrote_meanwhile_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.file(json.dumps(table()).encode())
    other = canonical_config(table([8]))

    @contextlib.contextmanager
    def after_another(root: Path) -> Iterator[None]:
        path.write_bytes(other)
        yield

    monkeypatch.setattr(fixer, "lock", after_another)
    assert fixer.fix([store.root], Layout.REPO).rewritten == ()
    assert path.read_bytes() == other


class TestRecord:
    """The record's hash signs the bytes, so a change of form alone takes it along."""

    def unsound(self, store: Store) -> Path:
        """A file in another form, with a record that signs those bytes."""
        path = store.file(json.dumps(table()).encode())
        store.record(path)
        return path

    def test_a_hash_that_matched_matches_again_and_nothing_else_changes(self, store: Store) -> None:
        path = self.unsound(store)
        before = json.loads(store.record_of(path).read_bytes())
        assert fixer.fix([store.root], Layout.REPO).failures == ()
        assert store.findings() == []
        after = json.loads(store.record_of(path).read_bytes())
        assert {**after, "config_sha256": before["config_sha256"]} == before

    def test_a_kill_between_record_and_file_is_mended_by_the_next_fix(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = self.unsound(store)
        write = fixer.write_file

        def killed(target: Path, data: bytes) -> None:
            write(target, data)
            os._exit(9)

        if (child := os.fork()) == 0:
            fixer.write_file = killed  # type: ignore[assignment]
            fixer.fix([store.root], Layout.REPO)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert fixer.fix([store.root], Layout.REPO).failures == ()
        assert path.read_bytes() == canonical_config(table())
        assert store.findings() == []

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"config_sha256": 3}'])
    def test_one_that_did_not_match_stays(self, store: Store, data: bytes) -> None:
        path = self.unsound(store)
        store.record_of(path).write_bytes(data)
        assert fixer.fix([store.root], Layout.REPO).rewritten == (path,)
        assert store.record_of(path).read_bytes() == data

    def test_where_the_record_can_not_be_written_the_file_stays_as_it_was(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = self.unsound(store)
        before = path.read_bytes()
        write = fixer.write_file

        def refuse(target: Path, data: bytes) -> None:
            if "records" in target.parts:
                raise PermissionError(13, "Permission denied", str(target))
            write(target, data)

        monkeypatch.setattr(fixer, "write_file", refuse)
        (finding,) = fixer.fix([store.root], Layout.REPO).failures
        assert "can't write" in finding.message
        assert "records" in finding.message
        assert path.read_bytes() == before


def test_the_files_mode_stays(store: Store) -> None:
    path = store.file(json.dumps(table()).encode())
    path.chmod(0o640)
    fixer.fix([store.root], Layout.REPO)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
