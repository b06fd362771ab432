"""Hostile commits in real git repositories: each is refused, and nothing of it is run, interpolated or echoed raw.

Each refusal is one line that names expected and found, and leaves no plan behind.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.builders import H100, NAME, entry, table, times
from tests.tools.pull_request.conftest import Project, RunPlan, refusal
from tests.tools.pull_request.git_repository import EXECUTABLE, SUBMODULE, SYMLINK, TREE, Blob
from tools.store.files import canonical_config, canonical_record

PATH, RECORD = f"configs/{NAME}", f"configs/records/{NAME}"
MI300X = "AMD_Instinct_MI300X"
OTHER = f"E=8,N=2048,device_name={H100}.json"
SOUND_ROW = {"latency_us": times(1000.0), "baseline_us": times(1000.0), "decision": "promote"}
SHAPE = {"K": 6144, "top_k": 2}
"""Mixtral 8x22B's."""
OF_OTHER = {"K": 256, "top_k": 1, "latency_us": times(1000.0), "baseline_us": times(1000.0)}
TUNER = {"settings": {}, "seconds": 1.0, "kernels_compiled": 1, "measurements": 1, "outcomes": {}}
CLAIMED_LINE = {"triton": "3.6.0", "date": "2026-01-02", "worst_loss_pct": 0.1}
CHECKED_LINE = {
    "engine": "vllm",
    "version": "0.33.0",
    "triton": "3.8.0",
    "date": "2026-01-02",
    "worst_ratio": 1.0,
    "geomean_ratio": 0.5,
}


class TestHostileCommit:
    """Each of these is a real commit; the only trace that it leaves is one line."""

    def test_code(self, project: Project, plan: RunPlan) -> None:
        files = {**project.files(num_stages=4), "tools/code.py": b"import os\n", "setup.py": b""}
        line = refusal(plan(project.head(files)))
        assert line.startswith("refused: setup.py: expected changes below configs/ only, found 2 outside.")
        assert "reviewed by itself" in line

    def test_removed_code(self, project: Project, plan: RunPlan) -> None:
        assert "found 1 outside" in refusal(plan(project.head({"tools/code.py": None})))

    def test_a_folder_that_only_begins_like_configs(self, project: Project, plan: RunPlan) -> None:
        assert "found 1 outside" in refusal(plan(project.head({f"configs.old/{NAME}": b"{}"})))

    def test_a_symbolic_link(self, project: Project, plan: RunPlan) -> None:
        line = refusal(plan(project.head({PATH: Blob(b"/etc/passwd", SYMLINK)})))
        assert "expected a regular file (mode 100644), found a symbolic link" in line

    def test_a_link_in_place_of_configs_itself(self, project: Project, plan: RunPlan) -> None:
        head = project.head({PATH: None, RECORD: None, "configs": Blob(b"/etc", SYMLINK)})
        assert "found a symbolic link" in refusal(plan(head))

    def test_a_submodule(self, project: Project, plan: RunPlan) -> None:
        line = refusal(plan(project.head({"configs/sub": Blob(mode=SUBMODULE, sha=project.main)})))
        assert "found a submodule" in line

    def test_an_executable(self, project: Project, plan: RunPlan) -> None:
        data = project.files()[PATH]
        assert "found an executable file" in refusal(plan(project.head({PATH: Blob(data, EXECUTABLE)})))

    def test_a_path_that_leads_out_of_configs(self, project: Project, plan: RunPlan) -> None:
        repository = project.repository
        inner = repository.tree_of(("100644", b"evil.json", repository.blob(b"{}")))
        configs = repository.tree_of((TREE, b"..", inner))
        root = repository.tree_of(
            ("100644", b"README.md", repository.blob(b"# Tuned configs\n")),
            (TREE, b"configs", configs),
            (TREE, b"tools", repository.git("rev-parse", f"{project.main}:tools")),
        )
        line = refusal(plan(repository.commit_tree(root, project.main)))
        assert "configs/../evil.json: expected a tuned file, a record or a registry" in line

    def test_a_slash_inside_a_name(self, project: Project, plan: RunPlan, tmp_path: Path) -> None:
        repository = project.repository
        name = f"../{tmp_path.name}".encode()
        configs = repository.tree_of(("100644", name, repository.blob(b"{}")))
        root = repository.tree_of((TREE, b"configs", configs))
        head = repository.commit_tree(root, repository.commit_tree(repository.tree_of(), None))
        project.repository.set_ref("refs/heads/main", repository.git("rev-parse", f"{head}^"))
        assert "found another path" in refusal(plan(head))

    def test_a_path_that_stands_twice_in_a_tree(self, project: Project, plan: RunPlan) -> None:
        repository = project.repository
        blob, link = repository.blob(b"{}"), repository.blob(b"/etc/passwd")
        configs = repository.tree_of(("100644", NAME.encode(), blob), ("120000", NAME.encode(), link))
        head = repository.commit_tree(repository.tree_of((TREE, b"configs", configs)), project.main)
        assert "expected a path once" in refusal(plan(head))

    @pytest.mark.parametrize(
        "name",
        [
            "line\nbreak.json",
            'quote".json',
            "quo'te.json",
            "$(touch canary).json",
            "`touch canary`.json",
            "a;touch canary;.json",
            "esc\x1b[31m.json",
            "E=8,N=1024,device_name=$(touch canary).json",
            f"E=8,N=1024,device_name={H100}\n::error::forged.json",
            "::set-output name=a::b.json",
            "##[error file=README.md;line=1]hello.json",
            "undecodable\udcff.json",
            "-rf.json",
            f"E=8,N=1024,device_name={'A' * 230}.json",
        ],
    )
    @pytest.mark.parametrize("folder", ["", "records/", "triton_3_6_0/"])
    def test_a_name(
        self, project: Project, plan: RunPlan, folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        refusal(plan(project.head({f"configs/{folder}{name}": b"{}"})))
        assert not list(tmp_path.rglob("canary"))

    def test_a_file_of_another_kind(self, project: Project, plan: RunPlan) -> None:
        line = refusal(plan(project.head({"configs/conftest.py": b"raise SystemExit"})))
        assert "configs/conftest.py: expected a tuned file, a record or a registry" in line

    def test_git_attributes(self, project: Project, plan: RunPlan) -> None:
        assert "configs/.gitattributes" in refusal(plan(project.head({"configs/.gitattributes": b"* filter=evil\n"})))

    def test_ten_thousand_files(self, project: Project, plan: RunPlan) -> None:
        blob = project.repository.blob(b"{}")
        files = {f"configs/E={i + 1},N=1,device_name={H100}.json": Blob(sha=blob) for i in range(10_000)}
        assert "expected at most 1000 changed files, found 10000" in refusal(plan(project.head(files)))

    def test_a_blob_of_100_megabytes_is_not_read(self, project: Project, plan: RunPlan) -> None:
        sha = project.repository.blob(bytes(100_000_000))
        stored = project.root / ".git" / "objects" / sha[:2] / sha[2:]
        stored.chmod(0o644)
        os.truncate(stored, 1000)  # its size stands at its beginning; git can't give the rest
        line = refusal(plan(project.head({PATH: Blob(sha=sha)})))
        assert f"{PATH}: expected at most 1048576 bytes, found 100000000" in line

    def test_a_tree_that_unfolds_without_end(self, project: Project, plan: RunPlan) -> None:
        repository = project.repository
        tree = repository.tree_of(("100644", b"x" * 100, repository.blob(b"")))
        for _ in range(10):  # 10 names in each of 10 levels: 10^10 files
            tree = repository.tree_of(*((TREE, f"{i}".encode(), tree) for i in range(10)))
        head = repository.commit_tree(repository.tree_of((TREE, b"configs", tree)), project.main)
        assert "expected at most a listing of" in refusal(plan(head))

    def test_trees_that_unfold_into_nothing_but_trees(self, project: Project, plan: RunPlan) -> None:
        repository = project.repository
        tree = repository.tree_of()
        for _ in range(12):  # 10 names in each of 12 levels: 10^12 folders, and no file
            tree = repository.tree_of(*((TREE, f"{i}".encode(), tree) for i in range(10)))
        head = repository.commit_tree(repository.tree_of((TREE, b"configs", tree)), project.main)
        assert "expected at most a listing of" in refusal(plan(head))  # and no word of the time that it may take

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b'{"1": {"BLOCK_SIZE_M": 32}, ' + canonical_config(table())[1:], "duplicate keys: '1'"),
            (b'{"1": {"BLOCK_SIZE_M": NaN}}', "NaN is no finite number"),
            (b'{"1": {"BLOCK_SIZE_M": 1e999}}', "1e999 is no finite number"),
            (b'{"1": {"BLOCK_SIZE_M": ' + b"9" * 5000 + b"}}", "write numbers of fewer digits"),
            (b'{"1":' * 20_000, "nested over 32 levels"),
            (b"\xff\xfe{}", "expected UTF-8"),
        ],
        ids=["duplicate keys", "NaN", "infinity", "digits", "nesting", "binary"],
    )
    def test_what_is_no_strict_json(self, project: Project, plan: RunPlan, data: bytes, expected: str) -> None:
        files = {**project.files(OTHER), f"configs/{OTHER}": data}
        signed = project.store.file(data, OTHER)
        files[f"configs/records/{OTHER}"] = project.store.record(signed).read_bytes()
        assert expected in refusal(plan(project.head(files)))

    def test_huge_integers(self, project: Project, plan: RunPlan) -> None:
        document = {**table(), "64": entry(GROUP_SIZE_M=10**4000)}
        path = project.store.config(document, OTHER, record=False)
        project.store.measured(path)
        made = {f"configs/{OTHER}": path, f"configs/records/{OTHER}": project.store.record_of(path)}
        line = refusal(plan(project.head({name: file.read_bytes() for name, file in made.items()})))
        assert "GROUP_SIZE_M from 1 to 256, found a number of over 12 digits" in line

    @pytest.mark.parametrize(
        "key", ["x\n::error::forged", "##[error]forged", "$(touch canary)", "<script>", "\x1b[31m", "a" * 5000]
    )
    def test_text_in_a_record(self, project: Project, plan: RunPlan, key: str) -> None:
        line = refusal(plan(project.head(project.files(OTHER, record={key: 1}))))
        assert "configs/records/" in line

    @pytest.mark.parametrize("median", [1e300, 10**400])
    def test_times_that_nothing_can_take(self, project: Project, plan: RunPlan, median: float) -> None:
        row = {**SOUND_ROW, "baseline_us": {**times(1000.0), "median": median}}
        files = project.files(OTHER, record={"rows": {**dict.fromkeys(table(), SOUND_ROW), "64": row}})
        assert "expected a number above 0 and at most 1000000000, found" in refusal(plan(project.head(files)))

    @pytest.mark.parametrize(
        ("record", "row", "told"),
        [
            ({"shapes": [{"K": 256, "top_k": 1, "models": []}]}, {}, "shapes: expected those of the registry's models"),
            ({"date": "2099-01-01"}, {}, "date: expected a day until"),
            ({"verified_with": [{**CLAIMED_LINE, "date": "2099-01-01"}]}, {}, "verified_with.0.date: expected a day"),
            ({"kernel_sha256": "0" * 64}, {}, "kernel_sha256: expected the hash of a kernel that this project has"),
            ({"engine_checked": [{**CHECKED_LINE, "date": "2099-01-01"}]}, {}, "engine_checked.0.date: expected a day"),
            ({"engine_checked": [{**CHECKED_LINE, "geomean_ratio": 1.5}]}, {}, "expected a geomean_ratio of at most"),
            ({"engine_checked": [CHECKED_LINE] * 65}, {}, "engine_checked: expected a list of at most 64 items"),
            ({"attribution": "[a team](https://x.example)"}, {}, "attribution: expected one line of text without <"),
            ({"attribution": "a\n::error::team"}, {}, "attribution: expected one line of text without <"),
            ({"shapes": [{**SHAPE, "models": ["<b>a/b</b> tp=1"]}]}, {}, "expected a model like owner/name tp=2"),
            ({"shapes": [{**SHAPE, "models": ["a/b tp=1\n# c"]}]}, {}, "expected a model like owner/name tp=2"),
            ({"tuner": {**TUNER, "settings": {"note": "<img src=x>"}}}, {}, "tuner / settings / note: expected"),
            ({"tuner": {**TUNER, "seconds": 1e300}}, {}, "tuner / seconds: expected a number from 0 to 6000000"),
            ({}, {"up_us": 1e9}, "up_us and down_us: expected both to add up to the row's 1000 µs"),
            ({}, {"up_us": 1.0, "down_us": 1.0}, "up_us and down_us: expected both to add up"),
            ({}, {"floor_us": 0.001}, "floor_us: expected "),
            ({}, {"floor_us": 1e8}, "floor_us: expected "),
            ({}, {"latency_us": {**times(1000.0), "samples": 10**9}}, "samples: expected an integer from 1 to 1000000"),
            ({}, {"by_shape": [OF_OTHER]}, "by_shape: expected each of the record's shapes once, found K=256, top_k=1"),
        ],
    )
    def test_figures_that_nobody_measured(
        self, project: Project, plan: RunPlan, record: dict[str, Any], row: dict[str, Any], told: str
    ) -> None:
        rows = {**dict.fromkeys(table(), SOUND_ROW), "64": {**SOUND_ROW, **row}}
        files = project.files(OTHER, record={"rows": rows, **record})
        assert told in refusal(plan(project.head(files)))

    def test_claims_beside_figures_that_are_sound(self, project: Project, plan: RunPlan) -> None:
        claims = {"verified_with": [CLAIMED_LINE], "engine_checked": [CHECKED_LINE]}
        assert plan(project.head(project.files(OTHER, record=claims))).code == 0

    def test_a_config_of_an_amd_gpu_under_an_nvidia_name(self, project: Project, plan: RunPlan) -> None:
        document = {**table(), "64": entry(waves_per_eu=2)}
        path = project.store.config(document, OTHER, record=False)
        project.store.measured(path)
        made = {f"configs/{OTHER}": path, f"configs/records/{OTHER}": project.store.record_of(path)}
        line = refusal(plan(project.head({name: file.read_bytes() for name, file in made.items()})))
        assert "waves_per_eu is a key of amd's compiler, the device is nvidia's" in line

    def test_a_config_that_needs_more_shared_memory_than_the_named_gpu_has(
        self, project: Project, plan: RunPlan
    ) -> None:
        amd = f"E=8,N=1024,device_name={MI300X}.json"
        files = project.files(amd, BLOCK_SIZE_M=128, BLOCK_SIZE_N=128, BLOCK_SIZE_K=128, num_stages=4)
        assert "expected at most 65536 bytes of shared memory" in refusal(plan(project.head(files)))

    def test_bytes_that_are_not_the_stores_own(self, project: Project, plan: RunPlan) -> None:
        data = json.dumps(table()).encode()
        path = project.store.file(data, OTHER)
        project.store.measured(path)
        made = {f"configs/{OTHER}": data, f"configs/records/{OTHER}": project.store.record_of(path).read_bytes()}
        assert "canonical bytes" in refusal(plan(project.head(made)))

    def test_a_file_without_record(self, project: Project, plan: RunPlan) -> None:
        line = refusal(plan(project.head({f"configs/{OTHER}": canonical_config(table())})))
        assert "expected a record at" in line

    @pytest.mark.parametrize("name", [NAME, OTHER])
    def test_verified_written_by_the_pull_request(self, project: Project, plan: RunPlan, name: str) -> None:
        line = refusal(plan(project.head(project.signed(name, commit="0" * 40))))
        assert "verified: expected null" in line

    def test_verified_kept_though_the_file_changed(self, project: Project, plan: RunPlan) -> None:
        files = project.signed()
        verified = json.loads(files[RECORD])["verified"]
        main = project.head(files)
        project.repository.set_ref("refs/heads/main", main)
        changes: tuple[dict[str, Any], ...] = ({"num_stages": 4}, {"record": {"date": "2026-01-02"}})
        for change in changes:
            kept = project.files(**change)
            kept[RECORD] = canonical_record({**json.loads(kept[RECORD]), "verified": verified})
            assert "verified: expected null" in refusal(plan(project.head(kept, parent=main)))
        for change in changes:
            assert plan(project.head(project.files(**change), parent=main)).code == 0

    def test_a_stale_branch_merged_cleanly_is_measured_and_its_word_counts_for_nothing(
        self, project: Project, plan: RunPlan
    ) -> None:
        """Made before verify's proposal was merged: it changes an entry, and the merge keeps main's word beside it."""
        signed = project.signed()
        main = project.head(signed)
        stale = project.head(project.files(num_stages=4))
        theirs = project.files(num_stages=4)
        theirs[RECORD] = canonical_record(
            {**json.loads(theirs[RECORD]), "verified": json.loads(signed[RECORD])["verified"]}
        )
        merge = project.repository.commit(theirs, main)
        assert stale != merge
        ran = plan(merge, number=0, base=main)
        assert ran.code == 0, ran.lines
        assert ran.plan is not None
        assert [len(leg["workloads"]) for leg in ran.plan["legs"]] == [1]

    @pytest.mark.parametrize(
        ("folder", "found"),
        [
            ("triton_3_8_9999", "one of Triton's releases 3.0.0 to 3.9.0, found 3.8.9999"),
            ("triton_9999_0_0", "one of Triton's releases 3.0.0 to 3.9.0, found 9999.0.0"),
            ("triton_3_8_0", "another Triton than the reference, whose files are the default tier"),
        ],
    )
    def test_a_version_folder_that_would_hide_the_default_file(
        self, project: Project, plan: RunPlan, folder: str, found: str
    ) -> None:
        line = refusal(plan(project.head(project.files(folder=folder, num_stages=4))))
        assert line.startswith(f"refused: configs/{folder}: {folder}/: expected the folder of {found}")

    def test_a_release_that_the_pull_request_itself_makes_known(self, project: Project, plan: RunPlan) -> None:
        files = project.files(folder="triton_3_8_9999", num_stages=4)
        settings = b'[tool.fused-moe-configs]\ntriton-releases = ["3.8.9999"]\n'
        assert "found 1 outside" in refusal(plan(project.head({**files, "pyproject.toml": settings})))

    def test_published_figures_with_what_a_measurement_leaves(self, project: Project, plan: RunPlan) -> None:
        files, line = project.published(), {"triton": "3.6.0", "date": "2026-01-02", "worst_loss_pct": 0.0}
        files[RECORD] = canonical_record({**json.loads(files[RECORD]), "verified_with": [line]})
        assert "expected a key of published figures, which were not measured here" in refusal(plan(project.head(files)))

    def test_a_head_that_is_not_here(self, project: Project, plan: RunPlan) -> None:
        line = refusal(plan("0123456789abcdef0123456789abcdef01234567"))
        assert "expected the commit 0123456789ab in this repository, found none" in line

    def test_a_push_since_the_plan_was_asked_for(self, project: Project, plan: RunPlan) -> None:
        """The commit that was looked at is still in the repository, but no longer the pull request's."""
        looked_at = project.head(project.files(num_stages=4))
        project.repository.set_ref("refs/pull/12/head", project.head(project.files(num_stages=2)))
        line = refusal(plan(looked_at))
        assert f"pull request 12: expected its head at {looked_at[:12]}, found" in line
        assert plan(looked_at, number=13).code == 0

    def test_a_tag_in_place_of_a_commit(self, project: Project, plan: RunPlan) -> None:
        body = f"object {project.main}\ntype commit\ntag v1\ntagger a <a> 0 +0000\n\nx\n"
        tag = project.repository.object("tag", body.encode())
        assert "found none" in refusal(plan(tag))

    def test_a_branch_without_a_common_ancestor(self, project: Project, plan: RunPlan) -> None:
        head = project.repository.commit(project.files(num_stages=4))
        assert "expected a common ancestor" in refusal(plan(head))

    @pytest.mark.parametrize(
        "sha", ["main", "abc", "", "A" * 40, "0" * 39, "0" * 41, "--help", f"{'0' * 40}\n", "$(x)"]
    )
    def test_a_head_that_is_no_whole_name_is_bad_use(self, project: Project, plan: RunPlan, sha: str) -> None:
        ran = plan(sha) if not sha.startswith("-") else plan("x" + sha)
        assert (ran.code, ran.plan, ran.output, len(ran.lines)) == (2, None, "", 1)
        assert "--head-sha: expected 40 hexadecimal digits" in ran.lines[0]

    def test_very_many_faults_are_cut(self, project: Project, plan: RunPlan) -> None:
        ran = plan(project.head({f"configs/{i}.json": b"{}" for i in range(30)}))
        assert (ran.code, len(ran.lines)) == (1, 21)
        assert ran.lines[-1] == "refused: 10 further reasons."


def test_settings_of_the_repository_run_nothing(project: Project, plan: RunPlan, tmp_path: Path) -> None:
    canary, head = tmp_path / "canary", project.head(project.files(num_stages=4))
    for setting in ("core.fsmonitor", "diff.external", "core.pager", "filter.evil.smudge", "diff.evil.textconv"):
        project.repository.git("config", setting, f"touch '{canary}'")
    (project.root / ".git" / "info").mkdir(exist_ok=True)
    (project.root / ".git" / "info" / "attributes").write_text("* filter=evil diff=evil\n")
    assert plan(head).code == 0
    assert not canary.exists()


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_INDEX_FILE", "GIT_EXTERNAL_DIFF"])
def test_variables_of_git_move_nothing(
    project: Project, plan: RunPlan, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = project.head(project.files(num_stages=4))
    monkeypatch.setenv(variable, "/nowhere")
    assert plan(head).code == 0
