"""Measures on this machine's GPU: `tools.bench` as a child process, after a look at what is here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tools.bench.contestants import HEURISTIC, NO_FILE
from tools.measure.device import find_gpu
from tools.measure.statistics import Interval
from tools.measure.verdict import Duel, Verdict
from tools.pull_request.children import run_tool
from tools.pull_request.documents import DEFAULT_TIER, PlannedFile
from tools.pull_request.judgement import BenchedRow
from tools.pull_request.site import BenchedFile, NotMeasuredError
from tools.registry.devices import load_devices
from tools.store.files import canonical_entries, canonical_record, version_folder, write_file
from tools.store.strict_json import Json
from tools.store.tiers import LEGACY, RECORDS

MAIN = "main"
"""The folder that main's file is laid into; `tools.bench` calls a contestant by its folder."""


@dataclass(frozen=True)
class GpuBackend:
    """device_name: as the driver reports it, None: no GPU. triton: None: not installed.

    wanted: the Triton that default files are measured with on purpose, to see whether they hold under it.
    """

    device_name: str | None
    triton: str | None
    wanted: str

    @classmethod
    def here(cls, wanted: str) -> GpuBackend:
        """What this machine has; torch is not imported for it."""
        try:
            triton = metadata.version("triton")
        except metadata.PackageNotFoundError:
            triton = None
        return cls(find_gpu(), triton, wanted)

    def bench(self, file: PlannedFile, limit_s: float) -> BenchedFile:
        """Claimed beside main's beside the heuristic, interleaved; main's alone where the claim is its removal."""
        self._check(file)
        name = file.id.workload.file_name()
        with TemporaryDirectory() as scratch:
            own = Path(scratch, "own")
            shapes: list[Json] = [{"K": shape.K, "top_k": shape.top_k} for shape in file.shapes]
            write_file(own / name, canonical_entries(file.claimed or file.main))
            # The bench takes its shapes from the record beside the file.
            write_file(own / RECORDS / name, canonical_record({"shapes": shapes}))
            arguments = [str(own / name), "--format", "json", "--against", HEURISTIC]
            if file.claimed and file.main:
                write_file(Path(scratch, MAIN, name), canonical_entries(file.main))
                arguments += ["--against", str(Path(scratch, MAIN, name))]
            # Exit 1 says that a row is slower, which is a result.
            document = run_tool("tools.bench", arguments, limit_s, good=(0, 1))
        return read_bench(document)

    def tune_arguments(self, file: PlannedFile) -> tuple[str, ...]:
        """The sizes; every registered shape where the plan has several."""
        self._check(file)
        workload, first = file.id.workload, file.shapes[0]
        sizes = {"--E": workload.E, "--N": workload.N, "--K": first.K, "--top-k": first.top_k}
        block_shape = () if workload.block_shape is None else ("--block-shape", "{},{}".format(*workload.block_shape))
        return (
            *(word for flag, size in sizes.items() for word in (flag, str(size))),
            *(() if workload.dtype is None else ("--dtype", workload.dtype)),
            *block_shape,
            *(("--per-channel-quant",) if workload.per_channel_quant else ()),
            *(("--all-shapes",) if len(file.shapes) > 1 else ()),
        )

    def _check(self, file: PlannedFile) -> None:
        if self.device_name is None:
            raise NotMeasuredError("no_gpu")
        device = load_devices().get(self.device_name)
        if device is None or file.id.workload.device_name not in device.names:
            raise NotMeasuredError("wrong_device")
        if self.triton is None or not _serves(self.triton, file.id.tier, self.wanted):
            raise NotMeasuredError("wrong_triton")


def _serves(triton: str, tier: str, wanted: str) -> bool:
    """Whether figures of this Triton speak for the tier. Legacy files say nothing about theirs."""
    folders = {DEFAULT_TIER: version_folder(wanted), LEGACY: version_folder(triton)}
    return version_folder(triton) == folders.get(tier, tier)


def read_bench(document: Mapping[str, Any]) -> BenchedFile:
    """Of one file, from the JSON that `tools.bench` prints. Pure. NotMeasuredError: it isn't what it prints."""
    try:
        rows = {row["num_tokens"]: _row(row) for row in document["files"][0]["rows"]}
        return BenchedFile(rows, _environment(document["environment"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NotMeasuredError("crashed") from error


def _row(row: Mapping[str, Any]) -> BenchedRow:
    own = next(iter(row["measured"]))
    times = {name: measured["us"] and measured["us"]["median"] for name, measured in row["measured"].items()}
    duels = {name: _duel(duel) for name, duel in row["duels"].items()}
    return BenchedRow(times[own], times.get(MAIN), times[NO_FILE], duels.get(MAIN), duels[NO_FILE])


def _duel(duel: Mapping[str, Any]) -> Duel:
    return Duel(duel["ratio"] and Interval(**duel["ratio"]), Verdict(duel["verdict"]))


def _environment(told: Mapping[str, str]) -> dict[str, Json]:
    """As a record has it; the bench's JSON knows a day and a kernel besides."""
    same = ("compute_capability", "driver", "cuda", "torch", "triton", "python")
    found: dict[str, Json] = {"device_name": told["device"], "sm_count": int(told["sm_count"])}
    return found | {name: told[name] for name in same}
