"""A tile deeper than a scale group multiplies with the wrong scales: vLLM clamps silently, SGLang computes wrong."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store.config_file import ConfigFile
from tools.validate.model import Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """block_k is a multiple of BLOCK_SIZE_K."""
    if file.workload is None or file.workload.block_shape is None:
        return
    block_k = file.workload.block_shape[1]
    wrong: dict[int, list[int]] = {}
    for num_tokens, config in file.launch_configs.items():
        if config.BLOCK_SIZE_K < 1 or block_k % config.BLOCK_SIZE_K:
            wrong.setdefault(config.BLOCK_SIZE_K, []).append(num_tokens)
    for size, batches in wrong.items():
        yield Issue(
            f"batch sizes {', '.join(map(str, batches))}: expected BLOCK_SIZE_K to divide block_k = {block_k}, "
            f"found {size}",
            f"tune again with BLOCK_SIZE_K ≤ {block_k}: SGLang computes wrong numbers, vLLM clamps it silently",
        )


RULE = FileRule("block-shape", "BLOCK_SIZE_K divides the block of a scale.", check)
