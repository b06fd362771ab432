"""A tile deeper than a scale group multiplies with the wrong scales: vLLM clamps silently, SGLang computes wrong."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store.config_file import ConfigFile
from tools.store.rows import rows_text
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
        rows = rows_text(batches, file.batch_sizes)
        yield Issue(
            f"{rows}: expected BLOCK_SIZE_K to divide block_k = {block_k}, found {size}: SGLang computes wrong "
            "numbers with it, vLLM clamps it silently",
            f"tune these rows again with a BLOCK_SIZE_K that divides {block_k}",
        )


RULE = FileRule("block-shape", "BLOCK_SIZE_K divides the block of a scale.", check)
