"""A leg goes from plan to results: on the landscape of an H100, with the tuner really running, and on faked sites."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.tools.pull_request.documents_builder import (
    A100,
    ENVIRONMENT,
    H100,
    NUMBER,
    OTHER_SHA,
    SHA,
    entry,
    planned,
    write_json,
)
from tools.checkout import reference_triton
from tools.measure.judgement import Duel
from tools.measure.panel import Ratio, RoutingKind
from tools.pull_request import measure
from tools.pull_request.child import BenchedFile, NotMeasuredError, tune_in_child
from tools.pull_request.documents import PlannedFile, read_results
from tools.pull_request.judge import BenchedPart, BenchedRow
from tools.pull_request.measure import GpuBackend, Retuned, TimeLimits
from tools.store import schemas
from tools.store.files import read_file, record_path
from tools.store.record import Environment
from tools.store.workload import Workload
from tools.tune.journal import Journal
from tools.tune.tuner import baselines

LANDSCAPE = Path(__file__).parents[1] / "tune" / "landscape.jsonl.gz"
DEEPSEEK = Workload(256, 128, H100, "fp8_w8a8", (128, 128))
GOOD = LaunchConfig(16, 64, 128, 8, 4, 2)
BAD = LaunchConfig(16, 32, 128, 1, 4, 2)
UNKNOWN = LaunchConfig(16, 64, 128, 8, 16, 2)


@pytest.fixture
def landscapes(tmp_path: Path) -> Path:
    folder = tmp_path / "landscapes"
    folder.mkdir()
    shutil.copy(LANDSCAPE, folder / DEEPSEEK.file_name().replace(".json", ".jsonl.gz"))
    return folder


def workload_of(
    claimed: Mapping[int, LaunchConfig] | None,
    main: Mapping[int, LaunchConfig] | None = None,
    workload: Workload = DEEPSEEK,
    tier: str = "default",
) -> dict[str, Any]:
    def config(entries: Mapping[int, LaunchConfig] | None) -> Any:
        return entries and {str(m): entry.to_entry() for m, entry in entries.items()}

    return {
        "workload": workload.to_json(),
        "tier": tier,
        "down": workload.down,
        "shapes": [{"K": 7168, "top_k": 8, "registered": True}],
        "claimed": config(claimed),
        "main": config(main),
        "record": {"median_us": {"64": 230.0}} if claimed else None,
    }


def run(folder: Path, landscapes: Path, *workloads: dict[str, Any]) -> Any:
    """The results of one leg, by way of the command line."""
    plan = {"schema_version": 1, "number": NUMBER, "head_sha": SHA, "base_sha": OTHER_SHA}
    leg = {"device_name": H100, "workloads": list(workloads)}
    path = write_json(folder / "plan.json", {**plan, "legs": [leg]})
    arguments = ["--plan", str(path), "--device", H100, "--out", str(folder / "out"), "--replay", str(landscapes)]
    assert measure.main(arguments) == 0
    document = json.loads((folder / "out" / "results.json").read_text("utf-8"))
    assert schemas.faults("results", document) == []
    return read_results(folder / "out" / "results.json")


class TestOnALandscape:
    def test_benches_re_tunes_and_keeps_the_tuners_file(self, tmp_path: Path, landscapes: Path) -> None:
        results = run(tmp_path, landscapes, workload_of({64: BAD}, {64: GOOD}))
        (file,) = results.files
        row = file.rows[64]
        assert (results.number, results.head_sha, results.device_name) == (NUMBER, SHA, H100)
        assert results.environment.device_name == "NVIDIA H100 80GB HBM3"
        assert (row.claimed_us, row.verdict, row.decision) == (230.0, "slower", "retain")
        assert row.retuned_us < row.measured_us
        assert file.retuned_file
        kept = read_file(tmp_path / "out" / "configs" / DEEPSEEK.file_name())
        assert list(kept.document) == ["64"]
        assert kept.document["64"] != BAD.to_entry()
        record = read_file(record_path(tmp_path / "out" / "configs", file.id.relative))
        assert schemas.faults("record", record.document) == []

    def test_keeps_no_file_where_re_tuning_finds_the_claimed_one(self, tmp_path: Path, landscapes: Path) -> None:
        (file,) = run(tmp_path, landscapes, workload_of({64: GOOD})).files
        assert not file.retuned_file
        assert file.rows[64].retuned_us is not None
        assert not (tmp_path / "out" / "configs").exists()

    def test_mains_file_is_looked_up_as_engines_do(self, tmp_path: Path, landscapes: Path) -> None:
        (file,) = run(tmp_path, landscapes, workload_of({64: GOOD}, {48: BAD, 128: GOOD})).files
        assert file.rows[64].main_us > file.rows[64].measured_us

    def test_unchanged_entries_are_benched_but_not_tuned(self, tmp_path: Path, landscapes: Path) -> None:
        (file,) = run(tmp_path, landscapes, workload_of({64: GOOD}, {64: GOOD})).files
        assert (file.rows[64].verdict, file.rows[64].retuned_us) == ("same", None)

    def test_a_removed_file_is_benched_against_having_none(self, tmp_path: Path, landscapes: Path) -> None:
        (file,) = run(tmp_path, landscapes, workload_of(None, {64: GOOD})).files
        assert (file.rows[64].verdict, file.rows[64].decision) == ("slower", "retain")
        assert file.rows[64].main_us is not None

    def test_an_entry_that_nobody_recorded_has_no_time(self, tmp_path: Path, landscapes: Path) -> None:
        (file,) = run(tmp_path, landscapes, workload_of({64: UNKNOWN}, {64: GOOD})).files
        assert (file.rows[64].measured_us, file.rows[64].verdict) == (None, None)

    def test_the_heuristics_own_entry_is_the_same(self, tmp_path: Path, landscapes: Path) -> None:
        heuristic, _ = baselines(Journal.read(LANDSCAPE).header.subject, 64)
        (file,) = run(tmp_path, landscapes, workload_of({64: heuristic})).files
        assert file.rows[64].verdict == "same"
        assert file.rows[64].measured_us == file.rows[64].heuristic_us

    def test_a_legacy_file_is_re_tuned_into_the_default_tier(self, tmp_path: Path, landscapes: Path) -> None:
        (file,) = run(tmp_path, landscapes, workload_of({64: BAD}, tier="legacy_configs")).files
        assert file.retuned_file
        assert (tmp_path / "out" / "configs" / DEEPSEEK.file_name()).is_file()

    def test_what_cannot_be_measured_does_not_stop_the_others(
        self, tmp_path: Path, landscapes: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (landscapes / Workload(8, 7168, H100).file_name().replace(".json", ".jsonl.gz")).write_bytes(b"broken")
        files = run(
            tmp_path,
            landscapes,
            workload_of({64: GOOD}, workload=replace(DEEPSEEK, down=True)),
            workload_of({64: GOOD}, workload=replace(DEEPSEEK, dtype="int4_w4a16", block_shape=None)),
            workload_of({64: GOOD}, workload=Workload(8, 1024, H100)),
            workload_of({64: GOOD}, workload=Workload(8, 7168, H100)),
            workload_of({64: GOOD}),
        ).files
        reasons = [file.reason for file in files]
        assert reasons == ["unsupported", "unsupported", "unsupported", "crashed", None]
        assert [file.is_measured for file in files] == [False] * 4 + [True]
        assert "1 of 5" in capsys.readouterr().err


@dataclass
class FakeBackend:
    """A bench whose every time is known. fails: the reason that it gives instead."""

    fails: str | None = None
    limits_s: list[float] = field(default_factory=list)

    def bench(self, file: PlannedFile, limit_s: float) -> BenchedFile:
        self.limits_s.append(limit_s)
        if self.fails:
            raise NotMeasuredError(self.fails)
        won = Duel.of(Ratio(0.9, 0.9, 0.9, 4))
        part = BenchedPart(Flavour.VLLM, RoutingKind.UNIFORM, 90.0, None, 100.0, None, won)
        rows = {m: BenchedRow((part,)) for m in file.batch_sizes}
        return BenchedFile(rows, Environment.read(ENVIRONMENT))

    def tune(self, file: PlannedFile, output: Path, time_budget_s: float, limit_s: float) -> Mapping[int, float]:
        assert read_file(output / file.id.relative).document == {
            str(m): config.to_entry() for m, config in file.claimed.items()
        }
        return tune_in_child(file, Path("nowhere.jsonl.gz"), output, time_budget_s, limit_s)


def limits(seconds: float = 3600.0) -> TimeLimits:
    return TimeLimits(45.0, time.monotonic() + seconds)


class TestOneFile:
    @pytest.mark.parametrize("reason", ["no_gpu", "wrong_device", "wrong_triton", "crashed", "timeout"])
    def test_a_bench_that_fails_is_a_reason(self, tmp_path: Path, reason: str) -> None:
        file, bench = measure.measure(planned(), FakeBackend(reason), limits(), tmp_path)
        assert (file.is_measured, file.reason, file.rows, bench) == (False, reason, {}, None)

    @pytest.mark.parametrize("reason", ["timeout", "crashed"])
    def test_a_tuner_that_fails_leaves_the_bench_and_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
    ) -> None:
        def fail(*arguments: object) -> Retuned:
            raise NotMeasuredError(reason)

        monkeypatch.setattr(measure, "retune", fail)
        file, _ = measure.measure(planned(), FakeBackend(), limits(), tmp_path)
        assert (file.is_measured, file.reason, file.retuned_file) == (True, reason, False)
        assert file.rows[64].verdict == "faster"
        assert list(tmp_path.iterdir()) == []

    def test_a_tuner_that_leaves_no_file_has_crashed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FakeBackend, "tune", lambda *arguments: {64: 80.0, 128: 85.0})
        with pytest.raises(NotMeasuredError) as error:
            measure.retune(planned(), FakeBackend(), limits(), tmp_path)
        assert error.value.reason == "crashed"
        assert list(tmp_path.iterdir()) == []

    def test_no_file_of_the_pull_requests_is_ever_handed_on(self, tmp_path: Path) -> None:
        """The tuner refuses this replay; the claimed file, laid out as its incumbent, must not stay."""
        file, _ = measure.measure(planned(), FakeBackend(), limits(), tmp_path)
        assert file.reason == "crashed"
        assert list(tmp_path.iterdir()) == []

    def test_what_the_legs_time_does_not_suffice_for_is_a_timeout(self, tmp_path: Path) -> None:
        backend = FakeBackend()
        file, _ = measure.measure(planned(), backend, limits(-1.0), tmp_path)
        assert (file.reason, backend.limits_s) == ("timeout", [])

    def test_no_child_may_take_longer_than_the_leg(self, tmp_path: Path) -> None:
        backend = FakeBackend("crashed")
        measure.measure(planned(), backend, limits(5.0), tmp_path)
        assert 0 < backend.limits_s[0] <= 5.0


HERE = GpuBackend("NVIDIA H100 80GB HBM3", reference_triton(), reference_triton())
OLD_TIER = planned()
OLD_TIER = replace(OLD_TIER, id=replace(OLD_TIER.id, tier="triton_3_4_0"))
LEGACY_FILE = replace(OLD_TIER, id=replace(OLD_TIER.id, tier="legacy_configs"))


class TestGpu:
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
    def test_what_cannot_be_measured_here(
        self, backend: GpuBackend, file: PlannedFile, reason: str, tmp_path: Path
    ) -> None:
        for attempt in (lambda: backend.bench(file, 60), lambda: backend.tune(file, tmp_path, 45, 60)):
            with pytest.raises(NotMeasuredError) as error:
                attempt()
            assert error.value.reason == reason

    @pytest.mark.parametrize(
        ("backend", "file"),
        [(GpuBackend(HERE.device_name, "3.4.0", reference_triton()), OLD_TIER), (HERE, LEGACY_FILE)],
    )
    def test_a_tier_is_measured_with_its_triton_and_legacy_files_with_any(
        self, backend: GpuBackend, file: PlannedFile
    ) -> None:
        backend.check(file)

    def test_default_files_are_measured_under_another_triton_on_purpose(self) -> None:
        backend = GpuBackend(HERE.device_name, "3.9.0", "3.9.0")
        backend.check(planned())
        with pytest.raises(NotMeasuredError, match="wrong_triton"):
            backend.check(OLD_TIER)

    def test_but_not_tuned_whose_answer_would_be_a_version_file(self, tmp_path: Path) -> None:
        backend = GpuBackend(HERE.device_name, "3.9.0", "3.9.0")
        with pytest.raises(NotMeasuredError, match="wrong_triton"):
            backend.tune(planned(), tmp_path, 45, 60)


class TestCommandLine:
    def test_a_machine_without_a_gpu_writes_results_that_say_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(GpuBackend, "here", classmethod(lambda cls, wanted: cls(None, "3.8.0", wanted)))
        plan = {"schema_version": 1, "number": NUMBER, "head_sha": SHA, "base_sha": OTHER_SHA}
        leg = {"device_name": H100, "workloads": [workload_of({64: entry()})]}
        path = write_json(tmp_path / "plan.json", {**plan, "legs": [leg]})
        assert measure.main(["--plan", str(path), "--device", H100, "--out", str(tmp_path / "out")]) == 0
        results = read_results(tmp_path / "out" / "results.json")
        assert results.environment is None
        assert results.files[0].reason == "no_gpu"

    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            (["--device", "NVIDIA_B200"], "--device: expected one of the plan's"),
            (["--plan", "nowhere.json"], "expected a readable file"),
            (["--triton", "1;id"], "--triton: expected X.Y.Z, found '1;id'. Fix: "),
            (["--triton", ""], "--triton: expected X.Y.Z, found ''. Fix: "),
            (["--triton", "\n::error::"], "--triton: expected X.Y.Z, found "),
            (["--replay", "nowhere"], "--replay: expected a folder"),
            (["--time-budget", "0"], "--time-budget: expected from 1"),
            (["--limit", "nan"], "--limit: expected from 1"),
        ],
    )
    def test_bad_use_is_one_line_and_writes_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
    ) -> None:
        plan = {"schema_version": 1, "number": NUMBER, "head_sha": SHA, "base_sha": OTHER_SHA}
        leg = {"device_name": H100, "workloads": [workload_of({64: GOOD})]}
        path = write_json(tmp_path / "plan.json", {**plan, "legs": [leg]})
        usual = ["--plan", str(path), "--device", H100, "--out", str(tmp_path / "out")]
        assert measure.main([*usual, *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
        assert not (tmp_path / "out").exists()
