"""Reports of two runs never share a name, and a folder that can't take them is refused before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels.problem import Flavour
from tools.bench.request import EngineFile
from tools.bench.session import claim, engine_kernel, file_name_part, write
from tools.errors import UserError


def test_another_runs_report_is_never_written_over(tmp_path: Path) -> None:
    stem = "2026-01-31-bench-triton-3.8.0"
    paths = [claim(tmp_path / "deep", stem) for _ in range(2)]
    assert [path.name for path in paths] == [stem, f"{stem}-2"]
    (tmp_path / "deep" / f"{stem}-3.json").write_text("another's")
    assert claim(tmp_path / "deep", stem).name == f"{stem}-4"


def test_a_run_replaces_its_own_report(tmp_path: Path) -> None:
    path = claim(tmp_path, "a-3.8.0")
    for text in ("some rows", "all rows"):
        assert write(path, text, f'"{text}"') == (tmp_path / "a-3.8.0.md", tmp_path / "a-3.8.0.json")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "a-3.8.0.md": "all rows",
        "a-3.8.0.json": '"all rows"',
    }


def test_what_a_workload_is_called_becomes_a_part_of_a_name() -> None:
    assert file_name_part("mistralai/Mixtral-8x7B-v0.1 tp=2") == "mistralai_Mixtral-8x7B-v0.1_tp=2"
    assert file_name_part("../[a]\n") == ".._a"


def test_a_kernels_path_of_links_in_a_circle_is_one_line(tmp_path: Path) -> None:
    (link := tmp_path / "fused_moe.py").symlink_to(link)
    with pytest.raises(UserError, match=r"fused_moe\.py: "):
        engine_kernel(EngineFile(Flavour.VLLM, link))
