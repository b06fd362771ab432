"""What a tuned file is compared with: files, revisions of a real git repository, heuristics; one line for faults."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour, QuantMode
from tests.builders import NAME, Store
from tests.tools.compile.tuned_files import DEEPSEEK, MIXTRAL, SOUND, tuned
from tools.bench.candidates import (
    NO_FILE,
    Candidate,
    FileComparison,
    Judging,
    against,
    at_revision,
    comparison_of,
    heuristic,
    of_file,
    read,
    read_files,
    with_distinct_names,
)
from tools.bench.request import parse
from tools.errors import UserError
from tools.launch.heuristics import sglang_heuristic, vllm_heuristic
from tools.launch.layer_config import LayerConfig
from tools.measure.layer import LayerShape
from tools.measure.panel import DRAWN_KINDS, RoutingKind
from tools.measure.seeds import Purpose
from tools.registry.devices import Device, load_devices
from tools.store.config_file import ConfigFile
from tools.store.workload import Workload

VLLM, SGLANG = Flavour
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
    with pytest.raises(UserError) as raised:
        against(what, read(path))
    message = str(raised.value)
    assert "\n" not in message
    return message


class TestEntry:
    CANDIDATE = Candidate.alike("a file", {m: LaunchConfig(16, 64, 64, 1, 4, m) for m in (1, 64, 128)})

    @pytest.mark.parametrize(("num_tokens", "served_by"), [(64, 64), (65, 64), (97, 128), (4096, 128), (1, 1)])
    def test_the_nearest_batch_size_serves(self, num_tokens: int, served_by: int) -> None:
        assert self.CANDIDATE.entry(num_tokens).num_stages == served_by

    def test_a_tie_goes_to_the_smaller(self) -> None:
        assert self.CANDIDATE.entry(96).num_stages == 64


class TestOfFile:
    def test_a_tuned_file_takes_part_with_its_entries(self, tmp_path: Path) -> None:
        path = tuned(tmp_path, {1: OLD, 64: NEW})
        assert of_file("it", read(path)) == Candidate.alike("it", {1: LaunchConfig(*OLD), 64: LaunchConfig(*NEW)})

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
        with pytest.raises(UserError) as raised:
            of_file("it", read(path))
        assert str(raised.value).startswith("it: expected a tuned file, found ")
        assert found in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_a_name_that_stands_for_no_workload_is_the_fault(self, tmp_path: Path) -> None:
        path = tuned(tmp_path, {1: OLD}, "notes.json")
        with pytest.raises(UserError, match=r"^it: expected E=….*, found 'notes\.json'\. Fix: rename the file"):
            of_file("it", read(path))

    def test_an_entry_that_cannot_be_read_is_not_passed_over(self, tmp_path: Path) -> None:
        path = tuned(tmp_path, {1: OLD, 64: NEW})
        path.write_text(path.read_text("utf-8").replace('"64": {"BLOCK_SIZE_M": 32,', '"64": {'), "utf-8")
        with pytest.raises(UserError, match="it: expected a launch config at every batch size, found none at '64'"):
            of_file("it", read(path))

    def test_the_string_that_vllm_writes_beside_the_entries_is_none(self, tmp_path: Path) -> None:
        path = tuned(tmp_path, {1: OLD})
        path.write_text(path.read_text("utf-8").replace("{", '{"triton_version": "3.4.0", ', 1), "utf-8")
        assert of_file("it", read(path)).entries[VLLM] == {1: LaunchConfig(*OLD)}

    def test_sglangs_spelling_is_read_as_sglangs(self, tmp_path: Path) -> None:
        name = DEEPSEEK.replace("[128,128]", "[128, 128]")
        file = read(tuned(tmp_path, {64: SOUND}, name))
        assert file.workload is not None
        assert (file.workload.block_shape, file.name.faults) == ((128, 128), ())


class TestHeuristics:
    def test_both_engines_at_every_batch_size(self) -> None:
        device = load_devices().find("NVIDIA H100 80GB HBM3")
        found = heuristic(WORKLOAD, (1, 64), device)
        assert found == Candidate(
            NO_FILE,
            {
                VLLM: {m: vllm_heuristic(WORKLOAD, m) for m in (1, 64)},
                SGLANG: {m: sglang_heuristic(WORKLOAD, m) for m in (1, 64)},
            },
        )

    def test_the_devices_vendor_and_shared_memory_decide(self) -> None:
        fp8 = Workload(8, 7168, "any", "fp8_w8a8")
        amd = load_devices().find("AMD_Instinct_MI300X")
        assert heuristic(fp8, (1,), amd).entry(1, VLLM).num_stages == 2
        small = next(
            device
            for device in load_devices()
            if device.vendor == "nvidia" and (device.smem_bytes_per_block or 1 << 20) < 128 << 10
        )
        assert heuristic(fp8, (1,), small).entry(1, SGLANG) == LaunchConfig(32, 64, 256, 1, 4, 4)

    def test_a_dtype_without_a_known_one_is_refused(self) -> None:
        device = load_devices().find("NVIDIA H100 80GB HBM3")
        with pytest.raises(UserError, match="dtype int4_w4a16: expected one whose heuristic is known"):
            heuristic(Workload(8, 7168, "any", "int4_w4a16"), (1,), device)


class TestAgainstAFile:
    def test_it_is_named_by_its_folder(self, tmp_path: Path) -> None:
        own, other = tuned(tmp_path / "new", {64: NEW}), tuned(tmp_path / "old", {64: OLD})
        assert against(str(other), read(own)) == Candidate.alike("old", {64: LaunchConfig(*OLD)})

    def test_the_other_engines_spelling_of_one_workload_is_the_same(self, tmp_path: Path) -> None:
        own = tuned(tmp_path / "vllm", {64: NEW}, DEEPSEEK)
        other = tuned(tmp_path / "sglang", {64: OLD}, DEEPSEEK.replace("[128,128]", "[128, 128]"))
        assert against(str(other), read(own)).entries[VLLM] == {64: LaunchConfig(*OLD)}

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
        assert against("first", own) == Candidate.alike("first", {64: LaunchConfig(*OLD)})
        assert against("HEAD", own).entries[VLLM] == {64: LaunchConfig(*NEW)}
        assert against("HEAD~1", own).entries[VLLM] == {64: LaunchConfig(*OLD)}
        assert own.launch_configs == {64: LaunchConfig(*SOUND)}

    def test_a_commits_hash_is_a_revision_too(self, twice_committed: Path, git: Git) -> None:
        sha = git("rev-parse", "first")
        assert against(sha, read(twice_committed)).entries[VLLM] == {64: LaunchConfig(*OLD)}

    def test_the_working_directory_does_not_matter(
        self, twice_committed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir("/")
        assert against("first", read(twice_committed)).entries[VLLM] == {64: LaunchConfig(*OLD)}

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


class TestWithDistinctNames:
    ROWS = dict.fromkeys((1,), LaunchConfig(*OLD))

    def names(self, **rivals: str) -> list[str]:
        named = {what: Candidate.alike(name, self.ROWS) for what, name in rivals.items()}
        return [candidate.name for candidate in with_distinct_names(named)]

    def test_different_names_stay(self) -> None:
        assert self.names(a="old", b="new") == ["old", "new"]

    def test_two_of_one_name_go_by_what_named_them(self) -> None:
        assert self.names(a="old", b="new", c="old") == ["a", "new", "c"]

    def test_a_rival_never_takes_the_files_own_name(self) -> None:
        assert self.names(a="this file") == ["a"]

    def test_the_heuristic_keeps_its_name(self) -> None:
        assert self.names(heuristic=NO_FILE, a=NO_FILE) == [NO_FILE, "a"]


# ---------------------------------------------------------------
# Which files are measured, and what is said of those that are not

OTHER, DEEP = (32, 64, 64, 1, 4, 3), (16, 64, 256, 1, 4, 3)
OTHER_CONFIG = LaunchConfig(*OTHER)
ELSEWHERE = MIXTRAL.replace("H100_80GB_HBM3", "H200")
INT4 = MIXTRAL.replace(".json", ",dtype=int4_w4a16.json")
DOWN = MIXTRAL.replace(".json", "_down.json")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def read_by(said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[ConfigFile]]:
    """Reads with a command line, from tmp_path; what is said goes to `said`."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: read_files(parse([*map(str, arguments)]), said.append)


@pytest.fixture(scope="module")
def h100() -> Device:
    return load_devices().find("NVIDIA H100 80GB HBM3")


def paths(files: list[ConfigFile]) -> list[str]:
    return [file.found.relative.as_posix() for file in files]


class TestReadFiles:
    def test_all_tuned_files_below_a_folder(
        self, read_by: Callable[..., list[ConfigFile]], said: list[str], tmp_path: Path
    ) -> None:
        tuned(tmp_path / "configs", {1: SOUND})
        tuned(tmp_path / "configs" / "triton_3_7_0", {1: SOUND})
        (tmp_path / "configs" / "README.md").write_text("-", "utf-8")
        assert paths(read_by("configs")) == [MIXTRAL, f"triton_3_7_0/{MIXTRAL}"]
        assert said == []

    def test_a_down_file_goes_with_its_up_file(
        self, read_by: Callable[..., list[ConfigFile]], said: list[str], tmp_path: Path
    ) -> None:
        tuned(tmp_path / "configs", {1: SOUND})
        tuned(tmp_path / "configs", {1: SOUND}, DOWN)
        assert paths(read_by("configs")) == [MIXTRAL]
        assert said == [
            f"not measured: configs/{DOWN}, a _down file: it is measured with the up file beside it, for SGLang"
        ]

    def test_a_down_file_alone_is_refused_with_the_way_out(
        self, read_by: Callable[..., list[ConfigFile]], tmp_path: Path
    ) -> None:
        tuned(tmp_path, {1: SOUND}, DOWN)
        with pytest.raises(UserError, match=r"found only a _down file: .* Fix: name the up file"):
            read_by(DOWN)

    def test_what_the_engine_would_not_read_is_said(
        self, read_by: Callable[..., list[ConfigFile]], said: list[str], tmp_path: Path
    ) -> None:
        tuned(tmp_path / "folder", {1: SOUND})
        tuned(tmp_path / "folder" / "deeper", {1: SOUND}, DEEPSEEK)
        assert paths(read_by("folder", "--layout", "vllm")) == [MIXTRAL]
        assert len(said) == 1
        assert said[0].startswith(f"not measured: folder/deeper/{DEEPSEEK}: not read by vLLM in this place. Fix: ")

    def test_a_file_of_another_kernel_is_said(
        self, read_by: Callable[..., list[ConfigFile]], said: list[str], tmp_path: Path
    ) -> None:
        tuned(tmp_path / "folder", {1: SOUND})
        tuned(tmp_path / "folder", {1: SOUND}, "NVIDIA_H200_SHRINK.json")
        assert paths(read_by("folder", "--layout", "vllm")) == [MIXTRAL]
        assert said == ["not measured: folder/NVIDIA_H200_SHRINK.json: a file of vLLM's LoRA kernels"]

    @pytest.mark.parametrize(
        ("path", "found"),
        [
            ("nowhere", r"^nowhere: expected a file or a folder, found: .*\. Fix: "),
            ("empty", "^empty: expected at least one tuned file, found none. Fix: "),
        ],
    )
    def test_nothing_to_measure_is_refused(
        self, read_by: Callable[..., list[ConfigFile]], tmp_path: Path, path: str, found: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match=found):
            read_by(path)

    def test_a_record_to_write_into_is_asked_for_before_anything_runs(
        self, read_by: Callable[..., list[ConfigFile]], tmp_path: Path
    ) -> None:
        store = Store(tmp_path / "configs")
        store.measured(store.config())
        assert paths(read_by("configs", "--write-record")) == [NAME]
        store.record_of(store.root / NAME).unlink()
        with pytest.raises(UserError, match=f"--write-record: expected a record configs/records/{NAME}, found none"):
            read_by("configs", "--write-record")


class TestJudging:
    def test_few_tokens_are_not_skewed_unless_nothing_else_is_asked_for(self) -> None:
        assert Judging().kinds_at(7) == (RoutingKind.UNIFORM,)
        assert Judging().kinds_at(8) == DRAWN_KINDS
        assert Judging((RoutingKind.SKEW_03,)).kinds_at(1) == (RoutingKind.SKEW_03,)

    def test_two_series_or_purposes_share_no_seed(self) -> None:
        firsts = [Judging(series=n, purpose=p).first_seed for n in (0, 1) for p in (Purpose.JUDGEMENT, Purpose.CI)]
        assert len({first // 64 for first in firsts}) == 4
        assert Judging(series=1).first_block == 64

    def test_its_title_names_every_kind(self) -> None:
        assert Judging().title == "uniform, skew_1.0, skew_0.3"


class TestMakeFileComparison:
    @pytest.fixture
    def plan(self, read_by: Callable[..., list[ConfigFile]]) -> Callable[..., FileComparison]:
        def of(*arguments: object) -> FileComparison:
            (file,) = read_by(*arguments)
            return comparison_of(file, parse([*map(str, arguments)]), load_devices())

        return of

    def test_the_file_meets_each_engines_heuristic_at_its_own_batch_sizes(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        found = plan(tuned(tmp_path, {1: SOUND, 64: OTHER}))
        assert [c.name for c in found.candidates] == ["this file", NO_FILE]
        assert found.candidates[0].entries[VLLM] == {1: LaunchConfig(*SOUND), 64: LaunchConfig(*OTHER)}
        assert found.batch_sizes == (1, 64)

    def test_it_is_judged_on_every_engine_that_reads_the_name(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        found = plan(tuned(tmp_path, {1: SOUND, 64: OTHER}))
        assert found.engines[0] == (VLLM, SGLANG)
        first = [str(part) for part in found.parts(64, Judging()) if part.placement == 0]
        kinds = ("uniform", "skew_1.0", "skew_0.3")
        assert first == [f"{engine}, {kind}" for engine in ("vllm", "sglang") for kind in kinds]
        assert {part.routing for part in found.parts(1, Judging())} == {RoutingKind.UNIFORM}

    def test_on_an_engines_kernel_on_that_one(self, plan: Callable[..., FileComparison], tmp_path: Path) -> None:
        found = plan(tuned(tmp_path, {1: SOUND}), "--kernel", "sglang=a.py")
        assert found.engines == ((SGLANG,),) * len(found.shapes)
        assert found.notes == ()

    def test_a_circle_of_links_is_left_to_who_reads_the_kernel(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        circle = tmp_path / "circle.py"
        circle.symlink_to(circle)
        assert plan(tuned(tmp_path, {1: SOUND}), "--kernel", f"sglang={circle}").engines[0] == (SGLANG,)

    def test_an_engine_that_no_model_asks_for_the_name_is_judged_and_said(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        name = MIXTRAL.replace(".json", ",dtype=int8_w8a8,per_channel_quant=True.json")
        found = plan(tuned(tmp_path, {1: SOUND}, name), "--kernel", "vllm=a.py")
        assert found.engines == ((VLLM,),) * len(found.shapes)
        assert found.notes[-1] == "no model here asks vLLM for this name: judged on its kernel all the same"

    def test_each_engine_launches_its_own_heuristic(self, plan: Callable[..., FileComparison], tmp_path: Path) -> None:
        found = plan(tuned(tmp_path, {1: SOUND}))
        own, no_file = LaunchConfig(*SOUND), vllm_heuristic(found.workload, 1)
        assert found.entries(1, VLLM) == {"this file": LayerConfig.of(own), NO_FILE: LayerConfig.of(no_file)}
        sglangs = sglang_heuristic(found.workload, 1, smem_bytes=232448)
        assert found.entries(1, SGLANG)[NO_FILE] == LayerConfig.of(sglangs)

    def test_a_file_of_models_without_a_gate_is_refused(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        path = tuned(tmp_path, {1: SOUND}, MIXTRAL.replace("E=8,N=7168", "E=128,N=1856"))
        with pytest.raises(UserError, match=r"only models without one have .*nothing to tune"):
            plan(path)

    def test_other_batch_sizes_may_be_asked_for(self, plan: Callable[..., FileComparison], tmp_path: Path) -> None:
        found = plan(tuned(tmp_path, {1: SOUND, 64: OTHER}), "--num-tokens", 128, 32)
        assert found.batch_sizes == (32, 128)
        assert all(c.entry(128) for c in found.candidates)

    def test_candidates_come_in_the_order_asked_for(self, plan: Callable[..., FileComparison], tmp_path: Path) -> None:
        own = tuned(tmp_path / "new", {1: SOUND})
        others = [tuned(tmp_path / name, {1: OTHER}) for name in ("b", "a")]
        found = plan(own, "--against", others[0], "--against", "heuristic", "--against", others[1])
        assert [c.name for c in found.candidates] == ["this file", "b", NO_FILE, "a"]

    def test_folders_of_one_name_go_by_their_paths(self, plan: Callable[..., FileComparison], tmp_path: Path) -> None:
        own = tuned(tmp_path / "new", {1: SOUND})
        others = [str(tuned(tmp_path / name / "configs", {1: OTHER})) for name in ("b", "a")]
        found = plan(own, "--against", others[0], "--against", others[1])
        assert [c.name for c in found.candidates] == ["this file", *others]

    def test_shapes_come_from_the_record(self, plan: Callable[..., FileComparison], tmp_path: Path) -> None:
        store = Store(tmp_path / "configs")
        shapes = [{"K": 2048, "top_k": 8, "models": []}, {"K": 4096, "top_k": 2, "models": []}]
        store.measured(store.config(), shapes=shapes)
        found = plan(store.root)
        assert found.shapes == (
            LayerShape(8, 1024, 2048, 8, QuantMode()),
            LayerShape(8, 1024, 4096, 2, QuantMode()),
        )
        assert found.notes == ()

    def test_a_shape_that_neither_record_nor_registry_gives_is_assumed_and_said(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        found = plan(tuned(tmp_path, {1: SOUND}, MIXTRAL.replace("E=8,N=7168", "E=7,N=96")))
        assert found.shapes == (LayerShape(7, 96, 4096, 2, QuantMode()),)
        assert found.notes == ("assumed K=4096, top_k=2: neither record nor registry gives them",)

    def test_a_tile_that_vllm_clamps_is_said_for_each_candidate(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        own = tuned(tmp_path / "new", {1: DEEP, 64: OTHER, 128: DEEP}, DEEPSEEK)
        other = tuned(tmp_path / "old", {1: OTHER, 128: DEEP}, DEEPSEEK)
        found = plan(own, "--against", other, "--against", "heuristic")
        assert found.notes == (
            "this file, M=1, 128: BLOCK_SIZE_K clamped to 128, as vLLM does",
            "old, M=128: BLOCK_SIZE_K clamped to 128, as vLLM does",
        )
        assert found.candidates[0].entry(1).BLOCK_SIZE_K == 256

    def test_without_scale_blocks_nothing_is_clamped(self, plan: Callable[..., FileComparison], tmp_path: Path) -> None:
        assert plan(tuned(tmp_path, {1: DEEP})).notes == ()

    def test_on_vllms_kernel_a_down_twin_is_said_to_be_left_out(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        tuned(tmp_path, {1: SOUND}, DOWN)
        found = plan(tuned(tmp_path, {1: SOUND}), "--kernel", "vllm=fused_moe.py")
        assert found.notes == (f"{DOWN}: both projections run the up file's entries here, as in vLLM",)
        assert found.candidates[0].down == {}

    def test_on_sglangs_kernel_the_down_twin_runs_down(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        tuned(tmp_path, {1: OTHER}, DOWN)
        found = plan(tuned(tmp_path, {1: SOUND, 64: OTHER}), "--kernel", "sglang=kernels.py")
        own, *others = found.candidates
        assert own.layer(64, found.workload, Flavour.SGLANG) == LayerConfig(OTHER_CONFIG, OTHER_CONFIG)
        assert own.layer(1, found.workload, Flavour.SGLANG).down == replace(
            OTHER_CONFIG, BLOCK_SIZE_M=own.entry(1).BLOCK_SIZE_M
        )
        assert [other.down for other in others] == [{}]
        assert found.notes == (f"down runs the entries of {DOWN} for SGLang",)

    def test_on_our_own_kernel_a_down_twin_with_descriptors_is_said_to_be_left_out(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        tuned(tmp_path, {1: OTHER}, DOWN, USE_TMA=True)
        found = plan(tuned(tmp_path, {1: SOUND}))
        assert found.candidates[0].down == {}
        assert found.notes == (
            f"{DOWN}: its USE_TMA runs on SGLang's own kernel alone: both projections run the up file's entries here. "
            "Fix: --kernel sglang=PATH",
        )
        assert plan(tuned(tmp_path, {1: SOUND}), "--kernel", "sglang=kernels.py").candidates[0].uses_descriptors

    def test_of_a_file_that_sglang_ships_the_down_file_runs_that_it_finds_in_any_of_its_folders(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        configs, kernel = tmp_path / "sglang" / "configs", tmp_path / "sglang" / "kernels.py"
        shipped = tuned(configs / "triton_3_5_1", {1: SOUND})
        tuned(configs / "triton_3_5_1", {1: SOUND}, DOWN)
        tuned(configs / "triton_3_7_1", {1: OTHER}, DOWN)
        found = plan(tuned(tmp_path / "own", {1: SOUND}), "--against", shipped, "--kernel", f"sglang={kernel}")
        _, rival = found.candidates
        assert rival.down == {1: OTHER_CONFIG}

    def test_a_down_twin_that_cannot_be_read_is_said_where_it_is_read(
        self, plan: Callable[..., FileComparison], tmp_path: Path
    ) -> None:
        own = tuned(tmp_path, {1: SOUND})
        (tmp_path / DOWN).write_text("{", "utf-8")
        with pytest.raises(UserError, match="its _down file: expected a tuned file, found not JSON"):
            plan(own, "--kernel", "sglang=kernels.py")
        assert plan(own, "--kernel", "vllm=fused_moe.py").candidates[0].down == {}

    def test_sglang_clamps_no_tile(self, plan: Callable[..., FileComparison], tmp_path: Path) -> None:
        found = plan(tuned(tmp_path, {1: DEEP}, DEEPSEEK), "--kernel", "sglang=kernels.py")
        assert found.notes == ()
        assert found.candidates[0].layer(1, found.workload, Flavour.SGLANG).up.BLOCK_SIZE_K == 256

    def test_a_file_of_a_tier_is_named_with_it(self, plan: Callable[..., FileComparison], tmp_path: Path) -> None:
        assert plan(tuned(tmp_path / "triton_3_7_0", {1: SOUND})).name == f"triton_3_7_0/{MIXTRAL}"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                MIXTRAL.replace("H100_80GB_HBM3", "Toaster"),
                "GPU: expected one of configs/registry/devices.json, found 'NVIDIA_Toaster'.",
            ),
            (
                MIXTRAL.replace("NVIDIA_H100_80GB_HBM3", "AMD_Radeon_Graphics"),
                "GPU: expected one of configs/registry/devices.json with its architecture, found 'AMD_Radeon_Graphics'",
            ),
            (
                MIXTRAL.replace(".json", ",dtype=int4_w4a16.json"),
                "expected a dtype that this kernel runs, found int4_w4a16.",
            ),
            ("a.json", "expected E=…,N=…,device_name=…"),
        ],
    )
    def test_what_cannot_be_measured_is_refused_by_name(
        self, plan: Callable[..., FileComparison], tmp_path: Path, name: str, message: str
    ) -> None:
        with pytest.raises(UserError) as raised:
            plan(tuned(tmp_path, {1: SOUND}, name))
        assert str(raised.value).startswith(f"{name}: {message}")
        assert "\n" not in str(raised.value)


def test_a_revision_runs_the_down_file_that_it_has(tmp_path: Path, git: Git) -> None:
    file, down = tuned(tmp_path, {1: OLD}), tuned(tmp_path, {1: NEW}, DOWN)
    git("add", down.name, file.name)
    git("commit", "--quiet", "--message", "with down")
    git("rm", "--quiet", "--cached", down.name)
    git("commit", "--quiet", "--message", "without")
    assert against("HEAD~", read(file), reads_down=True).down == {1: LaunchConfig(*NEW)}
    assert against("HEAD", read(file), reads_down=True).down == {}
    assert against("HEAD~", read(file)).down == {}


def test_a_candidate_with_entries_for_down_runs_them_on_sglang_alone() -> None:
    workload = Workload(E=8, N=64, device_name="NVIDIA_H100_80GB_HBM3")
    up, down = LaunchConfig(16, 64, 64, 1, 4, 3), LaunchConfig(16, 128, 64, 1, 4, 3)
    candidate = replace(Candidate.alike("own", {1: up, 64: up}), down={1: down, 48: replace(down, BLOCK_SIZE_M=64)})
    assert candidate.layer(40, workload, Flavour.SGLANG) == LayerConfig(up, down)
    assert candidate.layer(40, workload, Flavour.VLLM) == LayerConfig.of(up)
