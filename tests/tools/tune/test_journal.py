"""The journal keeps every event as it was, survives a kill at any byte, and refuses what it can't read."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.tools.tune.decided import ENVIRONMENT
from tools.compile.outcome import Status
from tools.errors import MachineError
from tools.measure.panel import Part, RoutingKind
from tools.store import schemas
from tools.tune.journal import Journal, JournalError, JournalHeader, JournalWriter, read_header
from tools.tune.protocol import (
    BlockJob,
    Compiled,
    CompileJob,
    DeviceReport,
    Event,
    Measured,
    Screened,
    ScreenJob,
    Series,
    Subject,
)

UNIFORM = Part(Flavour.VLLM, 0, RoutingKind.UNIFORM)
CONFIG = LaunchConfig(16, 64, 128, 8, 4, 3)
AMD = LaunchConfig(16, 64, 128, 8, 4, 2, waves_per_eu=2, matrix_instr_nonkdim=16, kpack=1)

EVENTS: dict[str, Event] = {
    "compiled": Compiled(CompileJob(CONFIG, 0, True), Status.OK, 1.5, 2),
    "refused by the compiler": Compiled(CompileJob(AMD, 0, False), Status.COMPILE, 0.5, 0, "no such instruction\n«é»"),
    "screened": Screened(ScreenJob(64, 0, CONFIG, 120.5), Status.OK, 0.004, 60.25, 30.125),
    "timed out": Screened(ScreenJob(1, 0, AMD), Status.TIMEOUT, 30.0, message="no answer within 30 s"),
    "compiled for down behind another's up": Compiled(
        CompileJob(replace(CONFIG, USE_TMA=True), 0, False, Flavour.SGLANG, 512, CONFIG), Status.OK, 1.5, 2
    ),
    "compiled for sglang": Compiled(CompileJob(CONFIG, 0, False, Flavour.SGLANG, 512), Status.OK, 1.5, 2),
    "screened under skew": Screened(
        ScreenJob(64, 0, CONFIG, None, Flavour.SGLANG, RoutingKind.SKEW_03), Status.OK, 0.004, 60.25, 30.125
    ),
    "measured": Measured(
        BlockJob(4, UNIFORM, (CONFIG, AMD), 0, 2),
        (
            Series(CONFIG, Status.OK, (4.0, 6.0)),
            Series(AMD, Status.CORRECTNESS, message="up: expected every output written, found NaN."),
        ),
        0.25,
    ),
    "measured behind another's up": Measured(
        BlockJob(4, UNIFORM, (CONFIG,), 8, 2, up=replace(CONFIG, num_stages=2)),
        (Series(CONFIG, Status.OK, (4.0, 6.0)),),
        0.25,
    ),
    "measured, experts counted": Measured(
        BlockJob(2, Part(Flavour.SGLANG, 0, RoutingKind.SKEW_1), (CONFIG,), 4, 2),
        (Series(CONFIG, Status.OK, (4.0, 6.0)),),
        0.25,
        3.25,
        8,
    ),
    "measured apart": Measured(
        BlockJob(4, UNIFORM, (CONFIG,), 8, 2, is_apart=True),
        (Series.apart(CONFIG, (1.0, 2.0), (3.0, 4.0)),),
        0.25,
    ),
}


def written(path: Path, subject: Subject) -> Path:
    writer = JournalWriter(path, JournalHeader(subject, {"routing": "uniform"}, {"triton": "3.8.0"}))
    for clock_s, event in enumerate(EVENTS.values()):
        writer.append(event, float(clock_s))
    writer.close()
    return path


@pytest.mark.parametrize("name", ["journal.jsonl", "landscape.jsonl.gz"])
def test_reads_back_what_was_written(tmp_path: Path, subject: Subject, name: str) -> None:
    journal = Journal.read(written(tmp_path / name, subject))

    assert journal.header == JournalHeader(subject, {"routing": "uniform"}, {"triton": "3.8.0"})
    assert [entry.event for entry in journal.entries] == list(EVENTS.values())
    assert [entry.clock_s for entry in journal.entries] == [float(number) for number in range(len(EVENTS))]


def test_a_kill_at_any_byte_loses_one_event_at_most(tmp_path: Path, subject: Subject) -> None:
    whole = written(tmp_path / "whole.jsonl", subject).read_bytes()
    header_end = whole.index(b"\n") + 1
    torn = tmp_path / "torn.jsonl"

    for length in range(header_end, len(whole), 7):
        torn.write_bytes(whole[:length])
        entries = Journal.read(torn).entries
        assert [entry.event for entry in entries] == list(EVENTS.values())[: whole[:length].count(b"\n") - 1]


def test_goes_on_where_the_torn_line_began(tmp_path: Path, subject: Subject) -> None:
    path = written(tmp_path / "journal.jsonl", subject)
    path.write_bytes(path.read_bytes()[:-10])

    writer = JournalWriter(path, None)
    writer.append(EVENTS["screened"], 9.0)
    writer.close()

    last = [EVENTS["measured, experts counted"], EVENTS["screened"]]
    assert [entry.event for entry in Journal.read(path).entries][-2:] == last


@pytest.mark.parametrize("damage", ["cut", "flipped", "a bomb", "nested"])
def test_a_damaged_landscape_is_one_line(
    tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = written(tmp_path / "landscape.jsonl.gz", subject)
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        path.write_bytes(data[:40] + bytes(255 - byte for byte in data[40:80]) + data[80:])
    elif damage == "a bomb":
        monkeypatch.setattr("tools.tune.journal.MOST_CHARACTERS", 1000)
    else:
        path.write_bytes(gzip.compress(b"[" * 100_000 + b"\n"))
    with pytest.raises(JournalError, match="landscape"):
        Journal.read(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "line 1: expected the header"),
        (b"[]\n", "line 1: expected the header"),
        (b'{"format": 99}\n', "line 1: expected the header"),
        (b"\xff\xfe\n", "expected a journal of the tuner"),
        (None, "No such file"),
    ],
)
def test_what_is_no_journal_is_refused(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JournalError, match=told):
        Journal.read(path)


def test_a_broken_line_is_named(tmp_path: Path, subject: Subject) -> None:
    path = written(tmp_path / "journal.jsonl", subject)
    lines = path.read_text("utf-8").split("\n")
    path.write_text("\n".join([*lines[:2], "{}", *lines[2:]]), "utf-8")
    with pytest.raises(JournalError, match="line 3: expected an event"):
        Journal.read(path)


def test_a_gz_that_is_cut_short_is_refused(tmp_path: Path, subject: Subject) -> None:
    path = written(tmp_path / "landscape.jsonl.gz", subject)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(JournalError, match="expected a journal of the tuner"):
        Journal.read(path)


def test_a_file_that_is_not_there_is_said_without_a_number() -> None:
    with pytest.raises(
        JournalError, match=r"^/nope: expected a journal of the tuner, found: No such file or directory\."
    ):
        Journal.read(Path("/nope"))
    with pytest.raises(JournalError, match=r"\. Fix: give a file that the tuner wrote"):
        Journal.read(Path("/nope"))


# ---------------------------------------------------------------
# Only what is a file of bounded size is read


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(JournalError, match="Not a regular file"):
        Journal.read(path)


def test_a_device_that_never_ends_is_not_read() -> None:
    with pytest.raises(JournalError, match="Not a regular file"):
        Journal.read(Path("/dev/zero"))


# ---------------------------------------------------------------
# Whose journal it is, whatever became of the rest


@pytest.mark.parametrize("name", ["journal.jsonl", "landscape.jsonl.gz"])
def test_the_header_of_a_run_that_was_killed_can_be_read(tmp_path: Path, subject: Subject, name: str) -> None:
    path, header = tmp_path / name, JournalHeader(subject, {"routing": "uniform"}, {"triton": "3.8.0"})
    writer = JournalWriter(path, header)
    for event in EVENTS.values():
        writer.append(event, 1.0)
    assert read_header(path) == header
    writer.close()
    path.write_bytes(path.read_bytes()[:-9])
    assert read_header(path) == header


@pytest.mark.parametrize("data", [b"", b"{}\n", b"hours of work"])
def test_what_has_no_header_is_nobodys(tmp_path: Path, data: bytes) -> None:
    for name in ("a.jsonl", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(data)
        assert read_header(tmp_path / name) is None
    assert read_header(tmp_path / "missing") is None


# ---------------------------------------------------------------
# Landscapes come from anybody: whatever a line holds that no run writes is refused, and says where.

ENTRY = {
    "BLOCK_SIZE_M": 16,
    "BLOCK_SIZE_N": 64,
    "BLOCK_SIZE_K": 128,
    "GROUP_SIZE_M": 8,
    "num_warps": 4,
    "num_stages": 3,
}
COMPILED = {"compiled": ENTRY, "shape": 0, "naive": True, "kernels": 2, "status": "ok", "seconds": 1.5, "clock_s": 1.0}
SCREENED = {
    "screened": ENTRY, "shape": 0, "num_tokens": 64, "give_up_us": None, "up_us": 60.25, "down_us": 30.0,
    "status": "ok", "seconds": 0.004, "clock_s": 1.0,
}  # fmt: skip
SERIES = {"config": ENTRY, "status": "ok", "up_us": [1.0, 2.0], "down_us": [3.0, 4.0], "message": ""}
MEASURED = {
    "measured": [{"config": SERIES["config"], "status": "ok", "us": [4.0, 6.0], "message": ""}],
    "engine": "sglang",
    "shape": 0,
    "routing": "skew_0.3",
    "num_tokens": 4,
    "block": 4,
    "blocks": 2,
    "apart": False,
    "draws": 8,
    "seconds": 0.25,
    "clock_s": 1.0,
}
CONFIRMED = {"confirmed": [SERIES], "shape": 0, "num_tokens": 4, "rounds": 2, "seconds": 0.25, "clock_s": 1.0}
DEVICE: dict[str, Any] = {
    "device": {
        "environment": replace(ENVIRONMENT, driver=None).to_json(),
        "copy_bytes_per_s": 2e12,
        "dense_per_s": 7e14,
    }
}


def test_a_header_reads_back_as_it_was_written(subject: Subject) -> None:
    header = JournalHeader(subject, {"routing": "skew"}, {"triton": "3.8.0", "kernel_sha256": "ab" * 32})
    assert JournalHeader.from_json(json.loads(json.dumps(header.to_json()))) == header


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


Read = Callable[..., Journal]


@pytest.fixture
def read(subject: Subject, tmp_path: Path) -> Read:
    """Reads a journal of these lines behind a header."""

    def read(*lines: Any, header: Any = None) -> Journal:
        first = JournalHeader(subject, {}, {"triton": "3.8.0"}).to_json() if header is None else header
        path = tmp_path / "x.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)), "utf-8")
        return Journal.read(path)

    return read


def test_what_a_run_writes_is_read(read: Read) -> None:
    lines = [COMPILED, SCREENED, MEASURED, DEVICE]
    journal = read(*lines)
    assert read(*journal.to_json()[1:], header=journal.to_json()[0]) == journal
    assert journal.to_json()[1:4] == lines[:3]


def test_an_up_that_could_not_be_told_from_down_is_read(read: Read) -> None:
    """A run writes it where the whole layer seemed to take no longer than down alone; it must be able to go on."""
    (entry,) = read({**SCREENED, "engine": "sglang", "up_us": 0.0}).entries
    event = entry.event
    assert isinstance(event, Screened)
    assert (event.up_us, event.down_us, event.total_us) == (0.0, 30.0, 30.0)


@pytest.mark.parametrize("lines", [(), (SCREENED,)], ids=["its header", "a line"])
def test_a_damaged_schema_is_no_journals_fault(
    lines: tuple[Any, ...], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10))

    def damaged(name: str, document: Any) -> list[Any]:
        if next(calls) == len(lines):
            raise MachineError("schema/landscape.schema.json: damaged")
        return []

    monkeypatch.setattr(schemas, "faults", damaged)
    with pytest.raises(MachineError, match=r"^schema/landscape\.schema\.json: damaged$"):
        read(*lines)


def test_landscapes_of_old_call_the_memorys_rate_a_copys(read: Read) -> None:
    new = {**DEVICE["device"], "memory_bytes_per_s": 2e12, "notes": ["a busy GPU"]}
    del new["copy_bytes_per_s"]
    environment = replace(ENVIRONMENT, driver=None)
    assert read(DEVICE).device == DeviceReport(environment, 2e12, 7e14)
    assert read({"device": new}).device == DeviceReport(environment, 2e12, 7e14, ("a busy GPU",))


@pytest.mark.parametrize("lacking", list(ENVIRONMENT.to_json()))
def test_a_machine_that_is_not_wholly_told_is_unknown_and_its_rates_are_not(lacking: str, read: Read) -> None:
    found = read(changed(DEVICE, f"device.environment.{lacking}", ...)).device
    assert found == DeviceReport(None, 2e12, 7e14)
    assert read(*Journal(read().header, (), found).to_json()[1:]).device == found


def test_what_else_a_machine_tells_is_left_alone(read: Read) -> None:
    assert read(changed(DEVICE, "device.environment.host", "x")) == read(DEVICE)


def test_the_last_report_counts(read: Read) -> None:
    later = {"device": {**DEVICE["device"], "dense_per_s": 8e14}}
    journal = read(DEVICE, SCREENED, later)
    assert journal.device is not None
    assert journal.device.dense_per_s == 8e14
    assert read(SCREENED).device is None


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
    sound = JournalHeader(subject, {"routing": "uniform"}, {"triton": "3.8.0", "kernel_sha256": "ab" * 32}).to_json()
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
        ({**SCREENED, "engine": "sglang"}, "down_us", [*NO_NUMBERS, 0]),
        (SCREENED, "give_up_us", [0, -1, "1", math.inf, ...]),
        (SCREENED, "num_tokens", [0, 65537, 1.0, "64", None, ...]),
        (SCREENED, "shape", [1, -1]),
        (MEASURED, "measured", [[], None, {}, [None]]),
        (MEASURED, "measured.0.us", [[], [4.0, 0], [4.0, math.nan], "12", None, ...]),
        (MEASURED, "measured.0.up_us", [[1.0]]),
        (MEASURED, "engine", ["trt", None, ...]),
        (MEASURED, "routing", ["skewed", ...]),
        (MEASURED, "block", [-1, "2", 1 << 20, ...]),
        (MEASURED, "blocks", [0, 3, ...]),
        (MEASURED, "apart", ["no", ...]),
        (MEASURED, "up", [None, 1, {}, {**MEASURED["measured"][0]["config"], "BLOCK_SIZE_M": 256}]),
        (MEASURED, "draws", [0, ...]),
        (COMPILED, "engine", ["trt", None]),
        (SCREENED, "routing", ["skewed", None]),
        (CONFIRMED, "confirmed", [[], None, {}, [None]]),
        (CONFIRMED, "confirmed.0.up_us", [[], [1.0], [1.0, math.nan], [1.0, 0], "12", None, ...]),
        (CONFIRMED, "confirmed.0.status", ["runtime", "good", ...]),
        (CONFIRMED, "confirmed.0.config", [None, {}]),
        (CONFIRMED, "rounds", [0, "2", None, ...]),
        (CONFIRMED, "num_tokens", [0, ...]),
        (CONFIRMED, "active_experts", [0, -1, math.nan, "3"]),
        (DEVICE, "device", [None, [], "x"]),
        (DEVICE, "device.copy_bytes_per_s", [0, -1, math.inf, "fast", ...]),
        (DEVICE, "device.dense_per_s", [0, math.nan, ...]),
        (DEVICE, "device.environment", [None, [], ...]),
        (DEVICE, "device.environment.triton", ["", "x", None]),
        (DEVICE, "device.environment.driver", [[], {}, 1.5, "a\nb"]),
        ({"a": [7]}, "a", [7]),
    ],
)
def test_a_line_that_no_run_writes(line: Any, place: str, values: list[Any], read: Read) -> None:
    for value in values:
        with pytest.raises(JournalError, match=r"x\.jsonl, line 3: expected an event, found "):
            read(SCREENED, changed(line, place, value))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"device": {}, "device": {}}', "duplicate keys: 'device'"),
        ('{"compiled": NaN}', "NaN is no finite number"),
        ('{"note": 1e999, "device": {}}', "1e999 is no finite number"),
        (json.dumps({**COMPILED, "kernels": 8.0}), "kernels: expected an integer from 0 to 1000, found 8.0"),
        (json.dumps({**COMPILED, "shape": 1}), "shape: expected one of the header's 1, counted from 0, found 1"),
        (json.dumps({**CONFIRMED, "confirmed": [{**SERIES, "down_us": [1.0]}]}), "as many times for up .* 2 and 1"),
        (json.dumps({**SCREENED, "status": "runtime", "message": None}), "message: expected a text, found null"),
        (json.dumps({"device": {**DEVICE["device"], "notes": "x"}}), 'device / notes: expected a list, found "x"'),
        ("", "expected a JSON object"),
    ],
)
def test_what_is_wrong_with_a_line_is_told(line: str, told: str, subject: Subject, tmp_path: Path) -> None:
    header = json.dumps(JournalHeader(subject, {}, {}).to_json())
    (tmp_path / "x.jsonl").write_text(f"{header}\n{line}\n", "utf-8")
    with pytest.raises(JournalError, match=rf"line 2: expected an event, found .*{told}.*\. Fix: "):
        Journal.read(tmp_path / "x.jsonl")


def test_only_the_first_line_is_a_header(subject: Subject, read: Read) -> None:
    header = JournalHeader(subject, {}, {}).to_json()
    with pytest.raises(JournalError, match=r"line 3: expected an event, .*: a header, which only the first line is"):
        read(SCREENED, header)
    with pytest.raises(JournalError, match=r"line 1: expected the header .*: format is missing"):
        read(header=SCREENED)


@pytest.mark.parametrize("place", ["shapes.0.models.0", "environment.host"])
def test_what_cannot_be_printed_is_refused_wherever_it_would_be_told(place: str, subject: Subject, read: Read) -> None:
    """The schema's pattern knows control characters only."""
    header = JournalHeader(subject, {}, {"host": "x"}).to_json()
    with pytest.raises(JournalError, match=r"expected .* that can be printed, found .*\\u202e"):
        read(header=changed(header, place, "\u202e"))


@pytest.mark.parametrize("line", [None, 7, [], "x", {}, [["device"]]])
def test_a_line_that_is_no_event(line: Any, read: Read) -> None:
    with pytest.raises(JournalError, match="line 2: expected an event"):
        read(line)


def test_rounds_of_an_older_landscape_are_blocks_on_vllms_kernel(read: Read) -> None:
    (entry,) = read(CONFIRMED).entries
    assert isinstance(entry.event, Measured)
    assert entry.event.job == BlockJob(4, UNIFORM, (CONFIG,), 0, 2, is_apart=True)
    assert entry.event.series[0].us == (4.0, 6.0)
