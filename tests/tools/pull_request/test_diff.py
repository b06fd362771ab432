"""What became of files, rows and keys, told from two sides of each path; which files changed alike; coverage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tests.builders import H100, NAME, devices, entry, table
from tests.tools.pull_request.conftest import Project
from tests.tools.pull_request.git_repository import EXECUTABLE, SUBMODULE, SYMLINK, Blob
from tools.pull_request import __main__ as command
from tools.pull_request.changes import KINDS, Version
from tools.pull_request.diff import CoveredModel, Edit, FileChange, Kind, coverage, file_changes, grouped
from tools.registry.models import load_models
from tools.store.files import canonical_config, canonical_record

OTHER = f"E=8,N=2048,device_name={H100}.json"


def latency(median: float | None) -> dict[str, float] | None:
    return None if median is None else {"median": median, "p10": median, "p90": median, "samples": 9}


def rows(median: float, baseline: float = 10.0, incumbent: float | None = None) -> dict[str, Any]:
    """The rows of a record with the same figures at every batch size, in µs."""
    row = {"latency_us": latency(median), "baseline_us": latency(baseline), "incumbent_us": latency(incumbent)}
    return dict.fromkeys(table(), row)


def version(
    document: dict[str, Any] | None, name: str = NAME, record: dict[str, Any] | None = None, folder: str = ""
) -> Version:
    data = None if document is None else canonical_config(document)
    return Version(PurePosixPath(folder, name), data, None if record is None else json.dumps(record).encode())


def only(*pairs: tuple[Version, Version]) -> FileChange:
    (change,) = file_changes(pairs)
    return change


class TestFileChanges:
    def test_an_added_file_gains_over_the_heuristic(self) -> None:
        change = only((version(None), version(table(), record={"rows": rows(8.0)})))
        assert (change.kind, len(change.rows), change.gain_pct) == (Kind.ADDED, len(table()), pytest.approx(20.0))

    def test_a_removed_file(self) -> None:
        assert only((version(table()), version(None))).kind is Kind.REMOVED

    def test_a_retuned_file_names_its_changed_rows_and_keys(self) -> None:
        after = {**table(), "64": entry(num_stages=4, USE_TMA=True), "128": entry(num_stages=4)}
        change = only((version(table()), version(after)))
        assert (change.kind, change.rows, change.gain_pct) == (Kind.RETUNED, (64, 128), None)
        assert change.edits == {Edit("num_stages", "3", "4"), Edit("USE_TMA", None, "true")}

    def test_the_gain_is_over_the_incumbent_measured_beside_it_else_over_the_earlier_record(self) -> None:
        before = version(table(), record={"rows": rows(20.0)})
        after = table(num_stages=4)
        assert only((before, version(after, record={"rows": rows(9.0)}))).gain_pct == pytest.approx(55.0)
        assert only((before, version(after, record={"rows": rows(9.0, incumbent=10.0)}))).gain_pct == pytest.approx(
            10.0
        )

    def test_only_changed_rows_count_for_the_gain(self) -> None:
        figures = {**rows(10.0, incumbent=10.0), "64": {"latency_us": latency(5.0), "incumbent_us": latency(10.0)}}
        change = only((version(table()), version({**table(), "64": entry(num_stages=4)}, record={"rows": figures})))
        assert change.gain_pct == pytest.approx(50.0)

    def test_rows_that_came_and_went_are_counted(self) -> None:
        before = {key: value for key, value in table().items() if key != "1"}
        change = only((version(before), version({key: value for key, value in table().items() if key != "4096"})))
        assert change.rows == (1, 4096)
        assert change.edits == {Edit("batch sizes", None, "1"), Edit("batch sizes", "1", None)}

    def test_a_file_that_left_one_tier_for_another_is_one_change(self) -> None:
        pairs = [
            (version(table()), version(None)),
            (version(None, folder="legacy_configs"), version(table(num_stages=4), folder="legacy_configs")),
        ]
        change = only(*pairs)
        assert (change.kind, change.moved_from, change.tier) == (Kind.MOVED, "default", "legacy_configs")
        assert change.edits == {Edit("num_stages", "3", "4")}

    def test_a_file_that_came_in_two_tiers_has_moved_to_neither(self) -> None:
        tiers = ("legacy_configs", "triton_3_6_0")
        pairs = [(version(None, folder=tier), version(table(), folder=tier)) for tier in tiers]
        kinds = [change.kind for change in file_changes([(version(table()), version(None)), *pairs])]
        assert kinds == [Kind.REMOVED, Kind.ADDED, Kind.ADDED]

    def test_a_record_alone(self) -> None:
        assert (
            only((version(table(), record={}), version(table(), record={"date": "2026-01-01"}))).kind is Kind.RECORDED
        )

    def test_a_mode_alone_is_no_change_of_a_tuned_file(self) -> None:
        same = version(table(), record={})
        assert file_changes([(same, same)]) == ()

    def test_a_record_without_any_file_is_nothing(self) -> None:
        assert file_changes([(version(None, record={}), version(None))]) == ()

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"1": NaN}', b'{"1": {}, "1": {}}', b'{"a": 1}'])
    def test_what_can_not_be_compared(self, data: bytes) -> None:
        after = Version(PurePosixPath(NAME), data, None)
        assert only((version(table()), after)).kind is Kind.UNREADABLE

    @pytest.mark.parametrize("median", [None, "fast", True, -1, 0, [], {}])
    def test_figures_that_are_none_tell_no_gain(self, median: Any) -> None:
        row = {"latency_us": {"median": median}, "baseline_us": latency(10.0)}
        change = only((version(None), version(table(), record={"rows": {"64": row, "x": row, "1": 3}})))
        assert change.gain_pct is None


class TestGroups:
    def test_200_files_with_one_change_are_one_group(self) -> None:
        names = [f"E={i},N=512,device_name={device}.json" for i in range(1, 101) for device in (H100, "NVIDIA_H200")]
        pairs = [(version(table(), name), version(table(num_stages=4), name)) for name in names]
        (group,) = grouped(file_changes(pairs))
        assert (len(group.files), group.num_rows, group.devices) == (200, 200 * len(table()), (H100, "NVIDIA_H200"))

    def test_another_value_is_another_group_and_the_largest_comes_first(self) -> None:
        names = [f"E={i},N=512,device_name={H100}.json" for i in range(1, 4)]
        pairs = [
            (version(table(), name), version(table(num_stages=2 + (i > 0) * 2), name)) for i, name in enumerate(names)
        ]
        assert [len(group.files) for group in grouped(file_changes(pairs))] == [2, 1]

    def test_where_many_values_changed_the_keys_make_the_group(self) -> None:
        def tuned(step: int) -> dict[str, Any]:
            return {key: entry(GROUP_SIZE_M=1 + (rank + step) % 7) for rank, key in enumerate(table())}

        pairs = [(version(table(), name), version(tuned(step), name)) for step, name in enumerate((NAME, OTHER))]
        (group,) = grouped(file_changes(pairs))
        assert len(group.files) == 2

    def test_the_gain_of_a_group_is_the_median_of_its_files(self) -> None:
        names = [f"E={i},N=512,device_name={H100}.json" for i in (1, 2, 3)]
        gains = [9.0, 8.0, 1.0]
        pairs = [
            (version(None, name), version(table(), name, record={"rows": rows(median)}))
            for name, median in zip(names, gains, strict=True)
        ]
        (group,) = grouped(file_changes(pairs))
        assert group.gain_pct == pytest.approx(20.0)


class TestCoverage:
    def test_a_file_covers_every_registered_model_with_its_sizes(self) -> None:
        cells = coverage([PurePosixPath(f"E=8,N=3584,device_name={H100}.json")], load_models(), devices())
        assert CoveredModel("mistralai/Mixtral-8x7B-v0.1", H100) in cells

    def test_a_bf16_file_covers_no_checkpoint_that_exists_in_fp8_only(self) -> None:
        plain, blocks = (
            coverage([PurePosixPath(f"E=256,N=128,device_name={H100}{dtype}.json")], load_models(), devices())
            for dtype in ("", ",dtype=fp8_w8a8,block_shape=[128,128]")
        )
        assert CoveredModel("deepseek-ai/DeepSeek-V3", H100) in blocks - plain

    def test_aliases_are_one_device_and_tiers_one_cell(self) -> None:
        paths = [
            PurePosixPath("E=8,N=3584,device_name=AMD_Instinct_MI300X.json"),
            PurePosixPath("triton_3_6_0/E=8,N=3584,device_name=AMD_Instinct_MI300X_OAM.json"),
        ]
        assert coverage(paths, load_models(), devices()) == coverage(paths[:1], load_models(), devices())

    def test_int4_has_the_models_own_size(self) -> None:
        plain, int4 = (
            coverage([PurePosixPath(f"E=8,N={N},device_name={H100}{dtype}.json")], load_models(), devices())
            for N, dtype in ((3584, ""), (3584, ",dtype=int4_w4a16"))
        )
        assert plain == int4

    def test_names_that_can_not_be_read_cover_nothing(self) -> None:
        assert (
            coverage([PurePosixPath("x.json"), PurePosixPath("E=8,N=7.json")], load_models(), devices()) == frozenset()
        )


# The diff of two commits of a real repository, through the command.

PATH, RECORD = f"configs/{NAME}", f"configs/records/{NAME}"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(project: Project, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(base: str, head: str, *arguments: str) -> tuple[int, str, str]:
        code = command.main(["diff", base, head, "--repository", str(project.root), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def groups(answer: tuple[int, str, str]) -> list[dict[str, Any]]:
    assert (answer[0], answer[2]) == (0, "")
    found: list[dict[str, Any]] = json.loads(answer[1])["groups"]
    return found


def test_a_file_that_was_added_with_its_coverage(project: Project, run: Run) -> None:
    head = project.head(project.files(f"E=8,N=3584,device_name={H100}.json"))
    code, out, _ = run("main", head)
    assert code == 0
    assert out.splitlines()[0] == "Added"
    assert f"  gained on {H100}: " in out
    assert "mistralai/Mixtral-8x7B-v0.1" in out


def test_a_retuned_file_with_the_gain_that_its_record_claims(project: Project, run: Run) -> None:
    latency = {"median": 800.0, "p10": 800.0, "p90": 800.0, "samples": 3}
    row = {"latency_us": latency, "baseline_us": latency, "decision": "promote"}
    keys = json.loads(project.files()[PATH])
    head = project.head(project.files(record={"rows": dict.fromkeys(keys, row)}, num_stages=4))
    (group,) = groups(run("main", head, "--format", "json"))
    assert (group["kind"], group["claimed_gain_pct"]) == ("re-tuned", 20.0)
    assert group["edits"] == [{"key": "num_stages", "before": "3", "after": "4"}]


def test_a_file_that_moved_between_tiers(project: Project, run: Run) -> None:
    moved = project.files(folder="triton_3_6_0")
    (group,) = groups(run("main", project.head({**moved, PATH: None, RECORD: None}), "--format", "json"))
    assert (group["kind"], group["moved_from"]) == ("moved", "default")


def test_what_an_added_file_hides_and_from_whom(project: Project, run: Run) -> None:
    main = project.head(project.signed())
    head = project.head(project.files(folder="triton_3_7_0", num_stages=4), parent=main)
    _, out, _ = run(main, head)
    here = f"configs/triton_3_7_0/{NAME} hides {PATH}"
    assert f"Hidden by added files\n  {here} (verified) from readers of Triton 3.7.0, 3.7.1\n" in out
    _, out, _ = run(main, head, "--format", "github")
    (line,) = [line for line in out.splitlines() if "title=hides::" in line]
    assert line.startswith("::warning ")
    for parent, standing in ((project.main, "claimed"), (project.head(project.published()), "published")):
        head = project.head(project.files(folder="triton_3_7_0", num_stages=4), parent=parent)
        (found,) = json.loads(run(parent, head, "--format", "json")[1])["hidden"]
        assert found["standing"] == standing
    forged = project.head(project.files(folder="triton_9999_0_0"))
    assert "(claimed) from readers of Triton 9999.0.0\n" in run("main", forged)[1]


def test_a_record_alone_says_which_keys_it_touches_and_which_lines_it_gained(project: Project, run: Run) -> None:
    line = {"engine": "vllm", "version": "0.33.0", "triton": "3.8.0", "date": "2026-01-02"}
    checked = [{**line, "worst_ratio": 0.9, "geomean_ratio": 0.8}]
    held = [{"triton": "3.6.0", "date": "2026-01-02", "worst_loss_pct": 0.1}]
    head = project.head(project.files(record={"engine_checked": checked, "date": "2026-01-02"}))
    _, out, _ = run("main", head)
    assert f"New evidence, the same launch configs\n  date, engine_checked changed: {NAME[:-5]}\n" in out
    said = "engine vllm, version 0.33.0, triton 3.8.0, date 2026-01-02, worst_ratio 0.9, geomean_ratio 0.8"
    assert f"Lines of benches that records gained\n  {PATH}: engine_checked: {said}\n" in out
    more = project.files(record={"engine_checked": checked, "date": "2026-01-02", "verified_with": held}, num_stages=4)
    (group,) = groups(run(head, project.head(more, parent=head), "--format", "json"))
    assert group["kind"] == "re-tuned"
    lines = ["verified_with: triton 3.6.0, date 2026-01-02, worst_loss_pct 0.1"]
    assert group["files"][0]["bench_lines"] == lines
    assert group["files"][0]["record_keys"] == ["config_sha256", "verified_with"]


@pytest.mark.parametrize("value", [3, "x\n::error::forged", [["##[error]"]], [{"a\nb": "\x1b[31m" * 500}], [None], {}])
def test_lines_that_are_none_take_one_line_each(project: Project, run: Run, value: Any) -> None:
    files = project.files()
    files[RECORD] = json.dumps({**json.loads(files[RECORD]), "verified_with": value, "k\n": True}).encode()
    _, out, _ = run("main", project.head(files), "--merged")
    assert all(line.isprintable() and len(line) < 1000 for line in out.splitlines())
    assert "##[" not in out
    assert "verified_with" in out


def test_before_the_first_push_there_was_nothing(project: Project, run: Run) -> None:
    (group,) = groups(run("0" * 40, "main", "--merged", "--format", "json"))
    assert (group["kind"], [file["path"] for file in group["files"]]) == ("added", [PATH])


def test_main_going_on_is_not_the_pull_requests_doing(project: Project, run: Run) -> None:
    head = project.head(project.files(num_stages=4))
    project.repository.set_ref("refs/heads/main", project.head({PATH: None, RECORD: None}))
    assert [group["kind"] for group in groups(run("main", head, "--format", "json"))] == ["re-tuned"]


def test_github_writes_the_markdown_into_the_step_summary(
    project: Project, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step_summary))
    code, out, _ = run("main", project.head({PATH: None, RECORD: None}), "--format", "github")
    assert code == 0
    assert out.startswith(f"::notice file=configs/{NAME}".replace(",", "%2C"))
    assert step_summary.read_text("utf-8").startswith("## Tuned configs\n\n### Removed\n")


@pytest.mark.parametrize(
    "content", [Blob(b"/etc/passwd", SYMLINK), b"\xff", b'{"1": NaN}', bytes(2_000_000), b"[" * 100_000]
)
def test_what_is_no_tuned_file_is_named_and_not_read(project: Project, run: Run, content: Any) -> None:
    (group,) = groups(run("main", project.head({PATH: content}), "--merged", "--format", "json"))
    assert (group["kind"], [file["path"] for file in group["files"]]) == ("unreadable", [PATH])


def test_a_file_with_a_hostile_name_takes_one_line(project: Project, run: Run) -> None:
    code, out, _ = run("main", project.head({"configs/a\n::error::$(x).json": b"{}"}), "--format", "github")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert out.startswith("::warning file=configs/a\\n%3A%3Aerror%3A%3A$(x).json,title=unreadable::")


@pytest.mark.parametrize("revision", ["nowhere", "--output=/tmp/x", "main:configs", "a\nb", "", "main..main"])
def test_a_revision_that_is_none_is_bad_use_in_one_line(project: Project, run: Run, revision: str) -> None:
    arguments = ("main", revision) if not revision.startswith("-") else ("main", f"refs/{revision}")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "expected a commit of this repository, found none. Fix: " in err


HOME = "fused-moe-configs/fused-moe-configs"


class TestGate:
    """The required check: a line for each file that may not be merged, after the diff itself."""

    @pytest.fixture(autouse=True)
    def home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GITHUB_REPOSITORY", HOME)
        monkeypatch.delenv("GITHUB_ACTIONS", raising=False)

    def verified(self, project: Project, commit: str) -> str:
        return project.head(project.signed(commit=commit))

    @pytest.mark.parametrize("of", ["", ":", "a-stranger/fork:verify/{commit}", f"{HOME}:tune/1", f"{HOME}:verify/x"])
    def test_evidence_that_a_pull_request_wrote(self, project: Project, run: Run, of: str) -> None:
        head = self.verified(project, project.main)
        code, out, err = run("main", head, "--of", of.format(commit=project.main))
        assert (code, err.count("\n")) == (1, 1)
        assert out.startswith("New evidence, the same launch configs\n")
        assert err.startswith(f"refused: {RECORD}: verified: ")
        assert ". Fix: " in err

    def test_evidence_that_verify_proposes(self, project: Project, run: Run) -> None:
        of = f"{HOME}:verify/{project.main}"
        code, _, err = run("main", self.verified(project, project.main), "--of", of)
        assert (code, err) == (0, "")
        assert run("main", self.verified(project, "f" * 40), "--of", of)[0] == 1

    def test_what_verify_does_not_propose_fails_with_it(self, project: Project, run: Run) -> None:
        """Another tuned file and a changed workflow, beside a word that would pass."""
        hostile = project.files(OTHER) | {".github/workflows/validate.yml": b"on: push\n", "tools/code.py": None}
        head = project.head({**project.signed(commit=project.main), **hostile})
        code, _, err = run("main", head, "--of", f"{HOME}:verify/{project.main}")
        assert code == 1
        refused = [line.split(": ")[1] for line in err.splitlines()]
        files = (f"configs/{OTHER}", f"configs/records/{OTHER}")
        assert refused == [".github/workflows/validate.yml", *files, "tools/code.py"]

    @pytest.mark.parametrize("folder", ["", "records/"])
    @pytest.mark.parametrize("queued", [(), ("--queued",)])
    def test_more_files_than_a_pull_request_may_change_cost_no_minutes(
        self, project: Project, run: Run, folder: str, queued: tuple[str, ...]
    ) -> None:
        blob = project.repository.blob(b"{}")
        files = {f"configs/{folder}E={i + 1},N=1,device_name={H100}.json": Blob(sha=blob) for i in range(5_000)}
        head = project.head(files)
        started = time.process_time()  # other processes don't count; git's part is one listing
        code, out, err = run("main", head, *queued)
        assert (code, out) == (1, "")
        assert err == (
            "refused: configs: expected at most 1000 changed files, found 5000. "
            "Fix: split the change over several pull requests.\n"
        )
        assert time.process_time() - started < 20

    def test_evidence_beside_its_own_judge(self, project: Project, run: Run) -> None:
        head = project.head({**project.files(num_stages=4), "tools/validate/rules/record.py": b"RULES = ()\n"})
        code, _, err = run("main", head)
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith("refused: tools/validate/rules/record.py: expected no change to what judges evidence")
        assert "beside 2 changed tuned files or records, found 1 file of it. Fix: " in err

    def test_a_queue_judges_what_its_pull_requests_come_to_together(self, project: Project, run: Run) -> None:
        signed = project.signed()
        stale = project.files(num_stages=4)
        said = {"verified": json.loads(signed[RECORD])["verified"]}
        stale[RECORD] = canonical_record({**json.loads(stale[RECORD]), **said})
        assert run("main", project.head(signed), "--queued")[0] == 0
        code, _, err = run("main", project.head(stale), "--queued")
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(f"refused: {RECORD}: verified: expected null")

    def test_mains_word_taken_away_is_a_warning_of_its_own(self, project: Project, run: Run) -> None:
        signed = project.head(project.signed())
        head = project.head(project.files(), parent=signed)
        code, out, err = run(signed, head)
        assert (code, err) == (0, "")
        assert out.startswith("Main's own `verified` taken away, the same launch configs\n")
        assert "1 unverified." in out
        _, out, _ = run(signed, head, "--format", "github")
        assert out.startswith(f"::warning file={PATH.replace(',', '%2C')},title=unverified::")
        retuned = project.head(project.files(num_stages=4), parent=signed)
        assert "unverified" not in run(signed, retuned)[1], "with other launch configs it goes by itself"

    @pytest.mark.parametrize("folder", [None, "triton_3_7_0"], ids=["removed", "moved to another Triton's readers"])
    def test_a_verified_file_that_leaves_its_readers_is_a_warning(
        self, project: Project, run: Run, folder: str | None
    ) -> None:
        main = project.head(project.signed())
        elsewhere = project.files(folder=folder) if folder else {}
        head = project.head({PATH: None, RECORD: None, **elsewhere}, parent=main)
        code, out, err = run(main, head)
        assert (code, err) == (0, "")
        assert "; main's own run had verified what was there\n" in out
        assert run(main, head, "--format", "github")[1].startswith("::warning ")
        (group,) = groups(run(main, head, "--format", "json"))
        assert group["files"][0]["loses_verified"]

    def test_a_verified_file_that_is_tuned_again_is_told_as_one(self, project: Project, run: Run) -> None:
        main = project.head(project.signed())
        head = project.head(project.files(num_stages=4), parent=main)
        assert "; main's own run had verified what was there\n" in run(main, head)[1]
        assert run(main, head, "--format", "github")[1].startswith("::notice ")

    @pytest.mark.parametrize(
        "path",
        [
            "fused_moe_configs/evidence/__init__.py",
            "fused_moe_configs/__pycache__/evidence.cpython-312.pyc",
            "kernels/problem.abi3.so",
            "configs/.gitattributes",
            "configs/registry/engines.json",
            "tools/bench/compare_files.py",
        ],
    )
    def test_what_is_read_in_a_judges_place_or_measures_is_its_own_judge_too(
        self, project: Project, run: Run, path: str
    ) -> None:
        code, _, err = run("main", project.head({**project.files(record={"date": "2026-01-02"}), path: b"x"}))
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(f"refused: {path}: expected no change to what judges evidence beside 1 changed")

    def test_data_where_the_loader_would_take_it_for_all_there_is(self, project: Project, run: Run) -> None:
        place = f"fused_moe_configs/{PATH}"
        code, _, err = run("main", project.head({place: canonical_config(table(num_stages=4))}))
        assert code == 1
        assert err.startswith(f"refused: {place}: expected data below configs/ only")

    @pytest.mark.parametrize("merge", [(), ("--queued",)])
    def test_measured_figures_give_way_to_measured_ones_alone(
        self, project: Project, run: Run, merge: tuple[str, ...]
    ) -> None:
        """Nights pass published figures by, and no rule holds for them."""
        legacy, version = "legacy_configs", "triton_3_7_0"
        alias = NAME.replace(H100, "NVIDIA_H200_NVL")
        for hostile, path in (
            (project.published(), NAME),
            (project.published(num_stages=4), NAME),
            (project.published(folder=version), f"{version}/{NAME}"),
            ({**project.published(folder=legacy), PATH: None, RECORD: None}, f"{legacy}/{NAME}"),
            (project.published(alias, folder=legacy), f"{legacy}/{alias}"),
            (project.files(folder=legacy), f"{legacy}/{NAME}"),
        ):
            h200 = project.head(project.files(alias.replace("_NVL", "")))
            code, _, err = run(h200, project.head(hostile, parent=h200), *merge)
            assert (code, err.count("\n")) == (1, 1), path
            assert err.startswith(f"refused: configs/records/{path}: "), path
            assert ". Fix: " in err

    def test_two_that_were_sound_alone_are_not_together(self, project: Project, run: Run) -> None:
        measured, published = project.files(OTHER), project.published(OTHER, folder="triton_3_7_0")
        assert run("main", project.head(measured))[0] == run("main", project.head(published))[0] == 0
        assert run("main", project.head({**measured, **published}), "--queued")[0] == 1

    def test_others_figures_come_where_nothing_measured_stands(self, project: Project, run: Run) -> None:
        """As `convert` writes them, and as somebody may correct them later."""
        for folder in ("legacy_configs", "triton_3_7_0", ""):
            head = project.head(project.published(OTHER, folder=folder))
            assert run("main", head)[::2] == (0, "")
            corrected = project.head(project.published(OTHER, folder=folder, num_stages=4), parent=head)
            assert run(head, corrected)[::2] == (0, "")
            measured = {} if folder == "legacy_configs" else project.files(OTHER, folder=folder)
            assert run(head, project.head({**measured, **project.files(OTHER)}, parent=head))[::2] == (0, "")

    def test_what_main_has_already_is_told_only(self, project: Project, run: Run) -> None:
        code, _, err = run("main", self.verified(project, project.main), "--merged")
        assert (code, err) == (0, "")

    @pytest.mark.parametrize(
        ("path", "blob"),
        [(PATH, EXECUTABLE), (RECORD, EXECUTABLE), ("configs/evil.json", SYMLINK), ("configs/sub", SUBMODULE)],
    )
    def test_a_file_that_is_not_plain(self, project: Project, run: Run, path: str, blob: str) -> None:
        sha = project.main if blob == SUBMODULE else project.repository.blob(project.files().get(path, b"/etc/passwd"))
        code, out, err = run("main", project.head({path: Blob(mode=blob, sha=sha)}))
        assert code == 1
        assert err.startswith(f"refused: {path}: ")
        assert (err.count("\n"), err.count(". Fix: ")) == (1, 1)
        assert "New evidence" not in out
        before = "100644" if path in (PATH, RECORD) else "absent"
        assert f"File modes\n  {path}: {before} → {blob} ({KINDS[blob]})\n" in out
        assert " 1 file mode changed." in out

    def test_each_is_an_annotation_where_a_workflow_runs_it(
        self, project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        head = project.head({PATH: Blob(project.files()[PATH], EXECUTABLE)})
        _, out, _ = run("main", head, "--format", "github")
        assert f"::error file={PATH}".replace(",", "%2C") + ",title=mode::" in out

    def test_becoming_plain_again_is_told_and_not_refused(self, project: Project, run: Run) -> None:
        spoilt = project.head({PATH: Blob(project.files()[PATH], EXECUTABLE)})
        code, out, err = run(spoilt, project.head({PATH: project.files()[PATH]}, spoilt))
        assert (code, err) == (0, "")
        assert f"File modes\n  {PATH}: 100755 → 100644 (a plain file)" in out
