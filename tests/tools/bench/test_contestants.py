"""Who meets a tuned file: other files, revisions of a real git repository, the heuristics; one line for who can't."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from tests.tools.compile.tuned_files import DEEPSEEK, MIXTRAL, SOUND, tuned
from tools.bench.contestants import (
    NO_FILE,
    SGLANG_NO_FILE,
    Contestant,
    ContestantError,
    against,
    at_revision,
    heuristics,
    of_file,
    read,
    told_apart,
)
from tools.launch.heuristics import sglang_heuristic, vllm_heuristic
from tools.registry.devices import load_devices
from tools.store.workload import Workload

OLD, NEW = (16, 64, 64, 1, 4, 3), (32, 64, 64, 1, 4, 3)
WORKLOAD = Workload(8, 7168, "NVIDIA_H100_80GB_HBM3")

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Runs git in a fresh repository at tmp_path, without anybody's own settings."""
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }

    def run(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    run("init", "--quiet", "--initial-branch=main")
    return run


@pytest.fixture
def twice_committed(git: Git, tmp_path: Path) -> Path:
    """A tuned file whose first commit, tagged `first`, had another entry; a third one lies in the working tree."""
    for values in (OLD, NEW):
        tuned(tmp_path / "configs", {64: values}, DEEPSEEK)
        git("add", ".")
        git("commit", "--quiet", "-m", "tune")
        if values == OLD:
            git("tag", "first")
    return tuned(tmp_path / "configs", {64: SOUND}, DEEPSEEK)


def rejected(what: str, path: Path) -> str:
    with pytest.raises(ContestantError) as raised:
        against(what, read(path))
    message = str(raised.value)
    assert "\n" not in message
    return message


class TestEntry:
    CONTESTANT = Contestant("a file", {m: LaunchConfig(16, 64, 64, 1, 4, m) for m in (1, 64, 128)})

    @pytest.mark.parametrize(("num_tokens", "served_by"), [(64, 64), (65, 64), (97, 128), (4096, 128), (1, 1)])
    def test_the_nearest_batch_size_serves(self, num_tokens: int, served_by: int) -> None:
        assert self.CONTESTANT.entry(num_tokens).num_stages == served_by

    def test_a_tie_goes_to_the_smaller(self) -> None:
        assert self.CONTESTANT.entry(96).num_stages == 64


class TestOfFile:
    def test_a_tuned_file_takes_part_with_its_entries(self, tmp_path: Path) -> None:
        path = tuned(tmp_path, {1: OLD, 64: NEW})
        assert of_file("it", read(path)) == Contestant("it", {1: LaunchConfig(*OLD), 64: LaunchConfig(*NEW)})

    @pytest.mark.parametrize(
        ("name", "text", "found"),
        [
            (MIXTRAL, "{", "not JSON"),
            (MIXTRAL, "{}", "no launch config in it"),
            (MIXTRAL, '{"64": {"BLOCK_SIZE_M": 16}}', "no launch config in it"),
            (MIXTRAL, "[]", "no launch config in it"),
        ],
    )
    def test_what_is_no_tuned_file_is_one_line(self, tmp_path: Path, name: str, text: str, found: str) -> None:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        with pytest.raises(ContestantError) as raised:
            of_file("it", read(path))
        assert str(raised.value).startswith("it: expected a tuned file, found ")
        assert found in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_a_name_that_stands_for_no_workload_is_the_fault(self, tmp_path: Path) -> None:
        path = tuned(tmp_path, {1: OLD}, "notes.json")
        with pytest.raises(ContestantError, match=r"^it: expected E=….*, found 'notes\.json'\. Fix: rename the file"):
            of_file("it", read(path))

    def test_an_entry_that_cannot_be_read_is_not_passed_over(self, tmp_path: Path) -> None:
        path = tuned(tmp_path, {1: OLD, 64: NEW})
        path.write_text(path.read_text("utf-8").replace('"64": {"BLOCK_SIZE_M": 32,', '"64": {'), "utf-8")
        with pytest.raises(
            ContestantError, match="it: expected a launch config at every batch size, found none at '64'"
        ):
            of_file("it", read(path))

    def test_the_string_that_vllm_writes_beside_the_entries_is_none(self, tmp_path: Path) -> None:
        path = tuned(tmp_path, {1: OLD})
        path.write_text(path.read_text("utf-8").replace("{", '{"triton_version": "3.4.0", ', 1), "utf-8")
        assert of_file("it", read(path)).entries == {1: LaunchConfig(*OLD)}

    def test_sglangs_spelling_is_read_as_sglangs(self, tmp_path: Path) -> None:
        name = DEEPSEEK.replace("[128,128]", "[128, 128]")
        file = read(tuned(tmp_path, {64: SOUND}, name))
        assert file.workload is not None
        assert (file.workload.block_shape, file.name.faults) == ((128, 128), ())


class TestHeuristics:
    def test_both_engines_at_every_batch_size(self) -> None:
        device = load_devices().find("NVIDIA H100 80GB HBM3")
        vllm, sglang = heuristics(WORKLOAD, (1, 64), device)
        assert vllm == Contestant(NO_FILE, {m: vllm_heuristic(WORKLOAD, m) for m in (1, 64)})
        assert sglang == Contestant(SGLANG_NO_FILE, {m: sglang_heuristic(WORKLOAD, m) for m in (1, 64)})

    def test_the_devices_vendor_and_shared_memory_decide(self) -> None:
        fp8 = Workload(8, 7168, "any", "fp8_w8a8")
        amd = load_devices().find("AMD_Instinct_MI300X")
        assert heuristics(fp8, (1,), amd)[0].entry(1).num_stages == 2
        small = next(
            device
            for device in load_devices()
            if device.vendor == "nvidia" and (device.smem_bytes_per_block or 1 << 20) < 128 << 10
        )
        assert heuristics(fp8, (1,), small)[1].entry(1) == LaunchConfig(32, 64, 256, 1, 4, 4)

    def test_a_dtype_without_a_known_one_is_refused(self) -> None:
        device = load_devices().find("NVIDIA H100 80GB HBM3")
        with pytest.raises(ContestantError, match="dtype int4_w4a16: expected one whose heuristic is known"):
            heuristics(Workload(8, 7168, "any", "int4_w4a16"), (1,), device)


class TestAgainstAFile:
    def test_it_is_named_by_its_folder(self, tmp_path: Path) -> None:
        own, other = tuned(tmp_path / "new", {64: NEW}), tuned(tmp_path / "old", {64: OLD})
        assert against(str(other), read(own)) == Contestant("old", {64: LaunchConfig(*OLD)})

    def test_the_other_engines_spelling_of_one_workload_is_the_same(self, tmp_path: Path) -> None:
        own = tuned(tmp_path / "vllm", {64: NEW}, DEEPSEEK)
        other = tuned(tmp_path / "sglang", {64: OLD}, DEEPSEEK.replace("[128,128]", "[128, 128]"))
        assert against(str(other), read(own)).entries == {64: LaunchConfig(*OLD)}

    def test_another_workload_is_refused(self, tmp_path: Path) -> None:
        own, other = tuned(tmp_path, {64: NEW}), tuned(tmp_path, {64: OLD}, DEEPSEEK)
        message = rejected(str(other), own)
        assert message == f"--against: expected a file of {MIXTRAL}'s workload, found {DEEPSEEK}."

    def test_a_file_that_is_none_is_refused(self, tmp_path: Path) -> None:
        own = tuned(tmp_path, {64: NEW})
        (tmp_path / "notes.txt").write_text("slow", "utf-8")
        assert "found notes.txt" in rejected(str(tmp_path / "notes.txt"), own)

    def test_a_broken_file_of_the_workload_is_refused(self, tmp_path: Path) -> None:
        own = tuned(tmp_path / "new", {64: NEW})
        other = tmp_path / "old" / MIXTRAL
        other.parent.mkdir()
        other.write_text("[]", "utf-8")
        assert rejected(str(other), own).startswith("old: expected a tuned file, found ")


class TestAgainstARevision:
    def test_the_files_own_bytes_there_take_part(self, twice_committed: Path) -> None:
        own = read(twice_committed)
        assert against("first", own) == Contestant("first", {64: LaunchConfig(*OLD)})
        assert against("HEAD", own).entries == {64: LaunchConfig(*NEW)}
        assert against("HEAD~1", own).entries == {64: LaunchConfig(*OLD)}
        assert own.launch_configs == {64: LaunchConfig(*SOUND)}

    def test_a_commits_hash_is_a_revision_too(self, twice_committed: Path, git: Git) -> None:
        sha = git("rev-parse", "first")
        assert against(sha, read(twice_committed)).entries == {64: LaunchConfig(*OLD)}

    def test_the_working_directory_does_not_matter(
        self, twice_committed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir("/")
        assert against("first", read(twice_committed)).entries == {64: LaunchConfig(*OLD)}

    def test_bytes_come_as_they_were_committed(self, twice_committed: Path) -> None:
        tuned(twice_committed.parent, {64: NEW}, DEEPSEEK)
        assert at_revision("HEAD", twice_committed) == twice_committed.read_bytes()

    @pytest.mark.parametrize(
        "what", ["main~9", "no-such-branch", "first..HEAD", "first...HEAD", "HEAD^!", "^HEAD", "HEAD~x", "no/such.json"]
    )
    def test_what_names_no_revision_with_the_file_is_refused(self, twice_committed: Path, what: str) -> None:
        message = rejected(what, twice_committed)
        start = f"--against: expected heuristic, an existing file or a git revision with {DEEPSEEK}, found {what!r} ("
        assert message.startswith(start)
        assert "fatal: " in message

    def test_a_file_younger_than_the_revision_is_refused_with_gits_reason(
        self, twice_committed: Path, tmp_path: Path
    ) -> None:
        young = tuned(tmp_path / "configs", {64: NEW})
        assert "exists on disk, but not in 'first'" in rejected("first", young)

    def test_what_holds_no_tuned_file_there_is_refused(self, git: Git, tmp_path: Path) -> None:
        (tmp_path / MIXTRAL).write_text("{", "utf-8")
        git("add", ".")
        git("commit", "--quiet", "-m", "half a file")
        own = tuned(tmp_path, {64: NEW})
        assert rejected("HEAD", own).startswith("HEAD: expected a tuned file, found ")

    @pytest.mark.parametrize("what", ["", "--output=x", "-p", "HEAD:README.md", ":0"])
    def test_options_and_other_paths_never_reach_git(
        self, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "")
        path = tuned(tmp_path, {64: NEW})
        assert rejected(what, path) == f"--against: expected heuristic, a file or a git revision, found {what!r}."

    @pytest.mark.parametrize("what", ["x" * 5000, "first\x1b[31m\nfirst"])
    def test_odd_text_stays_one_printable_line(self, twice_committed: Path, what: str) -> None:
        assert rejected(what, twice_committed).isprintable()

    def test_a_file_outside_any_repository_says_so(self, tmp_path: Path) -> None:
        path = tuned(tmp_path, {64: NEW})
        assert "not a git repository" in rejected("HEAD", path)

    def test_a_machine_without_git_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        message = rejected("HEAD", tuned(tmp_path, {64: NEW}))
        assert message.startswith("--against HEAD: expected git to run, found: ")


class TestToldApart:
    ROWS = dict.fromkeys((1,), LaunchConfig(*OLD))

    def names(self, **rivals: str) -> list[str]:
        return [c.name for c in told_apart({what: (Contestant(name, self.ROWS),) for what, name in rivals.items()})]

    def test_different_names_stay(self) -> None:
        assert self.names(a="old", b="new") == ["old", "new"]

    def test_two_of_one_name_go_by_what_named_them(self) -> None:
        assert self.names(a="old", b="new", c="old") == ["a", "new", "c"]

    def test_nobody_takes_the_files_own_name(self) -> None:
        assert self.names(a="this file") == ["a"]

    def test_the_heuristics_are_two(self) -> None:
        pair = (Contestant(NO_FILE, self.ROWS), Contestant(SGLANG_NO_FILE, self.ROWS))
        assert told_apart({"heuristic": pair}) == pair
