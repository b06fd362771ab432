"""`moe_align_block_size` against its twin, in one launch and in two."""

from __future__ import annotations

import pytest
import torch

from kernels import moe_align
from kernels.moe_align import Alignment, align, moe_align_block_size
from kernels.problem import Routing
from kernels.reference import align_reference
from tests.kernels.layers import make_routing


def assert_aligned(alignment: Alignment, topk_ids: torch.Tensor, num_experts: int, expert_map: torch.Tensor | None):
    """Equal to the twin; the order of one expert's pairs within its tiles is free."""
    block = alignment.block_size_m
    rows, tiles = align_reference(topk_ids.cpu(), block, num_experts, None if expert_map is None else expert_map.cpu())
    in_use = int(alignment.num_tokens_post_padded)
    assert in_use == len(rows)
    assert alignment.expert_ids[: in_use // block].tolist() == tiles.tolist()
    found = alignment.sorted_token_ids[:in_use].cpu()
    # The twin's tiles of one expert are consecutive, so its rows compare as sorted runs.
    owner = torch.full((topk_ids.numel() + 1,), -1)
    owner[:-1] = topk_ids.flatten().cpu()
    assert sorted(found[found < topk_ids.numel()].tolist()) == list(range(topk_ids.numel()))
    assert torch.equal(owner[found.long()], owner[rows.long()])


@pytest.mark.parametrize("launches", ["one-launch", "two-launches"])
@pytest.mark.parametrize("kind", ["uniform", "skewed", "empty"])
@pytest.mark.parametrize("block_size_m", [16, 256])
def test_equals_the_twin(monkeypatch, launches: str, kind: str, block_size_m: int, device: str) -> None:
    monkeypatch.setattr(moe_align, "FEW_PAIRS", 10**6 if launches == "one-launch" else 0)
    monkeypatch.setattr(moe_align, "CHUNK", 128)
    _, ids = make_routing(301, 11, 3, kind, torch.Generator().manual_seed(1))
    ids = ids.to(device)
    assert_aligned(moe_align_block_size(ids, block_size_m, 11), ids, 11, None)


@pytest.mark.parametrize("launches", ["one-launch", "two-launches"])
def test_expert_map_names_local_experts(monkeypatch, launches: str, device: str) -> None:
    monkeypatch.setattr(moe_align, "FEW_PAIRS", 10**6 if launches == "one-launch" else 0)
    _, ids = make_routing(20, 8, 2, "uniform", torch.Generator().manual_seed(2))
    expert_map = torch.tensor([-1, 0, -1, 1, -1, 2, -1, 3], dtype=torch.int32, device=device)
    ids = ids.to(device)
    assert_aligned(moe_align_block_size(ids, 16, 8, expert_map), ids, 8, expert_map)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_of_either_width(dtype: torch.dtype, device: str) -> None:
    ids = torch.tensor([[0, 3], [3, 1]], dtype=dtype, device=device)
    assert_aligned(moe_align_block_size(ids, 16, 4), ids, 4, None)


def test_every_routing_fits_the_capacity() -> None:
    for num_tokens, top_k, num_experts, block in [(1, 2, 8, 64), (3, 2, 8, 16), (100, 8, 128, 16), (5, 1, 3, 256)]:
        spread = torch.arange(num_tokens * top_k).view(num_tokens, top_k) % num_experts
        rows, _ = align_reference(spread, block, num_experts)
        assert len(rows) <= Routing(num_tokens, top_k, num_experts).capacity(block)


def test_the_naive_mode_aligns_nothing(device: str) -> None:
    ids = torch.tensor([[5, 2]], dtype=torch.int32, device=device)
    alignment = align(ids, Routing(1, 2, 8), 16)
    assert alignment.sorted_token_ids is None
    assert alignment.num_tokens_post_padded.tolist() == [2 * 16]
    assert alignment.expert_ids.tolist() == [5, 2]


def test_wrong_input_is_named(device: str) -> None:
    ids = torch.zeros((4, 2), dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match=r"power of two, found 24"):
        moe_align_block_size(ids, 24, 4)
    with pytest.raises(ValueError, match=r"topk_ids, dtype: expected torch.int32 or torch.int64, found torch.float32"):
        moe_align_block_size(ids.float(), 16, 4)
    with pytest.raises(ValueError, match=r"expert_map, shape: expected \(4,\), found \(5,\)"):
        moe_align_block_size(ids, 16, 4, torch.zeros(5, dtype=torch.int32, device=device))
