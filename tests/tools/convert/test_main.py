"""The command: what it takes over passes the store's own validation, and the exit code tells whether all was taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import NAME, Store, table
from tools.checkout import CHECKOUT, CONFIGS, reference_triton
from tools.convert.__main__ import main
from tools.findings import Severity
from tools.store import files
from tools.validate.__main__ import main as validate
from tools.validate.rules import RULES


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
    *files, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in files] == ["triton_3_7_0/"] * 2
    assert last.startswith("2 files taken over into ")
    findings = Store(tmp_path / "to").findings()
    assert [f for f in findings if f.severity is Severity.ERROR] == []
    (record, *_) = (tmp_path / "to" / "records").rglob("*.json")
    assert json.loads(record.read_bytes())["attribution"] == "Somebody, MIT"


def test_what_validate_would_refuse_of_the_folder_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Triton had no such release: nobody would read them there."""
    document = {"triton_version": "3.5.2", **table(num_stages=2)}
    Store(tmp_path / "from").file(json.dumps(document).encode(), "E=8,N=7168,device_name=NVIDIA_H200.json")
    assert main(arguments(tmp_path / "from", tmp_path / "to", "vllm")) == 1
    said = capsys.readouterr()
    assert "(validate refuses it: version-folder)" in said.out
    assert "triton_3_5_2" in said.err
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("tool", ["validate", "convert"])
def test_a_store_that_another_process_holds_is_one_line(
    sglang: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tool: str
) -> None:
    real = files.lock
    for place in ("tools.convert.converter.lock", "tools.validate.fixer.lock"):
        monkeypatch.setattr(place, lambda root: real(root, 0.0), raising=True)
    store = tmp_path / "to"
    store.mkdir()
    name = Store(store).file(b"{}", NAME)
    with files.lock(store):
        code = main(arguments(sglang.root, store)) if tool == "convert" else validate(["--fix", str(name)])
    assert code == 2
    assert "expected no other process that writes there" in capsys.readouterr().err


def test_a_file_that_no_known_model_asks_for_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"E=8,N={N},device_name=NVIDIA_H200.json" for N in (7168, 7200)]
    for name in names:
        Store(tmp_path / "from").file(json.dumps(table(num_stages=2)).encode(), name)
    assert main(arguments(tmp_path / "from", tmp_path / "to", "vllm")) == 0
    known, unknown, _ = capsys.readouterr().out.splitlines()
    assert known == f"legacy_configs/: {names[0]}"
    assert unknown == f"legacy_configs/: {names[1]} (no registered model has its E and N on a rank: are both right?)"


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
    assert captured.out.splitlines()[-1].startswith("2 files taken over into ")
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
def test_2_for_a_layout_that_is_no_engines(
    sglang: Store, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments(sglang.root, tmp_path / "to", layout))
    assert raised.value.code == 2
    assert f"argument --layout: expected vllm or sglang, found '{layout}'" in capsys.readouterr().err


def vllm_folder(root: Path) -> Store:
    """A file of the reference Triton, an older and an undated one."""
    store = Store(root)
    for stem, version in (("E=8,N=14336", reference_triton()), ("E=8,N=3584", "3.6.0"), ("E=8,N=7168", None)):
        document = {**({"triton_version": version} if version else {}), **table()}
        store.file(json.dumps(document).encode(), f"{stem},device_name=NVIDIA_H200.json")
    return store


def test_each_file_is_said_with_its_tier_and_whether_a_default_file_hides_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = vllm_folder(tmp_path / "from")
    hiding = Store(tmp_path / "to").config(table(num_stages=4), "E=8,N=7168,device_name=NVIDIA_H200.json")
    assert main(arguments(store.root, tmp_path / "to", "vllm")) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "default tier: E=8,N=14336,device_name=NVIDIA_H200.json",
        "triton_3_6_0/: E=8,N=3584,device_name=NVIDIA_H200.json",
        f"legacy_configs/: E=8,N=7168,device_name=NVIDIA_H200.json (hidden: {hiding} is read before it)",
    ]


def test_mains_own_default_file_hides_nothing_that_is_taken_over_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "E=8,N=7168,device_name=NVIDIA_H200.json"
    assert (CONFIGS / name).is_file()
    Store(tmp_path / "from").file(json.dumps(table()).encode(), name)
    assert main(arguments(tmp_path / "from", tmp_path / "to", "vllm")) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"legacy_configs/: {name}"


def test_what_validate_would_refuse_is_left_out_with_each_reason(
    sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What lay there before is not this command's to tell."""
    Store(tmp_path / "to").config(table([1]), "E=9,N=1024,device_name=NVIDIA_H200.json")
    short, dead = "E=8,N=512,device_name=NVIDIA_H200.json", "E=8,N=512,device_name=NVIDIA_H200,dtype=bf16.json"
    sglang.file(json.dumps(table([1, 2])).encode(), short, folder="triton_3_7_0")
    sglang.file(json.dumps(table()).encode(), dead, folder="triton_3_7_0")
    assert main(arguments(sglang.root, tmp_path / "to")) == 1
    captured = capsys.readouterr()
    *files, taken = captured.out.splitlines()
    assert [line for line in files if "refuses" in line] == [
        f"left out: {dead} (validate refuses it: file-name, record)",
        f"left out: {short} (validate refuses it: coverage)",
    ]
    assert taken == f"2 files taken over into {tmp_path / 'to'}, 2 not"
    source = sglang.root / "triton_3_7_0" / short
    assert f"error: {source}: batch sizes: expected to reach 4096, found 2" in captured.err
    assert "E=9," not in captured.err
    assert [path for path in (tmp_path / "to").rglob("*.json") if path.name in (short, dead)] == []
    assert source.is_file()


def test_a_down_file_goes_with_the_up_file_that_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, stem = Store(tmp_path / "from"), "E=8,N=512,device_name=NVIDIA_H200"
    too_large = table(BLOCK_SIZE_N=256, BLOCK_SIZE_K=256, num_stages=5)
    store.file(json.dumps(too_large).encode(), f"{stem}.json", folder="triton_3_7_0")
    store.file(json.dumps(table()).encode(), f"{stem}_down.json", folder="triton_3_7_0")
    assert main(arguments(store.root, tmp_path / "to")) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"left out: {stem}.json (validate refuses it: shared-memory)",
        f"left out: {stem}_down.json (validate refuses it: down-twin)",
        f"0 files taken over into {tmp_path / 'to'}, 2 not",
    ]
    assert "convert-" not in captured.err, "the copy that it was tried in"


def test_a_down_file_finds_the_up_file_that_is_there_already(sglang: Store, tmp_path: Path) -> None:
    stem = "E=8,N=512,device_name=NVIDIA_H200"
    Store(tmp_path / "to").config(table(), f"{stem}.json", folder="triton_3_7_0")
    path = sglang.file(json.dumps(table()).encode(), f"{stem}_down.json", folder="triton_3_7_0")
    assert main(arguments(path, tmp_path / "to")) == 0
    assert (tmp_path / "to" / "triton_3_7_0" / f"{stem}_down.json").is_file()


def test_records_that_stay_with_another_attribution_are_counted_at_the_end(
    sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(sglang.root, tmp_path / "to")) == 0
    assert main([*arguments(sglang.root, tmp_path / "to"), "--attribution", "Müller, MIT"]) == 0
    assert capsys.readouterr().out.endswith(", 0 not\n2 records stayed with another attribution\n")


def test_a_record_that_validate_refuses_counts_for_its_file(
    sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a relative path, too."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments(sglang.root, Path("to"))) == 0
    record = next(Path("to/records").rglob("*.json"))
    record.write_bytes(json.dumps({**json.loads(record.read_bytes()), "date": "2999-01-01"}).encode())
    assert main(arguments(sglang.root, Path("to"))) == 1
    captured = capsys.readouterr()
    assert f"left out: {record.name} (validate refuses it: record)\n" in captured.out
    assert f"error: {record}: " in captured.err


@pytest.mark.parametrize("through_a_link", [False, True])
def test_2_where_the_destination_is_the_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], through_a_link: bool
) -> None:
    store = vllm_folder(tmp_path / "from")
    before = {path: path.read_bytes() for path in store.root.iterdir()}
    destination = store.root
    if through_a_link:
        (destination := tmp_path / "link").symlink_to(store.root)
    assert main(arguments(store.root, destination, "vllm")) == 2
    assert "--to: expected another folder than the one that is read, found " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in store.root.iterdir()} == before


def test_2_where_a_file_would_be_written_onto_itself(sglang: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """SGLang's folders have this store's names."""
    sglang.config(folder="triton_3_7_0", record=False)
    assert main(arguments(sglang.root, sglang.root)) == 2
    assert ". Fix: name a store's configs folder" in capsys.readouterr().err
    assert not (sglang.root / "records").exists()


def test_what_triton_ran_unsaid_is_filled_in_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "from")
    silent = table(num_warps=None, num_stages=None)
    store.file(json.dumps({**table(), **{m: silent[m] for m in ("4", "8")}}).encode(), folder="triton_3_7_0")
    assert main(arguments(store.root, tmp_path / "to")) == 0
    told = "rows 4 and 8: num_warps 4 and num_stages 3 filled in, Triton's own, which ran there unsaid"
    assert told in capsys.readouterr().err
    written = json.loads((tmp_path / "to" / "triton_3_7_0" / NAME).read_bytes())
    assert [(written[m]["num_warps"], written[m]["num_stages"]) for m in ("4", "8")] == [(4, 3)] * 2
    assert Store(tmp_path / "to").findings(*RULES) == []


def test_files_of_other_kernels_are_left_and_said_and_fail_nothing(
    sglang: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sglang.file(b"{}", "causal_conv1d_fwd_sm_90.json")
    assert main(arguments(sglang.root, tmp_path / "to")) == 0
    captured = capsys.readouterr()
    assert "info: " in captured.err
    assert "not taken: a file of SGLang's short convolution kernels" in captured.err
    assert captured.out.endswith(", 0 not\n")


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
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 file taken over into ")


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
    assert ": expected tuned files in the vllm layout, found none. Fix: name a file, " in captured.err
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
