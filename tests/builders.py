"""What tests of several rooms build: stores, entries, times, environments. A call makes a sound one; tests break it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fused_moe_configs.evidence import evidence_sha256
from tools.checkout import reference_triton
from tools.findings import Finding
from tools.launch.kernel_hash import kernel_sha256
from tools.registry.devices import DeviceRegistry, load_devices
from tools.registry.models import ModelRegistry, load_models
from tools.registry.shapes import registered_shapes
from tools.store import schemas
from tools.store.files import canonical_config, canonical_record
from tools.store.record import Record
from tools.store.workload import Layout, parse_file_name
from tools.validate import runner
from tools.validate.exceptions import Exceptions
from tools.validate.model import Context, Rule
from tools.validate.rules import RULES

H100 = "NVIDIA_H100_80GB_HBM3"
NAME = f"E=8,N=1024,device_name={H100}.json"
ENTRY: Mapping[str, Any] = {
    "BLOCK_SIZE_M": 16,
    "BLOCK_SIZE_N": 64,
    "BLOCK_SIZE_K": 64,
    "GROUP_SIZE_M": 1,
    "num_warps": 4,
    "num_stages": 3,
}
NO_EXCEPTIONS = Exceptions(frozenset())

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)
"""What engines ship, and what was tuned before 8192 and 16384 were usual."""


@functools.cache
def devices() -> DeviceRegistry:
    """The real registry, read once."""
    return load_devices()


@functools.cache
def models() -> ModelRegistry:
    """The real registry, read once."""
    return load_models()


def context(layout: Layout = Layout.REPO) -> Context:
    """What the validator knows besides the files."""
    return Context(layout, devices(), models())


def entry(**changes: Any) -> dict[str, Any]:
    """A sound launch config with these keys changed; None takes a key out."""
    return {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}


def table(batch_sizes: Iterable[int] = BATCH_SIZES, **changes: Any) -> dict[str, Any]:
    """A sound tuned file's document."""
    return {str(num_tokens): entry(**changes) for num_tokens in batch_sizes}


def times(median: float, spread_pct: float = 0.0) -> dict[str, Any]:
    """A time in µs as records have it. spread_pct: of the median, from it to either percentile."""
    half = median * spread_pct / 100.0
    return {"median": median, "p10": median - half, "p90": median + half, "samples": 20}


def environment(**changes: Any) -> dict[str, Any]:
    """Where figures were measured, as records and results have it: on an H100, with the reference Triton."""
    return {
        "device_name": "NVIDIA H100 80GB HBM3",
        "compute_capability": "9.0",
        "sm_count": 132,
        "driver": "580.159.04",
        "cuda": "13.0",
        "torch": "2.13.0+cu130",
        "triton": reference_triton(),
        "python": "3.12.3",
        **changes,
    }


def signed(record: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The record with main's own word on what it holds; with other things said in that word."""
    said = {"runner": "gpu", "run_url": "https://example.org/", "commit": "a" * 40, "date": "2026-01-01"}
    return {**record, "verified": {**said, "evidence_sha256": evidence_sha256(record), **changes}}


@dataclass(frozen=True)
class Store:
    """A folder of tuned files below tmp_path."""

    root: Path

    def config(self, document: Any = None, name: str = NAME, *, folder: str = "", record: bool = True) -> Path:
        """Writes a tuned file with canonical bytes where it has any, and its record; returns its path."""
        document = table() if document is None else document
        try:
            data = canonical_config(document)
        except (AttributeError, TypeError, ValueError):
            data = json.dumps(document).encode()
        path = self.file(data, name, folder=folder)
        if record and parse_file_name(name).workload is not None:
            self.record(path)
        return path

    def file(self, data: bytes, name: str = NAME, *, folder: str = "") -> Path:
        """Writes any bytes anywhere below the root."""
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def record_of(self, path: Path) -> Path:
        """Where a tuned file's record lies."""
        return self.root / "records" / path.relative_to(self.root)

    def record(self, path: Path, **changes: Any) -> Path:
        """Writes a published record of the file at `path`, with these keys changed."""
        workload = parse_file_name(path.name).workload
        assert workload is not None
        record = {
            "schema_version": 1,
            "workload": workload.to_json(),
            "shapes": [],
            "source": "published",
            "attribution": "Somebody, Apache-2.0",
            "config_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "date": "2026-01-01",
            **changes,
        }
        target = self.record_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        is_valid = schemas.is_valid("record", record)
        target.write_bytes(Record.read(record).to_bytes() if is_valid else canonical_record(record))
        return target

    def measured(self, path: Path, triton: str | None = None, **changes: Any) -> Path:
        """Writes a record as the tuner does, measured with `triton` (default: the reference): 1000 µs a row."""
        latency = times(1000.0, spread_pct=10.0)
        row = {"latency_us": latency, "baseline_us": latency, "incumbent_us": None, "decision": "promote"}
        found = re.search(r"device_name=([^,.]+)", path.name)
        device = devices().get(found[1] if found else H100) or devices().find(H100)
        arch = device.arch or "sm_90"
        here = environment(
            device_name=device.name,
            compute_capability=re.sub(r"sm_(\d+)(\d)", r"\1.\2", arch),
            sm_count=device.sm_count or 132,
            triton=triton or reference_triton(),
        )
        tuner = {"settings": {}, "seconds": 1.0, "kernels_compiled": 1, "measurements": 1, "outcomes": {"ok": 1}}
        fields = {
            "source": "measured",
            "shapes": [self._shape(path)],
            "environment": here,
            "kernel_sha256": kernel_sha256(),
            "tuner": tuner,
            "rows": dict.fromkeys(json.loads(path.read_bytes()), row),
        }
        return self.record(path, **{**fields, **changes})

    def _shape(self, path: Path) -> dict[str, Any]:
        """The first that the registry knows for the name."""
        workload = parse_file_name(path.name).workload
        known = registered_shapes(workload, models()) if workload is not None else ()
        return {**known[0].to_json(), "models": []} if known else {"K": 4096, "top_k": 2, "models": []}

    def findings(
        self,
        *rules: Rule,
        layout: Layout = Layout.REPO,
        paths: Iterable[Path] = (),
        exceptions: Exceptions = NO_EXCEPTIONS,
    ) -> list[Finding]:
        """What the rules (default: all of them) find in the store."""
        report = runner.validate(list(paths) or [self.root], context(layout), exceptions, rules or RULES)
        return list(report.findings)

    def messages(self, *rules: Rule, layout: Layout = Layout.REPO) -> list[str]:
        """As `findings`, the messages alone."""
        return [finding.message for finding in self.findings(*rules, layout=layout)]


_OVERRIDES = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: with them the modes of files say nothing."""


@contextlib.contextmanager
def without_roots_rights() -> Iterator[None]:
    """Modes hold for root too, by the bits of a file's owner. What is root's own stays within reach, a checkout in a
    closed folder say: another user could not read that.
    """
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("only Linux lets root give up reading and writing everything")
    libc = ctypes.CDLL(None, use_errno=True)
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3, this thread
    assert libc.capget(header, rights) == 0, os.strerror(ctypes.get_errno())
    effective = rights[0]
    rights[0] &= ~_OVERRIDES
    assert libc.capset(header, rights) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        rights[0] = effective
        assert libc.capset(header, rights) == 0, os.strerror(ctypes.get_errno())


BAD_INPUT: dict[str, Any] = {
    "empty": b"",
    "binary": bytes(range(256)) * 64,
    "bom": b"\xef\xbb\xbf{}",
    "utf16": json.dumps(table()).encode("utf-16"),
    "array": b"[]",
    "nan": b'{"1": {"BLOCK_SIZE_M": NaN}}',
    "infinite": b'{"1": {"BLOCK_SIZE_M": 1e999}}',
    "deep": b'{"1":' * 50_000,
    "digits": b'{"1": {"BLOCK_SIZE_M": ' + b"9" * 5000 + b"}}",
    "huge numbers": json.dumps({"1": dict.fromkeys(entry(), 10**4000)}).encode(),
    "negative numbers": json.dumps({"1": dict.fromkeys(entry(), -(10**4000))}).encode(),
    "zeros": json.dumps(table(**dict.fromkeys(entry(), 0))).encode(),
    "key zero": json.dumps({"0": entry(), **table()}).encode(),
    "duplicates": b'{"1": 1, "1": 2}',
    "half a pair": b'{"\\ud800": {"grf_mode": "\\udfff"}}',
    "null": b'{"\\u0000": null}',
    "odd types": b'{"1": null, "2": [], "4": "x", "8": {"BLOCK_SIZE_M": {}}, "triton_version": []}',
    "wide": json.dumps({f"k{i}": 0 for i in range(80_000)}).encode(),
    "lines": b'{"a\\n::error::b": "\\u001b[31m"}',
}


def halved(row: dict[str, Any]) -> dict[str, Any]:
    """A record's row that claims half the times of the entry, wherever it tells them; the heuristics' stay."""
    times = {"median", "p10", "p90", "up_us", "down_us", "floor_us", "ratio", "low", "high", "score"}

    def of(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return (
                value
                if key in ("baseline_us", "baselines", "incumbent_us")
                else {k: of(k, v) for k, v in value.items()}
            )
        if isinstance(value, list):
            return [of(key, each) for each in value]
        return value / 2 if key in times and value is not None else value

    return {key: of(key, value) for key, value in row.items()}
