"""Reports of two runs never share a name, and a folder that can't take them is refused before anything is measured."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kernels.problem import Flavour
from tools.bench import session
from tools.bench.request import EngineFile
from tools.bench.session import GrowingReport, claim, engine_kernel, file_name_part, write
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


@pytest.mark.parametrize("suffix", [".md", ".json"])
def test_a_report_that_cannot_be_written_leaves_nothing_or_the_one_before(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, path = write(claim(tmp_path, "a"), "rows", "[]"), claim(tmp_path, "b")
    real = session.write_file

    def write_file(target: Path, data: bytes) -> None:
        if target.suffix == suffix:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(target, data)

    monkeypatch.setattr(session, "write_file", write_file)
    for each in (path, tmp_path / "a"):
        with pytest.raises(OSError, match="No space left"):
            write(each, "all rows", "[1]")
    assert {*tmp_path.iterdir()} == {*before}


class TestGrowingReport:
    @pytest.fixture
    def said(self) -> list[str]:
        return []

    @pytest.fixture
    def report(self, tmp_path: Path, said: list[str]) -> GrowingReport:
        return GrowingReport(tmp_path, "a", said.append)

    @pytest.fixture
    def full(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """Whether the disk is, the last entry counts."""
        is_full, real = [True], session.write_file

        def write_file(path: Path, data: bytes) -> None:
            if is_full[-1]:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            real(path, data)

        monkeypatch.setattr(session, "write_file", write_file)
        return is_full

    def test_what_is_found_later_replaces_what_was_written(
        self, report: GrowingReport, tmp_path: Path, said: list[str]
    ) -> None:
        report.write("some rows", "[1]")
        assert report.finish("all rows", "[1, 2]") == (tmp_path / "a.md", tmp_path / "a.json")
        assert (tmp_path / "a.md").read_text() == "all rows"
        assert [line.split(": ")[0] for line in said] == ["written", "written"]

    def test_a_disk_that_is_full_for_a_while_costs_nothing(
        self, report: GrowingReport, tmp_path: Path, full: list[bool], said: list[str]
    ) -> None:
        assert report.write("some rows", "[1]") is None
        full.append(False)
        assert report.finish("all rows", "[1, 2]")
        assert (tmp_path / "a.json").read_text() == "[1, 2]"
        assert said[0].endswith("a.md: No space left on device")

    def test_one_that_stays_full_is_said_and_leaves_no_empty_file(
        self, report: GrowingReport, tmp_path: Path, full: list[bool], said: list[str]
    ) -> None:
        assert report.finish("all rows", "[1, 2]") == ()
        assert said == [f"not written: {tmp_path}/a.md: No space left on device"]
        assert not [*tmp_path.iterdir()]

    def test_nor_does_what_cannot_be_cleared_away_end_the_run(
        self, report: GrowingReport, full: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unlink(path: Path, missing_ok: bool = False) -> None:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

        monkeypatch.setattr(Path, "unlink", unlink)
        assert report.finish("all rows", "[1, 2]") == ()


def test_what_a_workload_is_called_becomes_a_part_of_a_name() -> None:
    assert file_name_part("mistralai/Mixtral-8x7B-v0.1 tp=2") == "mistralai_Mixtral-8x7B-v0.1_tp=2"
    assert file_name_part("../[a]\n") == ".._a"


def test_a_kernels_path_of_links_in_a_circle_is_one_line(tmp_path: Path) -> None:
    (link := tmp_path / "fused_moe.py").symlink_to(link)
    with pytest.raises(UserError, match=r"fused_moe\.py: "):
        engine_kernel(EngineFile(Flavour.VLLM, link))
