"""A checkpoint's config.json: where models keep what shapes a workload, and what is refused by the name of its field.

`config_json_cases.json` and `public_config_json_cases.json` hold whole files with the right answers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tools.registry.config_json_files import CASES, H100, written
from tools.registry.config_json import ALIASES, EXPERTS_HAVE_INTERMEDIATE_SIZE, read_config_json
from tools.registry.models import OTHER_KERNELS, Asked, Quantisation
from tools.registry.quantization_config import ConfigJsonError
from tools.registry.sharding import Engine, shard
from tools.store.workload import Layout

PLAIN = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 4,
}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
BLOCK = Quantisation("fp8_w8a8", (128, 128))


def sizes(folder: Path, document: Any) -> tuple[int, int, int, int]:
    model = read_config_json(written(folder, document)).model
    return model.E, model.N, model.K, model.top_k


def stored(folder: Path, document: Any, beside: Any = None, asked: Asked = Asked()) -> Quantisation:  # noqa: B008
    return read_config_json(written(folder, document, beside), asked).model.quantisation


def refusal(folder: Path, document: Any, beside: Any = None) -> str:
    with pytest.raises(ConfigJsonError) as refused:
        read_config_json(written(folder, document, beside))
    assert str(refused.value).isprintable()
    return str(refused.value)


class TestWholeFiles:
    @pytest.mark.parametrize(
        "case", [case for case in CASES if "file" in case["expect"]], ids=lambda case: case["name"]
    )
    def test_the_file_that_vllm_asks_for_on_an_h100(self, case: Any, tmp_path: Path) -> None:
        model = read_config_json(written(tmp_path, case["config"], case.get("hf_quant_config"))).model
        on_a_rank = shard(model, Engine.VLLM, device_name=H100)
        assert on_a_rank.workload.file_name(Layout.VLLM) == case["expect"]["file"]
        assert (on_a_rank.shape.K, on_a_rank.shape.top_k) == (case["expect"]["K"], case["expect"]["top_k"])
        if "sglang_file" in case:
            for_sglang = shard(model, Engine.SGLANG, device_name=H100).workload
            assert for_sglang.file_name(Layout.SGLANG) == case["sglang_file"]
        per_channel = "channel" in case["expect"].get("scales", "")
        assert model.quantisation.per_channel_quant is per_channel

    @pytest.mark.parametrize(
        "case", [case for case in CASES if "file" not in case["expect"]], ids=lambda case: case["name"]
    )
    def test_what_has_no_file_is_never_read_as_plain(self, case: Any, tmp_path: Path) -> None:
        """Refused here, or read as what the tuner refuses: tests/tools/tune/test_refusals.py has the messages."""
        try:
            model = read_config_json(written(tmp_path, case["config"], case.get("hf_quant_config"))).model
        except ConfigJsonError:
            return
        assert not model.gated or model.quantisation.dtype in OTHER_KERNELS


class TestSizes:
    @pytest.mark.parametrize("size", ALIASES)
    def test_a_field_goes_by_any_of_its_names(self, size: str, tmp_path: Path) -> None:
        for name in ALIASES[size]:
            usual = ALIASES[size][0]
            document: dict[str, Any] = {key: value for key, value in PLAIN.items() if key != usual}
            part, dot, inner = name.partition(".")
            document[part] = {inner: PLAIN[usual]} if dot else PLAIN[usual]
            assert sizes(tmp_path, document) == (128, 768, 2048, 8)

    def test_two_names_with_one_value_agree(self, tmp_path: Path) -> None:
        assert sizes(tmp_path, {**PLAIN, "experts_per_token": 8}) == (128, 768, 2048, 8)

    def test_two_names_with_two_values_are_refused(self, tmp_path: Path) -> None:
        told = refusal(tmp_path, {**PLAIN, "experts_per_token": 4})
        assert "top_k: expected fields that agree, found num_experts_per_tok 8, experts_per_token 4" in told
        assert "--E 128 --N 768 --K 2048 --top-k top_k" in told

    def test_a_list_of_one_value_is_that_value(self, tmp_path: Path) -> None:
        assert sizes(tmp_path, {**PLAIN, "moe_intermediate_size": [768] * 48}) == (128, 768, 2048, 8)

    @pytest.mark.parametrize("value", [[768, 512], [], ["768"], [None], "768", 768.0, True, -1, {}, [[768]]])
    def test_anything_else_is_refused_by_its_field(self, value: Any, tmp_path: Path) -> None:
        told = refusal(tmp_path, {**PLAIN, "moe_intermediate_size": value})
        assert "moe_intermediate_size: expected" in told
        assert "--E 128 --N N --K 2048 --top-k 8" in told

    def test_nothing_falls_through_to_a_dense_layers_size(self, tmp_path: Path) -> None:
        document = {key: value for key, value in PLAIN.items() if key != "moe_intermediate_size"}
        told = refusal(tmp_path, document)
        assert "found no N (moe_intermediate_size or" in told
        assert "intermediate_size is a dense layer's, as far as is known of model_type 'qwen3_moe'" in told

    @pytest.mark.parametrize("model_type", sorted(EXPERTS_HAVE_INTERMEDIATE_SIZE))
    def test_some_architectures_put_their_experts_there(self, model_type: str, tmp_path: Path) -> None:
        document = {key: value for key, value in PLAIN.items() if key != "moe_intermediate_size"}
        assert sizes(tmp_path, {**document, "model_type": model_type}) == (128, 6144, 2048, 8)

    @pytest.mark.parametrize("absent", [None, 0])
    def test_a_dense_model_has_no_experts(self, absent: int | None, tmp_path: Path) -> None:
        assert "found no E (num_experts or" in refusal(tmp_path, {**PLAIN, "num_experts": absent})

    def test_the_setting_of_sampling_is_no_size(self, tmp_path: Path) -> None:
        assert sizes(tmp_path, {**PLAIN, "top_k": 50}) == (128, 768, 2048, 8)

    def test_no_more_experts_are_chosen_than_there_are(self, tmp_path: Path) -> None:
        told = refusal(tmp_path, {**PLAIN, "num_experts_per_tok": 129})
        assert "top_k: expected at most the model's 128 experts, found 129" in told


class TestViews:
    @pytest.mark.parametrize(
        "path", ["text_config", "llm_config", "language_config", "thinker_config", "thinker_config.text_config"]
    )
    def test_the_language_model_of_several_modalities(self, path: str, tmp_path: Path) -> None:
        document: Any = PLAIN
        for name in reversed(path.split(".")):
            document = {name: document, "hidden_size": 1, "vision_config": {"hidden_size": 2, "num_experts": 3}}
        assert sizes(tmp_path, document) == (128, 768, 2048, 8)

    def test_the_talker_is_not_what_an_engine_tunes(self, tmp_path: Path) -> None:
        talker = {"text_config": {**PLAIN, "moe_intermediate_size": 384}}
        document = {"thinker_config": {"text_config": PLAIN}, "talker_config": talker}
        assert sizes(tmp_path, document) == (128, 768, 2048, 8)

    def test_a_size_is_not_taken_from_an_outer_part(self, tmp_path: Path) -> None:
        inner = {key: value for key, value in PLAIN.items() if key != "hidden_size"}
        told = refusal(tmp_path, {"hidden_size": 1024, "text_config": inner})
        assert "found no K (hidden_size or d_model in text_config)" in told

    def test_two_language_models_are_refused(self, tmp_path: Path) -> None:
        told = refusal(tmp_path, {"text_config": PLAIN, "llm_config": {**PLAIN, "num_experts": 64}})
        assert "expected experts in one part, found other ones in " in told

    def test_the_dtype_may_lie_outside(self, tmp_path: Path) -> None:
        assert stored(tmp_path, {"torch_dtype": "float16", "text_config": PLAIN}) == Quantisation("fp16")
        inner = {"dtype": "bfloat16", **PLAIN}
        assert stored(tmp_path, {"dtype": "float16", "text_config": inner}) == Quantisation("bf16")


class TestGateAndWidth:
    @pytest.mark.parametrize("value", ["silu", "gelu_pytorch_tanh", {"name": "silu"}])
    def test_a_function_behind_a_gate(self, value: Any, tmp_path: Path) -> None:
        field = "ffn_config" if isinstance(value, dict) else "hidden_act"
        document = {**PLAIN, field: {"ffn_act_fn": value} if isinstance(value, dict) else value}
        assert read_config_json(written(tmp_path, document)).model.gated

    @pytest.mark.parametrize(
        "fields", [{"hidden_act": "relu2"}, {"mlp_hidden_act": "relu2"}, {"model_type": "nemotron_h"}]
    )
    def test_no_gate(self, fields: Any, tmp_path: Path) -> None:
        checkpoint = read_config_json(written(tmp_path, {**PLAIN, **fields}))
        assert not checkpoint.model.gated
        assert all(str(value) in checkpoint.gate_from for value in fields.values())

    @pytest.mark.parametrize("value", ["tanhshrink", 3, ["silu"], {"name": ["silu"]}, True])
    def test_an_activation_that_is_not_known_is_refused(self, value: Any, tmp_path: Path) -> None:
        assert "hidden_act: expected an activation that is known, found" in refusal(
            tmp_path, {**PLAIN, "hidden_act": value}
        )

    @pytest.mark.parametrize(
        "field", ["moe_latent_size", "use_latent_moe", "routed_expert_hidden_size", "moe_hidden_size"]
    )
    def test_a_width_of_their_own_is_refused(self, field: str, tmp_path: Path) -> None:
        told = refusal(tmp_path, {**PLAIN, field: 1024})
        assert f"{field} 1024: expected experts on the hidden size" in told
        assert "with that width as K" in told
        assert "--E 128 --N 768 --K K --top-k 8" in told
        assert sizes(tmp_path, {**PLAIN, field: None}) == (128, 768, 2048, 8)

    def test_of_4_bit_experts_the_width_does_not_matter(self, tmp_path: Path) -> None:
        document = {**PLAIN, "routed_expert_hidden_size": 1024, "quantization_config": {"quant_method": "mxfp4"}}
        assert re.search("mxfp4 experts run another kernel .*nothing to tune$", refusal(tmp_path, document))


class TestHowExpertsAreStored:
    @pytest.mark.parametrize(
        "document",
        [
            {**PLAIN, "quantization_config": FP8},
            {"text_config": PLAIN, "quantization_config": FP8},
            {"text_config": {**PLAIN, "quantization_config": None}, "quantization_config": FP8},
            {"text_config": {**PLAIN, "quantization_config": FP8}},
            {"text_config": {**PLAIN, "quantization_config": FP8}, "quantization_config": FP8},
            {"text_config": PLAIN, "compression_config": FP8},
            {**PLAIN, "quantization_config": FP8, "vision_config": {"quantization_config": {"quant_method": "x"}}},
        ],
    )
    def test_wherever_it_lies(self, document: Any, tmp_path: Path) -> None:
        assert stored(tmp_path, document) == BLOCK

    def test_two_answers_are_refused(self, tmp_path: Path) -> None:
        inner = {**PLAIN, "quantization_config": {"quant_method": "fp8"}}
        told = refusal(tmp_path, {"text_config": inner, "quantization_config": FP8})
        assert "expected places that agree on how experts are stored, found" in told

    def test_a_part_that_is_not_known_may_be_the_experts_own(self, tmp_path: Path) -> None:
        told = refusal(tmp_path, {**PLAIN, "expert_settings": {"quantization_config": FP8}})
        assert "expert_settings.quantization_config: expected it beside the experts' fields" in told

    @pytest.mark.parametrize("value", ["fp8", 3, [FP8]])
    def test_one_that_is_no_object_is_refused(self, value: Any, tmp_path: Path) -> None:
        assert "quantization_config: expected an object" in refusal(tmp_path, {**PLAIN, "quantization_config": value})

    @pytest.mark.parametrize(
        ("algorithm", "expected"),
        [
            ("FP8", Quantisation("fp8_w8a8", activation_scales="static")),
            ("NVFP4", Quantisation("nvfp4")),
            ("MXFP8", Quantisation("mxfp8")),
            (None, Quantisation("bf16")),
        ],
    )
    def test_the_file_beside_it_decides(self, algorithm: str | None, expected: Quantisation, tmp_path: Path) -> None:
        beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": algorithm}}
        assert stored(tmp_path, PLAIN, beside) == expected

    def test_the_older_file_alone_may_list_the_layers(self, tmp_path: Path) -> None:
        layers = {f"model.layers.{layer}.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16} for layer in range(4)}
        mixed = {"quant_algo": "MIXED_PRECISION"}
        document = {**PLAIN, "quantization_config": {"quant_method": "modelopt", **mixed}}
        assert "quantized_layers: expected modules" in refusal(tmp_path, document)
        beside = {"quantization": {**mixed, "quantized_layers": layers}}
        assert stored(tmp_path, document, beside) == Quantisation("nvfp4")

    @pytest.mark.parametrize("beside", [{"producer": {}}, {"quantization": None}, {"quantization": []}])
    def test_a_file_beside_it_that_says_nothing_is_refused(self, beside: Any, tmp_path: Path) -> None:
        assert "hf_quant_config.json, quantization: expected an object" in refusal(tmp_path, PLAIN, beside)

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"expert_dtype": "fp4"}, Quantisation("mxfp4")),
            ({"expert_dtype": "fp4", "quantization_config": FP8}, Quantisation("mxfp4")),
            ({"quantization_config": {**FP8, "expert_dtype": "fp4"}}, Quantisation("mxfp4")),
            ({"quantization_config": {**FP8, "moe_quant_algo": "NVFP4"}}, Quantisation("nvfp4")),
            ({"expert_dtype": "fp8", "quantization_config": FP8}, BLOCK),
            ({"expert_dtype": "bf16", "quantization_config": FP8}, Quantisation("bf16")),
            ({"model_type": "deepseek_v4", "quantization_config": FP8}, Quantisation("mxfp4")),
            ({"model_type": "deepseek_v4", "expert_dtype": "fp8", "quantization_config": FP8}, BLOCK),
        ],
    )
    def test_fields_that_speak_of_the_experts_alone_count_first(
        self, fields: Any, expected: Quantisation, tmp_path: Path
    ) -> None:
        assert stored(tmp_path, {**PLAIN, **fields}) == expected

    @pytest.mark.parametrize("value", ["fp6", "fp8", 4, ["fp4"]])
    def test_experts_of_a_dtype_that_is_not_known_are_refused(self, value: Any, tmp_path: Path) -> None:
        assert "expert_dtype: expected fp4, bf16, or fp8 with a quantization_config" in refusal(
            tmp_path, {**PLAIN, "expert_dtype": value}
        )

    @pytest.mark.parametrize("value", ["float8_e4m3fn", 16, ["bfloat16"]])
    def test_so_is_a_compute_dtype(self, value: Any, tmp_path: Path) -> None:
        assert "dtype: expected one of auto, bf16" in refusal(tmp_path, {**PLAIN, "dtype": value})

    def test_what_is_asked_for_counts_over_what_is_not_known(self, tmp_path: Path) -> None:
        document = {**PLAIN, "quantization_config": {"quant_method": "exl3"}}
        assert "quantization_config.quant_method: expected one of" in refusal(tmp_path, document)
        asked = Asked("fp8_w8a8", (128, 128))
        assert stored(tmp_path, document, asked=asked) == BLOCK

    def test_a_dtype_that_is_asked_for_keeps_the_checkpoints_scales_of_it(self, tmp_path: Path) -> None:
        document = {**PLAIN, "quantization_config": FP8}
        assert stored(tmp_path, document, asked=Asked("fp8_w8a8")) == BLOCK
        assert stored(tmp_path, document, asked=Asked("bf16")) == Quantisation("bf16")


class TestName:
    HASH = "ad44e777bcd18fa416d9da3bd8f70d33ebb85d39"

    @pytest.mark.parametrize(
        ("folder", "fields", "expected"),
        [
            (f"hub/models--Qwen--Qwen3-30B-A3B/snapshots/{HASH}", {}, "Qwen/Qwen3-30B-A3B"),
            (f"models--a--b--c/snapshots/{HASH}", {"_name_or_path": "x/y"}, "a/b--c"),
            ("weights", {"_name_or_path": "Qwen/Qwen3-30B-A3B"}, "Qwen/Qwen3-30B-A3B"),
            ("weights", {"_name_or_path": "/models/Qwen3-30B-A3B"}, None),
            ("weights", {"_name_or_path": "./a/b"}, None),
            ("weights", {"_name_or_path": "checkpoints/step-100"}, None),
            ("weights", {"_name_or_path": "a/b/c"}, None),
            ("weights", {"_name_or_path": ["a/b"]}, None),
            ("Qwen3-30B-A3B", {}, None),
            (f"snapshots/{HASH}", {}, None),
        ],
    )
    def test_it_is_the_id_and_never_a_folder(
        self, folder: str, fields: Any, expected: str | None, tmp_path: Path
    ) -> None:
        (tmp_path / folder).mkdir(parents=True)
        checkpoint = read_config_json(written(tmp_path / folder, {**PLAIN, **fields}))
        assert (checkpoint.model.id if checkpoint.is_named else None) == expected

    def test_an_id_that_is_given_counts_first(self, tmp_path: Path) -> None:
        path = written(tmp_path, {**PLAIN, "_name_or_path": "x/y"})
        assert read_config_json(path, model_id="a/b").model.id == "a/b"


class TestFilesThatCannotBeRead:
    @pytest.mark.parametrize("data", [b"{", b"\xff", b'{"a":' * 50_000], ids=["torn", "binary", "deep"])
    def test_no_json(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_bytes(data)
        with pytest.raises(ConfigJsonError, match=r"config\.json: expected a model's config\.json, found"):
            read_config_json(tmp_path / "config.json")

    def test_none_and_a_pipe(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigJsonError, match="No such file"):
            read_config_json(tmp_path / "config.json")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ConfigJsonError, match="Not a regular file"):
            read_config_json(tmp_path / "pipe")

    def test_no_object(self, tmp_path: Path) -> None:
        assert "expected an object, found []" in refusal(tmp_path, [])

    def test_a_broken_file_beside_it(self, tmp_path: Path) -> None:
        path = written(tmp_path, PLAIN)
        (tmp_path / "hf_quant_config.json").write_text("{")
        with pytest.raises(ConfigJsonError, match=r"hf_quant_config\.json: expected a model's config\.json"):
            read_config_json(path)


FIELDS = st.sampled_from(
    [
        *(name for names in ALIASES.values() for name in names if "." not in name),
        *("text_config", "ffn_config", "quantization_config", "quant_method", "config_groups", "targets"),
        *("hidden_act", "model_type", "expert_dtype", "moe_quant_algo", "ignore", "quantized_layers", "quant_algo"),
        *("dtype", "num_hidden_layers", "weight_block_size", "activation_scheme", "layer_quant_config", "dynamic"),
        *("input_activations", "global_quant_config", "strategy", "type", "num_bits", "moe_latent_size", "weights"),
    ]
)
LEAVES = st.sampled_from(
    [None, True, 0, 8, 128, -1, 1.5, "fp8", "modelopt", "compressed-tensors", "quark", "float", "silu", "re:(", "*"]
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=4))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.dictionaries(FIELDS, VALUES, max_size=5))
def test_any_other_value_is_read_or_refused(changes: Any, tmp_path: Path) -> None:
    path = written(tmp_path, {**PLAIN, **changes})
    try:
        model = read_config_json(path).model
    except ConfigJsonError:
        return
    assert 1 <= model.top_k <= model.E
