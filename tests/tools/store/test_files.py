"""Where files lie, what they are for, how they are read, and the one way in which they are written."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.launch_config import KEY_VENDOR, LaunchConfig
from tests.builders import NAME, entry, table, without_roots_rights
from tools.checkout import CHECKOUT, reference_triton
from tools.errors import UserError
from tools.store.files import (
    MAX_BYTES,
    Content,
    canonical_config,
    canonical_entries,
    canonical_record,
    closed_folder,
    discover,
    lock,
    read_file,
    record_path,
    tuned_files_of_records,
    version_folder,
    write_file,
)
from tools.store.tiers import Role, version_of_folder
from tools.store.workload import Layout
from tools.text import printable, shown_path

SPACED = "größe und 形"


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"{}")
    return root


def roles(root: Path, layout: Layout, *paths: Path) -> dict[str, Role]:
    return {found.relative.as_posix(): found.role for found in discover(paths or [root], layout)}


class TestDiscover:
    def test_this_stores_layout(self, tmp_path: Path) -> None:
        root = tree(
            tmp_path / SPACED / "configs",
            *("a.json", "triton_3_6_0/a.json", "legacy_configs/a.json"),
            *("records/a.json", "records/triton_3_6_0/a.json", "records/legacy_configs/a.json"),
            *("README.md", "registry/devices.json", "registry/models.json"),
            *("x.py", "other/a.json", "triton_3_6/a.json", "registry/x.json", "records/x.txt", "triton_3_6_0/d/a.json"),
        )
        assert roles(root, Layout.REPO) == {
            **dict.fromkeys(("a.json", "triton_3_6_0/a.json", "legacy_configs/a.json"), Role.CONFIG),
            **dict.fromkeys(
                ("records/a.json", "records/triton_3_6_0/a.json", "records/legacy_configs/a.json"), Role.RECORD
            ),
            **dict.fromkeys(("README.md", "registry/devices.json", "registry/models.json"), Role.KNOWN),
            **dict.fromkeys(("x.py", "other/a.json", "triton_3_6/a.json", "registry/x.json"), Role.FOREIGN),
            **dict.fromkeys(("records/x.txt", "triton_3_6_0/d/a.json"), Role.FOREIGN),
        }

    def test_vllms_folder_is_flat(self, tmp_path: Path) -> None:
        root = tree(tmp_path, "a.json", "README", "deeper/a.json")
        assert roles(root, Layout.VLLM) == {"a.json": Role.CONFIG, "README": Role.KNOWN, "deeper/a.json": Role.KNOWN}

    @pytest.mark.parametrize("named", ["", "configs", "configs/triton_3_6_0", "configs/triton_3_6_0/a.json"])
    def test_sglangs_tree_is_found_from_any_place_in_it(self, tmp_path: Path, named: str) -> None:
        root = tree(tmp_path, "configs/triton_3_6_0/a.json")
        assert roles(root, Layout.SGLANG, root / named) == {"triton_3_6_0/a.json": Role.CONFIG}

    @pytest.mark.parametrize(
        "file", ["a.json", "triton_3_6_0/a.json", "legacy_configs/a.json", "records/triton_3_6_0/a.json"]
    )
    def test_a_file_has_the_same_place_whether_it_or_its_folder_is_named(self, tmp_path: Path, file: str) -> None:
        root = tree(tmp_path / "configs", file)
        for named in (root, root / file, (root / file).parent):
            (found,) = discover([named], Layout.REPO)
            assert (found.root, found.relative) == (root, PurePosixPath(file))

    def test_each_file_once_and_sorted(self, tmp_path: Path) -> None:
        root = tree(tmp_path, "b.json", "a.json")
        found = discover([root / "b.json", root, root], Layout.REPO)
        assert [file.path.name for file in found] == ["a.json", "b.json"]

    def test_relative_paths_mean_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree(tmp_path / "configs", "legacy_configs/a.json")
        monkeypatch.chdir(tmp_path / "configs" / "legacy_configs")
        for named in (".", "..", "a.json"):
            (found,) = discover([Path(named)], Layout.REPO)
            assert found.relative == PurePosixPath("legacy_configs/a.json")

    def test_a_missing_path_raises(self, tmp_path: Path) -> None:
        for name in ("nothing", "x" * 300):
            with pytest.raises(FileNotFoundError):
                discover([tmp_path / name], Layout.REPO)

    @pytest.mark.parametrize("named", ["..", "../configs", "../configs/a.json", "../configs/../configs/a.json"])
    def test_a_file_has_one_path_whatever_the_way_to_it(self, tmp_path: Path, named: str) -> None:
        root = tree(tmp_path / "configs", "a.json")
        (found,) = discover([root / named, root], Layout.REPO)
        assert found.path == root / "a.json"

    def test_two_dots_after_a_link_mean_what_they_mean_to_the_system(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "elsewhere" / "configs", "a.json")
        (tmp_path / "link").symlink_to(root)
        (found,) = discover([tmp_path / "link" / ".." / "configs"], Layout.REPO)
        assert found.path == root / "a.json"

    def test_the_tuned_files_of_records_are_found(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "configs", "a.json", "records/a.json", "records/legacy_configs/gone.json")
        (found,) = tuned_files_of_records(discover([root / "records"], Layout.REPO))
        assert (found.path, found.role) == (root / "a.json", Role.CONFIG)
        assert tuned_files_of_records(discover([root], Layout.REPO)) == []

    def test_a_folder_that_can_not_be_entered_is_named(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = tree(Path(name), "closed/deeper/a.json")
            root.chmod(0o755)
            (root / "closed").chmod(0)
            with without_roots_rights():
                assert closed_folder(root / "closed" / "deeper" / "a.json") == root / "closed"
                assert closed_folder(root / "closed") is None
                with pytest.raises(PermissionError) as raised:
                    discover([root / "closed" / "deeper"], Layout.REPO)
            (root / "closed").chmod(0o755)
        assert raised.value.filename == str(root / "closed")

    def test_links_inside_are_listed_not_followed(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "configs")
        outside = tree(tmp_path / "outside", "a.json")
        root.mkdir()
        (root / "folder").symlink_to(outside)
        (root / "loop").symlink_to(root)
        (root / "file.json").symlink_to(outside / "a.json")
        assert roles(root, Layout.REPO) == dict.fromkeys(("folder", "loop", "file.json"), Role.FOREIGN)

    def test_a_link_that_is_named_is_followed(self, tmp_path: Path) -> None:
        root = tree(tmp_path / "configs", "a.json")
        (tmp_path / "link").symlink_to(root)
        assert roles(root, Layout.REPO, tmp_path / "link") == {"a.json": Role.CONFIG}


class TestRead:
    def test_a_document_and_its_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / f"{SPACED}.json"
        path.write_bytes(b'{"1": 2}')
        assert read_file(path) == Content(b'{"1": 2}', {"1": 2}, ())

    @pytest.mark.parametrize(("size", "faults"), [(MAX_BYTES, 0), (MAX_BYTES + 1, 1), (50 * 1024**2, 1)])
    def test_up_to_a_megabyte(self, tmp_path: Path, size: int, faults: int) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(b"{}".ljust(min(size, MAX_BYTES + 1)))
        os.truncate(path, size)
        content = read_file(path)
        assert len(content.faults) == faults
        if faults:
            assert content.data is None
            assert content.faults[0].message == f"expected at most {MAX_BYTES} bytes, found {size}"
            assert "tuned" not in content.faults[0].fix  # registries and records are read so too

    def test_whatever_is_no_file_is_a_fault(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("nothing")
        (tmp_path / "loop").symlink_to("loop")
        for name in (".", "pipe", "link", "loop", "missing", "x" * 300):
            content = read_file(tmp_path / name)
            assert (content.data, content.document, len(content.faults)) == (None, None, 1)
        assert read_file(tmp_path / "missing").faults[0].message == "not found"


class TestWrite:
    def test_a_pipe_or_device_is_no_file_to_replace(self, tmp_path: Path) -> None:
        """As root, /dev/full became a file."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with pytest.raises(OSError, match="a device or pipe stands there"):
            write_file(pipe, b"x")
        assert pipe.is_fifo()

    def test_folders_are_made_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        path = tmp_path / SPACED / "deeper" / NAME
        write_file(path, b"1")
        write_file(path, b"22")
        assert path.read_bytes() == b"22"
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("step", ["fsync", "fdopen"])
    def test_a_failure_leaves_the_old_bytes_and_no_rest(
        self, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / NAME
        write_file(path, b"old")

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space left") as raised:
            write_file(path, b"new")
        assert raised.value.filename == str(path)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_what_a_killed_writer_left_goes_with_the_next_write_there(self, tmp_path: Path) -> None:
        path, other = tmp_path / "a.json", tmp_path / ".other.tmp"
        other.touch()
        program = (
            "import os, sys; from pathlib import Path; from tools.store.files import write_file\n"
            "os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
            "write_file(Path(sys.argv[1]), b'1')"
        )
        killed = subprocess.run([sys.executable, "-c", program, str(path)], cwd=CHECKOUT, check=False)
        assert killed.returncode == -9
        assert len(list(tmp_path.iterdir())) == 2
        write_file(path, b"2")
        assert sorted(tmp_path.iterdir()) == [other, path]
        assert path.read_bytes() == b"2"

    def test_writers_at_the_same_time_disturb_none(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from tools.store.files import write_file\n"
            "for i in range(200): write_file(Path(sys.argv[1], f'{i % 3}'), sys.argv[2].encode() * 999)"
        )
        processes = [
            subprocess.Popen([sys.executable, "-c", program, str(tmp_path), letter], cwd=CHECKOUT) for letter in "ab"
        ]
        assert [process.wait(60) for process in processes] == [0, 0]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
        assert {path.read_bytes() for path in tmp_path.iterdir()} <= {b"a" * 999, b"b" * 999}

    def test_a_file_in_the_way_of_a_folder_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        for name in ("a/b.json", "a/b/c.json"):
            with pytest.raises(NotADirectoryError, match="a file stands where a folder is needed"):
                write_file(tmp_path / name, b"1")

    def test_readers_see_whole_files_only(self, tmp_path: Path) -> None:
        path = tmp_path / NAME
        texts = [bytes([letter]) * 200_000 for letter in b"ab"]
        write_file(path, texts[0])
        seen: set[bytes] = set()
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                seen.add(path.read_bytes())

        reader = threading.Thread(target=look)
        reader.start()
        for turn in range(10_000):
            write_file(path, texts[turn % 2])
            if turn >= 60 and len(seen) > 1:  # the reader was there meanwhile
                break
        done.set()
        reader.join()
        assert seen == set(texts)

    def test_a_new_file_is_readable_by_all_and_an_old_one_keeps_its_mode(self, tmp_path: Path) -> None:
        path = tmp_path / NAME
        write_file(path, b"1")
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        path.chmod(0o600)
        write_file(path, b"2")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


values = (
    st.integers() | st.booleans() | st.text(max_size=4) | st.none() | st.floats(allow_nan=False, allow_infinity=False)
)
configs = st.dictionaries(
    st.integers(1, 9_999_999).map(str),
    st.dictionaries(st.sampled_from([*KEY_VENDOR, "other"]), values, max_size=8),
    max_size=6,
)


COUNT = """
import sys, time
from pathlib import Path
from tools.store.files import lock, write_file

root, path = Path(sys.argv[1]), Path(sys.argv[1], "count")
for _ in range(int(sys.argv[2])):
    with lock(root):
        count = int(path.read_bytes()) if path.exists() else 0
        write_file(path, str(count + 1).encode())
"""

HOLD = """
import sys, time
from pathlib import Path
from tools.store.files import lock

with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class TestLock:
    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)

    def test_what_two_processes_add_at_the_same_time_is_all_there(self, tmp_path: Path) -> None:
        root = tmp_path / "not yet there"
        processes = [self.start(COUNT, root, 150) for _ in range(2)]
        assert [process.wait(60) for process in processes] == [0, 0]
        assert (root / "count").read_bytes() == b"300"
        assert [path.name for path in root.iterdir()] == ["count"]

    def test_it_ends_with_its_process_however_that_ends(self, tmp_path: Path) -> None:
        holder = self.start(HOLD, tmp_path)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        told = r"expected no other process that writes there, found one for 0\.1 s"
        with pytest.raises(UserError, match=told), lock(tmp_path, 0.1):
            raise AssertionError("held twice")
        holder.kill()
        holder.communicate()
        with lock(tmp_path, 10.0):
            assert list(tmp_path.iterdir()) == []

    def test_a_file_in_the_way_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(NotADirectoryError, match="a file stands where a folder is needed"), lock(tmp_path / "a"):
            pass


class TestCanonicalBytes:
    @given(configs)
    def test_they_are_idempotent_and_change_no_value(self, config: dict[str, dict[str, Any]]) -> None:
        data = canonical_config(config)
        read = json.loads(data)
        assert read == config
        assert repr(sorted((k, sorted(v.items())) for k, v in read.items())) == repr(
            sorted((k, sorted(v.items())) for k, v in config.items())
        )
        assert canonical_config(read) == data

    @given(configs, st.randoms())
    def test_the_order_at_the_start_does_not_matter(self, config: dict[str, dict[str, Any]], random: Any) -> None:
        keys = list(config)
        random.shuffle(keys)
        shuffled = {key: dict(reversed(config[key].items())) for key in keys}
        assert canonical_config(shuffled) == canonical_config(config)

    def test_batch_sizes_ascend_as_numbers_and_keys_have_their_order(self) -> None:
        data = canonical_config({"16": dict(reversed(entry(SPLIT_K=1, num_ctas=1).items())), "9": entry()})
        assert data.decode().splitlines()[:9] == [
            "{",
            '    "9": {',
            '        "BLOCK_SIZE_M": 16,',
            '        "BLOCK_SIZE_N": 64,',
            '        "BLOCK_SIZE_K": 64,',
            '        "GROUP_SIZE_M": 1,',
            '        "num_warps": 4,',
            '        "num_stages": 3',
            "    },",
        ]
        assert list(json.loads(data)["16"])[-2:] == ["num_ctas", "SPLIT_K"]
        assert data.endswith(b"    }\n}\n")

    def test_launch_configs_are_written_the_same_way(self) -> None:
        entries = {int(key): LaunchConfig.from_entry(row) for key, row in table().items()}
        assert canonical_entries(entries) == canonical_config(table())

    def test_a_record_keeps_its_order_and_letters_and_refuses_what_is_no_json(self) -> None:
        assert canonical_record({"b": "é", "a": 1}) == '{\n    "b": "é",\n    "a": 1\n}\n'.encode()
        with pytest.raises(ValueError, match="JSON"):
            canonical_record({"a": float("nan")})


class TestNames:
    @pytest.mark.parametrize(
        ("version", "folder"),
        [
            ("3.8.0", "triton_3_8_0"),
            ("3.8.0+git1a2b", "triton_3_8_0"),
            ("3.8.0rc1", "triton_3_8_0"),
            ("3.10.12.post1", "triton_3_10_12"),
            ("03.08.00", "triton_3_8_0"),
        ],
    )
    def test_a_versions_folder(self, version: str, folder: str) -> None:
        assert version_folder(version) == folder
        assert version_of_folder(folder) is not None

    @pytest.mark.parametrize(
        "version", ["", "3", "3.8", "v3.8.0", "3.8.x", "٣.8.0", "12345.0.0", "3.8.12345", "0.0.0", "0.0.0+git"]
    )
    def test_what_is_no_version_raises_with_the_text(self, version: str) -> None:
        with pytest.raises(ValueError, match=r"expected X\.Y\.Z, found"):
            version_folder(version)

    @pytest.mark.parametrize(
        "folder",
        [
            "",
            "triton_3_8",
            "triton_3_8_0_rc1",
            "triton_3_8_0\n",
            "Triton_3_8_0",
            "triton_٣_8_0",
            "triton_3_8_-1",
            "triton_03_08_00",
            "triton_3_8_00",
        ],
    )
    def test_other_folders_have_no_version(self, folder: str) -> None:
        assert version_of_folder(folder) is None

    def test_the_reference_is_a_version(self) -> None:
        assert version_of_folder(version_folder(reference_triton()))

    def test_a_records_place_mirrors_its_files(self) -> None:
        root = Path("configs")
        assert record_path(root, PurePosixPath("triton_3_6_0/a.json")) == root / "records/triton_3_6_0/a.json"

    def test_paths_are_shown_from_the_working_directory_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert shown_path(tmp_path / SPACED / "a.json") == f"{SPACED}/a.json"
        assert shown_path(Path("a.json")) == "a.json"
        assert shown_path(Path("/elsewhere/a.json")) == "/elsewhere/a.json"

    @given(st.text() | st.binary().map(os.fsdecode))
    def test_shown_text_is_printable(self, text: str) -> None:
        assert printable(text).isprintable()

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (
                "configs/##[error file=README.md;line=1]hello.json",
                r"configs/#\x23\x5berror file=README.md;line=1]hello.json",
            ),
            ("###[[error]", r"#\x23\x23\x5b[error]"),
            ("ends with ##", r"ends with #\x23"),
            ("#[error]", r"#\x5berror]"),
            ("::error::x", r":\x3aerror::x"),
            ("  ::error::x", r"  :\x3aerror::x"),
            ("C#, #1, a::b, [1]", "C#, #1, a::b, [1]"),
        ],
    )
    def test_no_command_to_githubs_runner_survives(self, text: str, shown: str) -> None:
        assert printable(text) == shown
        assert printable(shown) == shown

    @given(st.text("#[: \n"), st.text("#[:"))
    def test_not_even_where_two_texts_meet(self, one: str, other: str) -> None:
        line = f"found {printable(one)} and {printable(other)}"
        assert "##[" not in line
        assert not printable(one).lstrip().startswith("::")

    def test_letters_stay_as_they_are(self) -> None:
        assert printable(SPACED) == SPACED
        assert printable("a\n\udcff\u202e") == r"a\n\udcff\u202e"
