"""A block that needs more shared memory than the device has does not launch; Triton's compiler does not tell."""

from __future__ import annotations

from collections.abc import Iterator

from tools.findings import Severity
from tools.launch.heuristics import clamped
from tools.launch.shared_memory import OLDEST_TRITON, SharedMemory, loop_bytes
from tools.store.config_file import ConfigFile
from tools.store.rows import rows_text
from tools.store.tiers import version_of_folder
from tools.store.workload import MAX_DIMENSION, Layout
from tools.validate.model import Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """The loop's buffers fit the device, by formula; the compile check proves the rest. vLLM: as launched.

    A warning where the file's own Triton is older than the formula: it may fit there, and engines that fall back to
    the folder under a newer Triton still die at launch.
    """
    device = context.device_of(file)
    if file.workload is None or device is None or device.arch is None or device.smem_bytes_per_block is None:
        return
    limit = device.smem_bytes_per_block
    over: dict[SharedMemory, list[int]] = {}
    for num_tokens, config in file.launch_configs.items():
        sizes = (config.BLOCK_SIZE_M, config.BLOCK_SIZE_N, config.BLOCK_SIZE_K, config.num_warps, config.num_stages)
        if not all(1 <= size <= MAX_DIMENSION for size in sizes):
            continue  # the values rule's
        needed = loop_bytes(
            clamped(config, file.workload) if context.layout is Layout.VLLM else config,
            arch=device.arch,
            dtype=file.workload.dtype,
            block_quantised=file.workload.block_shape is not None,
        )
        if needed is not None and needed.total_bytes > limit:
            over.setdefault(needed, []).append(num_tokens)
    version = version_of_folder(file.found.folder)
    proven = version is None or version >= OLDEST_TRITON
    for needed, batches in over.items():
        yield Issue(
            f"{rows_text(batches, file.batch_sizes)}: expected at most {limit} bytes of shared memory a block on "
            f"{device.name}, found {needed.total_bytes} = {needed.explanation}"
            + ("" if proven else f" by the formula of Triton {'.'.join(map(str, OLDEST_TRITON))} and later"),
            "take fewer stages or a smaller tile: tune these rows again on this device",
            Severity.ERROR if proven else Severity.WARNING,
        )


RULE = FileRule("shared-memory", "Every launch config fits the device's shared memory, by formula.", check)
