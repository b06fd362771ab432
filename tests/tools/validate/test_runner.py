"""The runner reports everything: a rule that crashes is a finding, and whatever lies in the folder is one too."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import BAD_INPUT, NAME, NO_EXCEPTIONS, Store, context, table, without_roots_rights
from tools.errors import MachineError
from tools.findings import Severity
from tools.store.files import discover
from tools.store.workload import Layout
from tools.validate import runner
from tools.validate.model import FileRule, Issue, TreeRule
from tools.validate.rules import coverage


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

    def test_what_a_machine_or_this_checkout_fails_at_is_no_files_fault(self, store: Store) -> None:
        def fail(*_: object) -> Iterator[Issue]:
            raise MachineError("a schema that can't be read")
            yield

        store.config()
        with pytest.raises(MachineError, match="a schema that can't be read"):
            store.findings(FileRule("bad", "Fails.", fail))

    def test_a_rule_runs_only_in_its_layouts(self, store: Store) -> None:
        store.config()
        rule = FileRule("bad", "Crashes.", crash, layouts=frozenset({Layout.VLLM}))
        assert store.findings(rule) == []
        assert store.findings(rule, layout=Layout.VLLM)

    def test_a_missing_path_raises(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            runner.validate([tmp_path / "nowhere"], context(), NO_EXCEPTIONS)

    def test_it_counts_tuned_files_and_each_once(self, store: Store) -> None:
        path = store.config()
        store.file(b"", "README.md")
        report = runner.validate([store.root, path, store.root], context(), NO_EXCEPTIONS)
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
        report = runner.validate([link], context(Layout.VLLM), NO_EXCEPTIONS)
        assert report.files == 1
        assert report.failed


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
        """Root may read everything, so a root's run gives that up."""
        with tempfile.TemporaryDirectory() as name:
            store = Store(Path(name))
            store.root.chmod(0o755)
            file = store.config(table([1]), folder="triton_3_6_0", record=False)
            no_entry = store.config(table([1]), folder="triton_3_7_0", record=False).parent
            no_list = store.config(table([1]), folder="triton_3_8_0", record=False).parent
            store.config(table([1]), folder="triton_3_9_0", record=False)
            file.chmod(0)
            no_entry.chmod(0o644)
            no_list.chmod(0o311)
            with without_roots_rights():
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


def _refuse_to_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test run as root, who may read what nobody may."""
    plain_open = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return plain_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
