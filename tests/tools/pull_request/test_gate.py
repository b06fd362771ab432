"""What no merge may bring: evidence that isn't main's own, and files that aren't plain."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.builders import NAME, signed, table
from tools.git import Entry
from tools.pull_request.changes import Change, Version, merge_refusals, queue_refusals, verified_commit
from tools.store.files import canonical_config, sha256

HOME = "fused-moe-configs/fused-moe-configs"
COMMIT, OTHER = "a" * 40, "b" * 40
CONFIG = canonical_config(table())


def version(verified: Any = None, config: bytes = CONFIG, **record: Any) -> Version:
    """A file and its record, which says this."""
    found = {"config_sha256": sha256(config), **record}
    return Version(PurePosixPath(NAME), config, json.dumps({**found, "verified": verified}).encode())


def evidence(commit: str = COMMIT, config: bytes = CONFIG, **record: Any) -> dict[str, Any]:
    """Main's own word on such a version."""
    word: dict[str, Any] = signed({"config_sha256": sha256(config), **record}, commit=commit)["verified"]
    return word


NO_MODEL, MODEL = [{"K": 4096, "models": []}], [{"K": 4096, "models": ["a/b tp=1"]}]
OTHER_CONFIG = canonical_config(table(num_stages=4))


NOTHING = Version(PurePosixPath(NAME), None, None)


class TestWhoseBranch:
    def test_verifys_own_is_named_after_the_commit_that_it_measured(self) -> None:
        assert verified_commit(f"{HOME}:verify/{COMMIT}", HOME) == COMMIT

    @pytest.mark.parametrize(
        "head",
        [
            f"a-stranger/fused-moe-configs:verify/{COMMIT}",
            f":verify/{COMMIT}",
            f"{HOME}:{COMMIT}",
            f"{HOME}:x/verify/{COMMIT}",
            f"{HOME}:verify/main",
            f"{HOME}:verify/{COMMIT}\n",
            f"{HOME}:verify/{COMMIT.upper()}",
            f"a-stranger/x:{HOME}:verify/{COMMIT}",
            f"verify/{COMMIT}",
            ":",
            "",
        ],
    )
    def test_no_other_branch_is(self, head: str) -> None:
        assert verified_commit(head, HOME) is None

    def test_outside_a_workflow_none_is(self) -> None:
        assert verified_commit(f":verify/{COMMIT}", "") is None


class TestEvidence:
    def told(self, before: Version, after: Version, commit: str | None = None) -> list[str]:
        return [f"{finding.path}: {finding.message}" for finding in merge_refusals([], [(before, after)], commit)]

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (version(), version(evidence())),
            (NOTHING, version(evidence())),
            (version(evidence()), version(evidence(OTHER))),
            (version(evidence()), version(evidence(), OTHER_CONFIG)),
            (version(evidence()), version(evidence(), OTHER_CONFIG, config_sha256=sha256(CONFIG))),
            (version(evidence()), version(evidence(config=OTHER_CONFIG), OTHER_CONFIG)),
            (version(evidence()), version(evidence(), rows={"64": {}})),
            (version(), version("yes")),
        ],
        ids=[
            "written",
            "of a new file",
            "of another commit",
            "kept though the file changed",
            "kept though the file alone changed",
            "signed anew for another file",
            "kept over other figures",
            "no evidence at all",
        ],
    )
    def test_what_a_pull_request_writes_is_refused(self, before: Version, after: Version) -> None:
        (line,) = self.told(before, after)
        assert line.startswith(f"configs/records/{NAME}: verified: expected null, found evidence")

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (version(), version()),
            (version(evidence()), version(evidence())),
            (version(evidence(shapes=NO_MODEL), shapes=NO_MODEL), version(evidence(shapes=NO_MODEL), shapes=MODEL)),
            (version(evidence()), version(evidence(), engine_checked=[])),
            (version(evidence()), version(evidence(), verified_with=[])),
            (version(evidence()), version(None, OTHER_CONFIG)),
            (version(evidence()), NOTHING),
        ],
        ids=[
            "none",
            "as it was",
            "beside another model",
            "beside a claim of another engine, which it doesn't cover",
            "beside a claim of another Triton",
            "taken away with the figures",
            "gone with the file",
        ],
    )
    def test_what_main_had_may_stay_or_go(self, before: Version, after: Version) -> None:
        assert self.told(before, after) == []

    def test_verifys_own_proposal_passes(self) -> None:
        assert self.told(version(), version(evidence()), COMMIT) == []
        assert self.told(version(evidence(OTHER)), version(evidence()), COMMIT) == []

    @pytest.mark.parametrize(
        "after",
        [
            version(evidence(OTHER)),
            version(evidence(), date="2026-01-02"),
            version(evidence(date="2026-01-02"), date="2026-01-02"),
            version(evidence(config=OTHER_CONFIG), OTHER_CONFIG),
            version(None, OTHER_CONFIG),
            version(None, shapes=[{"models": ["a/b"]}]),
            NOTHING,
        ],
        ids=[
            "another commit than the branch says",
            "another line besides",
            "another line, signed",
            "another file, signed",
            "another file without a word",
            "another model",
            "nothing at all",
        ],
    )
    def test_it_may_write_nothing_else(self, after: Version) -> None:
        assert len(self.told(version(), after, COMMIT)) == 1

    @pytest.mark.parametrize(
        "path", [".github/workflows/validate.yml", f"configs/{NAME}", "configs/registry/devices.json", "README.md"]
    )
    def test_its_change_is_judged_as_a_whole(self, path: str) -> None:
        """Whoever could push to such a branch would else bring anything beside a word that passes."""
        plain, other = Entry("100644", "blob", COMMIT), Entry("100644", "blob", OTHER)
        pairs = [(version(), version(evidence()))]
        record = Change(f"configs/records/{NAME}", plain, other)
        assert merge_refusals([record], pairs, COMMIT) == []
        for change in (Change(path, plain, other), Change(path, None, other), Change(path, plain, None)):
            (finding,) = merge_refusals([record, change], pairs, COMMIT)
            assert (finding.path, finding.rule) == (path, "verified")
            assert "to change `verified` alone" in finding.message

    def test_a_record_may_neither_come_nor_go_with_it(self) -> None:
        entry = Entry("100644", "blob", COMMIT)
        for change in (Change(f"configs/records/{NAME}", None, entry), Change(f"configs/records/{NAME}", entry, None)):
            assert len(merge_refusals([change], [], COMMIT)) == 1


class TestOwnJudge:
    """Evidence and what judges it never come together: a check that the change rewrites says what it likes."""

    PLAIN, OTHER = Entry("100644", "blob", COMMIT), Entry("100644", "blob", OTHER)

    def told(self, *paths: str) -> list[str]:
        return [finding.path for finding in merge_refusals([Change(p, None, self.PLAIN) for p in paths], [], None)]

    @pytest.mark.parametrize(
        "evidence", [f"configs/{NAME}", f"configs/records/{NAME}", f"configs/legacy_configs/{NAME}"]
    )
    @pytest.mark.parametrize(
        "judge",
        [
            ".github/workflows/validate.yml",
            ".github/CODEOWNERS",
            "json.py",
            "jsonschema_rs/__init__.py",
            "noxfile.py",
            "pyproject.toml",
            "schema/record.schema.json",
            "schema/exceptions.json",
            "sitecustomize.py",
            "tools/pull_request/changes.py",
            "tools/bench/compare_files.py",
            "tools/measure/layer.py",
            "tools/measure/timing.py",
            "tools/validate/rules/record.py",
            "kernels/launch_config.py",
            "configs/registry/devices.json",
            "configs/registry/engines.json",
            "fused_moe_configs/.gitattributes",
            "fused_moe_configs/__pycache__/evidence.cpython-312.pyc",
            "fused_moe_configs/evidence/__init__.py",
            "kernels/problem.abi3.so",
            "tools/compile/check.py",
        ],
    )
    def test_together_they_are_refused(self, judge: str, evidence: str) -> None:
        assert self.told(evidence, judge) == [judge]
        removed = [Change(evidence, self.PLAIN, None), Change(judge, self.PLAIN, None)]
        assert [finding.rule for finding in merge_refusals(removed, [], None)] == ["own-judge"]
        assert self.told(judge) == self.told(evidence) == []

    @pytest.mark.parametrize(
        "path",
        [
            "README.md",
            "docs/measurements/x.json",
            "tools/tune/search.py",
            "kernels/fused_moe_kernel.py",
            "fused_moe_configs/cli.py",
            "tests/x.py",
        ],
    )
    def test_what_decides_nothing_may_come_with_it(self, path: str) -> None:
        assert self.told(f"configs/{NAME}", path) == []


class TestQueue:
    def test_what_two_pull_requests_leave_together_is_judged_once_more(self) -> None:
        """One signs a file, the other changes it: each was sound alone."""
        (finding,) = queue_refusals([(version(), version(evidence(), OTHER_CONFIG))])
        assert finding.path == f"configs/records/{NAME}"
        assert (
            queue_refusals([(version(), version(evidence())), (version(evidence()), version()), (version(), NOTHING)])
            == []
        )


class TestSecondRoot:
    """The loader of a checkout, and of a wheel built from it, would read what lies there instead of main's files."""

    @pytest.mark.parametrize(
        "path",
        [
            "fused_moe_configs/configs",
            f"fused_moe_configs/configs/triton_3_7_0/{NAME}",
            "fused_moe_configs/configs/index.json",
        ],
    )
    @pytest.mark.parametrize("commit", [None, COMMIT])
    def test_data_beside_configs_is_refused(self, path: str, commit: str | None) -> None:
        entry = Entry("100644", "blob", COMMIT)
        (finding,) = merge_refusals([Change(path, None, entry)], [], commit)
        assert (finding.path, finding.rule) == (path, "outside")
        assert finding.message.startswith("expected data below configs/ only")
        assert merge_refusals([Change(path, entry, None)], [], None) == []

    def test_code_with_such_a_name_is_none(self) -> None:
        path = "fused_moe_configs/configs_folder.py"
        assert merge_refusals([Change(path, None, Entry("100644", "blob", COMMIT))], [], None) == []


class TestModes:
    @pytest.mark.parametrize(
        ("path", "mode", "kind", "found"),
        [
            (f"configs/{NAME}", "100755", "blob", "an executable file"),
            (f"configs/records/{NAME}", "120000", "blob", "a symbolic link"),
            ("configs/README.md", "100755", "blob", "an executable file"),
            ("configs/sub", "160000", "commit", "a submodule"),
            ("configs", "120000", "blob", "a symbolic link"),
            ("configs/x", "100664", "blob", "mode 100664"),
        ],
    )
    def test_another_than_a_plain_files_is_refused(self, path: str, mode: str, kind: str, found: str) -> None:
        plain = Entry("100644", "blob", COMMIT)
        for before in (None, plain):
            (finding,) = merge_refusals([Change(path, before, Entry(mode, kind, COMMIT))], [], COMMIT)
            assert (finding.path, finding.rule) == (path, "mode")
            assert finding.message == f"expected a regular file (mode 100644), found {found}"

    def test_code_may_have_any(self) -> None:
        assert merge_refusals([Change("tools/x.sh", None, Entry("100755", "blob", COMMIT))], [], None) == []

    def test_what_goes_or_becomes_plain_is_welcome(self) -> None:
        plain, executable = Entry("100644", "blob", COMMIT), Entry("100755", "blob", COMMIT)
        path = f"configs/{NAME}"
        assert merge_refusals([Change(path, executable, plain), Change(path, executable, None)], [], None) == []
