"""The command: what it takes over passes the store's own validation, and the exit code tells whether all was taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import NAME, Store, table
from tools.checkout import CHECKOUT
from tools.convert.__main__ import main
from tools.findings import Severity


@pytest.fixture
def sglang(tmp_path: Path) -> Store:
    store = Store(tmp_path / "größe und 形" / "sglang")
    for stem in (NAME.removesuffix(".json"), "E=256,N=256,device_name=NVIDIA_H200"):
        name = f"{stem},dtype=fp8_w8a8,block_shape=[128, 128].json"
        store.file(json.dumps(table(num_stages=2)).encode(), name, folder="triton_3_7_0")
    return store


def arguments(source: Path, destination: Path, layout: str = "sglang") -> list[str]:
    return [str(source), "--layout", layout, "--to", str(destination), "--attribution", "Somebody, MIT"]


def test_0_and_a_sound_store_where_all_is_taken(
    sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(sglang.root, tmp_path / "to")) == 0
    assert capsys.readouterr().out.startswith("2 files taken over into ")
    findings = Store(tmp_path / "to").findings()
    assert [f for f in findings if f.severity is Severity.ERROR] == []
    (record, *_) = (tmp_path / "to" / "records").rglob("*.json")
    assert json.loads(record.read_bytes())["attribution"] == "Somebody, MIT"


def test_the_attribution_can_be_given(sglang: Store, tmp_path: Path) -> None:
    assert main([*arguments(sglang.root, tmp_path / "to"), "--attribution", "Müller, MIT"]) == 0
    for record in (tmp_path / "to" / "records").rglob("*.json"):
        assert json.loads(record.read_bytes())["attribution"] == "Müller, MIT"


def test_1_where_some_are_not_with_each_reason_on_stderr(
    sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sglang.file(b"{", "E=1,N=1,device_name=NVIDIA_H200.json", folder="triton_3_7_0")
    assert main(arguments(sglang.root, tmp_path / "to")) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("2 files taken over into ")
    assert captured.out.endswith(", 1 not\n")
    assert captured.err.endswith("3 files: 1 error, 0 warnings, 0 infos\n")
    assert "E=1,N=1,device_name=NVIDIA_H200.json: line 1, column 2: not JSON" in captured.err


def test_2_for_a_missing_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "nowhere", tmp_path / "to")) == 2
    assert capsys.readouterr().err.startswith("convert: no such file or folder: ")
    assert not (tmp_path / "to").exists()


def test_2_where_the_destination_is_a_file(sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "to").write_text("")
    assert main(arguments(sglang.root, tmp_path / "to")) == 2
    assert capsys.readouterr().err.startswith("convert: ")


@pytest.mark.parametrize("layout", ["repo", "tgi"])
def test_2_for_a_layout_that_is_no_engines(sglang: Store, tmp_path: Path, layout: str) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments(sglang.root, tmp_path / "to", layout))
    assert raised.value.code == 2


@pytest.mark.parametrize("attribution", ["Müller", os.fsdecode(b"M\xfcller")], ids=["utf-8", "latin-1"])
def test_no_encoding_stops_it(sglang: Store, tmp_path: Path, attribution: str) -> None:
    command = [
        sys.executable,
        "-m",
        "tools.convert",
        *arguments(sglang.root, tmp_path / "größe"),
        "--attribution",
        attribution,
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == (0 if attribution.isprintable() else 2)
    assert b"Traceback" not in done.stderr


def test_one_file_is_said_in_the_singular(sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path, *_) = sglang.root.rglob("*.json")
    assert main(arguments(path, tmp_path / "to")) == 0
    assert capsys.readouterr().out.startswith("1 file taken over into ")


def test_1_and_every_reason_where_some_can_not_be_written(
    sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sglang.file(b"{", "E=1,N=1,device_name=NVIDIA_H200.json", folder="triton_3_7_0")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "records").write_text("")
    assert main(arguments(sglang.root, tmp_path / "to")) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("0 files taken over into ")
    assert captured.out.endswith(", 3 not\n")
    assert captured.err.count("a file stands where a folder is needed") == 2
    assert "not JSON" in captured.err


def test_2_where_there_is_nothing_to_take(sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(sglang.root, tmp_path / "to", "vllm")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "convert: found no tuned file in the vllm layout below " in captured.err
    assert captured.err.endswith("; is it another --layout?\n")
    assert captured.err.count("not read by vLLM in this place") == 2
    assert not (tmp_path / "to").exists()


def test_2_without_an_attribution(sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments(sglang.root, tmp_path / "to")[:-2])
    assert raised.value.code == 2
    assert "--attribution" in capsys.readouterr().err


@pytest.mark.parametrize("attribution", ["<b>a team</b>, MIT", "[a](b)", "x" * 301])
def test_2_for_one_that_a_page_would_show_as_more_than_text(
    sglang: Store, tmp_path: Path, attribution: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(sglang.root, tmp_path / "to"), "--attribution", attribution]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("convert: --attribution: expected ")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("attribution", ["", " ", "two\nlines", os.fsdecode(b"M\xfcller")])
def test_2_and_one_line_for_an_attribution_that_no_record_can_hold(
    sglang: Store, tmp_path: Path, attribution: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(sglang.root, tmp_path / "to"), "--attribution", attribution]) == 2
    error = capsys.readouterr().err
    assert error.startswith("convert: --attribution: expected one line of readable text, found ")
    assert error.count("\n") == 1
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("place", [0, 4])
def test_2_for_an_empty_path(sglang: Store, tmp_path: Path, place: int) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["" if i == place else text for i, text in enumerate(arguments(sglang.root, tmp_path / "to"))])
    assert raised.value.code == 2
