"""What is planned of a pull request: with which shapes and how much memory, and against what on main."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kernels.problem import QuantMode
from tests.builders import H100, NAME, devices, table, times
from tests.tools.pull_request.conftest import Project, RunPlan, refusal
from tests.tools.pull_request.git_repository import EXECUTABLE, SYMLINK, Blob
from tools.measure.layer import LayerShape
from tools.pull_request import __main__ as command
from tools.pull_request import documents
from tools.pull_request.documents import PlannedShape
from tools.pull_request.plan import (
    RunnersError,
    planned_shapes,
    with_runner,
)
from tools.registry.models import load_models
from tools.registry.shapes import HIDDEN_SIZES, MOST_EXPERTS_PER_TOKEN, MOST_SHAPES, registered_shapes
from tools.registry.sharding import PARALLEL_SIZES
from tools.store import schemas
from tools.store.files import canonical_record
from tools.store.workload import Shape, Workload

MIXTRAL = Workload(8, 3584, H100)
UNKNOWN = Workload(8, 17, H100)
MODELS = load_models()


class TestShapes:
    def test_the_records_shapes_are_taken_and_those_of_the_registry_marked(self) -> None:
        recorded = [Shape(4096, 2), Shape(5120, 3), Shape(4096, 2)]
        assert planned_shapes(MIXTRAL, recorded, MODELS) == (
            PlannedShape(Shape(4096, 2), registered=True),
            PlannedShape(Shape(5120, 3), registered=False),
        )

    def test_without_any_those_of_every_model_that_reads_the_name_are_taken(self) -> None:
        known = [served.shape for served in registered_shapes(MIXTRAL, MODELS)]
        assert Shape(4096, 2) in known
        assert planned_shapes(MIXTRAL, [], MODELS) == tuple(PlannedShape(s, True) for s in known)

    def test_another_placement_than_the_registrys_is_another_shape(self) -> None:
        spread = [Shape(4096, 2), Shape(4096, 2, ep=4)]
        found = planned_shapes(Workload(2, 14336, H100), spread, MODELS)
        assert found == (PlannedShape(spread[0], registered=False), PlannedShape(spread[1], registered=True))

    def test_without_either_one_is_assumed_that_the_workload_can_have(self) -> None:
        assert planned_shapes(UNKNOWN, [], MODELS) == (PlannedShape(Shape(4096, 2), registered=False),)
        assert planned_shapes(Workload(1, 17, H100), [], MODELS) == (PlannedShape(Shape(4096, 1), registered=False),)

    def test_a_shape_of_models_that_cannot_run_in_the_names_dtype_is_not_registered(self) -> None:
        """DeepSeek's checkpoints are stored in fp8 with blocks: nobody reads a name without a dtype for them."""
        deepseek = [Shape(7168, 8)]
        blocks = Workload(256, 128, H100, "fp8_w8a8", (128, 128))
        assert planned_shapes(blocks, deepseek, MODELS) == (PlannedShape(Shape(7168, 8), registered=True),)
        assert planned_shapes(Workload(256, 128, H100), deepseek, MODELS) == (
            PlannedShape(Shape(7168, 8), registered=False),
        )

    def test_the_bounds_hold_all_that_is_registered(self) -> None:
        for model in MODELS:
            assert model.K in HIDDEN_SIZES, model.id
            assert model.top_k <= MOST_EXPERTS_PER_TOKEN, model.id
            stored = model.quantisation
            dtype = None if stored.dtype in ("bf16", "fp16") else stored.dtype
            for tp in PARALLEL_SIZES:
                for workload in (
                    Workload(model.E, model.N // tp, H100),
                    Workload(model.E, model.N // tp, H100, dtype, stored.block_shape),
                ):
                    assert len(registered_shapes(workload, MODELS)) <= MOST_SHAPES


# From real git objects.

PATH, RECORD = f"configs/{NAME}", f"configs/records/{NAME}"
MI300X = "AMD_Instinct_MI300X"
OTHER = f"E=8,N=2048,device_name={H100}.json"
UNREGISTERED = f"E=8,N=1984,device_name={H100}.json"
"""A name that no model of the registry has."""


class TestPlan:
    def test_an_added_file_is_planned_with_the_registrys_shapes_and_the_records_claims(
        self, project: Project, plan: RunPlan
    ) -> None:
        name = f"E=8,N=3584,device_name={H100}.json"
        shapes = [{"K": 4096, "top_k": 2, "models": ["somebody/else tp=1"]}]
        head = project.head(project.files(name, record={"shapes": shapes}))
        ran = plan(head)
        assert (ran.code, ran.lines) == (0, [])
        assert ran.plan is not None
        assert schemas.faults("plan", ran.plan) == []
        assert {**ran.plan, "legs": len(ran.plan["legs"])} == {
            "schema_version": 1,
            "number": 12,
            "head_sha": head,
            "base_sha": project.main,
            "legs": 1,
        }
        (leg,) = ran.plan["legs"]
        (file,) = leg["workloads"]
        assert leg["device_name"] == H100
        assert file == {
            "workload": {
                "E": 8,
                "N": 3584,
                "device_name": H100,
                "dtype": None,
                "block_shape": None,
                "per_channel_quant": False,
                "down": False,
            },
            "tier": "default",
            "down": False,
            "shapes": [{"K": 4096, "top_k": 2, "registered": True}],
            "claimed": table(),
            "main": None,
            "record": {"median_us": dict.fromkeys(table(), 1000.0)},
        }
        assert ran.output == f'devices=["{H100}"]\nany=true\n'

    def test_a_changed_file_comes_with_mains_entries(self, project: Project, plan: RunPlan) -> None:
        ran = plan(project.head(project.files(num_stages=4)))
        assert ran.plan is not None
        (file,) = ran.plan["legs"][0]["workloads"]
        assert (file["claimed"]["64"]["num_stages"], file["main"]["64"]["num_stages"]) == (4, 3)

    def mains(self, project: Project, plan: RunPlan, standing: Any, added: Any) -> Any:
        """num_stages of main's entries in the plan of what is added to a main that has this besides the default."""
        main = project.head(standing)
        project.repository.set_ref("refs/heads/main", main)
        ran = plan(project.head(added, parent=main))
        assert ran.plan is not None, ran.lines
        (file,) = ran.plan["legs"][0]["workloads"]
        return file["main"] and file["main"]["64"]["num_stages"]

    def test_a_version_file_is_measured_beside_what_its_readers_get_today(
        self, project: Project, plan: RunPlan
    ) -> None:
        added = project.files(folder="triton_3_7_1", num_stages=5)
        patch, legacy = (project.files(folder=tier, num_stages=4) for tier in ("triton_3_7_0", "legacy_configs"))
        assert self.mains(project, plan, {}, added) == 3, "the default file"
        assert self.mains(project, plan, patch, added) == 4, "another patch's"
        gone: dict[str, Any] = {PATH: None, RECORD: None}
        assert self.mains(project, plan, {**legacy, **gone}, added) == 4, "the legacy file"
        assert self.mains(project, plan, {**project.files(folder="triton_3_6_0"), **gone}, added) is None

    def test_so_is_a_default_file_beside_a_legacy_one_and_a_name_beside_an_alias(
        self, project: Project, plan: RunPlan
    ) -> None:
        legacy = project.published(OTHER, folder="legacy_configs", num_stages=4)
        assert self.mains(project, plan, legacy, project.files(OTHER, num_stages=5)) == 4
        name = "E=8,N=2048,device_name=NVIDIA_H200.json"
        alias = project.files(name.replace("H200", "H200_NVL"), num_stages=4)
        assert self.mains(project, plan, alias, project.files(name, num_stages=5)) == 4

    def test_a_version_file_that_main_has_is_measured_beside_itself(self, project: Project, plan: RunPlan) -> None:
        folder = "triton_3_7_1"
        standing = project.files(folder=folder, num_stages=4)
        assert self.mains(project, plan, standing, project.files(folder=folder, num_stages=5)) == 4

    def test_a_removed_file_is_planned_without_claims(self, project: Project, plan: RunPlan) -> None:
        ran = plan(project.head({PATH: None, RECORD: None}))
        assert ran.plan is not None
        (file,) = ran.plan["legs"][0]["workloads"]
        assert (file["claimed"], file["main"], file["record"]) == (None, table(), None)

    def test_a_record_alone_is_measured_against_what_it_claims(self, project: Project, plan: RunPlan) -> None:
        latency = {"median": 500.0, "p10": 500.0, "p90": 500.0, "samples": 3}
        row = {"latency_us": latency, "baseline_us": latency, "decision": "promote"}
        ran = plan(project.head(project.files(record={"rows": dict.fromkeys(table(), row)})))
        assert ran.plan is not None
        (file,) = ran.plan["legs"][0]["workloads"]
        assert file["claimed"] == file["main"]
        assert file["record"]["median_us"]["64"] == 500.0

    def test_files_of_several_devices_and_tiers_make_a_leg_each(self, project: Project, plan: RunPlan) -> None:
        amd = f"E=8,N=1024,device_name={MI300X}.json"
        ran = plan(project.head({**project.files(amd), **project.files(folder="triton_3_6_0", num_stages=2)}))
        assert ran.plan is not None
        tiers = [(leg["device_name"], [file["tier"] for file in leg["workloads"]]) for leg in ran.plan["legs"]]
        assert tiers == [(MI300X, ["default"]), (H100, ["triton_3_6_0"])]
        assert ran.output == f'devices=["{MI300X}","{H100}"]\nany=true\n'

    def test_devices_without_a_runner_are_planned_and_not_handed_on(self, project: Project, plan: RunPlan) -> None:
        amd = f"E=8,N=1024,device_name={MI300X}.json"
        head = project.head({**project.files(amd), **project.files(num_stages=2)})
        for runners, handed_on in (
            (H100, f'["{H100}"]'),
            (f"NVIDIA_L4, {MI300X} ,", f'["{MI300X}"]'),
            ("NVIDIA_L4", "[]"),
            ("none", "[]"),
        ):
            ran = plan(head, runners=runners)
            assert ran.plan is not None
            assert [leg["device_name"] for leg in ran.plan["legs"]] == [MI300X, H100]
            assert ran.output.splitlines()[-2:] == [f"devices={handed_on}", "any=true"]

    def test_a_runner_of_an_unknown_device_is_bad_use(self, project: Project, plan: RunPlan) -> None:
        ran = plan(project.head(project.files(num_stages=4)), runners=f"{H100},H100\n")
        assert (ran.code, ran.plan, ran.output) == (2, None, "")
        (line,) = ran.lines
        assert "--runners: expected names of configs/registry/devices.json with commas, found 'H100'. Fix: " in line

    def test_more_than_the_readers_take_is_refused_with_the_way_out(
        self, project: Project, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(documents.MAX_BYTES, "plan", 1000)  # type: ignore[misc]
        line = refusal(plan(project.head(project.files(num_stages=4))))
        assert "configs: expected a plan of at most 1000 bytes, found " in line
        assert line.endswith("Fix: split the change over several pull requests.")

    def test_what_main_has_got_meanwhile_is_not_measured_again(self, project: Project, plan: RunPlan) -> None:
        files = project.files(num_stages=4)
        head = project.head(files)
        project.repository.set_ref("refs/heads/main", project.head({**files, "README.md": b"newer\n"}))
        ran = plan(head)
        assert ran.plan is not None
        assert ran.plan["legs"] == []
        assert ran.output == "devices=[]\nany=false\n"

    def test_it_is_judged_as_merged_into_todays_main(self, project: Project, plan: RunPlan) -> None:
        """Main has gained a _down file since; the pull request's up file no longer fits it."""
        head = project.head(project.files(BLOCK_SIZE_M=32))
        down = project.files(NAME.replace(".json", "_down.json"))
        project.repository.set_ref("refs/heads/main", project.head(down))
        line = refusal(plan(head))
        assert "expected the up file's BLOCK_SIZE_M (32 at 1), found 16" in line

    def test_a_readme_below_configs_needs_no_gpu(self, project: Project, plan: RunPlan) -> None:
        ran = plan(project.head({"configs/README.md": b"# Words\n"}))
        assert (ran.code, ran.output) == (0, "devices=[]\nany=false\n")

    def test_refusals_are_annotations_too_where_a_workflow_runs_it(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        head = project.head({"configs/a,b:\n::error::c.json": b"{}"})
        where = ["--base", "main", "--out", str(tmp_path / "plan.json"), "--repository", str(project.root)]
        code = command.main(["plan", "--number", "1", "--head-sha", head, *where])
        lines = capsys.readouterr().out.splitlines()
        assert code == 1
        assert len(lines) == 2
        assert lines[0].startswith("::error file=configs/a%2Cb%3A\\n%3A%3Aerror%3A%3Ac.json,title=file-name::")


class TestMerged:
    """Number 0: main has it already, and it is measured from where main stood before."""

    def test_what_lies_outside_configs_is_left_out(self, project: Project, plan: RunPlan) -> None:
        head = project.head({**project.files(num_stages=4), "CHANGELOG.md": b"News\n", "tools/code.py": None})
        ran = plan(head, number=0)
        assert (ran.code, ran.lines) == (0, [])
        assert ran.plan is not None
        assert (ran.plan["number"], ran.plan["head_sha"], ran.plan["base_sha"]) == (0, head, project.main)
        (file,) = ran.plan["legs"][0]["workloads"]
        assert (file["claimed"]["64"]["num_stages"], file["main"]["64"]["num_stages"]) == (4, 3)

    def test_code_alone_needs_no_gpu(self, project: Project, plan: RunPlan) -> None:
        ran = plan(project.head({"tools/code.py": b"print(2)\n"}), number=0)
        assert (ran.code, ran.output) == (0, "devices=[]\nany=false\n")

    def test_main_may_have_gone_on_since(self, project: Project, plan: RunPlan) -> None:
        head = project.head(project.files(num_stages=4))
        project.repository.set_ref("refs/heads/main", project.head({"README.md": b"newer\n"}, head))
        assert plan(head, number=0, base=project.main).code == 0

    def test_what_only_gained_or_lost_mains_word_is_measured_already(self, project: Project, plan: RunPlan) -> None:
        """Or what verify proposes would start verify again, for ever."""
        verified = project.head(project.signed())
        for base, head in ((project.main, verified), (verified, project.head(project.files(), parent=verified))):
            ran = plan(head, number=0, base=base)
            assert (ran.code, ran.plan and ran.plan["legs"]) == (0, [])
            assert ran.output.splitlines()[-2:] == ["devices=[]", "any=false"]

    def test_a_record_alone_is_measured(self, project: Project, plan: RunPlan) -> None:
        ran = plan(project.head(project.files(record={"date": "2026-01-02"})), number=0)
        assert ran.plan is not None
        assert len(ran.plan["legs"]) == 1

    def test_a_line_that_main_would_not_sign_is_not(self, project: Project, plan: RunPlan) -> None:
        line = {"triton": "3.6.0", "date": "2026-01-02", "worst_loss_pct": 0.1}
        ran = plan(project.head(project.files(record={"verified_with": [line]})), number=0)
        assert (ran.code, ran.plan and ran.plan["legs"]) == (0, [])

    def test_at_the_first_push_everything_is_new(self, project: Project, plan: RunPlan) -> None:
        ran = plan(project.main, number=0, base="0" * 40)
        assert ran.plan is not None
        (file,) = ran.plan["legs"][0]["workloads"]
        assert (file["claimed"], file["main"]) == (table(), None)

    @pytest.mark.parametrize(
        ("files", "path"),
        [
            ({"configs/evil.py": b""}, "configs/evil.py"),
            ({"configs": Blob(b"/etc", SYMLINK), PATH: None, RECORD: None}, "configs"),
            ({PATH: Blob(b"{}", EXECUTABLE)}, PATH),
        ],
    )
    def test_below_configs_it_is_as_strict_as_ever(
        self, project: Project, plan: RunPlan, files: dict[str, Any], path: str
    ) -> None:
        line = refusal(plan(project.head({**files, "CHANGELOG.md": b"News\n"}), number=0))
        assert line.startswith(f"refused: {path}: ")

    def test_one_file_that_can_not_be_measured_keeps_no_other_from_it(self, project: Project, plan: RunPlan) -> None:
        """A merge waits for no plan, so such a file may come, with others or after them in one push."""
        row = {"latency_us": times(1e6), "baseline_us": times(1e6), "decision": "promote"}
        large = f"E=8,N=409600,device_name={H100}.json"
        hostile = project.files(large, record={"rows": dict.fromkeys(table(), row)})
        broken = {f"configs/records/{OTHER}": b"{}"}
        head = project.head({**project.files(num_stages=4), **hostile, **project.files(OTHER), **broken})
        ran = plan(head, number=0)
        assert ran.code == 0
        assert ran.plan is not None
        (file,) = ran.plan["legs"][0]["workloads"]
        assert file["workload"]["N"] == 1024
        assert {line.split(": ")[0] for line in ran.lines} == {"left out"}
        assert {line.split(": ")[1] for line in ran.lines} == {f"configs/{large}", f"configs/records/{OTHER}"}

    def test_a_fault_of_no_changed_file_ends_it(self, project: Project, plan: RunPlan) -> None:
        registry = {"configs/registry/models.json": b"{}"}
        line = refusal(plan(project.head({**project.files(num_stages=4), **registry}), number=0))
        assert line.startswith("refused: configs/registry/models.json: ")

    def test_of_more_than_the_readers_take_the_rest_is_said(
        self, project: Project, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        head = project.head({**project.files(num_stages=4), **project.files(OTHER)})
        whole = plan(head, number=0).plan
        assert whole is not None
        monkeypatch.setattr(documents, "MAX_LEG_FILES", 1)
        ran = plan(head, number=0)
        assert ran.plan is not None
        assert len(ran.plan["legs"][0]["workloads"]) == 1
        (line,) = ran.lines
        assert line.startswith("left out: configs/E=8,N=")
        assert "expected at most 1 tuned files on NVIDIA_H100_80GB_HBM3, found 2" in line

    def test_a_head_that_is_not_here(self, project: Project, plan: RunPlan) -> None:
        assert refusal(plan("0123456789" * 4, number=0)).startswith("refused: main: expected the commit 0123456789")


class TestShapesOfACommit:
    def test_they_come_from_mains_registry_where_the_record_names_none(self, project: Project, plan: RunPlan) -> None:
        name = f"E=8,N=3584,device_name={H100}.json"
        files = project.files(name)
        published = {"source": "published", "shapes": [], "attribution": "Somebody, Apache-2.0"}
        path = project.store.root / name
        files[f"configs/records/{name}"] = project.store.record(path, **published).read_bytes()
        ran = plan(project.head(files))
        assert ran.plan is not None
        (file,) = ran.plan["legs"][0]["workloads"]
        assert {"K": 4096, "top_k": 2, "registered": True} in file["shapes"]
        assert all(shape["registered"] for shape in file["shapes"])
        assert file["record"] is None

    def test_one_that_main_does_not_know_is_marked(self, project: Project, plan: RunPlan) -> None:
        shapes = [{"K": 3072, "top_k": 5, "models": ["new/model tp=1"]}]
        ran = plan(project.head(project.files(UNREGISTERED, record={"shapes": shapes})))
        assert ran.plan is not None
        assert ran.plan["legs"][0]["workloads"][0]["shapes"] == [{"K": 3072, "top_k": 5, "registered": False}]

    def test_a_registry_in_the_same_pull_request_does_not_count(self, project: Project, plan: RunPlan) -> None:
        model = {"id": "new/model", "E": 8, "N": 1984, "K": 3072, "top_k": 5, "dtype": "bf16", "source": "made up"}
        registry = canonical_record({"schema_version": 1, "models": [model]})
        shapes = [{"K": 3072, "top_k": 5, "models": ["new/model tp=1"]}]
        files = project.files(UNREGISTERED, record={"shapes": shapes})
        ran = plan(project.head({**files, "configs/registry/models.json": registry}))
        assert ran.plan is not None
        assert ran.plan["legs"][0]["workloads"][0]["shapes"] == [{"K": 3072, "top_k": 5, "registered": False}]

    @pytest.mark.parametrize(("K", "top_k"), [(256, 1), (3072, 5), (6144, 4)])
    @pytest.mark.parametrize("source", ["measured", "published"])
    def test_one_of_no_model_is_refused_where_the_registry_knows_the_name(
        self, project: Project, plan: RunPlan, source: str, K: int, top_k: int
    ) -> None:
        """A record that chose K=256 and top_k=1 chose its floor with it, and what main measures."""
        shapes = [{"K": K, "top_k": top_k, "models": []}]
        files = project.files(OTHER, record={"shapes": shapes})
        if source == "published":
            files = project.published(OTHER)
            path = f"configs/records/{OTHER}"
            files[path] = canonical_record({**json.loads(files[path]), "shapes": shapes})
        line = refusal(plan(project.head(files)))
        assert "expected those of the registry's models for E=8, N=2048, the nearest K=" in line
        assert f"found K={K}, top_k={top_k}" in line
        assert "add the model to configs/registry/models.json in a change of its own" in line

    @pytest.mark.parametrize(("K", "top_k"), [(16384 + 64, 2), (4097, 2), (64, 2), (4096, 9)])
    def test_one_out_of_bounds_is_refused(self, project: Project, plan: RunPlan, K: int, top_k: int) -> None:
        shapes = [{"K": K, "top_k": top_k, "models": []}]
        line = refusal(plan(project.head(project.files(UNREGISTERED, record={"shapes": shapes}))))
        assert f"found K={K}, top_k={top_k}" in line

    @pytest.mark.parametrize(("E", "top_k", "fused"), [(8, 33, 0), (8, 9, 9), (1, 2, 1)])
    def test_so_is_a_placement_that_no_layer_has(
        self, project: Project, plan: RunPlan, E: int, top_k: int, fused: int
    ) -> None:
        spread = {"ep": 4, **({"fused_shared_experts": fused} if fused else {})}
        shapes = [{"K": 4096, "top_k": top_k, **spread, "models": []}]
        name = f"E={E},N=2048,device_name={H100}.json"
        line = refusal(plan(project.head(project.files(name, record={"shapes": shapes}))))
        assert f"found {Shape(4096, top_k, 4, fused)}" in line

    def test_a_rank_may_hold_fewer_experts_than_a_token_chooses(self, project: Project, plan: RunPlan) -> None:
        shapes = [{"K": 3072, "top_k": 32, "ep": 4, "models": []}]
        ran = plan(project.head(project.files(UNREGISTERED, record={"shapes": shapes})))
        assert ran.plan is not None
        found = ran.plan["legs"][0]["workloads"][0]["shapes"]
        assert found == [{"K": 3072, "top_k": 32, "ep": 4, "registered": False}]

    @pytest.mark.parametrize("dtype", ["", ",dtype=fp8_w8a8"])
    def test_a_file_of_models_without_a_gate_is_refused_however_it_is_named(
        self, project: Project, plan: RunPlan, dtype: str
    ) -> None:
        name = f"E=128,N=1856,device_name={H100}{dtype}.json"
        shapes = [{"K": 2688, "top_k": 6, "models": ["somebody/else tp=1"]}]
        line = refusal(plan(project.head(project.files(name, record={"shapes": shapes}))))
        assert "found sizes that only models without one have (nvidia/NVIDIA-Nemotron-3-Nano" in line

    def test_one_that_no_plan_can_hold_is_no_record(self, project: Project, plan: RunPlan) -> None:
        shapes = [{"K": 2**31 - 1, "top_k": 2, "models": []}]
        line = refusal(plan(project.head(project.files(OTHER, record={"shapes": shapes}))))
        assert "shapes / 0 / K: expected a number of at most 65536, found 2147483647" in line

    def test_more_than_a_few_are_refused(self, project: Project, plan: RunPlan) -> None:
        shapes = [{"K": 1024 + 64 * i, "top_k": 2, "models": []} for i in range(33)]
        assert "expected a list of at most 32 items, found a list of 33 items" in refusal(
            plan(project.head(project.files(OTHER, record={"shapes": shapes})))
        )

    def test_weights_beyond_the_devices_memory_are_refused(self, project: Project, plan: RunPlan) -> None:
        line = refusal(plan(project.head(project.files(f"E=2147483647,N=2147483647,device_name={H100}.json"))))
        assert "expected weights that NVIDIA_H100_80GB_HBM3 holds, 80 GiB, found 105,553,116,168,192.0 GiB" in line

    def test_so_are_such_as_leave_no_room_to_measure_in(self, project: Project, plan: RunPlan) -> None:
        row = {"latency_us": times(1e6), "baseline_us": times(1e6), "decision": "promote"}
        files = project.files(f"E=8,N=409600,device_name={H100}.json", record={"rows": dict.fromkeys(table(), row)})
        line = refusal(plan(project.head(files)))
        assert "expected it to be measured in at most 76.0 GiB of GPU memory" in line

    def test_a_layer_that_the_bench_can_measure_is_planned(self, project: Project, plan: RunPlan) -> None:
        """11 GiB of weights: once 11.4 GiB to a plan and 68.5 to the bench."""
        name = f"E=256,N=2048,device_name={H100},dtype=fp8_w8a8,block_shape=[128,128].json"
        deepseek = LayerShape(256, 2048, 7168, 8, QuantMode("fp8_w8a8", block_shape=(128, 128)))
        assert 11 < deepseek.memory_bytes(4096) / 2**30 < 14
        row = {"latency_us": times(9000.0), "baseline_us": times(9000.0), "decision": "promote"}
        assert plan(project.head(project.files(name, record={"rows": dict.fromkeys(table(), row)}))).code == 0

    def test_a_new_device_is_refused_until_it_is_on_main(self, project: Project, plan: RunPlan) -> None:
        device = {"name": "NVIDIA_Z9000", "vendor": "nvidia", "family": "Z", "aliases": []}
        registry = canonical_record({"schema_version": 1, "devices": [device]})
        files = project.files("E=8,N=2048,device_name=NVIDIA_Z9000.json")
        line = refusal(plan(project.head({**files, "configs/registry/devices.json": registry})))
        assert "add the device in a pull request of its own first" in line


# Which devices have a runner, by a variable that a person wrote.


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_where_nothing_is_said_every_device_has_one(text: str) -> None:
    assert with_runner(text, devices()) == {device.name for device in devices()}


def test_names_stand_with_commas_and_may_be_a_drivers() -> None:
    assert with_runner("NVIDIA H100 80GB HBM3, NVIDIA_H200,", devices()) == {H100, "NVIDIA_H200"}


def test_an_alias_is_the_device() -> None:
    assert with_runner("AMD_Instinct_MI300X_OAM", devices()) == {"AMD_Instinct_MI300X"}


def test_a_name_that_nothing_has_is_no_silent_none() -> None:
    with pytest.raises(
        RunnersError, match=r"^--runners: .*found 'H1OO'. Fix: correct the repository's variable"
    ) as told:
        with_runner(f"{H100},H1OO", devices())
    assert "\n" not in str(told.value)
