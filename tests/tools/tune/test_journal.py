"""The journal keeps every event as it was, survives a kill at any byte, and refuses what it can't read."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.tune.journal import JournalError, JournalWriter, read_header, read_journal
from tools.tune.journal_lines import Header
from tools.tune.model import (
    Compiled,
    CompileJob,
    Confirmed,
    ConfirmJob,
    Event,
    Screened,
    ScreenJob,
    Series,
    Subject,
)

CONFIG = LaunchConfig(16, 64, 128, 8, 4, 3)
AMD = LaunchConfig(16, 64, 128, 8, 4, 2, waves_per_eu=2, matrix_instr_nonkdim=16, kpack=1)

EVENTS: dict[str, Event] = {
    "compiled": Compiled(CompileJob(CONFIG, 0, True), Status.OK, 1.5, 2),
    "refused by the compiler": Compiled(CompileJob(AMD, 0, False), Status.COMPILE, 0.5, 0, "no such instruction\n«é»"),
    "screened": Screened(ScreenJob(64, 0, CONFIG, 120.5), Status.OK, 0.004, 60.25, 30.125),
    "timed out": Screened(ScreenJob(1, 0, AMD), Status.TIMEOUT, 30.0, message="no answer within 30 s"),
    "confirmed": Confirmed(
        ConfirmJob(4, 0, (CONFIG, AMD), 2),
        (
            Series(CONFIG, Status.OK, (1.0, 2.0), (3.0, 4.0)),
            Series(AMD, Status.CORRECTNESS, message="up: expected every output written, found NaN."),
        ),
        0.25,
    ),
    "confirmed, experts counted": Confirmed(
        ConfirmJob(2, 0, (CONFIG,), 2), (Series(CONFIG, Status.OK, (1.0, 2.0), (3.0, 4.0)),), 0.25, 3.25
    ),
}


def written(path: Path, subject: Subject) -> Path:
    writer = JournalWriter(path, Header(subject, {"routing": "uniform"}, {"triton": "3.8.0"}))
    for clock_s, event in enumerate(EVENTS.values()):
        writer.append(event, float(clock_s))
    writer.close()
    return path


@pytest.mark.parametrize("name", ["journal.jsonl", "landscape.jsonl.gz"])
def test_reads_back_what_was_written(tmp_path: Path, subject: Subject, name: str) -> None:
    journal = read_journal(written(tmp_path / name, subject))

    assert journal.header == Header(subject, {"routing": "uniform"}, {"triton": "3.8.0"})
    assert [entry.event for entry in journal.entries] == list(EVENTS.values())
    assert [entry.clock_s for entry in journal.entries] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_kill_at_any_byte_loses_one_event_at_most(tmp_path: Path, subject: Subject) -> None:
    whole = written(tmp_path / "whole.jsonl", subject).read_bytes()
    header_end = whole.index(b"\n") + 1
    torn = tmp_path / "torn.jsonl"

    for length in range(header_end, len(whole), 7):
        torn.write_bytes(whole[:length])
        entries = read_journal(torn).entries
        assert [entry.event for entry in entries] == list(EVENTS.values())[: whole[:length].count(b"\n") - 1]


def test_goes_on_where_the_torn_line_began(tmp_path: Path, subject: Subject) -> None:
    path = written(tmp_path / "journal.jsonl", subject)
    path.write_bytes(path.read_bytes()[:-10])

    writer = JournalWriter(path, None)
    writer.append(EVENTS["screened"], 9.0)
    writer.close()

    assert [entry.event for entry in read_journal(path).entries][-2:] == [EVENTS["confirmed"], EVENTS["screened"]]


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
        read_journal(path)


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
        read_journal(path)


def test_a_broken_line_is_named(tmp_path: Path, subject: Subject) -> None:
    path = written(tmp_path / "journal.jsonl", subject)
    lines = path.read_text("utf-8").split("\n")
    path.write_text("\n".join([*lines[:2], "{}", *lines[2:]]), "utf-8")
    with pytest.raises(JournalError, match="line 3: expected an event"):
        read_journal(path)


def test_a_gz_that_is_cut_short_is_refused(tmp_path: Path, subject: Subject) -> None:
    path = written(tmp_path / "landscape.jsonl.gz", subject)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(JournalError, match="expected a journal of the tuner"):
        read_journal(path)


def test_a_file_that_is_not_there_is_said_without_a_number() -> None:
    with pytest.raises(
        JournalError, match=r"^/nope: expected a journal of the tuner, found: No such file or directory\."
    ):
        read_journal(Path("/nope"))
    with pytest.raises(JournalError, match=r"\. Fix: give a file that the tuner wrote"):
        read_journal(Path("/nope"))


# ---------------------------------------------------------------
# Only what is a file of bounded size is read


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(JournalError, match="Not a regular file"):
        read_journal(path)


def test_a_device_that_never_ends_is_not_read() -> None:
    with pytest.raises(JournalError, match="Not a regular file"):
        read_journal(Path("/dev/zero"))


# ---------------------------------------------------------------
# Whose journal it is, whatever became of the rest


@pytest.mark.parametrize("name", ["journal.jsonl", "landscape.jsonl.gz"])
def test_the_header_of_a_run_that_was_killed_can_be_read(tmp_path: Path, subject: Subject, name: str) -> None:
    path, header = tmp_path / name, Header(subject, {"routing": "uniform"}, {"triton": "3.8.0"})
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
