"""A temporary folder goes with its owner, or with the next owner where a kill left it."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.checkout import CHECKOUT
from tools.scratch import Scratch
from tools.store.files import lock


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def owner(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder that holds a file."""
    code = (
        f"import sys, tempfile; sys.path.insert(0, {str(CHECKOUT)!r}); tempfile.tempdir = {str(folder)!r}\n"
        "from tools.scratch import Scratch\nscratch = Scratch('pool-')\n"
        "(scratch.path / 'inner').mkdir(); (scratch.path / 'inner' / 'a.ptx').write_text('x')\n"
        "print(scratch.path, flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_it_is_there_while_it_is_used_and_gone_afterwards(folder: Path) -> None:
    with Scratch("pool-") as path:
        (path / "log").write_text("x")
        assert path.parent.parent == folder
    assert list(folder.iterdir()) == []


def test_twice_is_once_and_forgotten_is_gone(folder: Path) -> None:
    scratch = Scratch("pool-")
    scratch.cleanup()
    scratch.cleanup()
    forgotten: list[Scratch] = [Scratch("pool-")]
    with pytest.warns(ResourceWarning):
        forgotten.clear()
    gc.collect()
    assert list(folder.iterdir()) == []


def test_what_a_kill_left_goes_with_the_next(folder: Path) -> None:
    with owner(folder) as (process, left):
        process.kill()
        process.wait()
        assert (left / "inner" / "a.ptx").exists()
        with Scratch("pool-") as path:
            assert list(folder.iterdir()) == [path.parent]


def test_a_living_owners_folder_stays_whoever_comes(folder: Path) -> None:
    with owner(folder) as (_, theirs), Scratch("pool-") as ours, Scratch("pool-") as third:
        assert sorted(folder.iterdir()) == sorted(path.parent for path in (theirs, ours, third))
        assert (theirs / "inner" / "a.ptx").exists()


def test_one_that_is_swept_before_it_is_locked_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes it for a dead owner's, and is still at it when the owner asks for the lock."""
    flock, waits, made = fcntl.flock, threading.Event(), list[threading.Thread]()

    class Swept(tempfile.TemporaryDirectory[str]):
        def __init__(self, prefix: str) -> None:
            super().__init__(prefix=prefix)
            if made:
                return
            descriptor = os.open(self.name, os.O_RDONLY)
            flock(descriptor, fcntl.LOCK_EX)

            def sweep() -> None:
                waits.wait()
                shutil.rmtree(self.name)
                os.close(descriptor)

            made.append(threading.Thread(target=sweep))
            made[0].start()

    def tell(descriptor: int, operation: int) -> None:
        if not operation & fcntl.LOCK_NB:
            waits.set()
        flock(descriptor, operation)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", Swept)
    monkeypatch.setattr(fcntl, "flock", tell)
    with Scratch("pool-") as path:
        waits.set()
        made[0].join()
        assert list(folder.iterdir()) == [path.parent]


def test_a_store_in_it_can_be_locked() -> None:
    with Scratch("pool-") as path, lock(path, 0.0):
        pass


def test_nothing_else_is_swept(folder: Path) -> None:
    (folder / "pool-file").write_text("a file")
    (folder / "canary-x").mkdir()
    outside = folder / "outside"
    outside.mkdir()
    (folder / "pool-link").symlink_to(outside)
    with Scratch("pool-"):
        pass
    assert sorted(path.name for path in folder.iterdir()) == ["canary-x", "outside", "pool-file", "pool-link"]


def test_no_room_is_the_callers_to_say(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "nowhere"))
    with pytest.raises(OSError, match="No such file"):
        Scratch("pool-")
