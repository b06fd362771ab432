from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests import builders
from tests.tools.portfolio.stocked import H100, Stocked, full, wanted_of_h100
from tools.errors import UserError
from tools.portfolio import listing
from tools.registry.models import ModelRegistry
from tools.registry.sharding import Engine

FIRST = wanted_of_h100().names[0].name.replace(f",device_name={H100}", "").removesuffix(".json")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "find_gpu", lambda: None)


def status(stocked: Stocked, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    listing.add_status(parser)
    return listing.status(parser.parse_args(arguments), stocked.folders)


def next_names(stocked: Stocked, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    listing.add_next(parser)
    return listing.next_names(parser.parse_args(arguments), stocked.folders)


class TestWhichGpus:
    def test_those_named_as_a_driver_spells_them(self, stocked: Stocked) -> None:
        found = listing.devices_of(["NVIDIA H200", "NVIDIA_H100_80GB_HBM3"], stocked.folders)
        assert [device.name for device in found] == ["NVIDIA_H200", H100]

    def test_else_those_with_files_and_the_one_here(self, stocked: Stocked, monkeypatch: pytest.MonkeyPatch) -> None:
        stocked.tune(FIRST)
        assert [device.name for device in listing.devices_of([], stocked.folders)] == [H100]
        monkeypatch.setattr(listing, "find_gpu", lambda: "NVIDIA H200")
        assert [device.name for device in listing.devices_of([], stocked.folders)] == [H100, "NVIDIA_H200"]

    def test_one_on_which_no_model_is_placed_has_nothing_to_say(self, stocked: Stocked) -> None:
        stocked.store.config(name="E=8,N=1024,device_name=NVIDIA_A10.json")
        with pytest.raises(UserError, match=r"--device-name: expected a GPU's name"):
            listing.devices_of([], stocked.folders)

    def test_an_unknown_one_is_refused_with_the_nearest(self, stocked: Stocked) -> None:
        with pytest.raises(UserError, match="NVIDIA_H200"):
            listing.devices_of(["NVIDIA_H2000"], stocked.folders)


class TestStatus:
    @pytest.mark.parametrize(
        "named", [["--device-name", "NVIDIA_H200", H100], ["--device-name", "NVIDIA_H200", "--device-name", H100]]
    )
    def test_every_gpu_that_was_named_is_in_it(
        self, stocked: Stocked, capsys: pytest.CaptureFixture[str], named: list[str]
    ) -> None:
        status(stocked, *named, "--format", "json")
        told = json.loads(capsys.readouterr().out)["devices"]
        assert [each["device_name"] for each in told] == ["NVIDIA_H200", H100]

    def test_prints_a_table_json_or_the_page(self, stocked: Stocked, capsys: pytest.CaptureFixture[str]) -> None:
        assert status(stocked, "--device-name", H100) == 0
        assert capsys.readouterr().out.startswith(f"{H100}: ")
        status(stocked, "--device-name", H100, "--format", "json")
        assert json.loads(capsys.readouterr().out)["devices"][0]["device_name"] == H100
        status(stocked, "--device-name", H100, "--format", "markdown")
        assert capsys.readouterr().out.startswith("# The portfolio\n")

    def test_writes_the_page_where_it_belongs(
        self, stocked: Stocked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "docs" / "portfolio.md"
        assert status(stocked, "--device-name", H100, "--format", "markdown", "--output", str(path)) == 0
        assert path.read_text("utf-8").startswith("# The portfolio\n")
        printed = capsys.readouterr()
        assert printed.out == ""
        assert re.fullmatch(rf"written: {re.escape(str(path))}: [1-9]\d* wanted files on 1 GPU\n", printed.err)

    def test_a_page_that_cannot_be_written_is_one_line(self, stocked: Stocked) -> None:
        with pytest.raises(UserError, match=r"--output: /proc/x\.md: can't be written"):
            status(stocked, "--device-name", H100, "--output", "/proc/x.md")

    def test_a_broken_survey_is_one_line(self, stocked: Stocked) -> None:
        folder = stocked.folders.measurements
        folder.mkdir(parents=True)
        (folder / "2026-11-26-survey-vllm.json").write_text("{", "utf-8")
        with pytest.raises(UserError, match="2026-11-26-survey-vllm"):
            status(stocked, "--device-name", H100)


class TestWanted:
    def test_a_placement_on_no_gpu_is_told(self, stocked: Stocked, monkeypatch: pytest.MonkeyPatch) -> None:
        placed = builders.models().find("Qwen/Qwen3-30B-A3B")
        astray = replace(placed, placements=(replace(placed.placements[0], device="H1OO"),))
        monkeypatch.setattr(listing, "load_models", lambda: ModelRegistry((astray,)))
        (note,) = listing.wanted_of(builders.devices().find(H100), stocked.folders).notes
        assert note.startswith("Qwen/Qwen3-30B-A3B: placed on 'H1OO', which is no GPU's family")

    def test_next_says_it_beside_the_list_and_the_page_once(
        self, stocked: Stocked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        real = listing.wanted_of
        monkeypatch.setattr(listing, "wanted_of", lambda *asked: replace(real(*asked), notes=("a note",)))
        next_names(stocked, "--device-name", H100, "NVIDIA_H200", "-n", "1")
        said = capsys.readouterr()
        assert (said.err, len(said.out.splitlines())) == ("portfolio: a note\n", 2)
        status(stocked, "--device-name", H100, "NVIDIA_H200", "--format", "markdown")
        assert capsys.readouterr().out.count("- a note") == 1


class TestNext:
    def test_the_most_wanted_first(self, stocked: Stocked, capsys: pytest.CaptureFixture[str]) -> None:
        assert next_names(stocked, "--device-name", H100, "-n", "3") == 0
        assert capsys.readouterr().out.splitlines() == [each.name for each in wanted_of_h100().names[:3]]

    def test_what_is_finished_is_not_next(self, stocked: Stocked, capsys: pytest.CaptureFixture[str]) -> None:
        stocked.tune(FIRST, judged_on=None)
        next_names(stocked, "--device-name", H100)
        listed = capsys.readouterr().out.splitlines()
        assert full(FIRST) not in listed
        assert len(listed) == 20

    def test_as_json_with_the_reason(self, stocked: Stocked, capsys: pytest.CaptureFixture[str]) -> None:
        stocked.tune(FIRST)
        next_names(stocked, "--device-name", H100, "-n", "1", "--format", "json")
        (found,) = json.loads(capsys.readouterr().out)
        assert found["standing"] == "not judged"

    def test_of_several_gpus_so_many_each(self, stocked: Stocked, capsys: pytest.CaptureFixture[str]) -> None:
        next_names(stocked, "--device-name", H100, "NVIDIA_H200", "-n", "2")
        devices = [name.partition("device_name=")[2][:11] for name in capsys.readouterr().out.splitlines()]
        assert devices == ["NVIDIA_H100", "NVIDIA_H100", "NVIDIA_H200", "NVIDIA_H200"]

    def test_a_file_holds_names_alone_as_a_run_reads_them(
        self, stocked: Stocked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """nox sends both streams to one."""
        real = listing.wanted_of
        monkeypatch.setattr(listing, "wanted_of", lambda *asked: replace(real(*asked), notes=("a note",)))
        path = tmp_path / "names.txt"
        assert next_names(stocked, "--device-name", H100, "-n", "2", "--output", str(path)) == 0
        assert path.read_text("utf-8").splitlines() == [each.name for each in wanted_of_h100().names[:2]]
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", f"portfolio: a note\nwritten: {path}: 2 names\n")

    def test_where_nothing_is_left_it_says_so(
        self, stocked: Stocked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        real, first = listing.wanted_of, wanted_of_h100().names[0]
        for names, told in (
            ((first,), "nothing is missing: 1 wanted file, all finished"),
            ((), "no registered model is placed on it"),
        ):
            monkeypatch.setattr(listing, "wanted_of", lambda *asked, n=names: replace(real(*asked), names=n, notes=()))
            stocked.tune(FIRST)
            for engine in Engine:
                stocked.judge(FIRST, engine)
            assert next_names(stocked, "--device-name", H100) == 0
            assert capsys.readouterr() == ("", f"portfolio: {H100}: {told}\n")

    def test_a_file_of_none_is_empty(self, stocked: Stocked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = listing.wanted_of
        monkeypatch.setattr(listing, "wanted_of", lambda *asked: replace(real(*asked), names=()))
        assert next_names(stocked, "--device-name", H100, "--output", str(tmp_path / "names.txt")) == 0
        assert (tmp_path / "names.txt").read_bytes() == b""

    @pytest.mark.parametrize("count", ["0", "-3"])
    def test_none_is_refused(self, stocked: Stocked, count: str) -> None:
        with pytest.raises(UserError, match="-n: expected at least 1"):
            next_names(stocked, "-n", count)


def test_the_real_store_has_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    listing.add_status(parser)
    assert listing.status(parser.parse_args(["--device-name", builders.H100])) == 0
    assert capsys.readouterr().out.startswith(f"{H100}: {len(wanted_of_h100().names)} wanted files: ")
