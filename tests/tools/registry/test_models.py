"""What a person says of a model's quantisation beside its name, and what the registry says of its scales."""

from __future__ import annotations

import pytest

from tools.registry.models import AS_STORED, OTHER_KERNELS, Asked, Quantisation, another_kernel
from tools.registry.reading import RegistryError

BF16 = Quantisation("bf16")
BLOCK = Quantisation("fp8_w8a8", (128, 128))


@pytest.mark.parametrize(
    ("asked", "stored", "expected"),
    [
        (AS_STORED, BLOCK, BLOCK),
        (Asked("fp8_w8a8"), BLOCK, BLOCK),
        (Asked("bf16"), BLOCK, BF16),
        (Asked("fp8_w8a8"), BF16, Quantisation("fp8_w8a8", activation_scales="dynamic")),
        (Asked("fp8_w8a8", (128, 128)), BF16, BLOCK),
        (Asked(None, (64, 64)), BLOCK, Quantisation("fp8_w8a8", (64, 64))),
        (Asked(None, None, True), BLOCK, Quantisation("fp8_w8a8", per_channel_quant=True)),
        (Asked("int8_w8a16"), BF16, Quantisation("int8_w8a16")),
        (Asked("int8_w8a16", None, True), BF16, Quantisation("int8_w8a16")),
    ],
)
def test_what_is_asked_for_counts_over_what_is_stored(
    asked: Asked, stored: Quantisation, expected: Quantisation
) -> None:
    assert asked.of(stored) == expected


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            Asked(None, (128, 128)),
            "--block-shape: expected with fp8_w8a8 or int8_w8a8, found with bf16. Fix: add --dtype",
        ),
        (Asked("bf16", None, True), "--per-channel-quant: .*found with bf16. Fix: name --dtype fp8_w8a8, or leave"),
        (Asked("fp8_w8a8", (128, 128), True), "expected without --per-channel-quant, found both. Fix: leave one out"),
    ],
)
def test_scales_that_a_dtype_has_none_of_are_refused(asked: Asked, told: str) -> None:
    with pytest.raises(RegistryError, match=told):
        asked.of(BF16)


@pytest.mark.parametrize("dtype", OTHER_KERNELS)
def test_a_dtype_of_another_kernel_names_it_and_ends(dtype: str) -> None:
    assert another_kernel("a/A", dtype).startswith(f"a/A: {dtype} experts run another kernel than the fused MoE Triton")
    assert another_kernel("a/A", dtype).endswith("nothing to tune")
