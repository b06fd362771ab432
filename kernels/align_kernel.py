# mypy: ignore-errors
"""Sorting pairs by expert into padded tiles, on the device and without a host synchronisation (JIT).

Arrays
    topk_ids                int32 or int64 [pairs]   expert of each pair, flattened over (token, choice)
    expert_map              int32 [E_global]         local expert or -1; None: the identity
    sorted_token_ids        int32 [capacity]         out: pairs by expert, padded with num_pairs
    expert_ids              int32 [capacity tiles]   out: local expert of each tile
    num_tokens_post_padded  int32 [1]                out: rows in use
    counts                  int32 [chunks, NUM_BINS] pairs of each expert in each chunk
    cursors                 int32 [chunks, NUM_BINS] scratch: next free row of each expert for each chunk

NUM_BINS is a power of two above the number of experts; the last bin swallows what is masked.
Few pairs take one launch (`align_few_kernel`), many take two (`count_kernel`, `scatter_kernel`).
"""

import triton
import triton.language as tl


@triton.jit
def _padded_ends(counts, num_experts, BLOCK_SIZE_M: tl.constexpr, NUM_BINS: tl.constexpr):
    """Rows [NUM_BINS] of each expert, padded to whole tiles, and where they end."""
    is_expert = tl.arange(0, NUM_BINS) < num_experts
    padded = tl.where(is_expert, tl.cdiv(counts, BLOCK_SIZE_M) * BLOCK_SIZE_M, 0)
    return padded, tl.cumsum(padded, 0)


@triton.jit
def _load_ids(topk_ids_ptr, offs, end, NUM_BINS: tl.constexpr):
    return tl.load(topk_ids_ptr + offs, mask=offs < end, other=NUM_BINS - 1).to(tl.int32)


@triton.jit
def _write_tiles(
    expert,
    start,
    count,
    end,
    num_pairs,
    expert_map_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    BLOCK_SIZE_M: tl.constexpr,
):
    """Marks one expert's padding rows and names the expert of its tiles."""
    pads = start + count + tl.arange(0, BLOCK_SIZE_M)
    tl.store(sorted_token_ids_ptr + pads, tl.zeros_like(pads) + num_pairs, mask=pads < end)
    local = expert
    if expert_map_ptr is not None:
        local = tl.load(expert_map_ptr + expert)
    for first in range(start // BLOCK_SIZE_M, end // BLOCK_SIZE_M, 128):
        tiles = first + tl.arange(0, 128)
        tl.store(expert_ids_ptr + tiles, tl.zeros_like(tiles) + local, mask=tiles < end // BLOCK_SIZE_M)


@triton.jit(do_not_specialize=["num_pairs", "num_experts"], do_not_specialize_on_alignment=["topk_ids_ptr"])
def align_few_kernel(
    topk_ids_ptr,
    expert_map_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    num_pairs,
    num_experts,
    BLOCK_SIZE_M: tl.constexpr,
    NUM_BINS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One program an expert: each counts all pairs, then writes its own rows in order. Grid (E_global,)."""
    expert = tl.program_id(0)
    bins = tl.arange(0, NUM_BINS)
    counts = tl.zeros((NUM_BINS,), dtype=tl.int32)
    for first in range(0, num_pairs, CHUNK):
        counts += tl.histogram(_load_ids(topk_ids_ptr, first + tl.arange(0, CHUNK), num_pairs, NUM_BINS), NUM_BINS)
    padded, ends = _padded_ends(counts, num_experts, BLOCK_SIZE_M, NUM_BINS)
    count = tl.sum(tl.where(bins == expert, counts, 0))
    end = tl.sum(tl.where(bins == expert, ends, 0))
    start = end - tl.sum(tl.where(bins == expert, padded, 0))
    if expert == 0:
        tl.store(num_tokens_post_padded_ptr, tl.sum(padded))

    row = start
    for first in range(0, num_pairs, CHUNK):
        pairs = first + tl.arange(0, CHUNK)
        mine = (_load_ids(topk_ids_ptr, pairs, num_pairs, NUM_BINS) == expert).to(tl.int32)
        tl.store(sorted_token_ids_ptr + row + tl.cumsum(mine, 0) - 1, pairs, mask=mine != 0)
        row += tl.sum(mine)
    _write_tiles(
        expert, start, count, end, num_pairs, expert_map_ptr, sorted_token_ids_ptr, expert_ids_ptr, BLOCK_SIZE_M
    )


@triton.jit(do_not_specialize=["num_pairs", "chunk_pairs"], do_not_specialize_on_alignment=["topk_ids_ptr"])
def count_kernel(topk_ids_ptr, counts_ptr, num_pairs, chunk_pairs, NUM_BINS: tl.constexpr, CHUNK: tl.constexpr):
    """Counts the pairs of each expert in one chunk. Grid (chunks,)."""
    chunk = tl.program_id(0)
    end = tl.minimum((chunk + 1) * chunk_pairs, num_pairs)
    counts = tl.zeros((NUM_BINS,), dtype=tl.int32)
    for first in range(chunk * chunk_pairs, end, CHUNK):
        counts += tl.histogram(_load_ids(topk_ids_ptr, first + tl.arange(0, CHUNK), end, NUM_BINS), NUM_BINS)
    tl.store(counts_ptr + chunk * NUM_BINS + tl.arange(0, NUM_BINS), counts)


@triton.jit(
    do_not_specialize=["num_pairs", "num_experts", "chunk_pairs", "num_chunks"],
    do_not_specialize_on_alignment=["topk_ids_ptr"],
)
def scatter_kernel(
    topk_ids_ptr,
    expert_map_ptr,
    counts_ptr,
    cursors_ptr,
    sorted_token_ids_ptr,
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    num_pairs,
    num_experts,
    chunk_pairs,
    num_chunks,
    BLOCK_SIZE_M: tl.constexpr,
    NUM_BINS: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The first `num_chunks` programs scatter a chunk each, the others finish an expert each.

    Grid (chunks + E_global,). Chunks keep their order; within a chunk the order of one expert's pairs is not fixed.
    """
    pid = tl.program_id(0)
    bins = tl.arange(0, NUM_BINS)
    counts = tl.zeros((NUM_BINS,), dtype=tl.int32)
    before = tl.zeros((NUM_BINS,), dtype=tl.int32)
    for first in range(0, num_chunks, ROWS):
        chunks = first + tl.arange(0, ROWS)
        offs = chunks[:, None] * NUM_BINS + bins[None, :]
        tile = tl.load(counts_ptr + offs, mask=chunks[:, None] < num_chunks, other=0)
        counts += tl.sum(tile, 0)
        before += tl.sum(tl.where(chunks[:, None] < pid, tile, 0), 0)
    padded, ends = _padded_ends(counts, num_experts, BLOCK_SIZE_M, NUM_BINS)

    if pid < num_chunks:
        # A row of cursors is this program's own, so the barrier of its threads is enough.
        cursor_ptrs = cursors_ptr + pid * NUM_BINS
        tl.store(cursor_ptrs + bins, ends - padded + before)
        tl.debug_barrier()
        end = tl.minimum((pid + 1) * chunk_pairs, num_pairs)
        for first in range(pid * chunk_pairs, end, CHUNK):
            pairs = first + tl.arange(0, CHUNK)
            ids = _load_ids(topk_ids_ptr, pairs, end, NUM_BINS)
            rows = tl.atomic_add(cursor_ptrs + ids, 1, mask=pairs < end, sem="relaxed")
            tl.store(sorted_token_ids_ptr + rows, pairs, mask=pairs < end)
    else:
        expert = pid - num_chunks
        count = tl.sum(tl.where(bins == expert, counts, 0))
        expert_end = tl.sum(tl.where(bins == expert, ends, 0))
        start = expert_end - tl.sum(tl.where(bins == expert, padded, 0))
        if expert == 0:
            tl.store(num_tokens_post_padded_ptr, tl.sum(padded))
        _write_tiles(
            expert,
            start,
            count,
            expert_end,
            num_pairs,
            expert_map_ptr,
            sorted_token_ids_ptr,
            expert_ids_ptr,
            BLOCK_SIZE_M,
        )
