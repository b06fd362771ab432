"""The registries as the loader reads them: a model by any id, a device's architecture by any name."""

from __future__ import annotations

import json

import pytest

from fused_moe_configs.api import where
from fused_moe_configs.lookup import ConfigError
from fused_moe_configs.registry import Checkpoint, ServingError, arch_of, find_model, known_devices, read_registry


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-R1", "DEEPSEEK-AI/deepseek-r1"])
def test_a_model_is_found_by_any_id_in_any_case_and_has_that_id(name):
    found = find_model(name, where())
    assert (found.id, found.E, found.N, found.K, found.top_k) == ("deepseek-ai/DeepSeek-R1", 256, 2048, 7168, 8)
    assert "deepseek-ai/DeepSeek-V3" in found.also
    assert (found.kind, found.block_shape, found.fused_shared_experts) == ("fp8_block", (128, 128), 1)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-30B-A3B-FP", "Qwen3-30B-A3B-FP"])
def test_of_an_unknown_model_near_ones_are_named(name):
    with pytest.raises(ServingError, match=r"found 'Qwen.*'\. Did you mean Qwen/Qwen3-30B-A3B-FP8") as refused:
        find_model(name, where())
    assert str(refused.value).endswith("`fused-moe-configs explain E N` takes the sizes.")


def test_a_name_like_no_other_gets_no_hint():
    with pytest.raises(ServingError) as refused:
        find_model("zzz/§§§§§", where())
    assert "Did you mean" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("NVIDIA H100 80GB HBM3", "sm_90"),
        ("NVIDIA_H200_NVL", "sm_90"),
        ("AMD Instinct MI300X VF", "gfx942"),
        ("AMD Radeon Graphics", None),
        ("a new one", None),
        ("../x", None),
    ],
)
def test_a_devices_architecture_is_the_registrys(name, arch):
    assert arch_of(name, where()) == arch


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({"dtype": "fp16"}, "bf16"),
        ({"dtype": "fp8_w8a8", "block_shape": [128, 128]}, "fp8_block"),
        ({"dtype": "fp8_w8a8", "per_channel_quant": True}, "fp8_channel"),
        ({"dtype": "fp8_w8a8", "activation_scales": "static"}, "fp8_tensor_static"),
        ({"dtype": "fp8_w8a8"}, "fp8_tensor"),
        ({"dtype": "int8_w8a8"}, "int8_channel"),
        ({"dtype": "int8_w8a8", "block_shape": [128, 128]}, "int8_block"),
        ({"dtype": "mxfp4"}, "mxfp4"),
    ],
)
def test_the_kind_of_weights_follows_from_dtype_and_scales(facts, kind):
    entry = {"id": "o/m", "E": 8, "N": 64, "K": 64, "top_k": 2, "source": "shape: made up", "placements": [], **facts}
    assert Checkpoint.read(entry).kind == kind


@pytest.mark.parametrize("document", [{}, {"models": [{"id": "o/m"}]}, {"models": [[]]}, {"models": 7}])
def test_a_registry_of_another_form_is_an_error_with_its_path(tmp_path, document):
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "models.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"models\.json: expected models as schema/models\.schema\.json .* Fix: "):
        read_registry("models", Checkpoint.read, tmp_path)


@pytest.mark.parametrize(
    "document", [{}, {"devices": 1}, {"devices": [1]}, {"devices": [{}]}, {"devices": [{"name": 1}]},
                 {"devices": [{"name": "D", "aliases": 1}]}, {"devices": [{"name": "a,b"}]}],
)  # fmt: skip
def test_a_broken_registry_is_named(store, document):
    path = store.write("devices.json", document, "registry")
    with pytest.raises(ConfigError, match="Fix: ") as raised:
        known_devices(store.root)
    assert raised.value.path == str(path)
