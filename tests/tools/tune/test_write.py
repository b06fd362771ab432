"""Where a tuned file goes, what is refused before anything is measured, and that a file is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from tests.tools.portfolio.stocked import wanted
from tests.tools.tune.decided import (
    COUNTS,
    DOWN_ENTRY,
    ENTRY,
    ENVIRONMENT,
    HEURISTICS,
    NAME,
    RUN,
    put_file,
    record_of,
    row,
    with_down,
)
from tools.errors import UserError
from tools.launch.heuristic_version import MeasuredHeuristics
from tools.launch.kernel_hash import kernel_sha256
from tools.portfolio.stock import Method, Standing, look_up
from tools.store import schemas
from tools.store.existing import ExistingError
from tools.store.files import canonical_entries, write_file
from tools.store.record import EngineChecked, HeuristicVersion, Record, ShapeOfModels, VerifiedWith
from tools.store.workload import Shape
from tools.tune import write
from tools.tune.protocol import Subject
from tools.tune.report import TuneSummary
from tools.tune.request import DEFAULT_BATCH_SIZES, TuneRequest, parse
from tools.tune.search import Measurements
from tools.tune.tuner import RowResult, TuneResult
from tools.tune.write import MeasuredRun, Origin, deliver, find_destination, why_refused

DOWN = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3_down.json"
ENTRIES = dict.fromkeys(DEFAULT_BATCH_SIZES, LaunchConfig(16, 64, 128, 1, 4, 4))

Find = Callable[..., tuple[Path, Path | None]]


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configs/."""
    monkeypatch.setattr(write, "CONFIGS", tmp_path / "configs")
    return tmp_path / "configs"


@pytest.fixture
def find(subject: Subject, configs: Path) -> Find:
    """(where the file goes, what an engine would read today) for these flags."""

    def find(*flags: str, output: Path | None = None, triton: str = "3.8.0") -> tuple[Path, Path | None]:
        to = () if output is None else ("--output", str(output))
        what = () if "--replay" in flags else ("--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2")
        request = parse([*what, *flags, *to])
        place, existing = find_destination(request, subject, Origin(triton, RUN.kernel_sha256))
        return place.path, existing.place.path if existing else None

    return find


Put = Callable[..., Path]


@pytest.fixture
def put(subject: Subject) -> Put:
    """A tuned file; rows: those that its record holds, None: it has no record; changes: of the record."""

    def put(folder: Path, name: str = NAME, rows: tuple[int, ...] | None = None, **changes: Any) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(canonical_entries(ENTRIES))
        if rows is not None:
            record = folder / "records" / name
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_bytes(record_of(subject, rows, **changes).to_bytes())
        return path

    return put


def test_a_whole_file_goes_into_configs(find: Find, configs: Path) -> None:
    assert find() == (configs / NAME, None)


def test_another_triton_has_a_folder_of_its_own_and_starts_from_the_default_file(
    put: Put, find: Find, configs: Path
) -> None:
    default = put(configs)
    assert find(triton="3.6.0") == (configs / "triton_3_6_0" / NAME, default)


def test_a_version_folder_can_be_named_itself(find: Find, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "triton_3_6_0"
    assert find(output=folder, triton="3.6.0") == (folder / NAME, None)


@pytest.mark.parametrize("triton", ["3.8.0", "3.6.0"])
def test_the_references_own_folder_is_refused_since_no_look_up_reads_it(
    find: Find, tmp_path: Path, triton: str
) -> None:
    with pytest.raises(UserError, match=r"found .*/triton_3_8_0\. Fix: name the folder above it\.$"):
        find(output=tmp_path / "triton_3_8_0", triton=triton)
    find(output=tmp_path, triton=triton)


def test_the_folder_of_another_triton_is_refused(find: Find, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--output: expected a folder that holds tiers, .*\(3\.8\.0\), found .*/triton_3_6_0\. Fix"
    ):
        find(output=tmp_path / "triton_3_6_0")
    with pytest.raises(
        UserError, match=r"--output: expected triton_3_7_0/, .*\(3\.7\.0\), found .*/triton_3_6_0\. Fix"
    ):
        find(output=tmp_path / "triton_3_6_0", triton="3.7.0")


@pytest.mark.parametrize(
    "name",
    [
        "legacy_configs",
        "records",
        "registry",
        "records/foo",
        "new",
        "triton_3_8_0/sub",
        "legacy_configs/sub",
        "../up/triton_3_8_0/x",
    ],
)
def test_what_holds_no_tiers_is_refused(name: str, find: Find, configs: Path) -> None:
    with pytest.raises(UserError, match="--output: expected a folder that holds tiers, found "):
        find(output=configs / name)


def test_a_file_is_no_folder(find: Find, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"--output: expected a folder that holds tiers, found .*/out"):
        find(output=tmp_path / "out")


def test_a_broken_file_in_the_chain_is_refused(put: Put, find: Find, configs: Path) -> None:
    put(configs / "legacy_configs").write_text("{")
    with pytest.raises(ExistingError, match="expected a tuned file to start from"):
        find()


# ---------------------------------------------------------------
# Some rows only


def test_rows_of_a_measured_file_are_replaced_where_it_stands(put: Put, find: Find, configs: Path) -> None:
    path = put(configs, rows=DEFAULT_BATCH_SIZES)
    assert find("--num-tokens", "1", "64") == (path, path)


def test_rows_alone_make_no_file_of_configs(put: Put, find: Find, configs: Path) -> None:
    put(configs / "legacy_configs")
    with pytest.raises(UserError, match=r"--num-tokens: expected an existing .* Fix: tune all .* outside configs/"):
        find("--num-tokens", "1", "64")


@pytest.mark.parametrize("spelling", ["configs/../configs", "link", "link/triton_3_6_0"])
def test_configs_is_configs_however_it_is_spelled(
    spelling: str, put: Put, find: Find, configs: Path, tmp_path: Path
) -> None:
    put(configs / "legacy_configs")
    (tmp_path / "link").symlink_to(configs)
    with pytest.raises(UserError, match=r"--num-tokens: expected an existing .* outside configs/"):
        find("--num-tokens", "1", output=tmp_path / spelling, triton="3.6.0" if "triton" in spelling else "3.8.0")


@pytest.mark.parametrize(("tier", "triton"), [("legacy_configs", "3.8.0"), (".", "3.6.0"), ("triton_3_8_1", "3.8.0")])
def test_rows_alone_must_not_hide_the_others_of_a_file_in_another_tier(
    tier: str, triton: str, put: Put, find: Find, tmp_path: Path
) -> None:
    put(tmp_path / "out" / tier)
    with pytest.raises(
        UserError, match=r"--num-tokens: .* found .*, which a file of these rows alone would hide\. Fix"
    ):
        find("--num-tokens", "1", "64", output=tmp_path / "out", triton=triton)


def test_a_file_whose_rows_are_all_tuned_again_loses_none(put: Put, find: Find, tmp_path: Path) -> None:
    legacy = put(tmp_path / "legacy_configs")
    legacy.write_bytes(canonical_entries({1: ENTRIES[1]}))
    assert find("--num-tokens", "1", output=tmp_path) == (tmp_path / NAME, legacy)


OLDER = {**HEURISTICS, "vllm": HeuristicVersion("0.1.0", "0" * 64)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"shapes": (ShapeOfModels(Shape(2048, 4)),)},
            "this run's shapes, K=4096, top_k=2, found K=2048, top_k=4",
        ),
        ({"environment": replace(ENVIRONMENT, triton="3.6.0")}, r"Triton, 3\.8\.0, found 3\.6\.0"),
        ({"kernel_sha256": "cd" * 32}, "kernel_sha256, abab.*, found cdcd"),
        ({"heuristics": OLDER}, "measured against this run's heuristic of vLLM, found an older one"),
    ],
    ids=["shapes", "Triton", "kernel", "heuristic"],
)
@pytest.mark.parametrize("name", [NAME, DOWN])
def test_rows_that_stay_are_of_the_same_origin(
    name: str, changes: dict[str, Any], told: str, put: Put, find: Find, tmp_path: Path
) -> None:
    put(tmp_path), put(tmp_path, DOWN)
    put(tmp_path, name, DEFAULT_BATCH_SIZES, **changes)
    with pytest.raises(UserError, match=rf"--num-tokens: expected the rows that stay, .*{told}.* Fix: tune all"):
        find("--num-tokens", "1", "--separate-down", output=tmp_path)
    # Where none stays all may differ.
    assert find("--separate-down", output=tmp_path) == (tmp_path / NAME, tmp_path / NAME)


def test_rows_alone_are_fine_elsewhere(find: Find, tmp_path: Path) -> None:
    assert find("--num-tokens", "1", output=tmp_path / "out") == (tmp_path / "out" / NAME, None)


@pytest.mark.parametrize("rows", [None, (1, 2)], ids=["no record", "a record without them"])
def test_rows_that_stay_need_their_evidence(rows: tuple[int, ...] | None, put: Put, find: Find, configs: Path) -> None:
    """A file of another project has none: its other rows would pass as measured here."""
    put(configs, rows=rows)
    with pytest.raises(UserError, match=r"--num-tokens: expected measured rows in .*, found none for .*96.*would stay"):
        find("--num-tokens", "1", "64")


# ---------------------------------------------------------------
# A file for down beside it


def test_a_down_file_must_not_be_left_behind(put: Put, find: Find, configs: Path) -> None:
    put(configs), put(configs, DOWN)
    with pytest.raises(UserError, match=rf"{DOWN}: expected --separate-down, .* Fix: give --separate-down\.$"):
        find()
    assert find("--separate-down")[0] == configs / NAME


def test_down_files_with_descriptors_are_tuned_again_by_who_can_try_descriptors(
    put: Put, find: Find, configs: Path
) -> None:
    """Else rows would go for slower ones, or the whole file."""
    put(configs, rows=DEFAULT_BATCH_SIZES), put(configs, DOWN, DEFAULT_BATCH_SIZES)
    loads = {**ENTRIES, 64: replace(ENTRIES[64], USE_TMA=True), 128: replace(ENTRIES[128], USE_TMA=False)}
    (configs / DOWN).write_bytes(canonical_entries(loads))
    kernel = r"--kernel sglang=PATH/fused_moe_triton_kernels\.py"
    told = rf"{DOWN}: expected {kernel}, since entries .* Fix: give {kernel}\.$"
    both = rf"{DOWN}: expected --separate-down and {kernel}, .* Fix: give --separate-down and {kernel}\.$"
    with pytest.raises(UserError, match=both):
        find()
    for rows in ((), ("--num-tokens", "1", "64"), ("--num-tokens", "64", "6144")):
        with pytest.raises(UserError, match=told):
            find("--separate-down", *rows)
    for flags in (("--num-tokens", "1", "128"), ("--num-tokens", "1", "6144"), ("--kernel", "sglang=kernels.py")):
        assert find("--separate-down", *flags)[0] == configs / NAME


@pytest.mark.parametrize("broken", ["the file", "its record"])
def test_a_broken_down_file_is_not_replaced_as_if_nothing_were_lost(
    put: Put, find: Find, configs: Path, broken: str
) -> None:
    put(configs, rows=DEFAULT_BATCH_SIZES), put(configs, DOWN, DEFAULT_BATCH_SIZES)
    (configs / ("records" if broken == "its record" else "") / DOWN).write_bytes(b"{")
    with pytest.raises(ExistingError, match=rf"{DOWN}: expected a (tuned file|record) to "):
        find("--separate-down", "--kernel", "sglang=kernels.py")


class TestADownFileOfATierBehind:
    """A look-up takes the first file for both projections, whatever a `_down` file behind it gains."""

    def refused(self, find: Find, *flags: str, triton: str = "3.6.0") -> str:
        with pytest.raises(UserError) as refusal:
            find(*flags, triton=triton)
        return str(refusal.value)

    def test_is_not_hidden_by_a_run_that_tries_no_entry_for_down(self, put: Put, find: Find, configs: Path) -> None:
        put(configs), put(configs, DOWN)
        said = self.refused(find)
        assert f"configs/{DOWN}: expected --separate-down, since SGLang would read it no longer" in said
        assert said.endswith("Fix: give --separate-down.")
        assert find("--separate-down", triton="3.6.0")[0] == configs / "triton_3_6_0" / NAME

    def test_nor_where_it_uses_descriptors_by_one_that_can_not_try_them(
        self, put: Put, find: Find, configs: Path
    ) -> None:
        put(configs), put(configs, DOWN)
        (configs / DOWN).write_bytes(canonical_entries({m: replace(e, USE_TMA=True) for m, e in ENTRIES.items()}))
        assert "expected --kernel sglang=" in self.refused(find, "--separate-down")
        assert "expected --separate-down and --kernel sglang=" in self.refused(find)
        find("--separate-down", "--kernel", "sglang=kernels.py", triton="3.6.0")

    def test_nor_by_a_file_that_hides_it_already(self, put: Put, find: Find, configs: Path) -> None:
        put(configs), put(configs, DOWN), put(configs / "triton_3_6_0")
        assert "expected --separate-down" in self.refused(find)

    def test_rows_alone_leave_it_hidden_as_the_others_do(self, put: Put, find: Find, tmp_path: Path) -> None:
        out = tmp_path / "out"
        put(out), put(out, DOWN), put(out / "triton_3_6_0")
        assert find("--num-tokens", "1", output=out, triton="3.6.0")[0] == out / "triton_3_6_0" / NAME

    def test_nor_by_a_file_of_another_patch_or_of_the_default_tier(self, put: Put, find: Find, configs: Path) -> None:
        put(configs / "triton_3_6_0"), put(configs / "triton_3_6_0", DOWN)
        assert "triton_3_6_0/" in self.refused(find, triton="3.6.1")
        put(configs / "legacy_configs"), put(configs / "legacy_configs", DOWN)
        assert "legacy_configs/" in self.refused(find, triton="3.8.0")

    def test_a_replay_is_sent_elsewhere_since_it_can_try_nothing(
        self, put: Put, tmp_path: Path, subject: Subject
    ) -> None:
        put(tmp_path), put(tmp_path, DOWN)
        request = parse(["--replay", "a.jsonl", "--output", str(tmp_path)])
        with pytest.raises(UserError, match=r"Fix: name another --output\.$"):
            find_destination(request, subject, Origin("3.6.0", RUN.kernel_sha256))

    def test_is_said_by_a_dry_run(self, put: Put, configs: Path, subject: Subject) -> None:
        put(configs / "legacy_configs"), put(configs / "legacy_configs", DOWN)
        request = parse(["--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2"])
        assert "expected --separate-down" in str(why_refused(request, subject))
        assert why_refused(replace(request, separate_down=True), subject) is None


@pytest.mark.parametrize(
    ("flags", "there", "told"),
    [
        (("--num-tokens", "1"), None, "expected an existing"),
        ((), b"{", "expected a tuned file to start from"),
        (("--output", "configs/triton_3_8_0"), None, "expected a folder that holds tiers"),
        (("--output", "configs/triton_3_6_0"), None, None),
        ((), None, None),
    ],
)
def test_a_dry_run_knows_what_a_run_would_be_refused_for(
    flags: tuple[str, ...],
    there: bytes | None,
    told: str | None,
    subject: Subject,
    configs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs.mkdir()
    monkeypatch.chdir(configs.parent)
    if there is not None:
        (configs / NAME).write_bytes(there)
    refused = why_refused(parse(["--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2", *flags]), subject)
    assert (refused is None) if told is None else (told in str(refused))


def test_rows_alone_make_no_down_file(put: Put, find: Find, configs: Path) -> None:
    put(configs, rows=DEFAULT_BATCH_SIZES)
    with pytest.raises(UserError, match=r"--separate-down: expected an existing .*_down\.json to replace rows of"):
        find("--separate-down", "--num-tokens", "1")
    put(configs, DOWN)
    assert find("--separate-down", "--num-tokens", "1")[0] == configs / NAME


def test_a_folder_that_cannot_be_written_is_refused(
    find: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by permissions: whoever is root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match="--output: expected a folder that can be written, found"):
        find(output=tmp_path / "not" / "there")


@pytest.mark.parametrize(
    ("blocked", "told"),
    [
        ("records", "a folder that can be written, found .*/records"),
        (f"records/{NAME}/x", "a file or none at .*, found a folder"),
        (f"{NAME}/x", "a file or none at .*, found a folder"),
    ],
)
def test_the_records_place_is_checked_too(blocked: str, told: str, find: Find, tmp_path: Path) -> None:
    path = tmp_path / "out" / blocked
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(UserError, match=f"--output: expected {told}"):
        find(output=tmp_path / "out")


def test_links_in_a_circle_are_no_folder(find: Find, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="--output: expected a folder, found: "):
        find(output=tmp_path / "a")


@pytest.mark.parametrize(("below", "triton"), [(".", "3.8.0"), ("triton_3_6_0", "3.6.0")])
def test_what_is_replayed_is_no_evidence_of_today(below: str, triton: str, find: Find, configs: Path) -> None:
    with pytest.raises(UserError, match=r"--replay: expected --output outside .*/configs, found "):
        find("--replay", "a.jsonl", output=configs / below, triton=triton)


# ---------------------------------------------------------------
# What a run leaves

ORIGIN = Origin("3.8.0", kernel_sha256())
BEST = LaunchConfig(16, 64, 128, 8, 4, 3)
LINES: dict[str, Any] = {
    "verified_with": (VerifiedWith("3.6.0", "2026-01-01", 0.5),),
    "engine_checked": (EngineChecked("vllm", "0.33.0", "3.8.0", "2026-01-01", 0.99, 0.9),),
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def document(path: Path) -> Any:
    return json.loads(path.read_bytes())


def request_of(*flags: str) -> TuneRequest:
    return parse(["--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2", *flags])


def measured(*rows: RowResult) -> MeasuredRun:
    return MeasuredRun(TuneResult(rows, COUNTS, Measurements([0]), False), None, 1.0)


def write_whole(subject: Subject, out: Path, *rows: RowResult, flags: tuple[str, ...] = ()) -> TuneSummary:
    """What a run of all usual batch sizes writes that came to these rows."""
    asked = request_of("--output", str(out), *flags)
    place, existing = find_destination(asked, subject, ORIGIN)
    return deliver(asked, subject, measured(*rows), ENVIRONMENT, place, existing)


def test_a_whole_run_replaces_the_file(subject: Subject, out: Path) -> None:
    put_file(out, {4096: BEST}, with_record=record_of(subject, [4096]))
    write_whole(subject, out, row(1, 10.0, 20.0), row(64, 100.0, 120.0))
    assert list(document(out / NAME)) == ["1", "64"]
    assert list(document(out / "records" / NAME)["rows"]) == ["1", "64"]


def test_two_runs_into_one_folder_lose_no_rows(subject: Subject, out: Path) -> None:
    """Both read what stands there before either writes."""
    asked = [request_of("--output", str(out), "--num-tokens", str(m)) for m in (1, 64)]
    places = [find_destination(one, subject, ORIGIN) for one in asked]
    for one, (place, existing), m in zip(asked, places, (1, 64), strict=True):
        deliver(one, subject, measured(row(m, 10.0, 20.0)), ENVIRONMENT, place, existing)
    assert list(document(out / NAME)) == list(document(out / "records" / NAME)["rows"]) == ["1", "64"]


def test_rows_of_another_origin_that_came_in_between_are_not_relabelled(subject: Subject, out: Path) -> None:
    asked = request_of("--output", str(out), "--num-tokens", "1")
    place, existing = find_destination(asked, subject, ORIGIN)
    put_file(out, {64: BEST}, with_record=record_of(subject, [64]))
    with pytest.raises(UserError, match=r"expected the rows that stay, .* kernel_sha256"):
        deliver(asked, subject, measured(row(1, 10.0, 20.0)), ENVIRONMENT, place, existing)
    assert list(document(out / NAME)) == ["64"]


@pytest.mark.parametrize("stays", [True, False])
def test_rows_whose_heuristics_are_not_known_are_not_relabelled(subject: Subject, out: Path, stays: bool) -> None:
    asked = request_of("--output", str(out), "--num-tokens", "1")
    old = record_of(subject, [64] if stays else [1], heuristics=None, kernel_sha256=kernel_sha256())
    put_file(out, {64 if stays else 1: BEST}, with_record=old)
    place, existing = find_destination(asked, subject, ORIGIN)
    deliver(asked, subject, measured(row(1, 10.0, 20.0)), ENVIRONMENT, place, existing)
    found = document(out / "records" / NAME)
    today = {engine: each.to_json() for engine, each in HEURISTICS.items()}
    assert found.get("heuristics") == (None if stays else today)
    assert schemas.faults("record", found) == []


def test_an_engine_that_is_here_with_another_heuristic_is_said(subject: Subject, out: Path) -> None:
    asked = request_of("--output", str(out))
    place, existing = find_destination(asked, subject, ORIGIN)
    run = replace(measured(row(1, 10.0, 20.0)), heuristics=MeasuredHeuristics(HEURISTICS, ("vLLM 9 is installed",)))
    assert "vLLM 9 is installed" in deliver(asked, subject, run, ENVIRONMENT, place, existing).notes


@pytest.mark.parametrize("same", [True, False])
def test_what_benches_said_of_the_same_bytes_stays(same: bool, subject: Subject, out: Path) -> None:
    entries = {1: ENTRY if same else BEST}
    old = record_of(subject, entries, canonical_entries(entries), **LINES)
    put_file(out, entries, with_record=old)
    write_whole(subject, out, row(1, 10.0, 20.0))
    found = document(out / "records" / NAME)
    kept = {key: [line.to_json() for line in lines] for key, lines in LINES.items()}
    assert {key: found[key] for key in LINES if key in found} == (kept if same else {})
    assert list(found)[-1] == "verified"
    assert found["verified"] is None
    assert schemas.faults("record", found) == []


def test_where_no_row_gains_there_is_none_and_a_stale_one_goes(subject: Subject, out: Path) -> None:
    flags = ("--separate-down",)
    assert len(write_whole(subject, out, with_down(64, 90.0, 120.0), flags=flags).files) == 4
    summary = write_whole(subject, out, with_down(64, 90.0, 120.0, entry=ENTRY), flags=flags)
    assert len(summary.files) == 2
    assert [note.startswith("removed: ") for note in summary.notes] == [True, True]
    assert not (out / DOWN).exists()
    assert not (out / "records" / DOWN).exists()


SEPARATE = ("--separate-down",)
OTHER_DOWN = replace(DOWN_ENTRY, BLOCK_SIZE_N=256)


def whole_run(down: LaunchConfig, us: float = 90.0) -> list[RowResult]:
    """Every usual row, among enough finalists; down by this entry."""
    return [replace(with_down(m, us, 120.0, down), finalists=6) for m in DEFAULT_BATCH_SIZES]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.json")}


def judge(folder: Path) -> None:
    """On both engines' kernels and, under another Triton, on ours, today."""
    path = folder / "records" / NAME
    record = Record.read(document(path))
    lines = [EngineChecked(engine, "1.0.0", "3.8.0", record.date, 0.99, 0.9) for engine in ("vllm", "sglang")]
    another = (VerifiedWith("3.6.0", record.date, 0.1),)
    path.write_bytes(replace(record, engine_checked=tuple(lines), verified_with=another).to_bytes())


@pytest.mark.parametrize(
    ("before", "after", "engines"),
    [
        (OTHER_DOWN, DOWN_ENTRY, ["vllm"]),
        (ENTRY, DOWN_ENTRY, ["vllm"]),
        (DOWN_ENTRY, ENTRY, ["vllm"]),
        (DOWN_ENTRY, DOWN_ENTRY, ["vllm", "sglang"]),
        (ENTRY, ENTRY, ["vllm", "sglang"]),
    ],
    ids=["other entries", "for the first time", "none any more", "the same", "never one"],
)
def test_what_was_judged_with_a_down_file_stays_only_with_that(
    before: LaunchConfig, after: LaunchConfig, engines: list[str], subject: Subject, out: Path
) -> None:
    write_whole(subject, out, *whole_run(before), flags=SEPARATE)
    judge(out)
    files = write_whole(subject, out, *whole_run(after), flags=SEPARATE).files
    assert len(files) == len(set(files)) == len(tree(out))
    found = document(out / "records" / NAME)
    assert [line["engine"] for line in found["engine_checked"]] == engines
    assert ("verified_with" in found) == ("sglang" in engines), "our own kernel runs it in SGLang's flavour"
    assert schemas.faults("record", found) == []


@pytest.mark.parametrize("name", [DOWN, f"records/{DOWN}", f"records/{NAME}"])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_file_and_its_down_file_are_written_both_or_neither(
    name: str, is_new: bool, subject: Subject, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stayed, and its record said of up and down that they were tuned apart."""
    if not is_new:
        write_whole(subject, out, *whole_run(OTHER_DOWN, 95.0), flags=SEPARATE)
        judge(out)
    before = tree(out)

    def on_a_full_disk(path: Path, data: bytes) -> None:
        if path == out / name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_file(path, data)

    monkeypatch.setattr("tools.store.existing.write_file", on_a_full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(subject, out, *whole_run(DOWN_ENTRY), flags=SEPARATE)
    assert tree(out) == before


class Killed(BaseException):
    """The process is gone: whatever it would do from here on, cleaning up too, it doesn't."""


@contextlib.contextmanager
def killed_before(step: int) -> Iterator[None]:
    """Of the steps by which a name comes to a file or loses it."""
    left = step

    def or_killed(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return change(*arguments, **options)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, or_killed(getattr(Path, name)))
        yield


def is_whole(path: Path) -> bool:
    """The file and the record of its very bytes, or neither."""
    record = path.parent / "records" / path.name
    if not path.exists() or not record.exists():
        return path.exists() == record.exists()
    return Record.read(document(record)).speaks_of(path.read_bytes())


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        (None, whole_run(DOWN_ENTRY), 4),
        (whole_run(OTHER_DOWN), whole_run(DOWN_ENTRY), 5),
        (whole_run(ENTRY), whole_run(DOWN_ENTRY), 5),
        (whole_run(DOWN_ENTRY), whole_run(ENTRY), 5),
        (None, whole_run(ENTRY), 2),
    ],
    ids=["a new name", "other entries for down", "a down file for the first time", "none any more", "never one"],
)
def test_a_run_killed_before_any_step_of_its_writing_is_not_done_and_the_next_one_heals_it(
    before: list[RowResult] | None, after: list[RowResult], steps: int, subject: Subject, tmp_path: Path
) -> None:
    """A record without its `_down` file made a name broken, which no run tunes again."""
    start = tmp_path / "start"
    start.mkdir()
    if before is not None:
        write_whole(subject, start, *before, flags=SEPARATE)
        judge(start)
    fresh = shutil.copytree(start, tmp_path / "fresh")
    write_whole(subject, fresh, *after, flags=SEPARATE)
    for step in range(steps):
        folder = shutil.copytree(start, tmp_path / f"killed before step {step}")
        with pytest.raises(Killed), killed_before(step):
            write_whole(subject, folder, *after, flags=SEPARATE)
        if step == 0:
            assert tree(folder) == tree(start), "as good as before"
        else:
            found = look_up(1, wanted("E=8,N=7168"), folder, None, Method(), down=True)
            assert found.standing not in (Standing.BROKEN, Standing.DONE, Standing.HELD), f"step {step}"
            if look_up(1, wanted("E=8,N=7168"), folder, None, Method()).standing is Standing.UNJUDGED:
                assert is_whole(folder / DOWN), f"step {step}: judging it would make it done"
        write_whole(subject, folder, *after, flags=SEPARATE)
        assert tree(folder) == tree(fresh), f"step {step}"
    with killed_before(steps):
        write_whole(subject, start, *after, flags=SEPARATE)
