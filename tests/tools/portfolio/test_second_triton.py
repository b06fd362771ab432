"""Which default files another Triton is tried on, and what is read of their records and of the bench."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests import builders
from tests.tools.portfolio.stocked import H100, TODAY, Stocked, bench_json, full
from tools.checkout import reference_triton
from tools.portfolio.second_triton import MARGIN_PCT, DefaultFile, default_files, loss_of, losses_of
from tools.store.record import Record, VerifiedWith

DEVICE = builders.devices().find(H100)
NAME, OTHER = "E=64,N=1408", "E=64,N=1024"
SECOND = "3.6.0"


def found(stocked: Stocked) -> tuple[list[DefaultFile], tuple[str, ...]]:
    files, faults = default_files(stocked.folders.configs, DEVICE, SECOND)
    return list(files), faults


def benched(stocked: Stocked, *lines: VerifiedWith) -> Record:
    stocked.tune(NAME)
    (file,), _ = found(stocked)
    return replace(file.record, verified_with=lines)


class TestDefaultFiles:
    def test_are_the_devices_measured_ones(self, stocked: Stocked) -> None:
        path = stocked.tune(NAME)
        stocked.store.measured(stocked.store.config(name=full(OTHER).replace(H100, "NVIDIA_H200")))
        (file,), faults = found(stocked)
        assert (file.name, file.path, file.loss_pct, file.has_version_file) == (full(NAME), path, None, False)
        assert faults == ()

    def test_neither_a_down_file_nor_one_of_another_tier(self, stocked: Stocked) -> None:
        path = stocked.tune(NAME)
        stocked.store.measured(stocked.store.config(name=path.name.replace(".json", "_down.json")))
        for folder in ("triton_3_7_0", "legacy_configs"):
            stocked.store.measured(stocked.store.config(name=full(OTHER), folder=folder))
        files, faults = found(stocked)
        assert ([file.name for file in files], faults) == ([full(NAME)], ())

    def test_one_that_has_a_file_of_the_second_triton_knows_it(self, stocked: Stocked) -> None:
        stocked.tune(NAME)
        stocked.store.measured(stocked.store.config(name=full(NAME), folder="triton_3_6_0"), SECOND)
        assert [file.has_version_file for file in found(stocked)[0]] == [True]

    def test_one_that_changed_after_its_measurement_is_skipped_and_said(self, stocked: Stocked) -> None:
        path = stocked.tune(NAME)
        path.write_bytes(path.read_bytes() + b"\n")
        files, (fault,) = found(stocked)
        assert files == []
        assert fault.endswith(f"{full(NAME)}: skipped: no record of a measurement of this very file")

    def test_one_whose_record_is_broken_is_skipped_and_said(self, stocked: Stocked) -> None:
        path = stocked.tune(NAME)
        stocked.store.record_of(path).write_bytes(b"{")
        files, (fault,) = found(stocked)
        assert files == []
        assert f"{full(NAME)}: skipped: its record: " in fault

    def test_without_a_store_there_are_none(self, tmp_path: Path) -> None:
        assert default_files(tmp_path / "none", DEVICE, SECOND) == ((), ())

    @pytest.mark.parametrize(
        ("loss_pct", "has_version_file", "is_done"),
        [
            (None, False, False),
            (None, True, False),
            (MARGIN_PCT, False, True),
            (MARGIN_PCT + 0.01, False, False),
            (MARGIN_PCT + 0.01, True, True),
        ],
    )
    def test_is_done_once_benched_and_tuned_again_where_it_loses_more_than_the_margin(
        self, stocked: Stocked, loss_pct: float | None, has_version_file: bool, is_done: bool
    ) -> None:
        stocked.tune(NAME)
        (file,), _ = found(stocked)
        assert replace(file, loss_pct=loss_pct, has_version_file=has_version_file).is_done is is_done


class TestLossOf:
    def test_is_that_of_the_last_line_of_this_triton(self, stocked: Stocked) -> None:
        lines = (
            VerifiedWith("3.6.0+git1", TODAY, 5.0),
            VerifiedWith(SECOND, TODAY, 0.25),
            VerifiedWith(reference_triton(), TODAY, 9.0),
        )
        assert loss_of(benched(stocked, *lines), SECOND) == 0.25
        assert loss_of(benched(stocked, *lines[:1]), SECOND) == 5.0
        assert loss_of(benched(stocked, *lines[2:]), SECOND) is None

    def test_a_line_from_before_the_measurement_is_none_of_it(self, stocked: Stocked) -> None:
        assert loss_of(benched(stocked, VerifiedWith(SECOND, "2020-01-01", 0.25)), SECOND) is None


class TestLossesOf:
    def test_are_of_each_files_worst_row_in_per_cent(self) -> None:
        printed = bench_json({"a.json": {"heuristic": (0.9, 1.01234)}, "b.json": {"heuristic": (0.5, 0.75)}})
        assert losses_of(printed) == {"a.json": 1.23, "b.json": -25.0}

    def test_a_file_that_fails_on_a_row_loses_beyond_all_bounds(self) -> None:
        assert losses_of(bench_json({"a.json": {"heuristic": (0.9, None)}})) == {"a.json": math.inf}

    def test_a_file_that_nothing_was_compared_with_has_none(self) -> None:
        assert losses_of(bench_json({"a.json": {"other": (0.9,)}})) == {}

    def test_what_is_no_report_has_none(self) -> None:
        assert losses_of("bench: expected a GPU") == {}
