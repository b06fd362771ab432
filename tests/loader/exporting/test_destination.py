"""The folder that exports write to: whole files, by turns, healed after a kill, nothing of another hand's touched."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fused_moe_configs import ConfigError, api, export
from fused_moe_configs.exporting import destination as module
from fused_moe_configs.exporting import summary, write_export
from fused_moe_configs.exporting.destination import LOCK
from fused_moe_configs.naming import MANIFEST

from .conftest import SGLANG, D, name, notes, tree

EXPORT = "import sys; from fused_moe_configs import api; api.CONFIGS = api.Path(sys.argv[1]); api.export(*sys.argv[2:])"

# Or in the middle of it, where it writes.
EXPORT_KILLED_BEFORE_A_STEP = """
import os, signal, sys
from pathlib import Path
from fused_moe_configs import api

steps_left, write_bytes = int(sys.argv[4]), Path.write_bytes

def or_kill(step):
    def counted(*arguments, **options):
        global steps_left
        if steps_left == 0:
            if step is write_bytes:
                step(arguments[0], arguments[1][:len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        steps_left -= 1
        return step(*arguments, **options)
    return counted

for name in ("mkdir", "write_bytes", "replace", "unlink"):
    setattr(Path, name, or_kill(getattr(Path, name)))
api.CONFIGS = Path(sys.argv[1])
api.export(*sys.argv[2:4])
"""


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


@pytest.mark.parametrize("engines", [("vllm", "sglang"), ("sglang", "vllm")])
def test_both_engines_share_a_folder_and_each_has_there_what_it_has_alone(store, destination, tmp_path, engines):
    store.add(D, 1)
    store.add(name(N=7), 2, "legacy_configs")
    for engine in engines:
        export(destination, engine)
    alone = {}
    for engine in engines:
        export(tmp_path / engine, engine)
        alone |= tree(tmp_path / engine)
        # As an overlay it gives each engine its own files alone.
        export(tmp_path / f"over {engine}", engine, overlay=destination)
        assert tree(tmp_path / f"over {engine}") == tree(tmp_path / engine)
    assert tree(destination) == alone
    store.add(D, 3)
    export(destination, engines[0])
    assert tree(destination) == alone | tree_of(store, tmp_path / "new", engines[0])


def tree_of(store, destination, engine):
    export(destination, engine)
    return tree(destination)


def another_hands(store, destination, *names):
    """Files with the very bytes that an export to this folder would write."""
    export(destination.with_name("other"), "vllm")
    destination.mkdir()
    for each in names:
        shutil.copy(destination.with_name("other") / each, destination)


def test_another_hands_file_with_the_same_bytes_stays_its_own_through_every_later_export(store, destination):
    gone = store.add(D, 1)
    changed = store.add(name(N=7), 1)
    store.add(name(N=8), 1)
    another_hands(store, destination, D, name(N=7))
    done = write_export(store.root, destination, "vllm")
    assert (done.written, done.is_whole) == ([destination / name(N=8)], True)
    assert done.notes == ["2 files there already with the same bytes: left alone, by later exports too"]
    gone.unlink()
    store.add(changed.name, 2)
    (note,) = write_export(store.root, destination, "vllm").notes
    assert note.startswith(f"{destination / name(N=7)}: left alone: ")
    assert tree(destination) == {D: 1, name(N=7): 1, name(N=8): 1}


@pytest.mark.parametrize("steps", range(12))
def test_nor_does_an_export_that_is_killed_make_it_its_own(store, destination, steps):
    path = store.add(D, 1)
    store.add(name(N=7), 1)
    another_hands(store, destination, D)
    command = [sys.executable, "-c", EXPORT_KILLED_BEFORE_A_STEP, store.root, destination, "vllm", str(steps)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    path.unlink()
    export(destination, "vllm")
    assert tree(destination) == {D: 1, name(N=7): 1}


def test_where_every_file_is_there_already_nothing_is_written_and_nothing_is_missing(store, destination):
    store.add(D, 1)
    another_hands(store, destination, D)
    done = write_export(store.root, destination, "vllm")
    assert (done.written, done.is_whole) == ([], True)
    first, *_, last = summary(done)
    assert first == f"0 files written to {destination}, 1 there already"
    assert last.startswith("export VLLM_TUNED_CONFIG_FOLDER=")


@pytest.mark.parametrize(("files", "said"), [(1, "1 file of an earlier export is removed"),
                                             (3, "3 files of an earlier export are removed")])  # fmt: skip
def test_how_many_files_of_an_earlier_export_are_removed_is_one_line(store, destination, files, said):
    for N in range(1, files + 1):
        store.add(name(N=N), 1)
    store.add(name(device="OTHER"), 1)
    assert notes(store, destination, "vllm", device_name="D") == ""
    assert notes(store, destination, "vllm", device_name="OTHER") == said
    assert tree(destination) == {name(device="OTHER"): 1}


@pytest.mark.parametrize("name", [MANIFEST, D])
def test_a_pipe_in_the_destination_is_not_waited_for(store, destination, name):
    destination.mkdir()
    os.mkfifo(destination / name)
    store.add(D, 1)
    if name == D:
        assert "left alone" in notes(store, destination, "vllm")
    else:
        with pytest.raises(ConfigError, match="list of exported files") as raised:
            export(destination, "vllm")
        assert str(raised.value).count("Fix: ") == 1


def test_exports_at_one_time_take_turns(store, destination):
    for N in range(1, 401):
        store.add(name(N=N), 1)
    command = [sys.executable, "-c", EXPORT, store.root, destination]
    runs = [subprocess.Popen([*command, engine]) for engine in ("vllm", "vllm", "sglang")]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    for N in range(1, 401):
        store.add(name(N=N), 2)
    assert [notes(store, destination, engine) for engine in ("vllm", "sglang")] == ["", ""]
    assert {*tree(destination).values()} == {2}
    assert len(tree(destination)) == 800
    assert {path.name for path in destination.rglob(".*")} == {MANIFEST, LOCK}


def test_an_export_that_does_not_end_is_named(store, destination, monkeypatch):
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0)
    store.add(D, 1)
    destination.mkdir()
    with (destination / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match=r"lock: expected no other export .* Fix: try again"):
            export(destination, "vllm")
        assert [path.name for path in destination.iterdir()] == [LOCK]
    assert export(destination, "vllm") == [destination / D]


def test_a_lock_left_by_a_dead_process_holds_nobody_up(store, destination, monkeypatch):
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0)
    store.add(D, 1)
    destination.mkdir()
    (destination / LOCK).touch()
    assert export(destination, "vllm") == [destination / D]


def test_a_process_forked_in_mid_export_does_not_keep_the_lock(store, destination, monkeypatch):
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0)
    read, write = os.pipe()
    replace, children = Path.replace, []

    def replace_and_fork(self, target):
        if not children:
            children.append(os.fork())
            if not children[0]:
                os.close(write)
                os.read(read, 1)  # until the test ends
                os._exit(0)
        return replace(self, target)

    store.add(D, 1)
    monkeypatch.setattr(Path, "replace", replace_and_fork)
    try:
        export(destination, "vllm")
        assert export(destination, "vllm") == [destination / D]
    finally:
        os.close(write)
        os.waitpid(children[0], 0)
        os.close(read)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EBADF])
def test_a_file_system_without_locks_is_said_and_nothing_is_written(store, destination, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    store.add(D, 1)
    wish = f"lock: expected a file system that locks files, found: {os.strerror(number)}. Fix: export to a local folder"
    with pytest.raises(RuntimeError, match=wish):
        export(destination, "vllm")
    assert [path.name for path in destination.iterdir()] == [LOCK]


def test_a_system_without_locks_is_said_and_nothing_is_written(store, destination, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    store.add(D, 1)
    with pytest.raises(RuntimeError, match=r"expected a system with file locks .* Fix: "):
        export(destination, "vllm")
    assert not destination.exists()


def test_a_link_in_the_locks_place_is_not_followed(store, destination, tmp_path):
    destination.mkdir()
    (destination / LOCK).symlink_to(tmp_path / "elsewhere")
    store.add(D, 1)
    with pytest.raises(OSError, match="symbolic links"):
        export(destination, "vllm")
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_named_like_a_file_is_left_alone(store, destination):
    (destination / D).mkdir(parents=True)
    store.add(D, 1)
    assert "left alone" in notes(store, destination, "vllm")


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{", "\ufeff{}", '{"vllm": 3}', '{"vllm": {"../x.json": ""}}', '{"vllm": {"/x.json": ""}}'],
)
def test_a_broken_manifest_is_refused(store, destination, manifest):
    destination.mkdir()
    (destination / MANIFEST).write_text(manifest)
    store.add(D, 1)
    with pytest.raises(ConfigError, match="list of exported files") as raised:
        export(destination, "vllm")
    assert str(raised.value).count("Fix: ") == 1


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
    assert {path.name for path in destination.iterdir()} == {MANIFEST, LOCK, D}
    broken.clear()
    assert len(export(destination, "vllm")) == 2


def test_files_are_readable_by_whom_the_umask_lets(store, destination):
    store.add(D, 1)
    (path,) = export(destination, "vllm")
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


# ---------------------------------------------------------------
# Killed at any moment


def content(destination):
    """Path → bytes of every file, the manifest among them."""
    return {path.relative_to(destination): path.read_bytes() for path in destination.rglob("*") if path.is_file()}


def upgrade(store, files):
    """Another release: a third of the names gone, a third changed, as many new ones, one folder less and one more."""
    for N in range(1, files + 1):
        store.add(name(N=N), 1)
        store.add(name(N=N), 3, "triton_3_6_0")
    before = shutil.copytree(store.root, store.root.with_name("before"))
    shutil.rmtree(store.root / "triton_3_6_0")
    for N in range(1, files + 1):
        (store.root / name(N=N)).unlink() if N % 3 == 0 else store.add(name(N=N), 1 + N % 3)
        store.add(name(N=files + N), 1, "triton_3_7_0")
    return before


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("is_upgrade", [False, True])
def test_an_export_killed_before_any_of_its_steps_is_healed_by_the_next(store, tmp_path, engine, is_upgrade):
    before = upgrade(store, files=3)
    export(tmp_path / "fresh", engine)
    fresh, killed = content(tmp_path / "fresh"), 0
    while True:
        destination = tmp_path / f"killed before step {killed}"
        if is_upgrade:
            command = [sys.executable, "-c", EXPORT, before, destination, engine]
            subprocess.run(command, check=True, capture_output=True)
        command = [sys.executable, "-c", EXPORT_KILLED_BEFORE_A_STEP, store.root, destination, engine, str(killed)]
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert "left alone" not in notes(store, destination, engine)
        assert content(destination) == fresh, f"killed before step {killed}"
        killed += 1
    assert killed > 3 * len(fresh)


def test_exports_killed_at_random_steps_one_after_the_other_are_healed_by_the_next(store, tmp_path):
    before = upgrade(store, files=20)
    export(tmp_path / "fresh", "sglang")
    fresh, chance, half_written = content(tmp_path / "fresh"), random.Random(0), 0
    for number in range(12):
        destination = tmp_path / f"killed {number}"
        for root in chance.choices([before, store.root], k=3):
            step = str(chance.randrange(3 * len(fresh)))
            command = [sys.executable, "-c", EXPORT_KILLED_BEFORE_A_STEP, root, destination, "sglang", step]
            done = subprocess.run(command, check=False, capture_output=True)
            assert done.returncode in (0, -signal.SIGKILL), done.stderr
        half_written += done.returncode == -signal.SIGKILL and b" " in manifest_hashes(destination)
        assert "left alone" not in notes(store, destination, "sglang")
        assert content(destination) == fresh, f"the folder of number {number}"
    assert half_written > 0


def manifest_hashes(destination):
    path = destination / MANIFEST
    return b"".join(re.findall(rb": \"(.*)\"", path.read_bytes())) if path.exists() else b""


def test_what_another_hand_writes_after_a_kill_is_left_alone(store, destination):
    store.add(D, 1)
    store.add(name(N=7), 1)
    command = [sys.executable, "-c", EXPORT_KILLED_BEFORE_A_STEP, store.root, destination, "vllm", "5"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (destination / MANIFEST).exists()
    (destination / D).write_text("mine")
    assert "left alone" in notes(store, destination, "vllm")
    assert (destination / D).read_text() == "mine"
    assert (destination / name(N=7)).is_file()


def test_only_temporaries_of_its_own_are_swept(store, destination):
    store.add(D, 1)
    destination.mkdir()
    left, others = destination / ".fused_moe_configs-0123456789ab", destination / ".fused_moe_configs-notes"
    left.touch()
    others.touch()
    export(destination, "vllm")
    assert (left.exists(), others.exists()) == (False, True)


# ---------------------------------------------------------------
# Folders that stay as they are


def refused(destination, engine, **options):
    with pytest.raises(
        ValueError, match=r"^destination: expected a folder of the export's own, found .*Fix: "
    ) as raised:
        export(destination, engine, **options)
    return str(raised.value)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("below", ["", "legacy_configs", "new/folder"])
@pytest.mark.parametrize("is_link", [False, True])
def test_the_loaders_own_files_are_never_written_into(store, tmp_path, engine, below, is_link):
    store.add(D, 1)
    store.add(name(N=7), 1, "legacy_configs")
    before = content(store.root)
    root = store.root
    if is_link:
        root = tmp_path / "link"
        root.symlink_to(store.root)
    assert f"writes into the loader's own files, {store.root}" in refused(root / below, engine)
    assert content(store.root) == before


def test_nor_through_the_folder_that_sglangs_layout_adds(store, monkeypatch):
    """In a checkout the store is called configs, as that folder is."""
    store.add(D, 1)
    store.root = store.root.rename(store.root.with_name("configs"))
    monkeypatch.setattr(api, "CONFIGS", store.root)
    before = content(store.root)
    assert "writes into the loader's own files" in refused(store.root.parent, "sglang")
    assert content(store.root) == before
    assert export(store.root.parent / "elsewhere", "sglang")


def test_nor_through_a_link_to_one_of_its_folders(store, destination):
    store.add(D, 1)
    (destination / "configs").mkdir(parents=True)
    (destination / SGLANG).symlink_to(store.root)
    assert "writes into the loader's own files" in refused(destination, "sglang")


@pytest.fixture(params=["registry/devices.json", f"records/{D}"])
def another_store(request, tmp_path):
    """A clone's, say, or that of another installed package."""
    root = tmp_path / "clone" / "configs"
    (root / request.param).parent.mkdir(parents=True)
    (root / request.param).write_text("{}")
    return root


@pytest.mark.parametrize(
    ("engine", "below"), [("vllm", "."), ("vllm", "new/folder"), ("sglang", "."), ("sglang", ".."), ("sglang", "new")]
)
def test_nor_any_other_store(store, another_store, engine, below):
    store.add(D, 1)
    before = content(another_store)
    assert f"writes into a store of tuned files, {another_store}" in refused(another_store / below, engine)
    assert content(another_store) == before
    assert export(another_store.parent / "moe-configs", engine)


def test_folders_that_are_only_called_so_make_no_store(store, destination):
    store.add(D, 1)
    for folder in ("registry", "records"):
        (destination / folder).mkdir(parents=True)
        (destination / folder / "notes.json").write_text("{}")
    assert export(destination, "vllm")


@pytest.mark.parametrize("root", ["/", "//", "/tmp/.."])
def test_nor_the_root_of_the_file_system(store, root):
    store.add(D, 1)
    assert "the root of the file system" in refused(root, "vllm")


@pytest.mark.parametrize(("engine", "below"), [("vllm", ""), ("sglang", ""), ("sglang", "configs")])
def test_nor_the_overlay(store, destination, engine, below):
    store.add(D, 1)
    export(destination, engine)
    before = content(destination)
    assert "'s own files, " in refused(destination, engine, overlay=destination / below)
    link = destination.with_name("link")
    link.symlink_to(destination)
    refused(link, engine, overlay=destination / below)
    refused(destination / "configs/triton_3_8_0/deeper", engine, overlay=destination / below)
    assert content(destination) == before


def test_the_fix_works(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    store.add(D, 1)
    (fix,) = re.findall(r"Fix: name another one, such as (\S+)$", refused(store.root, "vllm"))
    assert export(fix, "vllm") == [Path("moe-configs") / D]


@pytest.mark.parametrize("below", [".", "legacy_configs"])
def test_the_fix_works_for_who_stands_in_a_store(store, monkeypatch, tmp_path, below):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    store.add(D, 1, "legacy_configs")
    monkeypatch.chdir(store.root / below)
    (fix,) = re.findall(r"Fix: name another one, such as (\S+)$", refused(".", "vllm"))
    assert export(fix.replace("~", str(home)), "vllm") == [home / "moe-configs" / D]


def test_nor_is_a_folder_that_is_refused_itself_the_fix(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    store.add(D, 1)
    export("moe-configs", "vllm")
    assert refused("moe-configs", "vllm", overlay="moe-configs").endswith("Fix: name another one")
