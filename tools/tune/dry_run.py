"""What `tune --dry-run` says of workloads before anything is measured: who asks for which file, and what it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fused_moe_configs.serving import Serving
from tools.registry.devices import Device
from tools.registry.models import ModelRegistry
from tools.registry.sharding import Engine
from tools.tune.protocol import Subject
from tools.tune.space import candidates
from tools.tune.subject import SizesSource, Source, serving_of

GIB = 2**30


@dataclass(frozen=True)
class DryRow:
    """One workload under one engine.

    subject: what would be measured. serving: what the engine runs, and the file that it asks for. gib: GPU memory that
    tuning takes, beside the context; gib_had: the device's, None where devices.json doesn't have it. kernels: those
    that the sieve leaves; launch_configs: with every group size. is_tuned: the command, without --dry-run, writes this
    very file.
    """

    subject: Subject
    serving: Serving
    gib: float
    gib_had: int | None
    kernels: int
    launch_configs: int
    is_tuned: bool

    @property
    def fits(self) -> bool:
        """In the device's memory, as far as that is known."""
        return self.gib_had is None or self.gib <= self.gib_had

    @property
    def has_channel_scales(self) -> bool:
        """Of operands in 8 bits, whether or not the name tells."""
        return self.subject.quant.quantizes_activations and self.subject.quant.per_channel

    def to_json(self) -> dict[str, Any]:
        """file: as the engine spells it; store_file: as this repository does."""
        serving, workload = self.serving, self.subject.workload
        return {
            "engine": serving.engine,
            "version": serving.version,
            "file": serving.engine_file,
            "store_file": serving.file,
            "is_tuned": self.is_tuned,
            "model": serving.model or None,
            "tp": serving.tp,
            "ep": serving.ep,
            "device_name": serving.device_name,
            "E": serving.E,
            "N": serving.N,
            "K": serving.K,
            "top_k": serving.top_k,
            "dtype": workload.dtype,
            "block_shape": workload.block_shape and list(workload.block_shape),
            "per_channel_quant": self.has_channel_scales,
            "shapes": [named.to_json() for named in self.subject.shapes],
            "read_by_default": serving.reads_tuned_files,
            "backend": serving.backend,
            "reason": serving.reason,
            "gib": self.gib,
            "gib_had": self.gib_had,
            "kernels": self.kernels,
            "launch_configs": self.launch_configs,
            "notes": list(serving.notes),
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        serving, workload = self.serving, self.subject.workload
        yield f"  {serving.engine} {serving.version}: {serving.engine_file}"
        if serving.engine_file != serving.file:
            yield f"    here:    {serving.file}"
        scales = "scales of blocks of {} x {}".format(*workload.block_shape) if workload.block_shape else ""
        scales = "scales of channels" if self.has_channel_scales else scales
        sizes = f"E={serving.E}, N={serving.N}, K={serving.K}, top_k={serving.top_k}"
        stored = (workload.dtype or self.subject.quant.compute_type, scales)
        yield f"    on rank: {', '.join(filter(None, [sizes, *stored]))}"
        for named in self.subject.shapes[1:]:
            yield f"    and:     {named.shape} ({', '.join(named.models)})"
        by_default = {True: "by default", False: "not by default", None: "perhaps"}[serving.reads_tuned_files]
        yield f"    read:    {by_default}: {serving.verdict}. {serving.reason}"
        had = "an amount that devices.json doesn't have" if self.gib_had is None else f"{self.gib_had} GiB"
        yield f"    memory:  {self.gib} GiB of {had}{'' if self.fits else ': too little'}"
        yield f"    tries:   up to {self.launch_configs} launch configs, of {self.kernels} kernels"
        yield from (f"    note:    {note}" for note in serving.notes)


@dataclass(frozen=True)
class DryWorkload:
    """What a source names, a row an engine. refusals: of engines that run no such thing. refused: why the run is."""

    title: str
    rows: tuple[DryRow, ...]
    refusals: tuple[str, ...] = ()
    refused: str | None = None

    @property
    def is_good(self) -> bool:
        """It fits, isn't refused, and an engine that was asked about reads its file by default, as far as is known."""
        is_read = any(row.serving.reads_tuned_files is not False for row in self.rows)
        return is_read and self.refused is None and all(row.fits for row in self.rows)

    def remarks(self) -> Iterator[str]:
        """For programs, what isn't of one engine's row."""
        yield from self.refusals
        yield from filter(None, [self._refusal()])

    def lines(self) -> Iterator[str]:
        """For people."""
        yield self.title
        for row in self.rows:
            yield from row.lines()
        yield from (f"  {refusal}" for refusal in self.refusals)
        tuned = next((row.serving.file for row in self.rows if row.is_tuned), "none of these files")
        others = [row.serving.engine for row in self.rows if not row.is_tuned]
        yield f"  {self._refusal() or f'without --dry-run this tunes {tuned}'}"
        yield from (f"  with --engine {engine} instead, {engine}'s file" for engine in others)

    def _refusal(self) -> str:
        return f"without --dry-run this is refused: {self.refused}" if self.refused is not None else ""


def look_ahead(
    source: Source, subject: Subject, tuned: Subject, engine: Engine, device: Device, models: ModelRegistry, most: int
) -> DryRow:
    """What a source is under an engine.

    subject: as that engine splits and names it; tuned: what the command tunes. most: the largest batch size.
    UserError: the engine runs no such thing.
    """
    serving = serving_of(source, device, models, engine)
    space = candidates(subject)
    return DryRow(
        subject,
        serving,
        round(subject.memory_bytes(most) / GIB, 1),
        device.memory_gib,
        len(space.kernels),
        len(space.kernels) * len(space.group_sizes),
        tuned.workload.file_name() == serving.file,
    )


def title_of(source: Source, subject: Subject) -> str:
    """The source in a line."""
    workload, named = subject.workload, subject.shapes[0]
    sizes = f"E={workload.E}, N={workload.N}, {named.shape}"
    return sizes if isinstance(source, SizesSource) or not named.models else named.models[0]


def to_json(workloads: Sequence[DryWorkload], notes: Sequence[str]) -> dict[str, Any]:
    """A row for each workload and engine that runs it."""
    remarks = [remark for each in workloads for remark in each.remarks()]
    return {"workloads": [row.to_json() for each in workloads for row in each.rows], "notes": [*remarks, *notes]}


def to_text(workloads: Sequence[DryWorkload], notes: Sequence[str], device_name: str) -> str:
    """A paragraph a workload."""
    lines = [f"dry run for {device_name}: nothing is measured or written"]
    for each in workloads:
        lines += ["", *each.lines()]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])
