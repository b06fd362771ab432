"""Landscapes come from anybody: whatever a line holds that no run writes is refused, and says where."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.tune.journal import JournalError, read_journal
from tools.tune.journal_lines import Header, header_from_json, header_to_json
from tools.tune.model import Subject

CONFIG = {
    "BLOCK_SIZE_M": 16,
    "BLOCK_SIZE_N": 64,
    "BLOCK_SIZE_K": 128,
    "GROUP_SIZE_M": 8,
    "num_warps": 4,
    "num_stages": 3,
}
COMPILED = {"compiled": CONFIG, "shape": 0, "naive": True, "kernels": 2, "status": "ok", "seconds": 1.5, "clock_s": 1.0}
SCREENED = {
    "screened": CONFIG, "shape": 0, "num_tokens": 64, "give_up_us": None, "up_us": 60.25, "down_us": 30.0,
    "status": "ok", "seconds": 0.004, "clock_s": 1.0,
}  # fmt: skip
SERIES = {"config": CONFIG, "status": "ok", "up_us": [1.0, 2.0], "down_us": [3.0, 4.0], "message": ""}
CONFIRMED = {"confirmed": [SERIES], "shape": 0, "num_tokens": 4, "rounds": 2, "seconds": 0.25, "clock_s": 1.0}
DEVICE = {
    "device": {
        "environment": {"triton": "3.8.0", "sm_count": 132, "driver": None},
        "copy_bytes_per_s": 2e12,
        "dense_per_s": 7e14,
    }
}


def test_a_header_reads_back_as_it_was_written(subject: Subject) -> None:
    header = Header(subject, {"routing": "skew"}, {"triton": "3.8.0", "kernel_sha256": "ab" * 32})
    assert header_from_json(json.loads(json.dumps(header_to_json(header)))) == header


def changed(document: Any, place: str, value: Any) -> Any:
    """A copy with another value at «a.0.b»; `...`: without it."""
    found = document = copy.deepcopy(document)
    *way, last = (int(key) if key.isdigit() else key for key in place.split("."))
    for key in way:
        found = found[key]
    if value is ...:
        del found[last]
    else:
        found[last] = value
    return document


Read = Callable[..., None]


@pytest.fixture
def read(subject: Subject, tmp_path: Path) -> Read:
    """Reads a journal of these lines behind a header."""

    def read(*lines: Any, header: Any = None) -> None:
        first = header_to_json(Header(subject, {}, {"triton": "3.8.0"})) if header is None else header
        path = tmp_path / "x.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)), "utf-8")
        read_journal(path)

    return read


def test_what_a_run_writes_is_read(read: Read) -> None:
    read(COMPILED, SCREENED, CONFIRMED, DEVICE)


NO_NUMBERS = ["1", True, None, [], {}, math.nan, math.inf, -1, ..., 10**400]


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("format", [2, "1", ...]),
        ("workload", [None, [], "E=8"]),
        ("workload.E", [0, -1, 2**31, 1.5, "8", True, ...]),
        ("workload.N", [0, 1.5, None]),
        ("workload.device_name", ["x/../../evil", "../x", "", "a b", "a\n", "NVIDIA\x1b[31m", "\ud800", 7, None, ...]),
        ("workload.dtype", ["fp8/../x", "nonsense", 8, ...]),
        ("workload.block_shape", [[128], [128, 128, 1], [0, 1], "128", [128, 128], ...]),
        ("workload.per_channel_quant", [1, None, True]),
        ("workload.down", [1, True]),
        ("shapes", [[], None, {}, [1]]),
        ("shapes.0.K", [0, "4096", 2**31, ...]),
        ("shapes.0.top_k", [0, 9, 2.0, ...]),
        ("shapes.0.models", ["a", [1], ["a\nb"], ...]),
        ("quant", [None, []]),
        ("quant.dtype", ["fp8_w8a8", 7]),
        ("quant.compute_type", ["fp4", None]),
        ("quant.per_channel", [True, 1]),
        ("target", [[], ["cuda", 80, 32], ["hip", "gfx942", 64], ["cuda", 90], [[], {}, 0]]),
        ("arch", ["sm90", "sm_90/..", 90, None, "gfx942"]),
        ("smem_bytes", [0, -1, 1e6, "232448", 2**40]),
        ("settings", [None, []]),
        ("settings.routing", ["zipf", 1, None, []]),
        ("environment", [None, []]),
        ("environment.triton", ["", "3", "3.8", "x/../y", 3, None]),
        ("environment.kernel_sha256", ["ab", 7, "AB" * 32]),
    ],
)
def test_a_header_that_no_run_writes(place: str, values: list[Any], subject: Subject, read: Read) -> None:
    sound = header_to_json(Header(subject, {"routing": "uniform"}, {"triton": "3.8.0", "kernel_sha256": "ab" * 32}))
    for value in values:
        with pytest.raises(JournalError, match=r"x\.jsonl, line 1: expected the header of a tuner's journal, found "):
            read(header=changed(sound, place, value))


@pytest.mark.parametrize(
    ("line", "place", "values"),
    [
        *((COMPILED, key, NO_NUMBERS) for key in ("seconds", "clock_s")),
        (COMPILED, "compiled", [None, {}, [1], "x"]),
        (COMPILED, "compiled.BLOCK_SIZE_M", [0, -16, 1.5, "16", True, 2**20, ...]),
        (COMPILED, "shape", [1, -1, "0", None, True, ...]),
        (COMPILED, "kernels", [-1, 1.5, "2", None, ...]),
        (COMPILED, "naive", [0, None, "no", ...]),
        (COMPILED, "status", ["good", None, 1, [], ...]),
        *((SCREENED, key, [*NO_NUMBERS, 0]) for key in ("up_us", "down_us")),
        (SCREENED, "give_up_us", [0, -1, "1", math.inf, ...]),
        (SCREENED, "num_tokens", [0, 65537, 1.0, "64", None, ...]),
        (SCREENED, "shape", [1, -1]),
        (CONFIRMED, "confirmed", [[], None, {}, [None]]),
        (CONFIRMED, "confirmed.0.up_us", [[], [1.0], [1.0, math.nan], [1.0, 0], "12", None, ...]),
        (CONFIRMED, "confirmed.0.status", ["runtime", "good", ...]),
        (CONFIRMED, "confirmed.0.config", [None, {}]),
        (CONFIRMED, "rounds", [0, "2", None, ...]),
        (CONFIRMED, "num_tokens", [0, ...]),
        (CONFIRMED, "active_experts", [0, -1, math.nan, "3"]),
        (DEVICE, "device", [None, [], "x"]),
        (DEVICE, "device.copy_bytes_per_s", [0, -1, math.inf, "fast"]),
        (DEVICE, "device.dense_per_s", [0, math.nan, ...]),
        (DEVICE, "device.environment", [None, []]),
        (DEVICE, "device.environment.triton", ["", "x", None]),
        (DEVICE, "device.environment.driver", [[], {}, 1.5, "a\nb"]),
        ({"a": [7]}, "a", [7]),
    ],
)
def test_a_line_that_no_run_writes(line: Any, place: str, values: list[Any], read: Read) -> None:
    for value in values:
        with pytest.raises(JournalError, match=r"x\.jsonl, line 3: expected an event, found "):
            read(SCREENED, changed(line, place, value))


@pytest.mark.parametrize("line", [None, 7, [], "x", {}, [["device"]]])
def test_a_line_that_is_no_event(line: Any, read: Read) -> None:
    with pytest.raises(JournalError, match="line 2: expected an event"):
        read(line)
