"""The journals of a run: what it may go on with, what it never writes over, and that only one run has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.checkout import CHECKOUT
from tools.tune.journal import Journal, JournalError, JournalHeader, JournalWriter
from tools.tune.live import DeviceRefused
from tools.tune.protocol import Subject
from tools.tune.run_journals import journal_path, open_journals

Make = Callable[..., Journal]


@pytest.fixture(autouse=True)
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tools.tune.run_journals.JOURNALS", tmp_path / "journals")
    return tmp_path / "journals"


@pytest.fixture
def header(subject: Subject) -> JournalHeader:
    return JournalHeader(subject, {"routing": "uniform"}, {"triton": "3.8.0", "kernel_sha256": "ab" * 32})


@pytest.fixture
def path(subject: Subject, journals: Path) -> Path:
    return journal_path(subject.workload.file_name())


@pytest.fixture
def kept(make_landscape: Make, header: JournalHeader) -> Journal:
    """What a killed run left."""
    made = make_landscape((1,))
    return Journal(header, made.entries[:40])


def save(path: Path, journal: Journal) -> bytes:
    writer = JournalWriter(path, journal.header)
    for entry in journal.entries:
        writer.append(entry.event, entry.clock_s)
    writer.close()
    return path.read_bytes()


def run(header: JournalHeader, landscape: Path | None = None, *, resume: bool = False, refused: bool = False) -> int:
    """A run that measures nothing. How many events an earlier one left."""
    with open_journals(header, landscape, resume=resume) as opened:
        if refused:
            raise DeviceRefused("no GPU")
        for writer in opened.writers:
            writer.close()
        return len(opened.earlier)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def test_a_run_that_starts_anew_keeps_the_journal_before(path: Path, header: JournalHeader, kept: Journal) -> None:
    before = save(path, kept)
    assert run(header) == 0
    assert Journal.read(path).entries == ()
    (previous,) = path.parent.glob("*.previous.jsonl")
    assert previous.read_bytes() == before


def test_a_run_that_came_to_its_end_leaves_nothing_to_resume(path: Path, header: JournalHeader) -> None:
    with open_journals(header, None, resume=False) as opened:
        assert path.exists()
        opened.forget()
    assert files(path.parent) == {}


# ---------------------------------------------------------------
# Going on


def test_resume_goes_on_with_the_journal(path: Path, header: JournalHeader, kept: Journal, tmp_path: Path) -> None:
    save(path, kept)
    landscape = tmp_path / "landscape.jsonl.gz"
    assert run(header, landscape, resume=True) == len(kept.entries)
    assert Journal.read(landscape).entries == Journal.read(path).entries == kept.entries


def test_there_is_nothing_to_resume(header: JournalHeader, journals: Path) -> None:
    with pytest.raises(JournalError, match=r"--resume: expected a killed run's journal, found no .*\.jsonl"):
        run(header, resume=True)
    assert not journals.exists()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda h: replace(h, settings={"num_tokens": [1]}), r"the settings: expected .* found .*\[1\]"),
        (lambda h: replace(h, environment={"triton": "3.6.0"}), r"Triton and kernel: expected .* found .*3\.6\.0"),
        (
            lambda h: replace(h, subject=replace(h.subject, smem_bytes=1)),
            r"the workload: expected .* found .*smem_bytes=1",
        ),
    ],
)
def test_another_run_is_not_resumed(
    other: Callable[[JournalHeader], JournalHeader], told: str, path: Path, header: JournalHeader, kept: Journal
) -> None:
    before = save(path, replace(kept, header=other(header)))
    with pytest.raises(JournalError, match=rf"{told}.* Fix: leave out --resume"):
        run(header, resume=True)
    assert files(path.parent) == {path.name: before}


# ---------------------------------------------------------------
# A landscape


def test_a_landscape_is_not_written_over(header: JournalHeader, journals: Path, tmp_path: Path) -> None:
    landscape = tmp_path / "landscape.jsonl.gz"
    landscape.write_bytes(b"hours of work")
    with pytest.raises(JournalError, match="--record-landscape: expected a new file, found"):
        run(header, landscape)
    assert landscape.read_bytes() == b"hours of work"
    assert not journals.exists()


@pytest.mark.parametrize("name", ["landscape.jsonl", "landscape.jsonl.gz"])
def test_a_resumed_run_writes_its_own_landscape_anew(
    name: str, path: Path, header: JournalHeader, kept: Journal, tmp_path: Path
) -> None:
    save(path, kept)
    whole = save(tmp_path / name, replace(kept, entries=kept.entries[:30]))
    (tmp_path / name).write_bytes(whole[:-20])
    run(header, tmp_path / name, resume=True)
    assert Journal.read(tmp_path / name).entries == kept.entries


@pytest.mark.parametrize("what", ["a note", "of another run"])
def test_a_resumed_run_writes_over_nothing_else(
    what: str, path: Path, header: JournalHeader, kept: Journal, tmp_path: Path
) -> None:
    save(path, kept)
    landscape = tmp_path / "landscape.jsonl"
    save(landscape, replace(kept, header=replace(header, settings={})))
    if what == "a note":
        landscape.write_text("buy milk\n", "utf-8")
    before = landscape.read_bytes()
    with pytest.raises(JournalError, match="--record-landscape: expected a new file, or this very run's own, found"):
        run(header, landscape, resume=True)
    assert landscape.read_bytes() == before


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("is_link", [True, False])
def test_the_journal_is_no_landscape(
    resume: bool, is_link: bool, path: Path, header: JournalHeader, kept: Journal, tmp_path: Path
) -> None:
    before = save(path, kept)
    named = tmp_path / "link" if is_link else path
    if is_link:
        named.symlink_to(path)
    with pytest.raises(JournalError, match="--record-landscape: expected another file than the journal"):
        run(header, named, resume=resume)
    assert files(path.parent) == {path.name: before}


@pytest.mark.parametrize("is_there", [True, False])
def test_where_the_landscape_cannot_be_written_the_journal_stays(
    is_there: bool, path: Path, header: JournalHeader, kept: Journal, tmp_path: Path
) -> None:
    before = {path.name: save(path, kept)} if is_there else {}
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"--record-landscape: expected a file that can be written, found .*Fix"):
        run(header, tmp_path / "file" / "landscape.jsonl")
    assert files(path.parent) == before


def test_a_device_that_refuses_leaves_all_as_it_was(
    path: Path, header: JournalHeader, kept: Journal, tmp_path: Path
) -> None:
    landscape = tmp_path / "landscape.jsonl"
    with pytest.raises(DeviceRefused):
        run(header, landscape, refused=True)
    assert not landscape.exists()
    assert files(path.parent) == {}
    before = save(path, kept)
    older = path.with_suffix(".previous.jsonl")
    for there in ({path.name: before}, {path.name: before, older.name: b"of the run before\n"}):
        for name, data in there.items():
            path.with_name(name).write_bytes(data)
        for resume in (False, True):
            with pytest.raises(DeviceRefused):
                run(header, landscape, resume=resume, refused=True)
            assert not landscape.exists()
            assert files(path.parent) == there


# ---------------------------------------------------------------
# One run at a time

HOLD = """
import sys
from pathlib import Path
from tools.tune import run_journals
run_journals.JOURNALS = Path(sys.argv[1])
with run_journals._locked(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("resume", [True, False])
def test_the_second_run_of_a_file_touches_nothing(
    resume: bool, path: Path, header: JournalHeader, kept: Journal, journals: Path, tmp_path: Path
) -> None:
    before = save(path, kept)
    landscape = tmp_path / "landscape.jsonl"
    command: list[Any] = [sys.executable, "-c", HOLD, journals, path]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(JournalError, match=r"expected no other run of this file, found one at work\. Fix: wait"):
            run(header, landscape, resume=resume)
        assert files(path.parent) == {path.name: before}
        assert not landscape.exists()
        first.communicate()
    run(header, landscape, resume=resume)


def test_a_run_that_was_killed_holds_nothing(path: Path, header: JournalHeader, kept: Journal, journals: Path) -> None:
    save(path, kept)
    command: list[Any] = [sys.executable, "-c", HOLD, journals, path]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        first.kill()
    assert run(header, resume=True) == len(kept.entries)
