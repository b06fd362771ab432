"""Which files a survey measures, for which shapes, beside what, and why the others are left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fused_moe_configs.lookup import USER_FOLDER
from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.builders import entry
from tests.tools.portfolio.unpacked_engine import DEEPSEEK, H100, MIXTRAL, QWEN, down_of, rows, unpacked
from tools.launch.heuristics import sglang_heuristic, vllm_heuristic
from tools.launch.layer_config import LayerConfig
from tools.portfolio import survey_plan
from tools.portfolio.shipped_files import find_engine
from tools.portfolio.survey_plan import BATCH_SIZES, SurveyPlan, listed, plan
from tools.registry.models import Model, ModelRegistry, Placement, Quantisation
from tools.store.workload import Shape

VLLM, SGLANG = Flavour.VLLM, Flavour.SGLANG
ENTRY = LaunchConfig.from_entry(entry())
UNKNOWN = MIXTRAL.replace("E=8,N=7168", "E=7,N=96")


def planned(
    root: Path, flavour: Flavour, files: Mapping[str, Any], configs: Path | None = None, most_shapes: int = 2
) -> SurveyPlan:
    """configs: of ours; none."""
    engine = find_engine(flavour, unpacked(root / "engine", flavour, files))
    return plan(engine, H100, "3.8.0", most_shapes, configs or root / "no configs")


def reasons(found: SurveyPlan) -> dict[str, str]:
    return {each.file: each.reason for each in found.left_out}


class TestWhatIsMeasured:
    def test_a_files_shapes_are_those_of_the_models_that_read_it(self, tmp_path: Path) -> None:
        (contest,) = planned(tmp_path, VLLM, {MIXTRAL: rows(1)}).contests
        ((shape, layer),) = contest.shapes
        assert shape.shape == Shape(4096, 2)
        assert shape.models == ("mistralai/Mixtral-8x7B-v0.1 tp=2",)
        assert (layer.num_experts, layer.intermediate_size, layer.hidden_size, layer.top_k) == (8, 7168, 4096, 2)

    def test_where_no_placement_on_the_gpu_reads_a_file_the_models_of_its_sizes_do(self, tmp_path: Path) -> None:
        (contest,) = planned(tmp_path, VLLM, {MIXTRAL.replace("E=8,N=7168", "E=62,N=512"): rows(1)}).contests
        assert contest.shapes[0][0].models == ("ibm-granite/granite-4.0-tiny-preview tp=1",)

    def test_where_those_placed_there_read_it_in_the_other_engine_alone_the_models_of_its_sizes_do_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SGLang has seven experts and a fused shared one under the name that vLLM has eight experts under."""
        bf16, sglang = Quantisation("bf16"), (Placement("H100", 1, engine="sglang"),)
        fused = Model("owner/a", 7, 96, 2048, 2, bf16, "", fused_shared_experts=1, placements=sglang)
        plain = Model("owner/b", 8, 96, 4096, 2, bf16, "")
        monkeypatch.setattr(survey_plan, "load_models", lambda: ModelRegistry((fused, plain)))
        (contest,) = planned(tmp_path, VLLM, {MIXTRAL.replace("N=7168", "N=96"): rows(1)}).contests
        assert [shape.models for shape, _ in contest.shapes] == [("owner/b tp=1",)]

    def test_without_a_file_of_ours_two_configs_are_launched(self, tmp_path: Path) -> None:
        (contest,) = planned(tmp_path, VLLM, {MIXTRAL: rows(1)}).contests
        found = contest.configs(1, VLLM)
        assert (found.distinct, found.ours) == ((found.heuristic, found.shipped), None)

    def test_of_many_shapes_some_and_it_is_counted(self, tmp_path: Path) -> None:
        files = {f"triton_3_8_0/{DEEPSEEK}": rows(1)}
        one, all_of_them = (planned(tmp_path / str(most), SGLANG, files, most_shapes=most) for most in (1, 32))
        assert len(one.contests[0].shapes) == 1
        assert one.contests[0].unmeasured == len(all_of_them.contests[0].shapes) - 1 > 0
        assert one.contests[0].shapes[0] == all_of_them.contests[0].shapes[0]

    def test_a_fused_shared_expert_is_sglangs(self, tmp_path: Path) -> None:
        fused = DEEPSEEK.replace("E=256", "E=257")
        (contest,) = planned(tmp_path, SGLANG, {f"triton_3_8_0/{fused}": rows(1)}).contests
        assert {each.shape.fused_shared_experts for each, _ in contest.shapes} == {1}
        vllms = planned(tmp_path / "vllm", VLLM, {fused.replace(", ", ","): rows(1)})
        assert reasons(vllms) == {fused.replace(", ", ","): "no registered model reads it"}

    @pytest.mark.parametrize("flavour", list(Flavour))
    def test_each_engine_is_compared_with_its_own_heuristic(self, tmp_path: Path, flavour: Flavour) -> None:
        place = "" if flavour is VLLM else "triton_3_8_0/"
        (contest,) = planned(tmp_path, flavour, {f"{place}{MIXTRAL}": rows(1)}).contests
        for num_tokens in BATCH_SIZES:
            found = contest.configs(num_tokens, flavour)
            expected = (
                vllm_heuristic(contest.workload, num_tokens, is_rocm=False)
                if flavour is VLLM
                else sglang_heuristic(contest.workload, num_tokens, is_rocm=False, smem_bytes=232448)
            )
            assert (found.heuristic, found.shipped, found.ours) == (
                LayerConfig.of(expected),
                LayerConfig.of(ENTRY),
                None,
            )

    def test_sglangs_file_runs_as_shipped(self, tmp_path: Path) -> None:
        files = {
            f"triton_3_8_0/{QWEN}": rows(1, 4096, BLOCK_SIZE_M=32, num_warps=None, num_stages=None, USE_TMA=True),
            f"triton_3_7_1/{down_of(QWEN)}": rows(2048, BLOCK_SIZE_M=64, BLOCK_SIZE_N=128, USE_TMA=True),
        }
        (contest,) = planned(tmp_path, SGLANG, files).contests
        up = replace(ENTRY, BLOCK_SIZE_M=32, num_warps=4, num_stages=3, USE_TMA=True)
        down = replace(ENTRY, BLOCK_SIZE_M=32, BLOCK_SIZE_N=128, USE_TMA=True)
        assert contest.configs(1, SGLANG).shipped == LayerConfig(up, down)

    def test_what_is_the_same_is_launched_once(self, tmp_path: Path) -> None:
        ours = tmp_path / "configs"
        ours.mkdir()
        unpacked_file = rows(1)
        (ours / MIXTRAL).write_text(json.dumps(unpacked_file), "utf-8")
        (contest,) = planned(tmp_path, VLLM, {MIXTRAL: unpacked_file}, ours).contests
        found = contest.configs(64, VLLM)
        assert found.ours == found.shipped
        assert found.distinct == (found.heuristic, found.shipped)


class TestOurs:
    @pytest.fixture
    def configs(self, tmp_path: Path) -> Path:
        folder = tmp_path / "configs"
        (folder / "triton_3_7_0").mkdir(parents=True)
        return folder

    def write(self, path: Path, **changes: Any) -> None:
        path.write_text(json.dumps(rows(1, **changes)), "utf-8")

    def test_it_is_found_through_the_loaders_chain(self, tmp_path: Path, configs: Path) -> None:
        self.write(configs / MIXTRAL, BLOCK_SIZE_N=128)
        self.write(configs / "triton_3_7_0" / MIXTRAL)
        (contest,) = planned(tmp_path, VLLM, {MIXTRAL: rows(1)}, configs).contests
        assert contest.ours_path == MIXTRAL
        assert contest.configs(1, VLLM).ours == LayerConfig.of(replace(ENTRY, BLOCK_SIZE_N=128))

    def test_its_down_file_runs_on_sglang(self, tmp_path: Path, configs: Path) -> None:
        self.write(configs / MIXTRAL)
        self.write(configs / down_of(MIXTRAL), BLOCK_SIZE_N=128)
        (contest,) = planned(tmp_path, SGLANG, {f"triton_3_8_0/{MIXTRAL}": rows(1)}, configs).contests
        assert contest.configs(1, SGLANG).ours == LayerConfig(ENTRY, replace(ENTRY, BLOCK_SIZE_N=128))

    def test_the_users_own_folder_is_not_ours(
        self, tmp_path: Path, configs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = tmp_path / "own"
        own.mkdir()
        self.write(own / MIXTRAL)
        monkeypatch.setenv(USER_FOLDER, str(own))
        (contest,) = planned(tmp_path, VLLM, {MIXTRAL: rows(1)}, configs).contests
        assert contest.ours is None

    def test_a_broken_one_is_a_note_and_no_loss_of_the_others(self, tmp_path: Path, configs: Path) -> None:
        (configs / MIXTRAL).write_text("{", "utf-8")
        found = planned(tmp_path, VLLM, {MIXTRAL: rows(1)}, configs)
        assert found.contests[0].ours is None
        assert found.notes[0].startswith(f"{MIXTRAL}: ours isn't measured: ")


def test_what_cannot_be_measured_is_left_out_with_its_reason(tmp_path: Path) -> None:
    ungated = MIXTRAL.replace("E=8,N=7168", "E=128,N=1856")
    int4, bf16, broken = (
        MIXTRAL.replace(".json", f",dtype={dtype}.json") for dtype in ("int4_w4a16", "bf16", "fp8_w8a8")
    )
    files = {UNKNOWN: rows(1), ungated: rows(1), int4: rows(1), bf16: rows(1), broken: "{"}
    found = planned(tmp_path, VLLM, files)
    assert found.contests == ()
    expected = {
        UNKNOWN: "no registered model reads it",
        ungated: "only models without a gate have its sizes, such as nvidia/",
        int4: "another kernel runs int4_w4a16",
        bf16: "vllm never asks for it: dtype=bf16",
        broken: "expected a tuned file, found not JSON",
    }
    assert reasons(found).keys() == expected.keys()
    for name, reason in reasons(found).items():
        assert reason.startswith(expected[name])
        assert "\n" not in reason


def test_the_list_says_what_would_be_measured(tmp_path: Path) -> None:
    files = {MIXTRAL: rows(1), UNKNOWN: rows(1)}
    engine = find_engine(VLLM, unpacked(tmp_path / "engine", VLLM, files))
    text = listed(engine, plan(engine, H100, "3.8.0", 1, tmp_path / "none"), H100, "3.8.0")
    assert text.splitlines() == [
        "vLLM 1.2.3 on NVIDIA H100 80GB HBM3, Triton 3.8.0: nothing is measured",
        "",
        f"  {MIXTRAL}: K=4096, top_k=2.",
        "",
        "1 file to measure, 1 not:",
        f"  {UNKNOWN}: no registered model reads it",
    ]
