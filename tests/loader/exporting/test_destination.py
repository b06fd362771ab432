"""The folder that exports write to: whole files, by turns, and nothing of another hand's touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fused_moe_configs import ConfigError, export
from fused_moe_configs.exporting import destination as module
from fused_moe_configs.exporting.destination import LOCK, MANIFEST

from .conftest import SGLANG, D, name, notes, tree


def test_the_same_export_again_writes_the_same(store, destination):
    store.add(D, 1)
    first = export(destination, "vllm")
    assert export(destination, "vllm") == first


def test_what_another_hand_wrote_is_left_alone_and_said(store, destination):
    destination.mkdir()
    (destination / D).write_text("mine")
    store.add(D, 1)
    assert "left alone" in notes(store, destination, "vllm")
    assert (destination / D).read_text() == "mine"
    assert export(destination, "vllm") == []


def test_what_was_changed_since_is_left_alone(store, destination):
    store.add(D, 1)
    export(destination, "vllm")
    (destination / D).write_text("changed")
    store.add(D, 2)
    assert "left alone" in notes(store, destination, "vllm")
    assert (destination / D).read_text() == "changed"


def test_stale_files_go_only_while_unchanged_and_only_the_engines_own(store, destination):
    first, second = store.add(D, 1), store.add(name(N=9), 2)
    store.add(name(N=7), 3)
    export(destination, "sglang")
    export(destination, "vllm")
    (destination / name(N=9)).write_text("changed")
    (destination / "foreign.json").write_text("{}")
    first.unlink()
    second.unlink()
    assert "left alone" in notes(store, destination, "vllm")
    assert {path.name for path in destination.glob("*.json")} == {MANIFEST, name(N=7), name(N=9), "foreign.json"}
    assert len(list((destination / SGLANG).iterdir())) == 3


def test_a_file_that_has_our_bytes_already_is_taken_over(store, destination):
    store.add(D, 1)
    export(destination, "vllm")
    (destination / MANIFEST).unlink()
    assert export(destination, "vllm") == [destination / D]
    store.add(D, 2)
    export(destination, "vllm")
    assert tree(destination) == {D: 2}


@pytest.mark.parametrize("name", [MANIFEST, D])
def test_a_pipe_in_the_destination_is_not_waited_for(store, destination, name):
    destination.mkdir()
    os.mkfifo(destination / name)
    store.add(D, 1)
    if name == D:
        assert "left alone" in notes(store, destination, "vllm")
    else:
        with pytest.raises(ConfigError, match="list of exported files"):
            export(destination, "vllm")


def test_exports_at_one_time_take_turns(store, destination):
    for N in range(1, 401):
        store.add(name(N=N), 1)
    code = (
        "import sys; from fused_moe_configs import api; api.CONFIGS = api.Path(sys.argv[1]); api.export(*sys.argv[2:])"
    )
    command = [sys.executable, "-c", code, store.root, destination]
    runs = [subprocess.Popen([*command, engine]) for engine in ("vllm", "vllm", "sglang")]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    for N in range(1, 401):
        store.add(name(N=N), 2)
    assert [notes(store, destination, engine) for engine in ("vllm", "sglang")] == ["", ""]
    assert {*tree(destination).values()} == {2}
    assert len(tree(destination)) == 800
    assert not (destination / LOCK).exists()


def test_a_lock_that_nobody_lifts_is_named(store, destination, monkeypatch):
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0)
    store.add(D, 1)
    destination.mkdir()
    (destination / LOCK).touch()
    with pytest.raises(TimeoutError, match=r"lock: expected no other export .* remove the file"):
        export(destination, "vllm")
    assert [path.name for path in destination.iterdir()] == [LOCK]


def test_a_directory_named_like_a_file_is_left_alone(store, destination):
    (destination / D).mkdir(parents=True)
    store.add(D, 1)
    assert "left alone" in notes(store, destination, "vllm")


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{", '{"vllm": 3}', '{"vllm": {"../x.json": ""}}', '{"vllm": {"/x.json": ""}}']
)
def test_a_broken_manifest_is_refused(store, destination, manifest):
    destination.mkdir()
    (destination / MANIFEST).write_text(manifest)
    store.add(D, 1)
    with pytest.raises(ConfigError, match="list of exported files"):
        export(destination, "vllm")


def test_a_failed_write_leaves_no_half_file_and_is_continued_by_the_next(store, destination, monkeypatch):
    store.add(D, 1)
    store.add(name(N=9), 2)
    replace, broken = Path.replace, [True]

    def fail(self, target):
        if Path(target).name == name(N=9) and broken:
            raise OSError("disk full")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        export(destination, "vllm")
    assert {path.name for path in destination.iterdir()} == {MANIFEST, D}
    broken.clear()
    assert len(export(destination, "vllm")) == 2


def test_files_are_readable_by_whom_the_umask_lets(store, destination):
    store.add(D, 1)
    (path,) = export(destination, "vllm")
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
