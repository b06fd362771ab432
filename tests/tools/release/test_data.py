"""What a release holds beside wheel and source archive: the same bytes each time, and all that a loader would find."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from fused_moe_configs.index import IndexedFile, to_bytes
from tests.builders import table
from tools.errors import UserError
from tools.release import __main__ as command
from tools.release.data import archive, write_data

WHEEL = "fused_moe_configs-2026.3.9-py3-none-any.whl"
SDIST = "fused_moe_configs-2026.3.9.tar.gz"
VLLM, SGLANG = (f"fused_moe_configs-2026.3.9-{engine}.tar.gz" for engine in ("vllm", "sglang"))
BLOCK = "E=8,N=64,device_name=D,dtype=fp8_w8a8,block_shape=[128,128].json"
LEGACY = "E=8,N=32,device_name=D.json"
TUNED = {BLOCK: json.dumps(table([1, 2])), f"legacy_configs/{LEGACY}": json.dumps(table([1]))}
INDEX = to_bytes(
    [IndexedFile.without_figures(path, hashlib.sha256(text.encode()).hexdigest()) for path, text in TUNED.items()]
)
FILES = {
    **TUNED,
    "registry/devices.json": json.dumps({"schema_version": 1, "devices": [{"name": "D", "aliases": ["D_OEM"]}]}),
    "index.json": INDEX.decode(),
}


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """What `nox -s build` leaves."""
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / SDIST).write_bytes(b"a source archive")
    build_wheel(folder / WHEEL, FILES)
    return folder


def build_wheel(path: Path, files: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("fused_moe_configs/__init__.py", "")
        for name, text in files.items():
            wheel.writestr(f"fused_moe_configs/configs/{name}", text)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_each_engine_gets_an_archive_of_what_its_variable_is_set_to(dist: Path, tmp_path: Path) -> None:
    written = write_data(dist, tmp_path / "data")
    assert [path.name for path in written] == ["SHA256SUMS", SGLANG, VLLM, "index.json"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(path.name for path in written)
    oem = BLOCK.replace("=D,", "=D_OEM,")
    legacy_oem = LEGACY.replace("=D.", "=D_OEM.")
    assert {*members(tmp_path / "data" / VLLM)} == {"LICENSE", BLOCK, oem, LEGACY, legacy_oem}
    spaced = [name.replace("[128,128]", "[128, 128]") for name in (BLOCK, oem)]
    of_sglang = members(tmp_path / "data" / SGLANG)
    assert {*of_sglang} == {
        "LICENSE",
        *(f"configs/triton_3_8_0/{name}" for name in spaced),
        *(f"configs/triton_0_0_0/{name}" for name in (LEGACY, legacy_oem)),
    }
    assert json.loads(of_sglang[f"configs/triton_3_8_0/{spaced[0]}"]) == table([1, 2])
    assert (tmp_path / "data" / "index.json").read_bytes() == INDEX


def test_the_digests_are_of_all_that_the_release_holds_and_can_be_checked(dist: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_data(dist, data)
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for path in (*dist.iterdir(), *data.iterdir()):
        (downloaded / path.name).write_bytes(path.read_bytes())
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=downloaded, capture_output=True, text=True, check=True)
    checked = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert checked == {WHEEL, SDIST, VLLM, SGLANG, "index.json"}
    (downloaded / VLLM).write_bytes(b"another")
    assert subprocess.run(check, cwd=downloaded, capture_output=True, check=False).returncode == 1


def test_the_same_wheel_gives_the_same_bytes(dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {path.name: path.read_bytes() for path in write_data(dist, tmp_path / "first")}
    later = time.time() + 100_000
    monkeypatch.setattr(time, "time", lambda: later)
    assert {path.name: path.read_bytes() for path in write_data(dist, tmp_path / "second")} == first


def test_nothing_in_an_archive_says_who_made_it_where_and_when() -> None:
    names = ["b", "a", f"configs/triton_3_8_0/{'x' * 200}.json"]
    packed = archive(dict.fromkeys(names, b"x"), 1_700_000_000)
    assert (
        hashlib.sha256(packed).digest() == hashlib.sha256(archive(dict.fromkeys(names, b"x"), 1_700_000_000)).digest()
    )
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        found = tar.getmembers()
    assert [member.name for member in found] == sorted(names)
    assert {(m.uid, m.gid, m.uname, m.gname, m.mode, m.mtime) for m in found} == {(0, 0, "", "", 0o644, 1_700_000_000)}


def test_an_archive_carries_the_day_of_its_release(dist: Path, tmp_path: Path) -> None:
    write_data(dist, tmp_path / "data")
    with tarfile.open(tmp_path / "data" / VLLM) as tar:
        assert {time.strftime("%F %T", time.gmtime(member.mtime)) for member in tar} == {"2026-03-09 00:00:00"}


def test_tar_itself_unpacks_it(dist: Path, tmp_path: Path) -> None:
    write_data(dist, tmp_path / "data")
    folder = tmp_path / "moe-configs"
    folder.mkdir()
    subprocess.run(["tar", "xzf", str(tmp_path / "data" / VLLM), "-C", str(folder)], check=True)
    assert json.loads((folder / BLOCK).read_bytes()) == table([1, 2])


@pytest.mark.parametrize("names", [[], [WHEEL, WHEEL.replace("9", "8")], ["other-1.0-py3-none-any.whl"]])
def test_one_wheel_is_what_it_is_of(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="expected one wheel of this package in it, found"):
        write_data(tmp_path, tmp_path / "data")


def test_a_version_that_is_no_date_is_said(tmp_path: Path) -> None:
    build_wheel(tmp_path / "fused_moe_configs-2026.13.9-py3-none-any.whl", FILES)
    with pytest.raises(UserError, match=r"a version that is a date, found 2026\.13\.9"):
        write_data(tmp_path, tmp_path / "data")


def test_what_is_no_wheel_is_said(tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(b"PK")
    with pytest.raises(UserError, match="expected a wheel, found: File is not a zip file"):
        write_data(tmp_path, tmp_path / "data")


def test_a_wheel_without_its_index_is_no_release(tmp_path: Path) -> None:
    build_wheel(tmp_path / WHEEL, {name: text for name, text in FILES.items() if name != "index.json"})
    with pytest.raises(UserError, match=r"expected fused_moe_configs/configs/index\.json in it, found none"):
        write_data(tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_nothing_is_mixed_with_what_was_there(dist: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    with pytest.raises(UserError, match="expected a new folder"):
        write_data(dist, tmp_path / "data")


def test_the_command_names_what_it_wrote(dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["data", str(dist), str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "data" / "SHA256SUMS")
    assert command.main(["data", str(tmp_path), str(tmp_path / "other")]) == 2
    assert "expected one wheel" in capsys.readouterr().err
