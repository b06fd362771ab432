"""An engine's package: a wheel, a folder, or a folder with the wheel in it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from tests.tools.canary.conftest import FakeEngine, sglang, vllm
from tools.launch import engine_package
from tools.launch.engine_package import PackageError, down_file_of, open_package, tuned_file_folders

__all__ = ["sglang", "vllm"]  # fixtures

PLATFORM = "vllm/utils/platform_utils.py"


@pytest.mark.parametrize("how", ["wheel", "unpacked", "downloaded"])
def test_sources_and_version_are_read(tmp_path: Path, vllm: FakeEngine, how: str) -> None:
    path = vllm.unpacked(tmp_path) if how == "unpacked" else vllm.wheel(tmp_path / "wheels")
    found = open_package("vllm", path.parent if how == "downloaded" else path)
    assert found.version == "9.8.7"
    assert found.read(PLATFORM) == vllm.modules[PLATFORM]
    assert found.read("vllm/nothing.py") is None
    assert found.read("vllm/utils") is None


def test_two_wheels_in_a_folder_are_refused(tmp_path: Path, vllm: FakeEngine) -> None:
    vllm.wheel(tmp_path)
    FakeEngine("vllm", vllm.modules, "9.9.0").wheel(tmp_path)
    with pytest.raises(PackageError, match="expected one wheel of vllm, found 2"):
        open_package("vllm", tmp_path)


def test_what_was_unpacked_beside_wheels_is_read(tmp_path: Path, vllm: FakeEngine) -> None:
    for version in ("9.9.0", "9.9.1"):
        FakeEngine("vllm", vllm.modules, version).wheel(tmp_path)
    assert open_package("vllm", vllm.unpacked(tmp_path)).version == "9.8.7"


def test_another_engines_wheel_is_refused(tmp_path: Path, sglang: FakeEngine) -> None:
    with pytest.raises(PackageError, match=re.escape("expected vllm with its vllm-….dist-info, found none")):
        open_package("vllm", sglang.wheel(tmp_path))


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vllm.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(PackageError, match="expected a wheel, found File is not a zip file"):
        open_package("vllm", path)


def test_a_module_that_is_too_large_or_no_text_is_refused(tmp_path: Path, vllm: FakeEngine, monkeypatch) -> None:
    folder = vllm.unpacked(tmp_path)
    found = open_package("vllm", folder)
    (folder / PLATFORM).write_bytes(b"\xff")
    with pytest.raises(PackageError, match="expected UTF-8, found invalid start byte at byte 0"):
        found.read(PLATFORM)
    monkeypatch.setattr(engine_package, "MAX_SOURCE_BYTES", 0)
    with pytest.raises(PackageError, match="expected at most 0 bytes, found more"):
        found.read(PLATFORM)


class TestTunedFiles:
    @pytest.fixture
    def configs(self, tmp_path: Path) -> Path:
        for folder in ("triton_3_5_1", "triton_3_10_0", "triton_3_6_0", "others"):
            (tmp_path / folder).mkdir()
        return tmp_path

    def test_vllms_folder_is_flat(self, configs: Path) -> None:
        assert tuned_file_folders("vllm", configs, "3.6.0") == [configs]

    @pytest.mark.parametrize(
        ("triton", "order"),
        [
            ("3.6.0", ["triton_3_6_0", "triton_3_10_0", "triton_3_5_1"]),
            ("3.8.0", ["triton_3_10_0", "triton_3_6_0", "triton_3_5_1"]),
            ("3.6.0+git1", ["triton_3_10_0", "triton_3_6_0", "triton_3_5_1"]),
        ],
    )
    def test_sglang_takes_the_running_tritons_folder_first_then_the_newest(
        self, configs: Path, triton: str, order: list[str]
    ) -> None:
        assert [folder.name for folder in tuned_file_folders("sglang", configs, triton)] == order

    def test_a_down_file_is_searched_for_by_its_own_name(self, configs: Path) -> None:
        assert down_file_of(tuned_file_folders("sglang", configs, "3.6.0"), "a.json") is None
        for folder in ("triton_3_5_1", "triton_3_10_0"):
            (configs / folder / "a_down.json").touch()
        assert (
            down_file_of(tuned_file_folders("sglang", configs, "3.6.0"), "a.json")
            == configs / "triton_3_10_0" / "a_down.json"
        )
        assert (
            down_file_of(tuned_file_folders("sglang", configs, "3.5.1"), "a.json")
            == configs / "triton_3_5_1" / "a_down.json"
        )


def test_a_damaged_module_of_a_wheel_is_refused(tmp_path: Path) -> None:
    path, inner = tmp_path / "vllm-1.whl", "vllm/a.py"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("vllm-1.dist-info/METADATA", "Version: 1\n")
        wheel.writestr(inner, "x = 1\n" * 1000)
    start = wheel.getinfo(inner).header_offset + 30 + len(inner)
    data = bytearray(path.read_bytes())
    data[start : start + wheel.getinfo(inner).compress_size] = b"\xff" * wheel.getinfo(inner).compress_size
    path.write_bytes(data)
    with pytest.raises(PackageError, match=r"vllm/a\.py cannot be read: .*Fix: download it again"):
        open_package("vllm", path).read(inner)
