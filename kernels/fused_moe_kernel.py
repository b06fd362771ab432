# mypy: ignore-errors
"""The kernel that is tuned: one grouped matrix product over the experts' weights (JIT, imports triton only).

C[pair, :] = (A[pair // top_k, :] @ B[expert(pair)].T) * scales + bias) * routed weight

A *pair* is one (token, chosen expert). Pairs are sorted by expert and padded so that a tile of BLOCK_SIZE_M
rows belongs to one expert (`kernels.moe_align`). `kernels.launch` makes the argument list; nothing else should.

Index arrays
    sorted_token_ids        int32 [capacity]   pair of each padded row; num_valid_tokens marks padding
    expert_ids              int32 [blocks]     local expert of each tile of rows; -1: not on this rank
    num_tokens_post_padded  int32 [1]          rows in use of sorted_token_ids
    topk_weights            fp32  [pairs]

SCALING is how operands were quantised (`kernels.problem.QuantMode.scaling`):
    none     16-bit weights
    tensor   a_scale [1], b_scale [E]
    channel  a_scale [rows of A], b_scale [E, N]
    weight   16-bit A, 8-bit B: b_scale [E, N]
    block    a_scale [rows of A, cdiv(K, group_k)], b_scale [E, cdiv(N, group_n), cdiv(K, group_k)]

The loop follows the shape of the engines' kernels on purpose: whatever moves the ranking of launch configs
makes the tuned files wrong for the engines. vLLM's and SGLang's differ in what a launch config meets, so FLAVOUR
(`kernels.problem.Flavour`) chooses whose loop is compiled. SGLang's drops the mask along K where it can (EVEN_KS),
loads one weight scale a tile where a tile lies in one block, swaps operands by transposing what it has loaded, and
lets the next launch start before this one has ended (GDC: none, late or early).

Some branches by FLAVOUR compute the same thing in another order, because the compiler's choice of registers, and
whether it unrolls the loop, hang on that order: before they were there, single launch configs took up to 12 % more or
less time than in SGLang's kernel on an H100, at every batch size. Now the Triton IR is that kernel's but for names,
arguments and GROUP_SIZE_M, which is constant there.

Group size and counts vary without shaping the code, so they are ordinary arguments that don't specialise: one binary
serves them all. `top_k` does shape it (a division in the prologue), so it is constant. So does the routed weight:
switched at run time, its epilogue took up to 32 registers more in the up projection and up to 17 % of its time on an
H100, and a projection has it always or never, so that a constant compiles not one kernel more.
"""

import triton
import triton.language as tl


@triton.jit
def _store_zeros(c_ptr, offs_token, token_mask, pid_n, N, stride_cm, BLOCK_SIZE_N: tl.constexpr):
    offs_cn = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    c_ptrs = c_ptr + stride_cm * offs_token[:, None] + offs_cn[None, :]
    c_mask = token_mask[:, None] & (offs_cn[None, :] < N)
    tl.store(c_ptrs, tl.zeros(c_mask.shape, dtype=c_ptr.dtype.element_ty), mask=c_mask)


@triton.jit(
    do_not_specialize=["EM", "num_valid_tokens", "GROUP_SIZE_M"],
    # Read one scalar or one gathered element at a time: alignment could only multiply the binaries.
    do_not_specialize_on_alignment=["topk_weights_ptr", "expert_ids_ptr", "num_tokens_post_padded_ptr"],
)
def fused_moe_kernel(
    # Pointers; those a launch doesn't use are None
    a_ptr,  # [rows, K]
    b_ptr,  # [E, N, K]
    c_ptr,  # [pairs, N], 16-bit: its element type is the compute type
    b_bias_ptr,  # [E, N] or None
    a_scale_ptr,  # fp32, see SCALING
    b_scale_ptr,  # fp32, see SCALING
    topk_weights_ptr,
    sorted_token_ids_ptr,  # None in the naive mode
    expert_ids_ptr,
    num_tokens_post_padded_ptr,
    # Sizes
    N,
    K,
    EM,  # rows that the grid covers
    num_valid_tokens,  # pairs
    GROUP_SIZE_M,
    # Strides in elements; K is contiguous in A and B, N in C and bias
    stride_am,
    stride_be,
    stride_bn,
    stride_cm,
    stride_bias_e,
    stride_asm,
    stride_ask,
    stride_bse,
    stride_bsn,
    stride_bsk,
    # What shapes the generated code
    group_n: tl.constexpr,
    group_k: tl.constexpr,
    SCALING: tl.constexpr,
    top_k: tl.constexpr,
    MUL_ROUTED_WEIGHT: tl.constexpr,
    naive_block_assignment: tl.constexpr,
    SWAP_AB: tl.constexpr,
    FLAVOUR: tl.constexpr,
    EVEN_KS: tl.constexpr,
    GDC: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
):
    """One program a tile of BLOCK_SIZE_M x BLOCK_SIZE_N; grid (cdiv(EM, BLOCK_SIZE_M) * cdiv(N, BLOCK_SIZE_N),)."""
    SGLANG: tl.constexpr = FLAVOUR == "sglang"

    # What the launch before has written is there from here on.
    if GDC != "none":
        tl.extra.cuda.gdc_wait()
        if GDC == "early":
            tl.extra.cuda.gdc_launch_dependents()

    # -----------------------------------------------------------
    # Program -> tile, in groups of rows so that B's columns are reused from L2
    pid = tl.program_id(axis=0)
    num_pid_m = tl.cdiv(EM, BLOCK_SIZE_M)
    num_pid_n = tl.cdiv(N, BLOCK_SIZE_N)
    num_pid_in_group = GROUP_SIZE_M * num_pid_n
    group_id = pid // num_pid_in_group
    first_pid_m = group_id * GROUP_SIZE_M
    group_size_m = min(num_pid_m - first_pid_m, GROUP_SIZE_M)
    pid_m = first_pid_m + ((pid % num_pid_in_group) % group_size_m)
    pid_n = (pid % num_pid_in_group) // group_size_m

    # -----------------------------------------------------------
    # The tile's pairs and its expert
    offs_m = tl.arange(0, BLOCK_SIZE_M)
    # The naive mode needs no count, but the engines read it there too: without this load decode ran up to 4 % faster
    # than theirs, by launch config.
    num_tokens_post_padded = tl.load(num_tokens_post_padded_ptr)
    if pid_m * BLOCK_SIZE_M >= num_tokens_post_padded:
        return
    if naive_block_assignment:
        # One pair a tile: its row is row 0, the others count as padding.
        offs_token = tl.where(offs_m == 0, pid_m, num_valid_tokens)
    elif SGLANG:
        offs_token = tl.load(sorted_token_ids_ptr + (pid_m * BLOCK_SIZE_M + tl.arange(0, BLOCK_SIZE_M).to(tl.int64)))
    else:
        offs_token = tl.load(sorted_token_ids_ptr + pid_m.to(tl.int64) * BLOCK_SIZE_M + offs_m)
    # Pairs x N passes 2^31 at 65536 tokens.
    offs_token = offs_token.to(tl.int64)
    token_mask = offs_token < num_valid_tokens

    off_experts = tl.load(expert_ids_ptr + pid_m).to(tl.int64)
    if off_experts == -1:
        _store_zeros(c_ptr, offs_token, token_mask, pid_n, N, stride_cm, BLOCK_SIZE_N)
        return

    # -----------------------------------------------------------
    # First pointers and what is loaded once
    # Widened before the sum: LLVM then tests for a 32-bit remainder, which is several times faster than a 64-bit one.
    offs_bn = (pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N).to(tl.int64)) % N
    offs_k = tl.arange(0, BLOCK_SIZE_K)
    SWAP_AT_LOAD: tl.constexpr = SWAP_AB and not SGLANG
    if SGLANG:
        a_ptrs = a_ptr + (offs_token[:, None] // top_k * stride_am + offs_k[None, :])
        b_ptrs = b_ptr + off_experts * stride_be + (offs_k[:, None] + offs_bn[None, :] * stride_bn)
        if b_bias_ptr is not None:
            bias = tl.load(b_bias_ptr + off_experts * stride_bias_e + offs_bn[None, :])
    else:
        a_rows = offs_token // top_k
        b_base = b_ptr + off_experts * stride_be
        if SWAP_AT_LOAD:
            # N on the tensor core's M side: its 64 rows are then full at small BLOCK_SIZE_M.
            a_ptrs = a_ptr + (a_rows[None, :] * stride_am + offs_k[:, None])
            b_ptrs = b_base + (offs_bn[:, None] * stride_bn + offs_k[None, :])
        else:
            a_ptrs = a_ptr + (a_rows[:, None] * stride_am + offs_k[None, :])
            b_ptrs = b_base + (offs_k[:, None] + offs_bn[None, :] * stride_bn)

    SCALAR_B_SCALE: tl.constexpr = SGLANG and BLOCK_SIZE_N <= group_n  # noqa: SIM300
    if SCALING == "tensor":
        a_scale = tl.load(a_scale_ptr)
        b_scale = tl.load(b_scale_ptr + off_experts * stride_bse)
    elif SCALING == "channel" and SGLANG:
        b_scale = tl.load(b_scale_ptr + off_experts * stride_bse + offs_bn[None, :] * stride_bsn)
        a_scale = tl.load(a_scale_ptr + offs_token // top_k * stride_asm, mask=token_mask, other=0.0)[:, None]
    elif SCALING == "channel":
        a_scale = tl.load(a_scale_ptr + offs_token // top_k * stride_asm, mask=token_mask, other=0.0)
        b_scale = tl.load(b_scale_ptr + off_experts * stride_bse + offs_bn * stride_bsn)
    elif SCALING == "weight" and SGLANG:
        b_scale = tl.load(b_scale_ptr + off_experts * stride_bse + offs_bn[None, :] * stride_bsn)
    elif SCALING == "weight":
        b_scale = tl.load(b_scale_ptr + off_experts * stride_bse + offs_bn * stride_bsn)
    elif SCALING == "block":
        a_scale_ptrs = a_scale_ptr + offs_token // top_k * stride_asm
        # Divided before the expert's offset is made: the other way round narrow tiles' loop compiles to another order.
        scale_columns = pid_n * BLOCK_SIZE_N // group_n if SCALAR_B_SCALE else offs_bn // group_n
        b_scale_ptrs = b_scale_ptr + off_experts * stride_bse + scale_columns * stride_bsn

    # -----------------------------------------------------------
    # Along K
    if SWAP_AB:
        accumulator = tl.zeros((BLOCK_SIZE_N, BLOCK_SIZE_M), dtype=tl.float32)
    else:
        accumulator = tl.zeros((BLOCK_SIZE_M, BLOCK_SIZE_N), dtype=tl.float32)
    # vLLM's loop counts blocks, SGLang's elements: with two stages ptxas unrolls small tiles' loop for the latter only.
    k_stop = K if SGLANG else tl.cdiv(K, BLOCK_SIZE_K)
    K_STEP: tl.constexpr = BLOCK_SIZE_K if SGLANG else 1
    for k in range(0, k_stop, K_STEP):
        k_start = k if SGLANG else k * BLOCK_SIZE_K
        k_remaining = K - k_start
        if EVEN_KS:
            a = tl.load(a_ptrs, mask=token_mask[:, None], other=0.0)
            b = tl.load(b_ptrs)
        elif SWAP_AT_LOAD:
            a = tl.load(a_ptrs, mask=token_mask[None, :] & (offs_k[:, None] < k_remaining), other=0.0)
            b = tl.load(b_ptrs, mask=offs_k[None, :] < k_remaining, other=0.0)
        else:
            a = tl.load(a_ptrs, mask=token_mask[:, None] & (offs_k[None, :] < k_remaining), other=0.0)
            b = tl.load(b_ptrs, mask=offs_k[:, None] < k_remaining, other=0.0)

        if SCALING == "block":
            offs_group = k_start // group_k
            a_scale = tl.load(a_scale_ptrs + offs_group * stride_ask, mask=token_mask, other=0.0)
            b_scale = tl.load(b_scale_ptrs + offs_group * stride_bsk)
            if SWAP_AB and not SWAP_AT_LOAD:
                b, a = tl.trans(b), tl.trans(a)
            if SCALAR_B_SCALE:
                if SWAP_AB:
                    accumulator += tl.dot(b, a) * (b_scale * a_scale)[None, :]
                else:
                    accumulator += tl.dot(a, b) * (a_scale[:, None] * b_scale)
            elif SWAP_AB:
                accumulator += tl.dot(b, a).to(tl.float32) * b_scale[:, None] * a_scale[None, :]
            else:
                accumulator += tl.dot(a, b).to(tl.float32) * a_scale[:, None] * b_scale[None, :]
        elif SWAP_AB:
            if not SWAP_AT_LOAD:
                b, a = tl.trans(b), tl.trans(a)
            accumulator = tl.dot(b, a, acc=accumulator)
        elif SCALING == "weight":
            accumulator = tl.dot(a, b.to(a.dtype), acc=accumulator)
        # Of 16-bit operands Triton makes one and the same dot of either form, but the zeros before the loop move.
        elif a.dtype == tl.int8 or (SGLANG and SCALING == "none"):
            accumulator += tl.dot(a, b).to(tl.float32)
        else:
            accumulator = tl.dot(a, b, acc=accumulator)

        a_ptrs += BLOCK_SIZE_K
        b_ptrs += BLOCK_SIZE_K

    # -----------------------------------------------------------
    # Dequantise, bias, routed weight (all fp32), masked store
    if SWAP_AB:
        accumulator = tl.trans(accumulator)
    if SGLANG and (SCALING == "tensor" or SCALING == "channel"):
        accumulator *= a_scale * b_scale
    elif SGLANG and SCALING == "weight":
        accumulator *= b_scale
    elif SCALING == "tensor":
        accumulator = accumulator * a_scale * b_scale
    elif SCALING == "channel":
        accumulator = accumulator * a_scale[:, None] * b_scale[None, :]
    elif SCALING == "weight":
        accumulator = accumulator * b_scale[None, :]
    if b_bias_ptr is not None and SGLANG:
        accumulator += bias
    elif b_bias_ptr is not None:
        bias = tl.load(b_bias_ptr + off_experts * stride_bias_e + offs_bn)
        accumulator += bias.to(tl.float32)[None, :]
    if MUL_ROUTED_WEIGHT:
        weight = tl.load(topk_weights_ptr + offs_token, mask=token_mask, other=0.0)
        accumulator = accumulator * weight[:, None]

    if SGLANG:
        accumulator = accumulator.to(c_ptr.dtype.element_ty)
    # Only here: made before the loop they live across it, and at BLOCK_SIZE_N 32 the loop then compiles to other
    # registers and another order of instructions than the engines'.
    offs_cn = pid_n * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    c_ptrs = c_ptr + stride_cm * offs_token[:, None] + offs_cn[None, :]
    c_mask = token_mask[:, None] & (offs_cn[None, :] < N)
    tl.store(c_ptrs, accumulator.to(c_ptr.dtype.element_ty), mask=c_mask)

    if GDC == "late":
        tl.extra.cuda.gdc_launch_dependents()
