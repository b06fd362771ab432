# ruff: noqa: T201 - a script
"""One size a mode for compute-sanitizer: every kernel launched once, compared with its twin.

    compute-sanitizer --tool memcheck  --error-exitcode 1 python tests/kernels/sanitize.py
    compute-sanitizer --tool racecheck --error-exitcode 1 python tests/kernels/sanitize.py [MODE …]

Set PYTORCH_NO_CUDA_MEMORY_CACHING=1: torch's pool would hide accesses past a tensor's end. Exit 1: wrong numbers;
2: no GPU or an unknown mode.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from kernels import moe_align
from tests.kernels.layers import MODES, ODD, SMALL, make_layer
from tests.kernels.twin_checks import check_layer, check_projection


def main(modes: list[str]) -> int:
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not torch.cuda.is_available():
        print(f"sanitize: expected modes out of {list(MODES)} and a GPU, found {unknown or 'no GPU'}.", file=sys.stderr)
        return 2
    failures = 0
    for mode in modes or list(MODES):
        # Past the threshold: the one-launch and the two-launch alignment are both covered.
        for few_pairs in (4096, 0):
            moe_align.FEW_PAIRS = few_pairs
            layer = make_layer(MODES[mode], **ODD, has_bias=True, device="cuda", seed=21)
            try:
                check_projection(layer, "up", SMALL | {"BLOCK_SIZE_N": 64})
                check_layer(layer, SMALL)
            except AssertionError as error:
                failures += 1
                print(f"sanitize, {mode}: {error}", file=sys.stderr)
    print(f"{len(modes or MODES) - failures} modes right, {failures} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
