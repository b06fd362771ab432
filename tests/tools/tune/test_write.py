"""What a run leaves: that a file is whole or not there, and goes with its record and `_down` twin."""

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
    DOWN,
    DOWN_ENTRY,
    ENTRY,
    ENVIRONMENT,
    HEURISTICS,
    NAME,
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
from tools.store.files import canonical_entries, write_file
from tools.store.record import EngineChecked, Record, ShapeOfModels, VerifiedWith
from tools.store.workload import Shape
from tools.tune.destination import Origin, find_destination
from tools.tune.protocol import Subject
from tools.tune.report import TuneSummary
from tools.tune.request import DEFAULT_BATCH_SIZES, TuneRequest, parse
from tools.tune.search import Measurements
from tools.tune.tuner import RowResult, TuneResult
from tools.tune.write import MeasuredRun, deliver

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


def test_shapes_that_came_in_between_are_kept(subject: Subject, out: Path) -> None:
    asked = request_of("--output", str(out))
    place, existing = find_destination(asked, subject, ORIGIN)
    other = replace(subject, shapes=(*subject.shapes, ShapeOfModels(Shape(2048, 4))))
    deliver(asked, other, measured(*[row(m, 10.0, 20.0) for m in DEFAULT_BATCH_SIZES]), ENVIRONMENT, place, existing)
    before = tree(out)
    with pytest.raises(UserError, match=r"measured for K=2048, top_k=4 by now\. Fix: run it again with --all-shapes"):
        deliver(asked, subject, measured(*[row(m, 10.0, 20.0) for m in DEFAULT_BATCH_SIZES]), ENVIRONMENT, place, None)
    assert tree(out) == before


def test_rows_of_another_origin_that_came_in_between_are_not_relabelled(subject: Subject, out: Path) -> None:
    asked = request_of("--output", str(out), "--num-tokens", "1")
    place, existing = find_destination(asked, subject, ORIGIN)
    put_file(out, {64: BEST}, with_record=record_of(subject, [64]))
    with pytest.raises(UserError, match=r"expected the rows that stay .* kernel_sha256"):
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
