"""Host half of `align_kernel`: pairs sorted by expert, in tiles of BLOCK_SIZE_M rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.align_kernel import align_few_kernel, count_kernel, scatter_kernel
from kernels.checks import check_tensor
from kernels.problem import Flavour, Routing, cdiv

# Up to here one launch that reads all pairs once an expert is quicker than two that read them once.
FEW_PAIRS = 4096
MAX_CHUNKS = 128
CHUNK = 1024


@dataclass(frozen=True)
class Alignment:
    """The kernel's index arrays for one BLOCK_SIZE_M. In the naive mode a tile is one pair, and nothing is sorted.

    sorted_token_ids: int32 [capacity]; expert_ids: int32 [tiles]; num_tokens_post_padded: int32 [1]. What lies
    past num_tokens_post_padded is undefined.
    """

    block_size_m: int
    sorted_token_ids: torch.Tensor | None
    expert_ids: torch.Tensor
    num_tokens_post_padded: torch.Tensor

    @property
    def arrays(self) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """In the kernel's order."""
        return self.sorted_token_ids, self.expert_ids, self.num_tokens_post_padded


def align(
    topk_ids: torch.Tensor, routing: Routing, block_size_m: int, expert_map: torch.Tensor | None = None
) -> Alignment:
    """What the kernel needs for this routing: `moe_align_block_size`, or the ids themselves in the naive mode."""
    if routing.is_naive:
        rows = torch.full((1,), routing.num_pairs * block_size_m, dtype=torch.int32, device=topk_ids.device)
        return Alignment(block_size_m, None, topk_ids.view(-1), rows)
    return moe_align_block_size(topk_ids, block_size_m, routing.num_experts, expert_map, routing.flavour)


def moe_align_block_size(
    topk_ids: torch.Tensor,
    block_size_m: int,
    num_experts: int,
    expert_map: torch.Tensor | None = None,
    flavour: Flavour = Flavour.VLLM,
) -> Alignment:
    """Sorts pairs by expert and pads each expert to a multiple of block_size_m.

    topk_ids: int32 or int64 [num_tokens, top_k], every id in [0, num_experts). expert_map: int32 [num_experts],
    local expert or -1. flavour: by which engine's rule the arrays are sized. One launch for few pairs, two for many; no
    host synchronisation, so a CUDA graph can capture it. ValueError: wrong shape, dtype, device or strides.
    """
    device = topk_ids.device
    if topk_ids.dim() != 2:
        raise ValueError(f"topk_ids, shape: expected (num_tokens, top_k), found {tuple(topk_ids.shape)}.")
    if block_size_m < 1 or block_size_m & (block_size_m - 1):
        raise ValueError(f"block_size_m: expected a power of two, found {block_size_m}.")
    check_tensor("topk_ids", topk_ids, topk_ids.shape, (torch.int32, torch.int64), device, contiguous=True)
    if expert_map is not None:
        check_tensor("expert_map", expert_map, (num_experts,), (torch.int32,), device, contiguous=True)
    num_tokens, top_k = topk_ids.shape
    num_pairs = topk_ids.numel()
    capacity = Routing(num_tokens, top_k, num_experts, flavour=flavour).capacity(block_size_m)
    rows = torch.empty(capacity, dtype=torch.int32, device=device)
    tiles = torch.empty(cdiv(capacity, block_size_m), dtype=torch.int32, device=device)
    rows_in_use = torch.empty(1, dtype=torch.int32, device=device)
    # One bin more than experts, for what is masked.
    num_bins = max(32, 1 << num_experts.bit_length())
    out = (rows, tiles, rows_in_use)

    if num_pairs <= FEW_PAIRS:
        chunk = min(CHUNK, max(128, 1 << (num_pairs - 1).bit_length()))
        align_few_kernel[(num_experts,)](
            topk_ids, expert_map, *out, num_pairs, num_experts, block_size_m, num_bins, chunk
        )
        return Alignment(block_size_m, *out)

    chunk_pairs = cdiv(cdiv(num_pairs, MAX_CHUNKS), CHUNK) * CHUNK
    num_chunks = cdiv(num_pairs, chunk_pairs)
    counts, cursors = torch.empty((2, num_chunks, num_bins), dtype=torch.int32, device=device)
    count_kernel[(num_chunks,)](topk_ids, counts, num_pairs, chunk_pairs, num_bins, CHUNK)
    # A tile of counts of 8192 values fits the registers of eight warps.
    row_tile = max(1, 8192 // num_bins)
    scatter_kernel[(num_chunks + num_experts,)](
        topk_ids,
        expert_map,
        counts,
        cursors,
        *out,
        num_pairs,
        num_experts,
        chunk_pairs,
        num_chunks,
        block_size_m,
        num_bins,
        CHUNK,
        row_tile,
        num_warps=8,
    )
    return Alignment(block_size_m, *out)
