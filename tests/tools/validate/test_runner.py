"""The runner reports everything: a rule that crashes is a finding, and whatever lies in the folder is one too."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.validate.builder import NAME, NO_EXCEPTIONS, Store, devices, entry, table
from tools import schemas
from tools.findings import Severity
from tools.store import canonical_config, discover
from tools.validate import runner
from tools.validate.model import FileRule, Issue, TreeRule
from tools.validate.rules import coverage
from tools.workload import Layout


def crash(*_: object) -> Iterator[Issue]:
    yield Issue("before the crash", "fix")
    raise KeyError("a defect")


class TestValidate:
    @pytest.mark.parametrize("kind", [FileRule, TreeRule])
    def test_a_crashing_rule_is_a_finding_and_the_rest_goes_on(self, store: Store, kind: type) -> None:
        store.config(table([1]))
        findings = store.findings(kind("bad", "Crashes.", crash), coverage.RULE)
        by_rule = [(finding.rule, finding.message) for finding in findings]
        assert ("bad", "before the crash") in by_rule
        assert ("bad", "the rule itself failed: KeyError: 'a defect'") in by_rule
        assert any(rule == "coverage" for rule, _ in by_rule)

    def test_a_rule_runs_only_in_its_layouts(self, store: Store) -> None:
        store.config()
        rule = FileRule("bad", "Crashes.", crash, layouts=frozenset({Layout.VLLM}))
        assert store.findings(rule) == []
        assert store.findings(rule, layout=Layout.VLLM)

    def test_a_missing_path_raises(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            runner.validate([tmp_path / "nowhere"], Layout.REPO, devices(), NO_EXCEPTIONS)

    def test_it_counts_tuned_files_and_each_once(self, store: Store) -> None:
        path = store.config()
        store.file(b"", "README.md")
        report = runner.validate([store.root, path, store.root], Layout.REPO, devices(), NO_EXCEPTIONS)
        assert report.files == 1

    def test_findings_are_ordered_and_unique(self, store: Store) -> None:
        for name in ("b.json", "a.json"):
            store.file(b"{", name)
        keys = [(finding.path, finding.rule, finding.message) for finding in store.findings()]
        assert keys == sorted(set(keys))

    def test_a_message_is_cut_at_a_sane_length(self, store: Store) -> None:
        store.config()
        rule = FileRule("long", "Talks.", lambda *_: [Issue("x" * 10**6, "y" * 10**6)])
        (finding,) = store.findings(rule)
        assert (len(finding.message), len(finding.fix)) == (2000, 2000)

    def test_a_link_that_the_user_names_is_followed(self, store: Store, tmp_path: Path) -> None:
        store.config(table([1]), record=False)
        link = tmp_path / "link"
        link.symlink_to(store.root)
        report = runner.validate([link], Layout.VLLM, devices(), NO_EXCEPTIONS)
        assert report.files == 1
        assert report.failed


BAD_INPUT: dict[str, Any] = {
    "empty": b"",
    "binary": bytes(range(256)) * 64,
    "bom": b"\xef\xbb\xbf{}",
    "utf16": json.dumps(table()).encode("utf-16"),
    "array": b"[]",
    "nan": b'{"1": {"BLOCK_SIZE_M": NaN}}',
    "infinite": b'{"1": {"BLOCK_SIZE_M": 1e999}}',
    "deep": b'{"1":' * 50_000,
    "digits": b'{"1": {"BLOCK_SIZE_M": ' + b"9" * 5000 + b"}}",
    "huge numbers": json.dumps({"1": dict.fromkeys(entry(), 10**4000)}).encode(),
    "negative numbers": json.dumps({"1": dict.fromkeys(entry(), -(10**4000))}).encode(),
    "zeros": json.dumps(table(**dict.fromkeys(entry(), 0))).encode(),
    "key zero": json.dumps({"0": entry(), **table()}).encode(),
    "duplicates": b'{"1": 1, "1": 2}',
    "half a pair": b'{"\\ud800": {"grf_mode": "\\udfff"}}',
    "null": b'{"\\u0000": null}',
    "odd types": b'{"1": null, "2": [], "4": "x", "8": {"BLOCK_SIZE_M": {}}, "triton_version": []}',
    "wide": json.dumps({f"k{i}": 0 for i in range(80_000)}).encode(),
    "lines": b'{"a\\n::error::b": "\\u001b[31m"}',
}


class TestBadInput:
    """Whatever lies in the folder is a finding; no rule crashes, and the good file beside it is still looked at."""

    def check(self, store: Store, layout: Layout, path: Path) -> None:
        rest = store.config(table([1]), NAME.replace("E=8", "E=16"), folder=_folder(layout), record=False)
        findings = store.findings(layout=layout)
        assert not [f for f in findings if "rule itself failed" in f.message]
        assert [f for f in findings if f.path.endswith(path.name) and f.severity is Severity.ERROR]
        assert [f for f in findings if f.path.endswith(rest.name) and f.rule == "coverage"]
        assert all(f.path.isprintable() for f in findings)

    @pytest.mark.parametrize("suffix", [",dtype=fp8_w8a8,block_shape=[128,128]", "_down"])
    @pytest.mark.parametrize("data", BAD_INPUT.values(), ids=BAD_INPUT)
    def test_bytes(self, store: Store, data: bytes, suffix: str) -> None:
        path = store.file(data, NAME.replace(".json", f"{suffix}.json"))
        store.record_of(path).parent.mkdir()
        store.record_of(path).write_bytes(data)
        self.check(store, Layout.REPO, path)

    @pytest.mark.parametrize("layout", list(Layout))
    @pytest.mark.parametrize("kind", ["directory", "fifo", "dangling link", "link to itself", "50 MB", "unreadable"])
    def test_what_is_no_plain_small_file(
        self, store: Store, kind: str, layout: Layout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = store.file(b"{}", folder=_folder(layout))
        if kind == "50 MB":
            os.truncate(path, 50 * 1024**2)
        elif kind == "unreadable":
            path.chmod(0)
            _refuse_to_open(path, monkeypatch)
        else:
            path.unlink()
            make = {
                "directory": path.mkdir,
                "fifo": lambda: os.mkfifo(path),
                "dangling link": lambda: path.symlink_to("nothing"),
                "link to itself": lambda: path.symlink_to(path),
            }
            make[kind]()
        self.check(store, layout, path)

    @pytest.mark.parametrize("layout", list(Layout))
    @pytest.mark.parametrize(
        "name",
        [
            "...json",
            "E=8,N=1024,device_name=....json",
            "a\n::error::b.json",
            "\x1b[31mE=8,N=1024,device_name=x.json",
            f"E={10**100},N={10**50},device_name=NVIDIA_H200.json",
            "E=8,N=1024,device_name=" + "x" * 227 + ".json",
            "E=8,N=1024,device_name=NVIDIA_H200,dtype=" + "x" * 180 + ".json",
            os.fsdecode(b"\xff\xfe.json"),
            "größe 形.json",
        ],
    )
    def test_names(self, store: Store, name: str, layout: Layout) -> None:
        path = store.file(b"{}", name, folder=_folder(layout))
        rest = store.config(table([1]), folder=_folder(layout), record=False)
        findings = store.findings(layout=layout)
        assert not [f for f in findings if "rule itself failed" in f.message]
        assert {f.rule for f in findings} >= {"schema", "coverage"} if path.suffix else {"foreign-file", "coverage"}
        assert [f for f in findings if f.path.endswith(rest.name)]
        assert all(f.path.isprintable() for f in findings)

    @pytest.mark.parametrize("layout", [Layout.REPO, Layout.SGLANG])
    def test_what_this_user_may_not_read(self, layout: Layout) -> None:
        """Root may read everything, so a root's run looks with the eyes of nobody."""
        with tempfile.TemporaryDirectory() as name:
            store = Store(Path(name))
            store.root.chmod(0o755)
            file = store.config(table([1]), folder="triton_3_6_0", record=False)
            no_entry = store.config(table([1]), folder="triton_3_7_0", record=False).parent
            no_list = store.config(table([1]), folder="triton_3_8_0", record=False).parent
            store.config(table([1]), folder="triton_3_9_0", record=False)
            file.chmod(0)
            no_entry.chmod(0o744)
            no_list.chmod(0o711)
            with _as_nobody():
                findings = store.findings(layout=layout)
        found = {(finding.path.partition("triton_")[2][:5], finding.rule) for finding in findings}
        assert {("3_6_0", "strict-json"), ("3_7_0", "strict-json")} <= found
        assert {("3_8_0", "readable-folder"), ("3_9_0", "coverage")} <= found
        assert not [f for f in findings if "rule itself failed" in f.message]

    def test_folders_nest_deeper_than_calls(self, store: Store) -> None:
        path = store.config(table([1]))
        (store.root / "/".join("d" * 120)).mkdir(parents=True)
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(_depth() + 110)
        try:
            found = discover([store.root], Layout.REPO)
        finally:
            sys.setrecursionlimit(limit)
        assert path in [file.path for file in found]


def _depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame.f_back:
        frame, depth = frame.f_back, depth + 1
    return depth


def _folder(layout: Layout) -> str:
    return "triton_3_8_0" if layout is Layout.SGLANG else ""


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    devices(), schemas.validator("tuned_config")  # read while we may
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def _refuse_to_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test run as root, who may read what nobody may."""
    plain_open = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return plain_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)


class TestFix:
    def test_form_is_rewritten_and_values_stay(self, store: Store) -> None:
        document = table([2, 1])
        path = store.file(json.dumps(document).encode())
        assert runner.fix([store.root], Layout.REPO) == [path]
        assert path.read_bytes() == canonical_config(table([1, 2]))
        assert json.loads(path.read_bytes()) == document
        assert runner.fix([store.root], Layout.REPO) == []

    @pytest.mark.parametrize("data", BAD_INPUT.values(), ids=BAD_INPUT)
    def test_what_is_broken_is_left_alone(self, store: Store, data: bytes) -> None:
        path = store.file(data)
        before = path.stat()
        runner.fix([store.root], Layout.REPO)
        if data != BAD_INPUT["huge numbers"]:
            assert path.read_bytes() == data
            assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        else:
            assert json.loads(path.read_bytes()) == json.loads(data)

    def test_a_version_key_is_not_thrown_away(self, store: Store) -> None:
        path = store.file(json.dumps({"triton_version": "3.6.0", **table()}).encode())
        assert runner.fix([store.root], Layout.REPO) == []
        assert json.loads(path.read_bytes())["triton_version"] == "3.6.0"

    def test_links_and_foreign_files_are_not_touched(self, store: Store, tmp_path: Path) -> None:
        outside = tmp_path / "outside.json"
        outside.write_text(json.dumps(table()))
        (store.root / NAME).symlink_to(outside)
        store.file(json.dumps(table()).encode(), NAME, folder="other")
        assert runner.fix([store.root], Layout.REPO) == []
        assert outside.read_text() == json.dumps(table())

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = store.file(json.dumps(table()).encode())

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            runner.fix([store.root], Layout.REPO)
        assert path.read_bytes() == json.dumps(table()).encode()
        assert list(store.root.iterdir()) == [path]

    def test_the_files_mode_stays(self, store: Store) -> None:
        path = store.file(json.dumps(table()).encode())
        path.chmod(0o640)
        runner.fix([store.root], Layout.REPO)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
