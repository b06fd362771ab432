"""On a GPU the bench and the tuner get what the plan says, and what can't be measured here says why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.tools.pull_request.documents_builder import A100, ENVIRONMENT, H100, entry, planned
from tools.bench import candidates
from tools.bench import request as bench_request
from tools.bench.candidates import NO_FILE, SGLANG_NO_FILE, against
from tools.bench.files_report import FileResult, FilesReport, to_json
from tools.checkout import reference_triton
from tools.measure.statistics import Interval
from tools.measure.verdict import FAILED, Duel, Measured, RowVerdict, Verdict
from tools.pull_request import measure
from tools.pull_request.documents import PlannedFile, PlannedShape
from tools.pull_request.judge import BenchedRow
from tools.pull_request.measure import GpuBackend, NotMeasuredError, read_bench
from tools.registry.devices import load_devices
from tools.registry.models import load_models
from tools.registry.shapes import shapes_of
from tools.store.config_file import ConfigFile
from tools.store.record import Environment
from tools.store.workload import Shape
from tools.tune import request as tune_request
from tools.tune.subject import make_subject

HERE = GpuBackend("NVIDIA H100 80GB HBM3", reference_triton(), reference_triton())
MAIN = {64: entry(num_stages=2)}
OLD_TIER = planned()
OLD_TIER = replace(OLD_TIER, id=replace(OLD_TIER.id, tier="triton_3_4_0"))
LEGACY = replace(OLD_TIER, id=replace(OLD_TIER.id, tier="legacy_configs"))

FASTER = Duel(Interval(0.88, 0.9, 0.92), Verdict.FASTER)


def us(median: float) -> Interval:
    return Interval(median, median, median)


def report(**times_us: float | None) -> dict[str, Any]:
    """What `tools.bench` prints of one row; no time: it failed, with a message that may say anything."""
    names = {"own": "this file", "main": "main", "heuristic": NO_FILE, "sglang": SGLANG_NO_FILE}
    measured = {
        names[name]: Measured(entry(), None if time is None else us(time), "" if time else "<b>compile</b>")
        for name, time in times_us.items()
    }
    duels = {name: FASTER if m.us and times_us["own"] else FAILED for name, m in list(measured.items())[1:]}
    row = RowVerdict(64, 10.0, "memory", measured, duels)
    file = FileResult("name.json", ("K=4096, top_k=2",), tuple(measured), (row,))
    return json.loads(
        to_json(FilesReport(Environment.read(ENVIRONMENT), "2026-11-22", "uniform", "5f" * 32, None, (file,)))
    )


def test_reads_what_the_bench_prints() -> None:
    bench = read_bench(report(own=90, heuristic=120, sglang=130, main=100))
    assert bench.rows == {64: BenchedRow(90, 100, 120, FASTER, FASTER)}
    assert bench.environment == Environment.read(ENVIRONMENT)


def test_reads_a_bench_without_a_file_of_mains() -> None:
    assert read_bench(report(own=90, heuristic=120, sglang=130)).rows == {64: BenchedRow(90, None, 120, None, FASTER)}


def test_an_entry_that_fails_has_no_time_and_its_message_stays_behind() -> None:
    bench = read_bench(report(own=None, heuristic=120, sglang=130, main=100))
    assert bench.rows == {64: BenchedRow(None, 100, 120, FAILED, FAILED)}


@pytest.mark.parametrize("document", [{}, [], None, {"files": []}, {"files": [{"rows": [{}]}], "environment": {}}])
def test_what_is_no_bench_is_a_crash(document: Any) -> None:
    with pytest.raises(NotMeasuredError) as error:
        read_bench(document)
    assert error.value.reason == "crashed"


@pytest.mark.parametrize(
    ("backend", "file", "reason"),
    [
        (GpuBackend(None, "3.8.0", reference_triton()), planned(), "no_gpu"),
        (GpuBackend("NVIDIA B200", "3.8.0", reference_triton()), planned(), "wrong_device"),
        (GpuBackend("A card that nobody knows", "3.8.0", reference_triton()), planned(), "wrong_device"),
        (HERE, planned(device_name=A100), "wrong_device"),
        (GpuBackend(HERE.device_name, None, reference_triton()), planned(), "wrong_triton"),
        (GpuBackend(HERE.device_name, "3.4.0", reference_triton()), planned(), "wrong_triton"),
        (HERE, OLD_TIER, "wrong_triton"),
    ],
)
def test_what_cannot_be_measured_here(backend: GpuBackend, file: PlannedFile, reason: str) -> None:
    for attempt in (lambda: backend.bench(file, 60), lambda: backend.tune_arguments(file)):
        with pytest.raises(NotMeasuredError) as error:
            attempt()
        assert error.value.reason == reason


@pytest.mark.parametrize(
    ("backend", "file"), [(GpuBackend(HERE.device_name, "3.4.0", reference_triton()), OLD_TIER), (HERE, LEGACY)]
)
def test_a_tier_is_measured_with_its_triton_and_legacy_files_with_any(backend: GpuBackend, file: PlannedFile) -> None:
    assert backend.tune_arguments(file)


class Seen:
    """Stands for the child process: reads its command line as `tools.bench` does, while the files are there."""

    def __call__(self, module: str, arguments: Sequence[str], limit_s: float, *, good: Sequence[int]) -> Any:
        assert (module, limit_s, good) == ("tools.bench", 60, (0, 1))
        request = bench_request.parse(arguments)
        (self.file,) = candidates.read_files(request, lambda line: None)
        assert self.file.launch_configs
        self.shapes = shapes_of(self.file, load_models())
        rivals = [word for word in request.against if word != "heuristic"]
        self.names = [file.name for file in (measure.Path(word).parent for word in rivals)]
        self.rivals: list[ConfigFile] = [against(word, self.file) for word in rivals]
        return report(own=90, heuristic=120, sglang=130)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    child = Seen()
    monkeypatch.setattr(measure, "run_tool", child)
    return child


def test_benches_the_claimed_file_beside_mains_under_the_plans_shapes(seen: Seen) -> None:
    shapes = (PlannedShape(4096, 2, registered=True), PlannedShape(6144, 4, registered=False))
    file = replace(planned(main=MAIN), shapes=shapes)
    HERE.bench(file, 60)
    assert seen.file.launch_configs == file.claimed
    assert seen.shapes == (Shape(4096, 2), Shape(6144, 4))
    assert seen.names == ["main"]
    assert seen.rivals[0].entries == MAIN


def test_benches_a_new_file_beside_the_heuristic_alone(seen: Seen) -> None:
    HERE.bench(planned(), 60)
    assert seen.rivals == []


def test_benches_mains_file_where_it_is_to_be_removed(seen: Seen) -> None:
    HERE.bench(planned({}, MAIN), 60)
    assert seen.file.launch_configs == MAIN
    assert seen.rivals == []


@pytest.mark.parametrize(
    "file",
    [
        planned(),
        planned(E=256, N=128, dtype="fp8_w8a8", block_shape=(128, 128)),
        planned(dtype="fp8_w8a8", per_channel_quant=True),
        planned(dtype="int8_w8a16"),
    ],
)
def test_the_tuner_tunes_the_plans_workload(file: PlannedFile) -> None:
    request = tune_request.parse(HERE.tune_arguments(file))
    (source,) = request.sources
    subject = make_subject(source, H100, load_models(), load_devices(), all_shapes=request.all_shapes)
    assert subject.workload == file.id.workload
    assert [shape.shape for shape in subject.shapes] == [Shape(4096, 2)]


def test_the_tuner_tunes_for_every_shape_where_there_are_several() -> None:
    file = replace(planned(), shapes=(PlannedShape(4096, 2, registered=True), PlannedShape(6144, 2, registered=True)))
    assert tune_request.parse(HERE.tune_arguments(file)).all_shapes


def test_default_files_are_measured_under_another_triton_on_purpose() -> None:
    backend = GpuBackend(HERE.device_name, "3.9.0", "3.9.0")
    assert backend.tune_arguments(planned())
    with pytest.raises(NotMeasuredError, match="wrong_triton"):
        backend.tune_arguments(OLD_TIER)
