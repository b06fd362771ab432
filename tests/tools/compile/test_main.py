"""The command: exit codes, formats, and what it says."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.builders import without_roots_rights
from tests.tools.compile.tuned_files import MIXTRAL, SOUND, tuned
from tools.compile import __main__ as command
from tools.compile.__main__ import main


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache of the command"))


def test_a_sound_file_ends_with_0_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tuned(tmp_path, {64: SOUND})
    assert main([str(path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    table = {line[:17].strip(): line[17:].strip() for line in printed[-5:]}
    assert table["files compiled"] == "1"
    assert table["distinct kernels"] == "2"
    assert table["outcomes"] == "2 ok"


def test_an_error_ends_with_1_and_json_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tuned(tmp_path, {64: (128, 256, 128, 1, 8, 3)})
    assert main([str(path), "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["files"] == 1
    assert {finding["rule"] for finding in report["findings"]} == {"over-shared-memory"}


def test_files_of_another_triton_are_said_unless_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned(tmp_path / "triton_3_1_0", {64: SOUND})
    assert main([str(tmp_path)]) == 0
    assert "it is for Triton 3.1.0" in capsys.readouterr().out
    assert main([str(tmp_path), "--every-version"]) == 0
    assert "2 ok" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["", "triton_3_1_0"])
def test_a_file_that_cannot_be_read_is_an_error_under_any_triton(
    tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tuned(tmp_path / folder, {64: SOUND})
    path.write_text("{", "utf-8")
    assert main([str(tmp_path), "--format", "json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["rule"], finding["severity"]) == ("unreadable", "error")
    assert finding["message"].startswith("not compiled: line 1, column 2: not JSON: ")


def test_a_folder_that_cannot_be_listed_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (closed := root / "triton_3_8_0").mkdir()
        closed.chmod(0)
        with without_roots_rights():
            assert main([str(root), "--format", "json"]) == 1
        closed.chmod(0o755)
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["path"], finding["rule"]) == (str(closed), "unreadable")


def test_missing_paths_and_odd_numbers_are_bad_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / MIXTRAL)]) == 2
    assert "no such file" in capsys.readouterr().err
    for value in ("0", "1025"):
        assert main(["--jobs", value]) == 2
        assert capsys.readouterr().err == f"compile: --jobs: expected from 1 to 1024, found {value}.\n"
    for value in ("0", "inf", "nan", "3e6"):
        with pytest.raises(SystemExit) as end:
            main(["--timeout", value])
        assert end.value.code == 2
        assert "--timeout: expected " in capsys.readouterr().err


def test_a_file_that_is_not_compiled_is_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a device that nobody knows."""
    tuned(tmp_path, {64: SOUND}, MIXTRAL.replace("NVIDIA_H100_80GB_HBM3", "NVIDIA_Nobody"))
    main([str(tmp_path)])
    assert re.search(r"files compiled +0\n", capsys.readouterr().out)


def test_a_folder_without_tuned_files_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "expected tuned files in the repo layout, found none. Fix: name" in err


def test_where_all_are_compiled_it_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_changed_since", lambda revision: ("kernels/launch.py", "README.md", "tools/cli.py"))
    assert main([str(tuned(tmp_path, {64: SOUND})), "--since", "main"]) == 0
    assert capsys.readouterr().err == (
        "compile: 1 file compiled, which is all: kernels/launch.py and 1 more changed since main, on which every "
        "file's outcome hangs\n"
    )


def test_where_one_file_changed_nothing_is_said_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_changed_since", lambda revision: ("README.md",))
    assert main([str(tuned(tmp_path, {64: SOUND})), "--since", "main"]) == 0
    assert capsys.readouterr().err == ""


def test_since_compiles_what_changed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--since", "nowhere"]) == 2
    assert "compile: --since nowhere: expected a revision" in capsys.readouterr().err
