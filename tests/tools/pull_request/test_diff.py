"""What became of files, rows and keys, told from two sides of each path; which files changed alike; coverage."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.tools.validate.builder import H100, NAME, devices, entry, table
from tools.pull_request.diff import Cell, Edit, FileChange, Kind, coverage, file_changes, grouped
from tools.pull_request.files import Version
from tools.registry.models import load_models
from tools.store.files import canonical_config

OTHER = f"E=8,N=2048,device_name={H100}.json"


def latency(median: float | None) -> dict[str, float] | None:
    return None if median is None else {"median": median, "p10": median, "p90": median, "samples": 9}


def rows(median: float, baseline: float = 10.0, incumbent: float | None = None) -> dict[str, Any]:
    """The rows of a record with the same figures at every batch size, in µs."""
    row = {"latency_us": latency(median), "baseline_us": latency(baseline), "incumbent_us": latency(incumbent)}
    return dict.fromkeys(table(), row)


def version(
    document: dict[str, Any] | None, name: str = NAME, record: dict[str, Any] | None = None, folder: str = ""
) -> Version:
    data = None if document is None else canonical_config(document)
    return Version(PurePosixPath(folder, name), data, None if record is None else json.dumps(record).encode())


def only(*pairs: tuple[Version, Version]) -> FileChange:
    (change,) = file_changes(pairs)
    return change


class TestFileChanges:
    def test_an_added_file_gains_over_the_heuristic(self) -> None:
        change = only((version(None), version(table(), record={"rows": rows(8.0)})))
        assert (change.kind, len(change.rows), change.gain_pct) == (Kind.ADDED, len(table()), pytest.approx(20.0))

    def test_a_removed_file(self) -> None:
        assert only((version(table()), version(None))).kind is Kind.REMOVED

    def test_a_retuned_file_names_its_changed_rows_and_keys(self) -> None:
        after = {**table(), "64": entry(num_stages=4, USE_TMA=True), "128": entry(num_stages=4)}
        change = only((version(table()), version(after)))
        assert (change.kind, change.rows, change.gain_pct) == (Kind.RETUNED, (64, 128), None)
        assert change.edits == {Edit("num_stages", "3", "4"), Edit("USE_TMA", None, "true")}

    def test_the_gain_is_over_the_incumbent_measured_beside_it_else_over_the_earlier_record(self) -> None:
        before = version(table(), record={"rows": rows(20.0)})
        after = table(num_stages=4)
        assert only((before, version(after, record={"rows": rows(9.0)}))).gain_pct == pytest.approx(55.0)
        assert only((before, version(after, record={"rows": rows(9.0, incumbent=10.0)}))).gain_pct == pytest.approx(
            10.0
        )

    def test_only_changed_rows_count_for_the_gain(self) -> None:
        figures = {**rows(10.0, incumbent=10.0), "64": {"latency_us": latency(5.0), "incumbent_us": latency(10.0)}}
        change = only((version(table()), version({**table(), "64": entry(num_stages=4)}, record={"rows": figures})))
        assert change.gain_pct == pytest.approx(50.0)

    def test_rows_that_came_and_went_are_counted(self) -> None:
        before = {key: value for key, value in table().items() if key != "1"}
        change = only((version(before), version({key: value for key, value in table().items() if key != "4096"})))
        assert change.rows == (1, 4096)
        assert change.edits == {Edit("batch sizes", None, "1"), Edit("batch sizes", "1", None)}

    def test_a_file_that_left_one_tier_for_another_is_one_change(self) -> None:
        pairs = [
            (version(table()), version(None)),
            (version(None, folder="legacy_configs"), version(table(num_stages=4), folder="legacy_configs")),
        ]
        change = only(*pairs)
        assert (change.kind, change.moved_from, change.tier) == (Kind.MOVED, "default", "legacy_configs")
        assert change.edits == {Edit("num_stages", "3", "4")}

    def test_a_file_that_came_in_two_tiers_has_moved_to_neither(self) -> None:
        tiers = ("legacy_configs", "triton_3_6_0")
        pairs = [(version(None, folder=tier), version(table(), folder=tier)) for tier in tiers]
        kinds = [change.kind for change in file_changes([(version(table()), version(None)), *pairs])]
        assert kinds == [Kind.REMOVED, Kind.ADDED, Kind.ADDED]

    def test_a_record_alone(self) -> None:
        assert (
            only((version(table(), record={}), version(table(), record={"date": "2026-01-01"}))).kind is Kind.RECORDED
        )

    def test_a_mode_alone_is_no_change_of_a_tuned_file(self) -> None:
        same = version(table(), record={})
        assert file_changes([(same, same)]) == ()

    def test_a_record_without_any_file_is_nothing(self) -> None:
        assert file_changes([(version(None, record={}), version(None))]) == ()

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"1": NaN}', b'{"1": {}, "1": {}}', b'{"a": 1}'])
    def test_what_can_not_be_compared(self, data: bytes) -> None:
        after = Version(PurePosixPath(NAME), data, None)
        assert only((version(table()), after)).kind is Kind.UNREADABLE

    @pytest.mark.parametrize("median", [None, "fast", True, -1, 0, [], {}])
    def test_figures_that_are_none_tell_no_gain(self, median: Any) -> None:
        row = {"latency_us": {"median": median}, "baseline_us": latency(10.0)}
        change = only((version(None), version(table(), record={"rows": {"64": row, "x": row, "1": 3}})))
        assert change.gain_pct is None


class TestGroups:
    def test_200_files_with_one_change_are_one_group(self) -> None:
        names = [f"E={i},N=512,device_name={device}.json" for i in range(1, 101) for device in (H100, "NVIDIA_H200")]
        pairs = [(version(table(), name), version(table(num_stages=4), name)) for name in names]
        (group,) = grouped(file_changes(pairs))
        assert (len(group.files), group.num_rows, group.devices) == (200, 200 * len(table()), (H100, "NVIDIA_H200"))

    def test_another_value_is_another_group_and_the_largest_comes_first(self) -> None:
        names = [f"E={i},N=512,device_name={H100}.json" for i in range(1, 4)]
        pairs = [
            (version(table(), name), version(table(num_stages=2 + (i > 0) * 2), name)) for i, name in enumerate(names)
        ]
        assert [len(group.files) for group in grouped(file_changes(pairs))] == [2, 1]

    def test_where_many_values_changed_the_keys_make_the_group(self) -> None:
        def tuned(step: int) -> dict[str, Any]:
            return {key: entry(GROUP_SIZE_M=1 + (rank + step) % 7) for rank, key in enumerate(table())}

        pairs = [(version(table(), name), version(tuned(step), name)) for step, name in enumerate((NAME, OTHER))]
        (group,) = grouped(file_changes(pairs))
        assert len(group.files) == 2

    def test_the_gain_of_a_group_is_the_median_of_its_files(self) -> None:
        names = [f"E={i},N=512,device_name={H100}.json" for i in (1, 2, 3)]
        gains = [9.0, 8.0, 1.0]
        pairs = [
            (version(None, name), version(table(), name, record={"rows": rows(median)}))
            for name, median in zip(names, gains, strict=True)
        ]
        (group,) = grouped(file_changes(pairs))
        assert group.gain_pct == pytest.approx(20.0)


class TestCoverage:
    def test_a_file_covers_every_registered_model_with_its_sizes(self) -> None:
        cells = coverage([PurePosixPath(f"E=8,N=3584,device_name={H100}.json")], load_models(), devices())
        assert Cell("mistralai/Mixtral-8x7B-v0.1", H100) in cells

    def test_aliases_are_one_device_and_tiers_one_cell(self) -> None:
        paths = [
            PurePosixPath("E=8,N=3584,device_name=AMD_Instinct_MI300X.json"),
            PurePosixPath("triton_3_6_0/E=8,N=3584,device_name=AMD_Instinct_MI300X_OAM.json"),
        ]
        assert coverage(paths, load_models(), devices()) == coverage(paths[:1], load_models(), devices())

    def test_the_doubled_size_of_int4_is_halved(self) -> None:
        plain, int4 = (
            coverage([PurePosixPath(f"E=8,N={N},device_name={H100}{dtype}.json")], load_models(), devices())
            for N, dtype in ((3584, ""), (7168, ",dtype=int4_w4a16"))
        )
        assert plain == int4

    def test_names_that_can_not_be_read_cover_nothing(self) -> None:
        assert (
            coverage([PurePosixPath("x.json"), PurePosixPath("E=8,N=7.json")], load_models(), devices()) == frozenset()
        )
