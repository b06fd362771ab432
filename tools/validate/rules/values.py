"""Values that a launch can have at all; whether they are good is for the compile check and the bench."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from kernels.launch_config import KEY_VENDOR, LaunchConfig
from tools.findings import Severity
from tools.registry.devices import Device
from tools.store.config_file import ConfigFile
from tools.store.rows import rows_text
from tools.store.workload import Layout
from tools.validate.model import Context, FileRule, Issue

# Least and greatest value, both inclusive; the published files lie inside.
POWERS_OF_TWO = {
    "BLOCK_SIZE_M": (8, 256),
    "BLOCK_SIZE_N": (16, 512),
    "BLOCK_SIZE_K": (16, 512),
    "num_warps": (1, 32),
    "num_ctas": (1, 8),
    "kpack": (1, 2),
}
RANGES = {"GROUP_SIZE_M": (1, 256), "num_stages": (1, 8), "waves_per_eu": (0, 8)}
CHOICES = {"matrix_instr_nonkdim": (0, 4, 16, 32)}
MAX_THREADS = 1024


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """Powers of two and ranges of every key, threads of a block, keys of the right vendor and engine."""
    device = context.device_of(file)
    of_rows: defaultdict[Issue, list[int]] = defaultdict(list)
    for num_tokens, config in file.launch_configs.items():
        for issue in _issues(config, device, context):
            of_rows[issue].append(num_tokens)
    for issue, batch_sizes in of_rows.items():
        yield replace(issue, message=f"{rows_text(batch_sizes, file.batch_sizes)}: {issue.message}")


def _issues(config: LaunchConfig, device: Device | None, context: Context) -> Iterator[Issue]:
    """Of one row, which the messages don't name."""
    for expected, found in _faults(config, device):
        yield Issue(f"expected {expected}, found {found}", "tune these rows again")
    for key in config.to_entry():
        yield from _foreign_key(key, device, context)
    if device is not None and device.arch == "gfx950" and config.kpack == 2:
        yield Issue(
            "kpack 2: on gfx950 Triton 3.8 overwrites it with 1",
            context.rewritten("write kpack 1, which is what runs"),
            Severity.WARNING,
        )


def _faults(config: LaunchConfig, device: Device | None) -> Iterator[tuple[str, str]]:
    entry = {key: value for key, value in config.to_entry().items() if isinstance(value, int)}
    for key, (least, greatest) in POWERS_OF_TWO.items():
        value = entry.get(key)
        if value is not None and not (least <= value <= greatest and value & (value - 1) == 0):
            yield f"{key} a power of two from {least} to {greatest}", _shown(value)
    for key, (least, greatest) in RANGES.items():
        value = entry.get(key)
        if value is not None and not least <= value <= greatest:
            yield f"{key} from {least} to {greatest}", _shown(value)
    for key, choices in CHOICES.items():
        value = entry.get(key)
        if value is not None and value not in choices:
            yield f"{key} one of {', '.join(map(str, choices))}", _shown(value)
    warp_size = 64 if device is not None and device.vendor == "amd" else 32
    threads = config.num_warps * warp_size
    least, greatest = POWERS_OF_TWO["num_warps"]
    if least <= config.num_warps <= greatest and threads > MAX_THREADS:
        yield f"at most {MAX_THREADS} threads a block", f"{config.num_warps} warps of {warp_size} = {threads}"


def _shown(value: int) -> str:
    return str(value) if value < 10**12 else "a number of over 12 digits"


def _foreign_key(key: str, device: Device | None, context: Context) -> Iterator[Issue]:
    vendor = KEY_VENDOR[key]
    if vendor is not None and device is not None and device.vendor != vendor:
        yield Issue(
            f"{key} is a key of {vendor}'s compiler, the device is {device.vendor}'s",
            context.rewritten("remove the key: the launch would raise on it"),
        )
    if key == "USE_TMA" and context.layout is Layout.VLLM:
        yield Issue(
            "USE_TMA is SGLang's key; vLLM passes it on and the launch raises",
            "remove the key (`export --engine vllm` does)",
        )


RULE = FileRule("values", "Values are in range and keys belong to the device's vendor.", check)
