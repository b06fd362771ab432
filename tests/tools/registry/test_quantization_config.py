"""How experts are stored, by each method's own words; what isn't known is refused by the name of its field."""

from __future__ import annotations

from typing import Any

import pytest

from tools.registry.expert_modules import Experts
from tools.registry.models import Quantisation
from tools.registry.quantization_config import ConfigJsonError, by_algorithm, experts_quantisation

EXPERTS = Experts(range(4), 8)
STATIC = Quantisation("fp8_w8a8", activation_scales="static")
DYNAMIC = Quantisation("fp8_w8a8", activation_scales="dynamic")
PER_CHANNEL = Quantisation("fp8_w8a8", per_channel_quant=True)
BLOCK = Quantisation("fp8_w8a8", (128, 128))
INT4 = Quantisation("int4_w4a16")
INT8 = Quantisation("int8_w8a8", per_channel_quant=True)
NVFP4, MXFP4, MXFP8 = Quantisation("nvfp4"), Quantisation("mxfp4"), Quantisation("mxfp8")


def read(**fields: Any) -> Quantisation | None:
    return experts_quantisation(fields, "quantization_config", EXPERTS)


def refusal(**fields: Any) -> str:
    with pytest.raises(ConfigJsonError) as refused:
        read(**fields)
    return str(refused.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"quant_method": "fp8"}, DYNAMIC),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, DYNAMIC),
        ({"quant_method": "fp8", "activation_scheme": "static"}, STATIC),
        ({"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"}, STATIC),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}, BLOCK),
        ({"quant_method": "fp8", "weight_block_size": [64, 32]}, Quantisation("fp8_w8a8", (64, 32))),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "store_dtype": "mxfp4"}, MXFP4),
        ({"quant_method": "mxfp4"}, MXFP4),
        ({"quant_method": "mxfp8", "weight_block_size": [1, 32]}, MXFP8),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, INT4),
        ({"quant_method": "awq", "bits": 4}, INT4),
        ({"quant_method": "awq", "w_bit": 4}, INT4),
        ({"quant_method": "auto-round", "bits": 4}, INT4),
        ({"quant_method": "experts_int8"}, Quantisation("int8_w8a16")),
        ({"quant_method": "w8a8_int8"}, INT8),
        ({"quant_method": "w8a8_fp8"}, PER_CHANNEL),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, STATIC),
        ({"quant_algo": "NVFP4", "group_size": 16}, NVFP4),
        ({"quant_method": "modelopt", "quant_algo": "fp8_pb_wo"}, BLOCK),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, PER_CHANNEL),
        ({"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"}, None),
    ],
)
def test_a_method_in_its_own_words(fields: Any, expected: Quantisation | None) -> None:
    assert read(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "quantization_config.quant_method: expected one of auto-round, awq"),
        ({"quant_method": "exl3"}, "found 'exl3'"),
        ({"quant_method": ["fp8"]}, "quantization_config.quant_method: expected one of"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size: expected two numbers [n,k]"),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, "weight_block_size: expected two numbers [n,k]"),
        ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size: expected two numbers [n,k]"),
        ({"quant_method": "fp8", "activation_scheme": "guess"}, "activation_scheme: expected static or dynamic"),
        ({"quant_method": "fp8", "store_dtype": "fp6"}, "store_dtype: expected none beside fp8, found 'fp6'"),
        ({"quant_method": "fp8", "experts_in_fp4": True}, "experts_in_fp4: expected none beside fp8, found true"),
        ({"quant_method": "modelopt", "quant_algo": "FP3"}, "quant_algo: expected one of FP8"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "quantized_layers: expected modules"),
    ],
)
def test_what_is_not_known_is_refused_with_a_way_out(fields: Any, told: str) -> None:
    message = refusal(**fields)
    assert told in message
    assert "say how the experts are stored: --dtype fp8_w8a8" in message


@pytest.mark.parametrize(
    "fields",
    [{"quant_method": "gptq", "bits": 8}, {"quant_method": "bitsandbytes"}, {"quant_method": "gguf"}],
)
def test_what_runs_another_kernel_leaves_nothing_to_tune(fields: Any) -> None:
    assert refusal(**fields).endswith("there is nothing to tune")


# ---------------------------------------------------------------
# compressed-tensors

TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
TENSOR = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
GROUP = {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128, "dynamic": True}


def weights(strategy: str, bits: int = 8, kind: str = "float", **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": kind, "strategy": strategy, **more}


def compressed(weights: Any, inputs: Any, targets: Any = ("Linear",), **more: Any) -> dict[str, Any]:
    group = {"targets": list(targets), "weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **more}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (compressed(weights("channel"), TOKEN), PER_CHANNEL),
        (compressed(weights("block", block_structure=[128, 128]), GROUP), BLOCK),
        (compressed(weights("block", block_structure="128x128"), GROUP), BLOCK),
        (compressed(weights("tensor"), TENSOR), STATIC),
        (compressed(weights("tensor"), {**TENSOR, "dynamic": True}), DYNAMIC),
        (compressed(weights("channel", kind="int"), {**TOKEN, "type": "int"}), INT8),
        (compressed(weights("group", 4, "int", group_size=32), None), INT4),
        (compressed(weights("tensor_group", 4, group_size=16), weights("tensor_group", 4, group_size=16)), NVFP4),
        (compressed(weights("tensor_group", 4, group_size=16), None), NVFP4),
        (compressed(weights("group", 4, group_size=32), None), MXFP4),
        (compressed(weights("group", group_size=32, scale_dtype="uint8"), TOKEN), MXFP8),
        (compressed(weights("channel"), TOKEN, ["re:.*mlp.experts.*"]), PER_CHANNEL),
        (compressed(weights("channel"), TOKEN, ["Llama4TextExperts"]), PER_CHANNEL),
        (compressed(weights("channel"), TOKEN, ["re:.*self_attn.*"]), None),
        (compressed(weights("channel"), TOKEN, ignore=["lm_head", "re:.*gate$"]), PER_CHANNEL),
        (compressed(weights("channel"), TOKEN, ignore=["re:.*mlp.experts.*"]), None),
    ],
)
def test_a_scheme_of_compressed_tensors(fields: Any, expected: Quantisation | None) -> None:
    assert read(**fields) == expected


def test_the_group_that_names_the_experts_counts_before_that_of_their_class() -> None:
    groups = {
        "group_0": {"targets": ["Linear"], "weights": weights("tensor"), "input_activations": TENSOR},
        "group_1": {"targets": ["re:.*experts.*"], "weights": weights("channel"), "input_activations": TOKEN},
    }
    assert read(quant_method="compressed-tensors", config_groups=groups) == PER_CHANNEL


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"quant_method": "compressed-tensors"}, "config_groups: expected groups of modules"),
        (compressed(None, TOKEN), "group_0.weights: expected a scheme"),
        (compressed(weights("channel"), TENSOR), "group_0: expected a scheme of fp8 or int8"),
        (compressed(weights("channel"), None), "group_0: expected a scheme of fp8 or int8"),
        (compressed(weights("tensor"), TOKEN), "group_0: expected a scheme of fp8 or int8"),
        (compressed(weights("block"), GROUP), "block_structure: expected two numbers [n,k]"),
        (compressed(weights("channel"), TOKEN, [3]), "group_0.targets: expected names of modules"),
        (
            compressed(weights("channel"), TOKEN, ["model.layers.1.mlp.experts"]),
            "targets: expected experts of one kind",
        ),
        (compressed(weights("channel"), TOKEN, ignore=["model.layers.1"]), "ignore: expected experts of one kind"),
        (compressed(weights("channel"), TOKEN, ignore="lm_head"), "ignore: expected names of modules"),
    ],
)
def test_a_scheme_that_engines_do_not_run_is_refused(fields: Any, told: str) -> None:
    message = refusal(**fields)
    assert told in message
    assert "--dtype fp8_w8a8" in message


# ---------------------------------------------------------------
# Modules of their own kind


@pytest.mark.parametrize("field", ["ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules"])
def test_experts_that_are_left_out_are_not_quantised(field: str) -> None:
    assert read(quant_method="fp8", **{field: ["lm_head", "mlp.gate"]}) == DYNAMIC
    assert read(quant_method="fp8", **{field: ["lm_head", "mlp.experts"]}) is None
    assert f"{field}: expected experts of one kind" in refusal(quant_method="fp8", **{field: ["model.layers.2"]})


def test_gptq_leaves_modules_out_in_its_own_way() -> None:
    assert read(quant_method="gptq", bits=4, dynamic={"-:.*experts.*": {}}) is None
    assert read(quant_method="gptq", bits=4, dynamic={"-:.*attn.*": {}, "+:.*": {"bits": 8}}) == INT4


class TestMixedPrecision:
    def mixed(self, **layers: str) -> Quantisation | None:
        table = {name.replace("__", "."): {"quant_algo": algorithm} for name, algorithm in layers.items()}
        return read(quant_method="modelopt", quant_algo="MIXED_PRECISION", quantized_layers=table)

    def test_the_experts_layers_decide(self) -> None:
        experts = {f"model__layers__{layer}__mlp__experts": "NVFP4" for layer in EXPERTS.layers}
        assert self.mixed(**experts, lm_head="FP8", model__layers__0__self_attn__q_proj="FP3") == NVFP4

    def test_a_hybrids_layers_without_experts_are_not_listed(self) -> None:
        assert self.mixed(backbone__layers__1__mixer__experts__0__up_proj="FP8") == STATIC

    def test_experts_that_are_not_listed_are_not_quantised(self) -> None:
        assert self.mixed(model__layers__0__self_attn__q_proj="FP8") is None
        assert self.mixed(model__layers__0__mlp__experts="UNQUANTIZED") is None

    def test_two_kinds_are_refused(self) -> None:
        with pytest.raises(ConfigJsonError, match="quantized_layers: expected experts of one kind"):
            self.mixed(model__layers__0__mlp__experts="FP8", model__layers__1__mlp__experts="NVFP4")


class TestQuark:
    def quark(self, weight: Any, inputs: Any, **more: Any) -> Quantisation | None:
        scheme = {"weight": weight, "input_tensors": inputs}
        return read(quant_method="quark", global_quant_config=scheme, **more)

    @pytest.mark.parametrize(
        ("weight", "inputs", "expected"),
        [
            ({"dtype": "fp8_e4m3", "qscheme": "per_tensor"}, {"is_dynamic": False}, STATIC),
            ({"dtype": "fp8_e4m3", "qscheme": "per_channel"}, {"is_dynamic": True}, PER_CHANNEL),
            ({"dtype": "fp4", "qscheme": "per_group", "group_size": 32}, {"is_dynamic": True}, MXFP4),
            ({"dtype": "int8", "qscheme": "per_channel"}, {"is_dynamic": True}, INT8),
            ({"dtype": "int4", "qscheme": "per_group"}, None, INT4),
        ],
    )
    def test_amds_scheme(self, weight: Any, inputs: Any, expected: Quantisation) -> None:
        assert self.quark(weight, inputs) == expected

    def test_layers_of_their_own_count_where_they_are_experts(self) -> None:
        fp8 = {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}
        own = {"weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}, "input_tensors": None}
        assert self.quark(fp8, {}, layer_quant_config={"*self_attn*": own, "*experts*": own}) == MXFP4
        assert self.quark(fp8, {"is_dynamic": True}, layer_quant_config={"*self_attn*": own}) == DYNAMIC

    @pytest.mark.parametrize("weight", [None, [], {"dtype": "fp6"}])
    def test_anything_else_is_refused(self, weight: Any) -> None:
        with pytest.raises(ConfigJsonError, match="global_quant_config: expected fp8_e4m3 per_tensor"):
            self.quark(weight, {"is_dynamic": True})

    def test_so_are_layers_that_are_no_table(self) -> None:
        with pytest.raises(ConfigJsonError, match="layer_quant_config: expected modules"):
            self.quark({}, {}, layer_quant_config=[3])


def test_an_algorithm_of_the_experts_alone() -> None:
    assert by_algorithm("nvfp4", "moe_quant_algo") == NVFP4
    with pytest.raises(ConfigJsonError, match=r"^moe_quant_algo: expected one of .*, found 'FP2'"):
        by_algorithm("FP2", "moe_quant_algo")
