"""Which files a night visits."""

from __future__ import annotations

import datetime
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.launch_config import LaunchConfig
from tests.builders import Store
from tests.tools.nightly.conftest import add
from tools.nightly.sample import is_new, measured_files, of_night, plan, planned
from tools.pull_request.documents import PlannedFile
from tools.registry.devices import load_devices
from tools.registry.models import load_models
from tools.store.record import Decision, Latency, Record, RecordedRow, ShapeOfModels, Source
from tools.store.schemas import faults
from tools.store.workload import Shape, Workload

DAY = datetime.date(2026, 11, 24)
CONFIG = LaunchConfig(16, 64, 64, 1, 4, 3)
MODELS = load_models()
US = {1: Latency(10.0, 10.0, 10.0, 3), 64: Latency(20.0, 20.0, 20.0, 3)}


def measured(E: int, device_name: str = "NVIDIA_H100_80GB_HBM3", folder: str = "", **name: object) -> PlannedFile:
    workload = Workload(E, 7168, device_name, **name)  # type: ignore[arg-type]
    rows = {num_tokens: RecordedRow(us, us, Decision.BASELINE) for num_tokens, us in US.items()}
    shapes = (ShapeOfModels(Shape(4096, 2)),)
    record = Record(workload, shapes, Source.MEASURED, "0" * 64, "2026-11-20", rows=rows)
    return planned(workload, folder, {64: CONFIG, 1: CONFIG}, record, MODELS)


FILES = [measured(E) for E in range(1, 24)]


@given(st.integers(1, 23), st.integers(1, 30), st.integers(0, 40), st.integers(0, 10_000))
@settings(max_examples=100)
def test_over_any_nights_no_file_is_visited_more_than_once_more_than_another(
    number: int, count: int, nights: int, offset: int
) -> None:
    visits = Counter({file.id: 0 for file in FILES[:number]})
    for night in range(nights):
        visits.update(file.id for file in of_night(FILES[:number], DAY + datetime.timedelta(offset + night), count))
    assert max(visits.values()) - min(visits.values()) <= 1
    assert visits.total() == nights * min(count, number)


def test_a_night_visits_no_file_twice() -> None:
    assert len({file.id for file in of_night(FILES, DAY, 10)}) == 10
    assert len({file.id for file in of_night(FILES, DAY, 99)}) == len(FILES)


def test_the_date_alone_decides() -> None:
    assert of_night(FILES, DAY, 5) == of_night(FILES[::-1], DAY, 5)
    assert of_night(FILES, DAY, 5) != of_night(FILES, DAY + datetime.timedelta(1), 5)


def test_nothing_measured_is_nothing_chosen() -> None:
    assert of_night([], DAY, 5) == ()


@pytest.mark.parametrize(
    ("newest", "new"),
    [((3, 8, 0), False), ((3, 7, 9), False), ((3, 8, 1), False), ((3, 8, 2), True), ((3, 10, 0), True)],
)
def test_a_release_is_new_where_no_tier_is_as_new(newest: tuple[int, ...], new: bool) -> None:
    assert is_new(newest, (3, 8, 0), [(3, 6, 0), (3, 8, 1)]) is new
    unknown = [(9999, 0, 0), (*newest[:2], newest[2] + 1), (newest[0], newest[1] + 1, 0)]
    assert is_new(newest, (3, 8, 0), [(3, 6, 0), (3, 8, 1), *unknown]) is new, "folders of releases to come"


def test_the_plan_is_of_the_plans_form_and_one_leg_a_device() -> None:
    files = [
        measured(8),
        measured(8, folder="triton_3_6_0"),
        measured(9, "NVIDIA_H200_NVL", dtype="fp8_w8a8", block_shape=(128, 128)),
        measured(8, "NVIDIA_H200", down=True),
    ]
    found, left_out = plan(files, "a" * 40, load_devices())
    document = found.to_json()
    assert left_out == ()
    assert faults("plan", document) == []
    assert (document["number"], document["head_sha"], document["base_sha"]) == (0, "a" * 40, "a" * 40)
    legs = {leg["device_name"]: leg["workloads"] for leg in document["legs"]}
    assert {name: len(workloads) for name, workloads in legs.items()} == {"NVIDIA_H100_80GB_HBM3": 2, "NVIDIA_H200": 2}
    mixtral = legs["NVIDIA_H100_80GB_HBM3"][0]
    assert mixtral["shapes"] == [{"K": 4096, "top_k": 2, "registered": True}]
    assert mixtral["claimed"] == {"1": CONFIG.to_entry(), "64": CONFIG.to_entry()}
    assert mixtral["main"] is None
    assert mixtral["record"] == {"median_us": {"1": 10.0, "64": 20.0}}
    assert {each["workload"]["E"]: each["shapes"][0]["registered"] for each in legs["NVIDIA_H200"]} == {
        8: True,
        9: False,
    }
    assert {each["workload"]["E"]: each["down"] for each in legs["NVIDIA_H200"]} == {8: True, 9: False}


def test_more_files_than_a_plan_holds_cost_no_device_its_night() -> None:
    """300 files for one GPU, as a pull request or two may bring, once ended every night on which all are measured."""
    many = [measured(E) for E in range(1, 301)]
    found, left_out = plan([*many, measured(8, "NVIDIA_H200")], "a" * 40, load_devices())
    assert {leg.device_name: len(leg.files) for leg in found.legs} == {"NVIDIA_H100_80GB_HBM3": 256, "NVIDIA_H200": 1}
    assert left_out == tuple(many[256:])
    assert found.why_too_large is None


def test_where_all_are_due_other_days_begin_with_others() -> None:
    first = {of_night(FILES, DAY + datetime.timedelta(7 * week), len(FILES))[0].id for week in range(len(FILES))}
    assert len(first) > 1


def test_a_file_of_models_without_a_gate_is_left_out_and_said(configs: Store) -> None:
    add(configs, "E=8,N=7168,device_name=NVIDIA_H200.json")
    add(configs, "E=128,N=1856,device_name=NVIDIA_H200.json")
    stock = measured_files(configs.root)
    assert [file.id.workload.N for file in stock.files] == [7168]
    (left_out,) = stock.left_out
    assert left_out.path.name == "E=128,N=1856,device_name=NVIDIA_H200.json"
    assert "sizes that only models without one have" in left_out.reason
