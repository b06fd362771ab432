"""Which file an engine reads under a name: its folders, their order, `_down` files, and what is never read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kernels.problem import Flavour
from tests.builders import without_roots_rights
from tests.tools.portfolio.unpacked_engine import DEEPSEEK, H100, MIXTRAL, QWEN, down_of, rows, unpacked
from tools.errors import UserError
from tools.launch.engine_package import KERNEL_MODULES
from tools.portfolio.shipped_files import find_engine, find_kernel, shipped_files

VLLM, SGLANG = Flavour.VLLM, Flavour.SGLANG


def read(root: Path, flavour: Flavour, triton: str = "3.6.0", device: str = H100) -> tuple[list[str], list[str]]:
    """(what the engine reads, up and down; what it doesn't)."""
    files, not_read = shipped_files(find_engine(flavour, root), device, triton)
    found = [
        file.name if file.down is None else f"{file.name} + {file.down.found.relative.as_posix()}" for file in files
    ]
    return found, [f"{each.name}: {each.reason}" for each in not_read]


class TestFindEngine:
    @pytest.mark.parametrize("flavour", list(Flavour))
    @pytest.mark.parametrize("inner", ["", "package", "kernel"])
    def test_it_is_found_by_its_folder_its_package_or_its_kernel(
        self, tmp_path: Path, flavour: Flavour, inner: str
    ) -> None:
        root = unpacked(tmp_path / "site-packages", flavour, {MIXTRAL: rows(1)} if flavour is VLLM else {})
        place = {"": root, "package": root / flavour, "kernel": root / KERNEL_MODULES[flavour]}[inner]
        engine = find_engine(flavour, place)
        assert engine.kernel == root / KERNEL_MODULES[flavour]
        assert engine.configs.name == "configs"
        assert (engine.package.name, engine.package.version) == (flavour, "1.2.3")

    @pytest.mark.parametrize("flavour", list(Flavour))
    def test_its_kernel_alone_is_found_likewise(self, tmp_path: Path, flavour: Flavour) -> None:
        root = unpacked(tmp_path, flavour, {})
        assert find_kernel(flavour, root / flavour) == root / KERNEL_MODULES[flavour]

    def test_a_folder_deep_inside_the_package_is_no_engine(self, tmp_path: Path) -> None:
        root = unpacked(tmp_path, VLLM, {})
        with pytest.raises(UserError, match="expected vllm's package"):
            find_kernel(VLLM, (root / KERNEL_MODULES[VLLM]).parent)

    def test_another_engines_folder_is_one_line(self, tmp_path: Path) -> None:
        root = unpacked(tmp_path, VLLM, {})
        with pytest.raises(UserError, match=r"expected sglang's package, .*found no sglang/kernels/.*\. Fix: the path"):
            find_engine(SGLANG, root)

    def test_nor_is_the_one_that_lies_beside_it_meant(self, tmp_path: Path) -> None:
        """As in a site-packages folder, where both are installed."""
        unpacked(tmp_path, VLLM, {})
        both = unpacked(tmp_path, SGLANG, {})
        with pytest.raises(UserError, match=r"sglang: expected vllm's package, .*found no vllm/"):
            find_engine(VLLM, both / SGLANG)
        assert find_engine(VLLM, both).package.name == VLLM

    @pytest.mark.parametrize("name", ["a circle of links", "closed/engine", "x" * 300])
    def test_a_place_that_can_not_be_looked_into_is_one_line(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "a circle of links").symlink_to("a circle of links")
        (tmp_path / "closed").mkdir(mode=0)
        with without_roots_rights(), pytest.raises(UserError, match=r"expected vllm's package, .*\. Fix: the path"):
            find_engine(VLLM, tmp_path / name)

    def test_one_whose_version_stands_nowhere_is_one_line_with_what_to_do(self, tmp_path: Path) -> None:
        root = unpacked(tmp_path, VLLM, {})
        shutil.rmtree(next(root.glob("*.dist-info")))
        with pytest.raises(UserError, match=r"expected vllm-….dist-info beside the package, .* Fix: unpack the wheel"):
            find_engine(VLLM, root)

    def test_a_package_without_tuned_files_is_one_line(self, tmp_path: Path) -> None:
        root = unpacked(tmp_path, VLLM, {})
        find_engine(VLLM, root).configs.rmdir()
        with pytest.raises(UserError, match=r"expected vllm's tuned files in .*configs, found none"):
            find_engine(VLLM, root)


class TestVllm:
    def test_its_folder_is_flat_and_the_gpu_is_in_the_name(self, tmp_path: Path) -> None:
        other = MIXTRAL.replace("H100_80GB_HBM3", "H200")
        root = unpacked(tmp_path, VLLM, {MIXTRAL: rows(1), other: rows(1), "README.md": "", "batched.json": "{}"})
        assert read(root, VLLM) == ([MIXTRAL], [])
        assert read(root, VLLM, device="NVIDIA H200 NVL") == ([other], [])  # vLLM asks for all of them under one name

    def test_files_come_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        """Whatever the order in which the folder lists them."""
        names = sorted(MIXTRAL.replace("N=7168", f"N={size}") for size in range(64, 1024, 64))
        root = unpacked(tmp_path, VLLM, {name: rows(1) for name in sorted(names, key=lambda name: name[::-1])})
        assert read(root, VLLM) == (names, [])

    def test_another_kernels_file_of_the_same_sizes_is_none_of_it(self, tmp_path: Path) -> None:
        other = MIXTRAL.replace(".json", ",backend=flydsl.json")
        assert read(unpacked(tmp_path, VLLM, {MIXTRAL: rows(1), other: "{}"}), VLLM) == ([MIXTRAL], [])

    def test_a_name_that_it_never_asks_for_says_so(self, tmp_path: Path) -> None:
        name = MIXTRAL.replace(".json", ",dtype=bf16.json")
        files, _ = shipped_files(find_engine(VLLM, unpacked(tmp_path, VLLM, {name: rows(1)})), H100, "3.8.0")
        assert files[0].fault.startswith("vllm never asks for it: dtype=bf16: expected a dtype that vLLM looks up")


class TestSglang:
    def test_the_running_tritons_folder_goes_first_then_the_newest(self, tmp_path: Path) -> None:
        versions = ["triton_3_5_1", "triton_3_6_0", "triton_3_10_0"]
        root = unpacked(tmp_path, SGLANG, {f"{version}/{MIXTRAL}": rows(1) for version in versions})
        assert read(root, SGLANG, "3.6.0")[0] == [f"triton_3_6_0/{MIXTRAL}"]
        assert read(root, SGLANG, "3.8.0")[0] == [f"triton_3_10_0/{MIXTRAL}"]
        assert read(root, SGLANG, "3.8.0")[1] == [
            f"triton_3_6_0/{MIXTRAL}: triton_3_10_0/{MIXTRAL} goes before it",
            f"triton_3_5_1/{MIXTRAL}: triton_3_10_0/{MIXTRAL} goes before it",
        ]

    def test_a_down_file_is_looked_for_alone(self, tmp_path: Path) -> None:
        down = down_of(DEEPSEEK)
        root = unpacked(tmp_path, SGLANG, {f"triton_3_6_0/{DEEPSEEK}": rows(1), f"triton_3_5_1/{down}": rows(1)})
        assert read(root, SGLANG) == ([f"triton_3_6_0/{DEEPSEEK} + triton_3_5_1/{down}"], [])

    def test_a_down_file_without_an_up_file_is_said(self, tmp_path: Path) -> None:
        root = unpacked(tmp_path, SGLANG, {f"triton_3_6_0/{down_of(QWEN)}": rows(1)})
        assert read(root, SGLANG) == ([], [f"triton_3_6_0/{down_of(QWEN)}: no up file lies there: it is not measured"])

    def test_h200s_keep_their_own_names(self, tmp_path: Path) -> None:
        name = MIXTRAL.replace("H100_80GB_HBM3", "H200")
        root = unpacked(tmp_path, SGLANG, {f"triton_3_6_0/{name}": rows(1)})
        assert read(root, SGLANG, device="NVIDIA H200")[0] == [f"triton_3_6_0/{name}"]
        assert read(root, SGLANG, device="NVIDIA H200 NVL")[0] == []
