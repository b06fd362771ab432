"""What templates are given: names as people write them, and lines, facts and commands of a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from fused_moe_configs.gains import Gain
from fused_moe_configs.next_step import export_command
from tests.builders import H100, Store, devices, models
from tests.tools.site.stores import MIXTRAL, add, checked, row, store_at
from tools.registry.engines import load_engines
from tools.site import render
from tools.site.files import TunedFile, files_in, read_files
from tools.site.questions import Questions
from tools.store.record import RecordedRow

MIXTRAL_ID = "mistralai/Mixtral-8x7B-v0.1"
REPOSITORY = "https://example.org/repository"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return store_at(tmp_path / "configs", [MIXTRAL_ID]).root


def file_of(root: Path, name: str = MIXTRAL, **changes: Any) -> TunedFile:
    """The one file of a store."""
    add(Store(root), name, **changes)
    (found,) = read_files(files_in(root))
    return found


def recorded(**changes: Any) -> RecordedRow:
    return RecordedRow.read(row(64, **changes))


class TestEnvironment:
    def test_what_a_store_says_is_escaped(self) -> None:
        template = render.environment(REPOSITORY, "").from_string("{{ said }} {{ name | gpu }}")
        assert template.render(said="<b>", name="NVIDIA_<i>") == "&lt;b&gt; &lt;i&gt;"

    def test_a_name_that_nothing_gives_is_an_error(self) -> None:
        with pytest.raises(UndefinedError):
            render.environment(REPOSITORY, "").from_string("{{ forgotten }}").render()


class TestNames:
    @pytest.mark.parametrize(
        ("device", "written"),
        [
            ("NVIDIA_H100_80GB_HBM3", "H100 80GB HBM3"),
            ("NVIDIA_GeForce_RTX_4090", "RTX 4090"),
            ("AMD_Instinct_MI300X", "AMD Instinct MI300X"),
        ],
    )
    def test_a_gpu(self, device: str, written: str) -> None:
        assert render.gpu(device) == written

    @pytest.mark.parametrize(
        ("tail", "written"),
        [
            ("", "E=8, N=7168, bf16"),
            (",dtype=fp8_w8a8,block_shape=[128,128]", "E=8, N=7168, fp8_w8a8, blocks of 128 × 128"),
            (",dtype=fp8_w8a8,per_channel_quant=True", "E=8, N=7168, fp8_w8a8, per channel"),
        ],
    )
    def test_a_workload(self, root: Path, tail: str, written: str) -> None:
        assert render.workload_of(file_of(root, MIXTRAL.replace(".json", f"{tail}.json"))) == written

    def test_a_title_is_the_first_model_of_the_record_on_the_gpu(self, root: Path) -> None:
        shapes = [{"K": 4096, "top_k": 2, "ep": 2, "models": [f"{MIXTRAL_ID} tp=4 ep=2"]}]
        assert render.title_of(file_of(root, shapes=shapes)) == "Mixtral-8x7B-v0.1 TP4 EP2 on H100 80GB HBM3"

    def test_without_a_model_it_is_the_workload(self, root: Path) -> None:
        shapes = [{"K": 4096, "top_k": 2, "models": []}]
        assert render.title_of(file_of(root, shapes=shapes)) == "E=8, N=7168, bf16 on H100 80GB HBM3"

    def test_files_that_one_model_reads_are_told_apart(self, root: Path) -> None:
        shapes = [{"K": 4096, "top_k": 2, "fused_shared_experts": 1, "models": ["a/b tp=2 +1 shared"]}]
        store = Store(root)
        add(store, shapes=shapes)
        add(store, MIXTRAL.replace(".json", "_down.json"), shapes=shapes)
        add(store, folder="triton_3_6_0", shapes=shapes)
        assert [render.title_of(file) for file in read_files(files_in(root))] == [
            "b TP2 +1 shared on H100 80GB HBM3",
            "b TP2 +1 shared on H100 80GB HBM3, down projection",
            "b TP2 +1 shared on H100 80GB HBM3, Triton 3.6.0",
        ]


class TestCurves:
    def test_of_each_engines_kernel_file_and_heuristic_then_the_floor(self) -> None:
        lines = render.time_lines({64: recorded()})
        assert [(line.label, line.style) for line in lines] == [
            ("this file on vLLM's kernel", "tuned"),
            ("vLLM's heuristic", "vllm"),
            ("this file on SGLang's kernel", "sglang tuned"),
            ("SGLang's heuristic", "sglang"),
            ("floor", "floor"),
        ]
        assert lines[-1].values == {64: pytest.approx(0.7 * 164.0)}

    def test_of_an_older_record_the_file_beside_the_heuristics(self) -> None:
        lines = render.time_lines({64: replace(recorded(), by_engine={}, floor_us=None)})
        assert [line.label for line in lines] == ["this file", "vLLM's heuristic"]

    def test_of_a_file_for_down_the_heuristic_is_sglangs(self) -> None:
        lines = render.time_lines({64: replace(recorded(), by_engine={}, floor_us=None)}, "sglang")
        assert [(line.label, line.style) for line in lines] == [
            ("this file", "sglang tuned"),
            ("SGLang's heuristic", "sglang"),
        ]

    def test_skewed_gains_stand_back(self) -> None:
        gains = [Gain("vllm", "uniform", {1: 0.9}), Gain("sglang", "skew_0.3", {8: 0.8})]
        assert [(line.label, line.style) for line in render.gain_lines(gains)] == [
            ("vLLM, uniform", "vllm"),
            ("SGLang, skew 0.3", "skewed strongly sglang"),
        ]

    def test_where_all_is_uniform_the_routing_goes_without_saying(self) -> None:
        (line,) = render.gain_lines([Gain("vllm", "uniform", {1: 0.9})])
        assert line.label == "over vLLM's heuristic"


def test_a_value_is_marked_where_it_differs_from_the_row_above() -> None:
    entries = {64: {"BLOCK_SIZE_M": 32, "num_warps": 4}, 1: {"BLOCK_SIZE_M": 16, "num_warps": 4}}
    assert render.launch_rows(entries, ["BLOCK_SIZE_M", "num_warps"]) == [
        (1, [("16", False), ("4", False)]),
        (64, [("32", True), ("4", False)]),
    ]


def test_a_value_that_an_entry_lacks_is_a_dash() -> None:
    assert render.launch_rows({1: {"USE_TMA": True}, 2: {}}, ["USE_TMA"]) == [
        (1, [("True", False)]),
        (2, [("–", True)]),
    ]


class TestBeside:
    def test_both_halves_lead_to_each_other_and_the_bench_of_both_is_the_layers(self, root: Path) -> None:
        add(Store(root), engine_checked=[checked(), checked("sglang")])
        add(Store(root), MIXTRAL.replace(".json", "_down.json"))
        layer, down = files = read_files(files_in(root))
        assert render.beside(layer, files) == render.Neighbours(down, (), layer.record.engine_checked[1])
        assert render.beside(down, files) == render.Neighbours(layer, (), None)

    def test_one_file_for_both_is_judged_as_any_other(self, root: Path) -> None:
        file = file_of(root, engine_checked=[checked("sglang")])
        assert render.beside(file, [file]) == render.Neighbours(None, (), None)

    def test_files_of_another_triton_are_named(self, root: Path) -> None:
        add(Store(root))
        add(Store(root), folder="triton_3_6_0")
        default, other = files = read_files(files_in(root))
        assert [render.beside(file, files).others for file in files] == [(other,), (default,)]


class TestFile:
    def test_the_records_facts_have_a_line_each(self, root: Path) -> None:
        found = dict(render.facts(file_of(root)))
        assert (found["Evidence"], found["Source"], found["Decisions"]) == ("claimed", "measured", "18 promote")
        assert found["GPU"] == "NVIDIA_H100_80GB_HBM3, compute capability 9.0, 132 units"

    def test_without_a_record_there_are_none(self, root: Path) -> None:
        assert render.facts(replace(file_of(root), record=None)) == []

    @pytest.mark.parametrize(
        ("tail", "engines"),
        [("", ["vllm", "sglang"]), (",dtype=fp8_w8a8,per_channel_quant=True", ["sglang"])],
    )
    def test_it_is_exported_to_engines_that_ask_for_it(self, root: Path, tail: str, engines: list[str]) -> None:
        file = file_of(root, MIXTRAL.replace(".json", f"{tail}.json"))
        found = dict(render.exports(file, REPOSITORY))
        assert list(found) == engines
        assert found["sglang"].splitlines() == [
            f"pip install git+{REPOSITORY}",
            export_command("sglang", Path(file.path)),
        ]

    def test_it_is_exported_to_engines_that_it_was_measured_for_alone(self, root: Path) -> None:
        alone = row(64)
        alone["parts"] = [part for part in alone["parts"] if part["engine"] == "sglang"]
        assert [engine for engine, _ in render.exports(file_of(root, rows={"64": alone}), REPOSITORY)] == ["sglang"]

    def test_its_address_is_quoted(self, root: Path) -> None:
        file = file_of(root)
        address, sha256 = render.download(file, REPOSITORY).splitlines()
        assert address == f"{REPOSITORY}/raw/main/configs/E%3D8%2CN%3D7168%2Cdevice_name%3D{H100}.json"
        assert sha256 == f"sha256 {file.known.sha256}"


def test_gpus_that_need_the_same_lines_share_them(root: Path) -> None:
    questions = Questions(root, devices(), load_engines(), ())
    answers = next(each for each in questions.rows(models().find(MIXTRAL_ID)) if (each.tp, each.ep) == (2, 1))
    two = [devices().find(name) for name in (H100, "NVIDIA_H200")]
    ((lines, gpus),) = render.commands(answers, two, REPOSITORY)
    assert lines.startswith(f"./nox -s tune -- --model {MIXTRAL_ID} --tp 2")
    assert gpus == "H100 80GB HBM3, H200"


def test_every_id_of_a_model_leads_to_its_page() -> None:
    model = next(model for model in models() if model.also)
    assert render.model_slugs([model], {model.id: "page"}) == dict.fromkeys([model.id, *model.also], "page")
