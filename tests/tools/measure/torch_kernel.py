"""A kernel in plain torch that reads the index arrays as Triton's does, tile by tile: 16-bit weights, on the CPU."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch

from kernels.launch import Launch, Pointers
from kernels.problem import Flavour, Problem


@dataclass(frozen=True)
class TorchKernel:
    """foreign_value: stored where the expert is another rank's. stray_row: written by a faulty one as well."""

    flavour: Flavour = Flavour.VLLM
    foreign_value: float = 0.0
    stray_row: int | None = None
    name: str = "torch"

    @property
    def takes_descriptors(self) -> bool:
        return self.flavour is Flavour.SGLANG

    def load(self) -> Any:
        return _Grid()

    def bind(self, problem: Problem, pointers: Pointers) -> Launch:
        return Launch((self, problem, pointers), {}, {}, problem.grid)

    def key(self, problem: Problem) -> Hashable:
        return problem


class _Grid:
    def __getitem__(self, grid: tuple[int]) -> Any:
        return _run


def _run(kernel: TorchKernel, problem: Problem, pointers: Pointers) -> None:
    block, p, pairs = problem.config.BLOCK_SIZE_M, problem.projection, problem.routing.num_pairs
    tiles_of_grid = problem.grid[0] // -(-p.n // problem.config.BLOCK_SIZE_N)
    in_use = int(pointers.num_tokens_post_padded)
    assert in_use <= tiles_of_grid * block, "the grid covers fewer rows than are in use"
    for tile in range(in_use // block):
        if pointers.sorted_token_ids is None:
            rows = torch.tensor([tile])
        else:
            rows = pointers.sorted_token_ids[tile * block : (tile + 1) * block].long()
        is_pair = rows < pairs
        rows, places = rows[is_pair], torch.arange(tile * block, (tile + 1) * block)[: len(is_pair)][is_pair]
        of_a = places if problem.descriptors.a else rows // p.top_k
        of_c = places if problem.descriptors.sorted_c else rows
        expert = int(pointers.expert_ids[tile])
        if expert == -1:
            if not problem.descriptors.sorted_c:
                pointers.c[of_c] = kernel.foreign_value
            continue
        product = pointers.a[of_a].float() @ pointers.b[expert].float().T
        if p.mul_routed_weight:
            product = product * pointers.topk_weights.flatten()[rows, None]
        pointers.c[of_c] = product.to(pointers.c.dtype)
    if kernel.stray_row is not None:
        pointers.c[kernel.stray_row] = 1.0
