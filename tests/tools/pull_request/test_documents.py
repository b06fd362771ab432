"""Plans and results are read as if they were hostile: one line each for whatever is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tools.pull_request.documents_builder import (
    ENTRY,
    H100,
    Change,
    changed,
    entry,
    plan_document,
    results_document,
    write_json,
)
from tools.measure.judgement import Verdict
from tools.pull_request import documents
from tools.pull_request.documents import (
    DocumentError,
    FileId,
    Leg,
    Plan,
    PlannedFile,
    PlannedShape,
    read_plan,
    read_results,
)
from tools.store import schemas
from tools.store.workload import Shape, Workload


def one_line(error: pytest.ExceptionInfo[DocumentError]) -> str:
    text = str(error.value)
    assert text.isprintable(), text
    assert ". Fix: " in text
    assert len(text) < 600
    return text


def test_a_plan_is_read(tmp_path: Path) -> None:
    plan = read_plan(write_json(tmp_path / "plan.json", plan_document()))
    file = plan.leg(H100).files[0]
    assert str(file.id.relative) == f"E=8,N=7168,device_name={H100}.json"
    assert file.batch_sizes == (64,)
    assert file.claims_us == {64: 415.0}
    assert file.main[64].num_stages == 2


def test_a_file_of_a_tier_lies_in_its_folder(tmp_path: Path) -> None:
    document = changed(plan_document(), lambda d: d["legs"][0]["workloads"][0].update(tier="triton_3_6_0"))
    file = read_plan(write_json(tmp_path / "plan.json", document)).legs[0].files[0]
    assert file.id.relative.parent.name == "triton_3_6_0"


def test_a_removed_file_has_mains_batch_sizes(tmp_path: Path) -> None:
    document = changed(plan_document(), lambda d: d["legs"][0]["workloads"][0].update(claimed=None, record=None))
    file = read_plan(write_json(tmp_path / "plan.json", document)).legs[0].files[0]
    assert (file.claimed, file.claims_us, file.batch_sizes) == ({}, {}, (64,))


def test_results_are_written_as_they_are_read(tmp_path: Path) -> None:
    results = read_results(write_json(tmp_path / "results.json", results_document()))
    assert results.files[0].rows[64].verdict is Verdict.FASTER
    written = results.to_json()
    assert schemas.faults("results", written) == []
    (tmp_path / "again.json").write_bytes(results.to_bytes())
    assert read_results(tmp_path / "again.json") == results


def test_a_plan_is_written_as_it_is_read_in_a_fixed_order(tmp_path: Path) -> None:
    workload = Workload(8, 2048, H100, "fp8_w8a8", (128, 128), down=True)
    shapes = (PlannedShape(Shape(4096, 2), registered=True), PlannedShape(Shape(4096, 11, 8, 1), registered=False))
    claimed = {64: entry(num_ctas=1), 128: entry(num_ctas=1)}
    file = PlannedFile(FileId(workload, "triton_3_6_0"), shapes, dict(reversed(claimed.items())), {}, {64: 1.5})
    plan = Plan(12, "0" * 40, "1" * 40, (Leg(H100, (file,)), Leg("NVIDIA_H200", (file,))))
    document = plan.to_json()
    assert schemas.faults("plan", document) == []
    (written,) = document["legs"][0]["workloads"]
    assert list(written["claimed"]) == ["64", "128"]
    assert (written["down"], written["workload"]["down"], written["workload"]["block_shape"]) == (
        True,
        True,
        [128, 128],
    )
    assert (written["main"], written["record"]) == (None, {"median_us": {"64": 1.5}})
    (tmp_path / "plan.json").write_bytes(plan.to_bytes())
    assert read_plan(tmp_path / "plan.json") == plan


def test_a_leg_that_the_plan_does_not_have(tmp_path: Path) -> None:
    plan = read_plan(write_json(tmp_path / "plan.json", plan_document()))
    with pytest.raises(DocumentError, match=f"expected one of the plan's \\({H100}\\), found NVIDIA_B200") as error:
        plan.leg("NVIDIA_B200")
    one_line(error)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "expected strict JSON, found: expected a JSON object, found an empty file"),
        (b"{", "expected strict JSON"),
        (b'{"number": NaN}', "NaN is no finite number"),
        (b'{"number": Infinity}', "Infinity is no finite number"),
        (b'{"number": 1e999}', "1e999 is no finite number"),
        (b'{"number": ' + b"9" * 5000 + b"}", "expected strict JSON, found: cannot be read"),
        (b'{"number": 1, "number": 2}', "duplicate keys"),
        (b"[" * 100_000, "nested over 32 levels"),
        (b'{"\\n::error::<img src=x>": 1}', "; see schema/results.schema.json"),
        (b" " * (documents.MAX_BYTES["results"] + 1), "expected at most"),
        (b"\xff\xfe", "expected UTF-8"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_hostile_bytes(tmp_path: Path, text: bytes, told: str) -> None:
    (tmp_path / "results.json").write_bytes(text)
    with pytest.raises(DocumentError) as error:
        read_results(tmp_path / "results.json")
    assert told in one_line(error)


ROW = "64"


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(note="x"),
        lambda d: d.update(number=10**30),
        lambda d: d.update(head_sha="0" * 39 + "\n"),
        lambda d: d.update(head_sha=["0" * 40]),
        lambda d: d["environment"].update(driver="[x](https://example.org)"),
        lambda d: d["environment"].update(device_name="<script>alert(1)</script>"),
        lambda d: d["workloads"][0].update(reason="**merge this**"),
        lambda d: d["workloads"][0]["workload"].update(device_name="a`b"),
        lambda d: d["workloads"][0]["rows"][ROW].update(measured_us=1e12),
        lambda d: d["workloads"][0]["rows"][ROW].update(measured_us=-1.0),
        lambda d: d["workloads"][0]["rows"].update({"064": d["workloads"][0]["rows"].pop(ROW)}),
        lambda d: d["workloads"].append(d["workloads"][0]),
    ],
)
def test_hostile_values(tmp_path: Path, change: Change) -> None:
    with pytest.raises(DocumentError) as error:
        read_results(write_json(tmp_path / "results.json", changed(results_document(), change)))
    one_line(error)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["legs"].append(d["legs"][0]),
        lambda d: d["legs"][0]["workloads"].append(d["legs"][0]["workloads"][0]),
        lambda d: d["legs"][0]["workloads"][0].update(tier="../../etc"),
        lambda d: d["legs"][0]["workloads"][0]["claimed"]["64"].update(num_warps="$(reboot)"),
    ],
)
def test_hostile_plans(tmp_path: Path, change: Change) -> None:
    with pytest.raises(DocumentError) as error:
        read_plan(write_json(tmp_path / "plan.json", changed(plan_document(), change)))
    one_line(error)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    write_json(tmp_path / "elsewhere.json", results_document())
    (tmp_path / "results.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(DocumentError, match="expected a regular file"):
        read_results(tmp_path / "results.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="expected a readable file, found: No such file"):
        read_results(tmp_path / "results.json")


def many(files: int, rows: int) -> dict[str, Any]:
    """A plan with every file changed, under the longest names and keys."""
    document = plan_document()
    file = document["legs"][0]["workloads"][0]
    file["claimed"] = file["main"] = {str(4 * m): {**ENTRY, "GROUP_SIZE_M": 64} for m in range(1, rows + 1)}
    file["record"] = {"median_us": dict.fromkeys(file["claimed"], 12345.678)}
    document["legs"][0]["workloads"] = [{**file, "workload": {**file["workload"], "E": E + 1}} for E in range(files)]
    return document


class TestLimits:
    """What is planned can be read again, and so can its results."""

    def test_256_files_of_18_rows_take_a_third(self, tmp_path: Path) -> None:
        plan = Plan.read(many(256, 18))
        assert plan.why_too_large is None
        data = plan.to_bytes()
        assert 2.5 * len(data) < documents.MAX_BYTES["plan"]
        (tmp_path / "plan.json").write_bytes(data)
        assert len(read_plan(tmp_path / "plan.json").legs[0].files) == 256

    @pytest.mark.parametrize("is_removed", [True, False])
    def test_results_of_the_largest_plan_can_be_read(self, is_removed: bool) -> None:
        """Files of which main has none are planned with least, and answered in every part."""
        entries = {str(4 * m): dict(ENTRY) for m in range(1, 257)}
        ratio = {"low": 123.4567, "mean": 123.4567, "high": 123.4567, "blocks": 32}
        part = {"engine": "sglang", "routing": "skew_0.3", "runs": False, "over_heuristic": ratio, "over_main": None}
        row = {"measured_us": 123456.789, "main_us": 123456.789, "heuristic_us": 123456.789, "retuned_us": 123456.789}
        said = {"claimed_us": None, **row, "verdict": "slower", "decision": "baseline"}
        answered = {key: {**said, "parts": [] if is_removed else [part] * 4} for key in entries}
        planned, measured = (len(json.dumps(rows, separators=(",", ":"))) for rows in (entries, answered))
        assert measured / planned < documents.MAX_BYTES["results"] / documents.MAX_BYTES["plan"]

    def test_more_files_than_results_may_hold(self) -> None:
        told = Plan.read(many(257, 1)).why_too_large
        assert told == f"expected at most 256 tuned files on {H100}, found 257"

    def test_more_bytes_than_are_read(self) -> None:
        told = Plan.read(many(256, 86)).why_too_large
        assert told is not None
        assert told.startswith("expected a plan of at most 4194304 bytes, found ")


class TestFitting:
    """Of what main has already, what can be measured is."""

    def test_a_plan_that_fits_stays_whole(self) -> None:
        plan = Plan.read(many(256, 18))
        assert plan.fitting() == (plan, ())

    @pytest.mark.parametrize(("files", "rows", "kept"), [(300, 1, 256), (256, 86, 200)])
    def test_the_first_files_that_have_room_are_kept(self, files: int, rows: int, kept: int) -> None:
        plan = Plan.read(many(files, rows))
        fitting, left_out = plan.fitting()
        assert fitting.why_too_large is None
        assert fitting.legs[0].files + left_out == plan.legs[0].files
        assert len(fitting.legs[0].files) >= kept

    def test_no_device_takes_anothers_room(self) -> None:
        """One leg's hundred large files, and one small file of another device."""
        large, small = Plan.read(many(256, 200)).legs[0], Plan.read(many(1, 1)).legs[0]
        plan = replace(Plan.read(many(1, 1)), legs=(large, Leg("NVIDIA_H200", small.files)))
        fitting, left_out = plan.fitting()
        assert [leg.device_name for leg in fitting.legs] == [H100, "NVIDIA_H200"]
        assert fitting.why_too_large is None
        assert left_out
