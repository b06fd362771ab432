"""What a compiled kernel's figures mean for the file: fits, does not fit, spills."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tools.compile.outcome import SPILL_LIMIT_BYTES, Outcome, Resources, Status
from tools.compile.plan import Kernel, Row
from tools.findings import Finding, Severity
from tools.registry.devices import Device, DeviceRegistry
from tools.text import shown_path

GAVE_UP_REGISTERS = 32
GAVE_UP_FRAME_BYTES = 1024
"""ptxas that finds no allocation leaves 32 registers and a frame of kilobytes: it gave up."""


@dataclass(frozen=True)
class Verdict:
    """One fault of a kernel, to be said once for each file that runs it."""

    rule: str
    severity: Severity
    message: str
    fix: str


def judge(judged: Iterable[tuple[Kernel, Outcome]], devices: DeviceRegistry) -> Iterator[Finding]:
    """The findings of compiled kernels: one a file and fault, naming every batch size and projection that runs it."""
    groups: dict[tuple[str, str, Verdict], list[Row]] = {}
    for kernel, outcome in judged:
        for row in kernel.rows:
            workload = row.file.workload
            device = None if workload is None else devices.get(workload.device_name)
            for verdict in _verdicts(outcome, device):
                groups.setdefault((shown_path(row.file.found.path), _config(kernel), verdict), []).append(row)
    for (path, config, verdict), rows in groups.items():
        message = f"{rows_text(rows)} ({config}): {verdict.message}"
        yield Finding(path, verdict.rule, verdict.severity, message, verdict.fix)


def _verdicts(outcome: Outcome, device: Device | None) -> Iterator[Verdict]:
    if outcome.status is not Status.OK or outcome.resources is None:
        yield Verdict(
            "does-not-compile" if outcome.status is Status.COMPILE else outcome.status.value,
            Severity.ERROR,
            f"expected a kernel, found {outcome.status}: {_first_line(outcome.message)}",
            "tune the entry again; the tuner never writes what doesn't compile",
        )
        return
    resources = outcome.resources
    limit = None if device is None else device.smem_bytes_per_block
    if device is not None and limit is not None and resources.smem_bytes > limit:
        yield Verdict(
            "over-shared-memory",
            Severity.ERROR,
            f"expected at most {limit} bytes of shared memory a block on {device.name}, found {resources.smem_bytes} "
            f"({resources.smem_bytes - limit} too many)",
            "fewer stages or a smaller tile; tune the entry on this device",
        )
    yield from _spills(resources)


def _spills(resources: Resources) -> Iterator[Verdict]:
    frame, registers = resources.frame_bytes or 0, resources.registers or 0
    if frame >= GAVE_UP_FRAME_BYTES and 0 < registers <= GAVE_UP_REGISTERS:
        yield Verdict(
            "spills",
            Severity.ERROR,
            f"the assembler gave up: {registers} registers and {frame} bytes of stack a thread",
            "more warps or a smaller tile",
        )
    elif resources.spills:
        yield Verdict(
            "spills",
            Severity.WARNING,
            f"expected at most {SPILL_LIMIT_BYTES} bytes of stack a thread, found {frame} ({registers} registers)",
            "more warps or a smaller tile; bench the entry against its neighbours",
        )


def rows_text(rows: list[Row]) -> str:
    """The batch sizes of the rows by projection."""
    by_projection: dict[str, list[int]] = {}
    for row in rows:
        by_projection.setdefault(row.projection, []).append(row.num_tokens)
    parts = [f"{name} {', '.join(map(str, sorted(set(sizes))))}" for name, sizes in sorted(by_projection.items())]
    return f"batch sizes {'; '.join(parts)}"


def _config(kernel: Kernel) -> str:
    config = kernel.task.config
    options = ", ".join(f"{key} {value}" for key, value in config.options)
    return f"{config.block_size_m}×{config.block_size_n}×{config.block_size_k}, {options}"


def _first_line(message: str) -> str:
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
