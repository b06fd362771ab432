"""Which experts a list of module patterns means, in the four spellings of quantised checkpoints."""

from __future__ import annotations

import pytest

from tools.registry.expert_modules import Experts, Share, share

EXPERTS = Experts(range(3, 6), 64)
LAYERS = [f"model.layers.{layer}" for layer in EXPERTS.layers]


def each(*modules: str) -> list[str]:
    """The modules of each expert of each layer."""
    return [f"{layer}.{module.format(e)}" for layer in LAYERS for e in range(64) for module in modules]


@pytest.mark.parametrize(
    "patterns",
    [
        [],
        [""],
        ["lm_head", "model.embed_tokens"],
        ["gate", "mlp.gate", "shared_experts", "self_attn"],
        [f"{layer}.mlp.gate" for layer in LAYERS],
        ["model.layers.0", "model.layers.0.mlp.experts", "model.layers.6*"],
        ["re:.*mlp.gate$", "re:.*shared_expert.*", "re:.*self_attn.*", "re:visual.*"],
        [r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
        ["model.layers.*.mlp.gate", "mtp*", "*.attn.*"],
        ["re:("],
    ],
)
def test_routers_and_attention_and_other_layers_are_no_experts(patterns: list[str]) -> None:
    assert share(patterns, EXPERTS) is Share.NONE


@pytest.mark.parametrize(
    "patterns",
    [
        ["experts"],
        ["mlp.experts"],
        ["mlp"],
        ["model"],
        LAYERS,
        [f"{layer}.mlp.experts" for layer in LAYERS],
        [
            f"{layer}.block_sparse_moe.experts.{e}.{w}"
            for layer in LAYERS
            for e in range(64)
            for w in ("w1", "w2", "w3")
        ],
        [
            f"{layer}.mlp.experts.{e}.{p}_proj.weight"
            for layer in LAYERS
            for e in range(64)
            for p in ("gate", "up", "down")
        ],
        ["re:.*experts.*"],
        ["re:.*mlp.experts$"],
        [r"re:model\.layers\.\d+\.mlp\.experts\..*"],
        ["model.language_model.layers.*.mlp.experts*"],
        ["*.ffn.experts.*"],
        ["-:.*experts.*"],
    ],
)
def test_all_of_them(patterns: list[str]) -> None:
    assert share(patterns, EXPERTS) is Share.ALL


@pytest.mark.parametrize(
    "patterns",
    [
        LAYERS[:1],
        ["model.layers.4.mlp.experts"],
        ["model.layers.4*"],
        ["re:.*down_proj"],
        ["model.layers.3.mlp.experts.0.up_proj"],
        ["lm_head", "re:.*layers.5.*"],
    ],
)
def test_some_of_them(patterns: list[str]) -> None:
    assert share(patterns, EXPERTS) is Share.SOME


def test_thousands_of_names_take_no_time_to_tell_apart() -> None:
    """A checkpoint may list each projection of each expert."""
    many = Experts(range(61), 256)
    names = [f"model.layers.{layer}.mlp.experts.{e}.up_proj" for layer in many.layers for e in range(256)]
    assert share(names, many) is Share.SOME
    assert share([name.replace("experts", "shared_experts") for name in names], many) is Share.NONE
