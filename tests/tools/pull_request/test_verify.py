"""After the merge main's own run signs the records whose figures held, and says why it doesn't sign the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fused_moe_configs.evidence import evidence_sha256
from tests.builders import NAME, Store, entry, models, signed, times
from tests.tools.pull_request.documents_builder import (
    ENTRY,
    OTHER_SHA,
    SHA,
    changed,
    plan_document,
    results_document,
    write_json,
)
from tools.errors import UserError
from tools.pull_request import verify
from tools.registry.shapes import registered_shapes
from tools.store import schemas
from tools.store.files import canonical_record, lock, read_file
from tools.store.record import Record
from tools.store.workload import parse_file_name

WORKLOAD = parse_file_name(NAME).workload
assert WORKLOAD is not None
SHAPE = registered_shapes(WORKLOAD, models())[0].shape
RUN_URL = "https://github.com/owner/repository/actions/runs/1"


@pytest.fixture
def merged(tmp_path: Path) -> Store:
    """A store with one file of one row, which its record claims to take 1000 µs."""
    merged = Store(tmp_path / "configs")
    merged.measured(merged.config({"64": entry()}))
    return merged


def record_of(merged: Store) -> Any:
    return read_file(merged.root / "records" / NAME).document


def results(**row: Any) -> Any:
    """One file of one row, clean unless said otherwise."""

    def change(document: Any) -> None:
        document.update(number=0, device_name=WORKLOAD.device_name)
        document["workloads"][0]["workload"] = WORKLOAD.to_json()
        document["workloads"][0]["rows"]["64"].update(
            {"claimed_us": 1000.0, "measured_us": 1010.0, "heuristic_us": 1020.0, **row}
        )

    return changed(results_document(), change)


def plan(claimed_us: float | None = 1000.0) -> Any:
    """What those results answer."""

    def change(document: Any) -> None:
        document.update(number=0)
        leg = document["legs"][0]
        leg["workloads"][0]["shapes"] = [{**SHAPE.to_json(), "registered": True}]
        leg["device_name"] = WORKLOAD.device_name
        claims = None if claimed_us is None else {"median_us": {"64": claimed_us}}
        leg["workloads"][0].update(workload=WORKLOAD.to_json(), claimed={"64": dict(ENTRY)}, main=None, record=claims)

    return changed(plan_document(), change)


def sign(
    merged: Store, *documents: Any, claimed_us: float | None = 1000.0, document: Any = None, **options: str
) -> int:
    folder = merged.root.parent
    write_json(folder / "plan.json", document or plan(claimed_us))
    for number, results_of_a_leg in enumerate(documents):
        write_json(folder / "results" / f"results-{number}" / "results.json", results_of_a_leg)
    given = {"commit": SHA, "runner": "gpu", "run-url": RUN_URL, "date": "2026-11-24", **options}
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    where = ["--plan", str(folder / "plan.json"), "--results", str(folder / "results"), "--configs", str(merged.root)]
    return verify.main([*where, *flags])


def test_no_other_process_writes_there_between_reading_and_writing(
    merged: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = verify.write_file, []

    def while_held(path: Path, data: bytes) -> None:
        with pytest.raises(UserError, match="expected no other process that writes there"), lock(merged.root, 0.0):
            pass
        written.append(path)
        write(path, data)

    monkeypatch.setattr(verify, "write_file", while_held)
    assert sign(merged, results()) == 0
    assert written == [merged.root / "records" / NAME]


def test_a_file_whose_rows_all_held_is_verified(merged: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert sign(merged, results()) == 0
    record = record_of(merged)
    said = {"runner": "gpu", "run_url": RUN_URL, "commit": SHA, "date": "2026-11-24"}
    assert record["verified"] == {**said, "evidence_sha256": evidence_sha256(record)}
    assert Record.read(record).is_verified((merged.root / NAME).read_bytes())
    assert list(record)[-1] == "verified"
    assert schemas.faults("record", record) == []
    assert capsys.readouterr().err == f"verify: {NAME}: verified\n"


def test_nothing_but_the_line_changes(merged: Store) -> None:
    before = record_of(merged)
    config = (merged.root / NAME).read_bytes()
    sign(merged, results())
    after = record_of(merged)
    assert {**after, "verified": None} == {**before, "verified": None}
    assert (merged.root / "records" / NAME).read_bytes() == canonical_record(after)
    assert (merged.root / NAME).read_bytes() == config


def test_an_older_line_is_replaced(merged: Store) -> None:
    sign(merged, results())
    sign(merged, results(), date="2026-11-25")
    assert record_of(merged)["verified"]["date"] == "2026-11-25"


def test_published_figures_without_times_can_be_verified_too(merged: Store) -> None:
    merged.record(merged.root / NAME)
    sign(merged, results(claimed_us=None), claimed_us=None)
    assert record_of(merged)["verified"]["runner"] == "gpu"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"measured_us": 1060.0}, "M=64: 6.0 % above the recorded time"),
        ({"verdict": "slower"}, "M=64: slower than main's file or the heuristic"),
        ({"measured_us": None}, "M=64: no time was measured"),
        ({"claimed_us": 1020.0}, "its record claims other times than were checked"),
        ({"claimed_us": None}, "its record claims other times than were checked"),
    ],
)
def test_a_file_that_did_not_hold_is_named_and_left_as_it_is(
    merged: Store, capsys: pytest.CaptureFixture[str], row: dict[str, Any], reason: str
) -> None:
    before = record_of(merged)
    assert sign(merged, results(**row), claimed_us=row.get("claimed_us", 1000.0)) == 0
    assert record_of(merged) == before
    assert capsys.readouterr().err == f"verify: {NAME}: not verified, {reason}\n"


class TestGains:
    """What a reader is told is the gain, and main's run measures both of its times."""

    @staticmethod
    def recorded(merged: Store, heuristic_us: float, **more: Any) -> None:
        """1000 µs, beside a heuristic of so many."""
        row = {"latency_us": times(1000.0), "baseline_us": times(heuristic_us), "decision": "promote", **more}
        merged.measured(merged.root / NAME, rows={"64": row})

    @pytest.mark.parametrize("heuristic_us", [1000.0, 1010.0, 1060.0])
    def test_one_that_is_as_large_here_holds(self, merged: Store, heuristic_us: float) -> None:
        self.recorded(merged, heuristic_us)
        sign(merged, results())
        assert record_of(merged)["verified"] is not None

    @pytest.mark.parametrize(
        ("heuristic_us", "recorded"), [(1100.0, "0.909"), (5000.0, "0.200")], ids=["a tenth", "five times"]
    )
    def test_of_a_heuristic_that_was_written_down_too_slow_it_is_no_word_of_mains(
        self, merged: Store, capsys: pytest.CaptureFixture[str], heuristic_us: float, recorded: str
    ) -> None:
        self.recorded(merged, heuristic_us)
        sign(merged, results())
        assert record_of(merged)["verified"] is None
        reason = f"M=64: 0.990 of the heuristic's time, recorded as {recorded}"
        assert capsys.readouterr().err == f"verify: {NAME}: not verified, {reason}\n"

    @pytest.mark.parametrize(
        ("low", "is_verified"), [(0.83, True), (0.85, False)], ids=["within the tolerance", "beyond it"]
    )
    def test_the_gain_of_every_part_holds_too(self, merged: Store, low: float, is_verified: bool) -> None:
        """Recorded as 0.8 on SGLang's kernel under skew; a few draws may say more."""
        said = {"ratio": 0.8, "low": 0.79, "high": 0.81, "blocks": 4}
        names = {"engine": "sglang", "shape": 0, "routing": "skew_0.3"}
        self.recorded(merged, 1000.0, parts=[{**names, **said}])
        ratio = {"low": low, "mean": 0.87, "high": 0.89, "blocks": 4}
        part = {"engine": "sglang", "routing": "skew_0.3", "runs": True, "over_heuristic": ratio, "over_main": None}
        sign(merged, results(parts=[part]))
        assert (record_of(merged)["verified"] is not None) is is_verified

    @staticmethod
    def told(engine: str = "sglang", shape: int = 0, routing: str = "uniform", ratio: float = 0.8) -> dict[str, Any]:
        """A part as a record has it."""
        names = {"engine": engine, "shape": shape, "routing": routing}
        return {**names, "ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01, "blocks": 4}

    @staticmethod
    def measured(engine: str = "sglang", shape: int = 0, low: float = 0.79) -> dict[str, Any]:
        """The same under uniform routing as main's run has it."""
        ratio = {"low": low, "mean": low + 0.01, "high": low + 0.02, "blocks": 4}
        names = {"engine": engine, "routing": "uniform", "shape": shape}
        return {**names, "runs": True, "over_heuristic": ratio, "over_main": None}

    @pytest.mark.parametrize(
        "more",
        [{"engine": "vllm"}, {"routing": "skew_1.0"}, {"routing": "recorded"}, {"shape": 1}],
        ids=["an engine", "a skew", "recorded routing", "a shape"],
    )
    def test_of_what_was_not_measured_here_it_is_no_word_of_mains(
        self, merged: Store, capsys: pytest.CaptureFixture[str], more: dict[str, Any]
    ) -> None:
        """Else a record could tell of any gain in a part that nobody looks at."""
        self.recorded(merged, 1000.0, parts=[self.told(), self.told(**more, ratio=0.1)])
        sign(merged, results(parts=[self.measured()]))
        assert record_of(merged)["verified"] is None
        assert "M=64: its record tells of a part that wasn't measured here: " in capsys.readouterr().err

    @pytest.mark.parametrize(("second", "is_verified"), [(0.8, True), (0.1, False)])
    def test_each_shapes_gain_holds_at_that_shape(self, merged: Store, second: float, is_verified: bool) -> None:
        """The record may have them in another order than the plan."""
        other = registered_shapes(WORKLOAD, models())[1].shape
        shapes = [{**shape.to_json(), "models": []} for shape in (other, SHAPE)]
        row = {"latency_us": times(1000.0), "baseline_us": times(1000.0), "decision": "promote"}
        row |= {"parts": [self.told(shape=0, ratio=second), self.told(shape=1, ratio=0.9)]}
        merged.measured(merged.root / NAME, rows={"64": row}, shapes=shapes)
        document = plan()
        planned = [{**shape.to_json(), "registered": True} for shape in (SHAPE, other)]
        document["legs"][0]["workloads"][0]["shapes"] = planned
        parts = [self.measured(shape=0, low=0.89), self.measured(shape=1)]
        sign(merged, results(parts=parts), document=document)
        assert (record_of(merged)["verified"] is not None) is is_verified

    @pytest.mark.parametrize("told", ["by_engine", "by_routing"])
    @pytest.mark.parametrize(("latency_us", "is_verified"), [(800.0, True), (10.0, False)])
    def test_the_times_that_sum_parts_up_hold_too(
        self, merged: Store, told: str, latency_us: float, is_verified: bool
    ) -> None:
        name = {"by_engine": "sglang", "by_routing": "uniform"}[told]
        summed = {name: {"latency_us": times(latency_us), "baseline_us": times(1000.0)}}
        self.recorded(merged, 1000.0, parts=[self.told()], **{told: summed})
        sign(merged, results(parts=[self.measured()]))
        assert (record_of(merged)["verified"] is not None) is is_verified

    def test_a_word_on_such_a_gain_goes(self, merged: Store) -> None:
        self.recorded(merged, 5000.0)
        path = merged.record_of(merged.root / NAME)
        path.write_bytes(canonical_record(signed(record_of(merged))))
        sign(merged, results())
        assert record_of(merged)["verified"] is None

    def test_where_the_heuristic_does_not_run_there_is_none_to_hold(self, merged: Store) -> None:
        self.recorded(merged, 5000.0)
        sign(merged, results(heuristic_us=None))
        assert record_of(merged)["verified"] is not None

    @pytest.mark.parametrize(("other", "is_verified"), [(1000.0, True), (5000.0, False)])
    def test_of_several_shapes_the_one_that_gains_least_counts(
        self, merged: Store, other: float, is_verified: bool
    ) -> None:
        """Main's run tells of the worst one too, which need not be the one of the row."""
        shape = {"K": SHAPE.K, "top_k": SHAPE.top_k, "latency_us": times(1000.0)}
        by_shape = [{**shape, "baseline_us": times(5000.0)}, {**shape, "baseline_us": times(other)}]
        self.recorded(merged, 5000.0, by_shape=by_shape)
        sign(merged, results())
        assert (record_of(merged)["verified"] is not None) is is_verified


@pytest.mark.parametrize("row", [{"measured_us": 1060.0}, {"verdict": "slower"}, {"measured_us": None}])
def test_one_that_held_before_and_no_more_is_verified_no_more(
    merged: Store, capsys: pytest.CaptureFixture[str], row: dict[str, Any]
) -> None:
    claimed = record_of(merged)
    sign(merged, results())
    assert sign(merged, results(**row)) == 0
    assert record_of(merged) == {**claimed, "verified": None}
    assert capsys.readouterr().err.splitlines()[1].startswith(f"verify: {NAME}: verified no more, M=64: ")


def test_one_that_was_not_measured_again_stays_verified(merged: Store) -> None:
    sign(merged, results())
    before = record_of(merged)
    (merged.root.parent / "results" / "results-0" / "results.json").unlink()
    assert sign(merged) == 0
    assert record_of(merged) == before


def test_a_word_on_other_evidence_goes_even_unmeasured(merged: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A stale branch, merged cleanly, leaves one."""
    forged = signed(record_of(merged)) | {"date": "2026-01-02"}
    merged.record_of(merged.root / NAME).write_bytes(canonical_record(forged))
    assert sign(merged) == 0
    assert record_of(merged) == {**forged, "verified": None}
    assert "verified no more, not measured (its runner sent no results)" in capsys.readouterr().err
    sign(merged, results())
    assert Record.read(record_of(merged)).is_verified((merged.root / NAME).read_bytes())


def of_shape(merged: Store, K: int, top_k: int, name: str) -> tuple[Any, Any]:
    """(plan, results) of that shape, and a record that speaks of it too."""
    path = merged.config({"64": entry()}, name)
    merged.measured(path, shapes=[{"K": K, "top_k": top_k, "models": []}])
    workload = parse_file_name(name).workload
    assert workload is not None
    document = plan()
    document["legs"][0]["workloads"][0].update(
        workload=workload.to_json(), shapes=[{"K": K, "top_k": top_k, "registered": True}]
    )
    answer = results()
    answer["workloads"][0]["workload"] = workload.to_json()
    return document, answer


@pytest.mark.parametrize("name", [NAME, NAME.replace("N=1024", "N=1984")], ids=["of others", "of none"])
def test_a_shape_that_no_registered_model_has_is_never_verified(
    merged: Store, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The registry is asked again, whatever the plan says of it."""
    document, answer = of_shape(merged, 256, 1, name)
    assert sign(merged, answer, document=document) == 0
    assert read_file(merged.root / "records" / name).document["verified"] is None
    assert "not verified, no registered model has its shape K=256, top_k=1" in capsys.readouterr().err


def test_a_record_of_other_shapes_than_were_measured_is_not_verified(
    merged: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    merged.measured(merged.root / NAME, shapes=[{"K": 6144, "top_k": 2, "models": []}])
    assert sign(merged, results()) == 0
    assert record_of(merged)["verified"] is None
    assert "not verified, its record speaks of other shapes than were measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda merged: merged.file(b"{}\n"), "its record describes other bytes"),
        (lambda merged: (merged.root / NAME).unlink(), "the file or its record is not there"),
        (lambda merged: (merged.root / "records" / NAME).unlink(), "the file or its record is not there"),
        (lambda merged: merged.measured(merged.root / NAME, date="yesterday"), "its record is not valid"),
    ],
)
def test_a_store_that_is_not_what_was_measured(
    merged: Store, capsys: pytest.CaptureFixture[str], spoil: Callable[[Store], object], reason: str
) -> None:
    spoil(merged)
    assert sign(merged, results()) == 0
    assert capsys.readouterr().err == f"verify: {NAME}: not verified, {reason}\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"commit": OTHER_SHA}, "verify: plan: "),
        ({"run-url": "javascript:alert(1)"}, "expected a runner, an https:// address, 40 hex digits and a day"),
        ({"runner": ""}, "verify: verified: "),
        ({"date": "2026-02-30"}, "verify: verified: "),
        ({"results": __file__}, f"{Path(__file__).name}: "),
    ],
)
def test_bad_use_is_one_line_and_writes_nothing(
    merged: Store, capsys: pytest.CaptureFixture[str], options: dict[str, str], told: str
) -> None:
    before = record_of(merged)
    assert sign(merged, results(), **options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert ". Fix: " in line
    assert record_of(merged) == before


def test_results_that_the_plan_did_not_ask_for_write_nothing(merged: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = record_of(merged)
    assert sign(merged, changed(results(), lambda d: d.update(device_name="NVIDIA_L4"))) == 2
    assert capsys.readouterr().err.startswith("verify: results of NVIDIA_L4: ")
    assert record_of(merged) == before


def test_a_time_that_the_devices_memory_can_not_reach_verifies_nothing(
    merged: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = record_of(merged)
    assert sign(merged, results(heuristic_us=1e-320)) == 0
    assert "not verified, not measured (its runner sent times that its memory can't reach)" in capsys.readouterr().err
    assert record_of(merged) == before


def test_results_of_a_device_without_a_runner_verify_nothing(merged: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = record_of(merged)
    assert sign(merged, results(), runners="NVIDIA_L4") == 2
    assert "its leg was handed on to no runner" in capsys.readouterr().err
    assert record_of(merged) == before


def test_a_file_whose_runner_sent_nothing_is_named(merged: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = record_of(merged)
    assert sign(merged) == 0
    told = "not verified, not measured (its runner sent no results)"
    assert capsys.readouterr().err == f"verify: {NAME}: {told}\n"
    assert record_of(merged) == before
