"""A tuned file has a record, the record is valid, and it speaks of exactly this file."""

from __future__ import annotations

import datetime
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fused_moe_configs.naming import ENGINE_NAMES
from tests.builders import H100, NAME, NO_EXCEPTIONS, Store, context, models, table, times, without_roots_rights
from tools.checkout import reference_triton
from tools.findings import Severity
from tools.launch.heuristic_version import measured_heuristics
from tools.launch.kernel_hash import EARLIER, hash_source
from tools.registry.models import Model, ModelRegistry, Quantisation
from tools.registry.shapes import registered_shapes
from tools.store.files import canonical_config, sha256
from tools.store.workload import Layout, Shape, Workload
from tools.validate import runner
from tools.validate.rules.record import RULE


def test_a_matching_record_is_fine(store: Store) -> None:
    store.config()
    store.measured(store.config(name=NAME.replace("8", "16", 1)))
    assert store.findings(RULE) == []


def test_a_file_without_a_record_is_an_error_that_says_where_it_belongs(store: Store) -> None:
    store.config(folder="legacy_configs", record=False)
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.ERROR
    assert finding.message == f"expected a record at records/legacy_configs/{NAME}, found none"
    assert "`nox -s convert`, which writes the record" in finding.fix


def test_a_record_of_another_tier_does_not_count(store: Store) -> None:
    store.config()
    store.config(folder="triton_3_6_0", record=False)
    assert len(store.findings(RULE)) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"a": NaN}'])
def test_a_broken_record_is_an_error_on_the_record(store: Store, data: bytes) -> None:
    record = store.record_of(store.config())
    record.write_bytes(data)
    findings = store.findings(RULE)
    assert findings
    assert {finding.path for finding in findings} == {findings[0].path}
    assert findings[0].path.endswith(f"records/{NAME}")


def test_a_dangling_link_is_no_record(store: Store) -> None:
    record = store.record_of(store.config())
    record.unlink()
    record.symlink_to("nothing")
    (finding,) = store.findings(RULE)
    assert "broken link" in finding.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"E": 16}, "workload.E: expected 8 as in the name, found 16"),
        ({"N": 14}, "workload.N: expected 1024 as in the name, found 14"),
        ({"dtype": "fp8_w8a8"}, "workload.dtype: expected None as in the name, found 'fp8_w8a8'"),
        ({"block_shape": (64, 128)}, "workload.block_shape: expected None as in the name, found (64, 128)"),
        (
            {"device_name": "NVIDIA_H200"},
            f"workload.device_name: expected '{H100}' as in the name, found 'NVIDIA_H200'",
        ),
        ({"per_channel_quant": True}, "workload.per_channel_quant: expected False as in the name, found True"),
        ({"down": True}, "workload.down: expected False as in the name, found True"),
    ],
)
def test_a_record_of_another_workload_is_an_error(store: Store, changes: dict[str, Any], message: str) -> None:
    path = store.config()
    store.record(path, workload=Workload(**{"E": 8, "N": 1024, "device_name": H100, **changes}).to_json())
    assert store.messages(RULE) == [message]


def test_absent_flags_mean_false(store: Store) -> None:
    path = store.config()
    workload = Workload(8, 1024, H100).to_json()
    store.record(path, workload={key: value for key, value in workload.items() if value is not False})
    assert store.findings(RULE) == []


def test_changed_bytes_no_longer_match_the_hash(store: Store) -> None:
    path = store.config()
    path.write_bytes(path.read_bytes().replace(b"64", b"128", 1))
    (message,) = store.messages(RULE)
    assert message.startswith("config_sha256: expected the file that was recorded (")


@pytest.mark.parametrize("mark", [lambda data: data.replace(b"\n", b"\r\n"), lambda data: data.replace(b"    ", b" ")])
def test_what_differs_in_form_alone_is_not_another_file(store: Store, mark: Callable[[bytes], bytes]) -> None:
    path = store.config()
    store.measured(path)
    path.write_bytes(mark(path.read_bytes()))
    (finding,) = store.findings()
    assert (finding.rule, finding.fix) == ("canonical-bytes", "run with --fix")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (b'"num_stages": 3', b'"num_stages": 4', "record"),
        (b',\n        "num_stages": 3', b"", "schema"),
        (b'"num_stages": 3', b'"num_stages": 3,', "strict-json"),
        (b'"num_stages": 3', b'"num_stages": "3"', "schema"),
    ],
)
def test_an_edit_is_one_finding(store: Store, old: bytes, new: bytes, rule: str) -> None:
    path = store.config()
    store.measured(path)
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    assert [finding.rule for finding in store.findings()] == [rule]


def test_a_row_that_is_gone_is_one_finding(store: Store) -> None:
    path = store.config()
    store.measured(path)
    path.write_bytes(canonical_config({size: row for size, row in table().items() if size != "64"}))
    assert store.messages() == ["rows: expected the file's batch sizes, found not in the file 64"]


def test_rows_are_the_files_batch_sizes(store: Store) -> None:
    path = store.config(table([1, 2, 16]))
    record = json.loads(store.measured(path).read_bytes())
    rows = record["rows"]
    rows["10"], rows["9"] = rows.pop("2"), rows.pop("16")
    store.measured(path, rows=rows)
    assert store.messages(RULE) == [
        "rows: expected the file's batch sizes, found missing 2, 16 and not in the file 9, 10"
    ]


def changed(store: Store, **figures: dict[str, float]) -> list[str]:
    """What the rule says of a measured file of these rows, where the one of 64 tokens holds these figures."""
    path = store.config(table([1, 64, 4096]))
    rows = json.loads(store.measured(path).read_bytes())["rows"]
    rows["64"] |= figures
    store.measured(path, rows=rows)
    return [finding.message for finding in store.findings(RULE) if finding.severity is Severity.ERROR]


@pytest.mark.parametrize("figure", ["latency_us", "baseline_us", "incumbent_us"])
@pytest.mark.parametrize(
    ("latency", "told"),
    [
        ({"p10": 0.001}, "expected p10 and p90 within 30 % of the median, found 55 %"),
        ({"p90": 1e6}, "expected p10 and p90 within 30 % of the median, found 5e+04 %"),
        ({"p10": 1001.0}, "expected p10 ≤ median ≤ p90, found 1001, 1000 and 1100 µs"),
        ({"p90": 999.0}, "expected p10 ≤ median ≤ p90, found 900, 1000 and 999 µs"),
        (times(5e-324), "expected at least 15.1 µs, which the device takes at best, found 4.94066e-324"),
        (times(15.0), "expected at least 15.1 µs, which the device takes at best, found 15"),
    ],
)
def test_a_time_that_no_measurement_gives_is_an_error(
    store: Store, figure: str, latency: dict[str, float], told: str
) -> None:
    found = changed(store, **{figure: {**times(1000.0, spread_pct=10.0), **latency}})
    assert f"rows.64.{figure}: {told}" in found


def test_a_time_at_the_devices_limit_is_fine(store: Store) -> None:
    """8 experts' weights of 12.6 MB each, and the rows, take the H100's memory 31 µs; half is asked for."""
    assert changed(store, latency_us=times(15.9, spread_pct=19.9), incumbent_us=times(15.9)) == []


def test_a_device_without_a_known_memory_speed_still_takes_some_time(store: Store) -> None:
    path = store.config(table([64]), "E=8,N=1024,device_name=NVIDIA_H100.json")
    row = {"baseline_us": times(1000.0), "incumbent_us": None, "decision": "promote"}
    store.measured(path, rows={"64": {"latency_us": times(0.6), **row}})
    assert store.findings(RULE) == []
    store.measured(path, rows={"64": {"latency_us": times(0.4), **row}})
    assert ["rows.64.latency_us: expected at least 0.5 µs" in message for message in store.messages(RULE)] == [True]


def test_a_down_files_rows_are_of_half_the_weights(store: Store) -> None:
    name = NAME.replace(".json", "_down.json")
    store.measured(store.config(table([64])))
    row = {"baseline_us": times(1000.0), "incumbent_us": None, "decision": "promote"}
    path = store.config(table([64]), name)
    store.measured(path, rows={"64": {"latency_us": times(5.1), **row}})
    assert store.findings(RULE) == []
    store.measured(path, rows={"64": {"latency_us": times(4.9), **row}})
    assert len(store.findings(RULE)) == 1


def test_a_row_that_is_slower_than_no_file_is_an_error(store: Store) -> None:
    path = store.config(table([1, 2, 16]))
    rows = json.loads(store.measured(path).read_bytes())["rows"]
    rows["2"]["latency_us"]["median"] = rows["2"]["baseline_us"]["median"] + 0.01
    store.measured(path, rows=rows)
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.ERROR
    assert finding.message == "rows.2: expected at most the heuristic's 1000.0 µs, found 1000.01 µs"


def part(ratio: float, engine: str = "vllm", routing: str = "uniform") -> dict[str, Any]:
    interval = {"ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01, "blocks": 4}
    return {"engine": engine, "shape": 0, "routing": routing, **interval}


UNBOUNDED = {"bounded": False, "unbounded": [{"engine": "sglang", "shape": 0, "routing": "skew_0.3"}]}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"parts": [part(0.9), part(1.02, "sglang", "skew_0.3")]}, None),
        ({"parts": [part(0.9), part(1.021, "sglang", "skew_0.3")]}, "rows.2.parts.1: expected at most 1.02"),
        ({"parts": [part(0.9), part(1.3, "sglang", "skew_0.3")], **UNBOUNDED}, None),
        (
            {"parts": [part(1.03), part(1.3, "sglang", "skew_0.3")], **UNBOUNDED},
            "rows.2.parts.0: expected at most 1.02",
        ),
        ({"parts": [part(0.9), part(1.3, routing="recorded")]}, None),
    ],
    ids=["within", "beyond", "says so", "says so of another part", "recorded routing doesn't decide"],
)
def test_a_row_of_parts_is_held_to_the_bound(store: Store, row: dict[str, Any], fault: str | None) -> None:
    """Medians are no matter then: they are of other blocks than the ratios' geometric mean."""
    path = store.config(table([1, 2, 16]))
    rows = json.loads(store.measured(path).read_bytes())["rows"]
    rows["2"]["latency_us"]["median"] = rows["2"]["baseline_us"]["median"] + 0.01
    rows["2"] |= row
    store.measured(path, rows=rows)
    messages = [finding.message for finding in store.findings(RULE)]
    assert [message[: len(fault or "")] for message in messages] == ([] if fault is None else [fault])


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ([part(0.9), part(0.9, "sglang"), part(0.9, routing="skew_0.3")], None),
        ([part(0.9), part(0.8)], "rows.2.parts.1: expected each part once, found vllm"),
        ([part(0.9) | {"shape": 1}], "rows.2.parts.0: expected one of the record's 1 shapes, from 0, found 1"),
        ([part(0.9) | {"low": 0.95}], "rows.2.parts.0: expected low ≤ ratio ≤ high, found 0.95, 0.9, 0.91"),
    ],
    ids=["each another", "one twice", "of no shape", "outside its interval"],
)
def test_parts_are_those_of_a_measurement(store: Store, parts: list[dict[str, Any]], fault: str | None) -> None:
    """What the site and the index tell of a shape or an engine is a part's ratio."""
    path = store.config(table([1, 2, 16]))
    rows = json.loads(store.measured(path).read_bytes())["rows"]
    rows["2"]["parts"] = parts
    store.measured(path, rows=rows)
    messages = [finding.message for finding in store.findings(RULE)]
    assert [message[: len(fault or "")] for message in messages] == ([] if fault is None else [fault])


@pytest.mark.parametrize(
    ("engines", "fault"),
    [
        ({"vllm": (900.0, 1000.0), "sglang": (950.0, 960.0)}, None),
        ({"vllm": (900.0, 1000.0)}, "rows.2: expected the times of one of by_engine, found others"),
        (
            {"vllm": (0.001, 1000.0), "sglang": (950.0, 960.0)},
            "rows.2.by_engine.vllm.latency_us: expected at least",
        ),
    ],
    ids=["one of them is the row's", "none is", "faster than the device"],
)
def test_times_by_engine_are_held_to_the_row_and_the_device(
    store: Store, engines: dict[str, tuple[float, float]], fault: str | None
) -> None:
    path = store.config(table([1, 2, 16]))
    rows = json.loads(store.measured(path).read_bytes())["rows"]
    by_engine = {
        name: {"latency_us": times(own), "baseline_us": times(heuristic)} for name, (own, heuristic) in engines.items()
    }
    rows["2"] |= {"latency_us": times(950.0), "baseline_us": times(960.0), "by_engine": by_engine, "parts": [part(0.9)]}
    rows["2"] = {key: value for key, value in rows["2"].items() if key not in ("up_us", "down_us")}
    store.measured(path, rows=rows)
    messages = [finding.message for finding in store.findings(RULE)]
    assert [message[: len(fault or "")] for message in messages] == ([] if fault is None else [fault])


@pytest.mark.parametrize(("triton", "count"), [("3.6.0", 0), ("3.6.0+git1a2b", 0), ("3.8.0", 1), ("3.6.1", 1)])
def test_a_version_file_was_measured_with_its_version(store: Store, triton: str, count: int) -> None:
    store.measured(store.config(folder="triton_3_6_0"), triton=triton)
    findings = store.findings(RULE)
    assert [finding.severity for finding in findings] == [Severity.ERROR] * count


@pytest.mark.parametrize("verified_with", [[], ["3.7.0"]])
def test_a_default_file_of_another_triton_is_a_warning(store: Store, verified_with: list[str]) -> None:
    lines = [{"triton": triton, "date": "2026-01-01", "worst_loss_pct": 0} for triton in verified_with]
    store.measured(store.config(), triton="3.6.0", verified_with=lines)
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.WARNING
    assert finding.message == f"environment.triton: measured with 3.6.0, the reference is {reference_triton()}"


def test_unless_it_was_verified_with_the_reference(store: Store) -> None:
    line = {"triton": reference_triton(), "date": "2026-01-01", "worst_loss_pct": 0.5}
    store.measured(store.config(), triton="3.6.0", verified_with=[line])
    assert store.findings(RULE) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"device_name": "NVIDIA H200"},
            "environment.device_name: expected NVIDIA_H100_80GB_HBM3 as of the name's device, found NVIDIA H200",
        ),
        (
            {"device_name": "a GPU"},
            "environment.device_name: expected NVIDIA_H100_80GB_HBM3 as of the name's device, found a GPU",
        ),
        (
            {"compute_capability": "gfx942"},
            "environment.compute_capability: expected 9.0 as of the name's device, found gfx942",
        ),
        ({"sm_count": 66}, "environment.sm_count: expected 132 as of the name's device, found 66"),
    ],
)
def test_figures_of_another_gpu_or_a_slice_of_one_are_no_evidence(
    store: Store, changes: dict[str, Any], message: str
) -> None:
    path = store.config()
    environment = json.loads(store.measured(path).read_bytes())["environment"]
    store.measured(path, environment={**environment, **changes})
    (finding,) = store.findings(RULE)
    assert (finding.severity, finding.message) == (Severity.ERROR, message)


def test_any_of_a_devices_names_will_do(store: Store) -> None:
    """Drivers spell the MI300X in three ways."""
    path = store.config(name=NAME.replace(H100, "AMD_Instinct_MI300X"))
    environment = json.loads(store.measured(path).read_bytes())["environment"]
    amd = {"device_name": "AMD Instinct MI300X OAM", "compute_capability": "gfx942", "sm_count": 304}
    store.measured(path, environment={**environment, **amd})
    assert store.findings(RULE) == []


def test_legacy_files_are_tied_to_no_triton(store: Store) -> None:
    store.measured(store.config(folder="legacy_configs"), triton="3.1.0")
    assert store.findings(RULE) == []


def test_an_older_kernel_is_an_info(store: Store) -> None:
    store.measured(store.config(), kernel_sha256=min(EARLIER))
    (finding,) = store.findings(RULE)
    assert (finding.severity, finding.message) == (Severity.INFO, "measured on an older kernel")


@pytest.mark.parametrize("sha256", ["0" * 64, "f" * 64, hash_source("")])
def test_a_kernel_that_the_project_never_had_is_an_error(store: Store, sha256: str) -> None:
    store.measured(store.config(), kernel_sha256=sha256)
    (finding,) = store.findings(RULE)
    expected = "kernel_sha256: expected the hash of a kernel that this project has or had"
    assert (finding.severity, finding.message) == (Severity.ERROR, f"{expected}, found {sha256}")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_older_heuristic_is_an_info(store: Store, engine: str) -> None:
    heuristics = {name: each.to_json() for name, each in measured_heuristics(lambda _: None).versions.items()}
    store.measured(store.config(), heuristics=heuristics)
    assert store.findings(RULE) == []
    store.measured(store.config(), heuristics={**heuristics, engine: {"version": "0.1.0", "sha256": "0" * 64}})
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.INFO
    assert finding.message == f"heuristics: measured against an older heuristic of {ENGINE_NAMES[engine]}"


def test_a_record_from_before_heuristics_were_written_down_has_no_finding(store: Store) -> None:
    assert "heuristics" not in json.loads(store.measured(store.config()).read_bytes())
    assert store.findings(RULE) == []


class TestDates:
    TODAY = datetime.date(2026, 11, 26)

    def messages(self, store: Store, **changes: Any) -> list[str]:
        store.measured(store.config(), **changes)
        here = replace(context(), today=self.TODAY)
        return [finding.message for finding in runner.validate([store.root], here, NO_EXCEPTIONS, [RULE]).findings]

    @pytest.mark.parametrize("day", ["2000-01-01", "2026-11-26", "2026-11-27"])
    def test_until_tomorrow_they_are_fine(self, store: Store, day: str) -> None:
        assert self.messages(store, date=day) == []

    @pytest.mark.parametrize("day", ["2026-11-28", "2099-12-31"])
    def test_later_nothing_was_measured(self, store: Store, day: str) -> None:
        said = {"triton": "3.8.0", "date": day}
        checked = {**said, "engine": "vllm", "version": "0.33.0", "worst_ratio": 1.0, "geomean_ratio": 0.9}
        lines = {"verified_with": [{**said, "worst_loss_pct": 0}], "engine_checked": [checked]}
        word = {"runner": "a", "run_url": "https://a", "commit": "a" * 40, "date": day, "evidence_sha256": "a" * 64}
        assert self.messages(store, date=day, **lines, verified=word) == [
            f"{key}: expected a day until 2026-11-27, found {day}"
            for key in ("date", "engine_checked.0.date", "verified.date", "verified_with.0.date")
        ]


class TestShapes:
    KNOWN = Shape(2048, 8, ep=8)
    """OLMoE's, among those that the registry knows behind E=8, N=1024."""

    def messages(self, store: Store, *shapes: Shape, name: str = NAME) -> list[str]:
        listed = [{**shape.to_json(), "models": []} for shape in shapes]
        store.measured(store.config(table([64]), name), shapes=listed)
        return store.messages(RULE)

    def test_any_that_the_registry_knows_will_do(self, store: Store) -> None:
        for served in registered_shapes(Workload(8, 1024, H100), models()):
            assert self.messages(store, served.shape, name=NAME) == []

    def test_another_one_names_the_nearest(self, store: Store) -> None:
        (message,) = self.messages(store, Shape(256, 1))
        first = r"K=2048, top_k=8, ep=8 \(allenai/OLMoE-1B-7B-0924 tp=8 ep=8\)"
        nearest = first + r"(, K=\d+, top_k=\d+(, \d of them shared)?(, ep=\d+)? \(\S+ tp=.*\)){2}"
        expected = f"shapes: expected those of the registry's models for E=8, N=1024, the nearest {nearest}"
        assert re.fullmatch(f"{expected}; found K=256, top_k=1", message)

    def test_one_beside_a_known_one_is_no_better(self, store: Store) -> None:
        assert len(self.messages(store, self.KNOWN, Shape(256, 1))) == 1

    def test_once_the_model_is_registered_it_is_fine(self, store: Store) -> None:
        strange = Shape(3072, 4)
        assert len(self.messages(store, strange)) == 1
        model = Model("a/model", 8, 1024, 3072, 4, Quantisation("bf16"), "its config.json")
        here = replace(context(), models=ModelRegistry((*models(), model)))
        assert runner.validate([store.root], here, NO_EXCEPTIONS, [RULE]).findings == ()

    def test_each_stands_once(self, store: Store) -> None:
        assert self.messages(store, self.KNOWN, self.KNOWN) == [
            "shapes: expected each once, found K=2048, top_k=8, ep=8 twice"
        ]

    @pytest.mark.parametrize(
        ("shape", "is_fine"),
        [
            (Shape(3072, 5), True),
            (Shape(16384, 8), True),
            (Shape(16448, 2), False),
            (Shape(192, 2), False),
            (Shape(4097, 2), False),
            (Shape(4096, 9), False),
        ],
    )
    def test_of_a_name_that_no_model_has_those_that_a_plan_measures(
        self, store: Store, shape: Shape, is_fine: bool
    ) -> None:
        messages = self.messages(store, shape, name=f"E=8,N=1984,device_name={H100}.json")
        assert (messages == []) is is_fine
        assert all("as no registered model has this name" in message for message in messages)

    def test_published_figures_choose_no_floor(self, store: Store) -> None:
        store.record(store.config(), shapes=[{"K": 256, "top_k": 1, "models": []}])
        assert store.findings(RULE) == []


class TestModels:
    """`list --model` shows a file to those who ask for these names, even as verified."""

    FILE = f"E=8,N=7168,device_name={H100}.json"
    ROW: Mapping[str, Any] = {"latency_us": times(9000.0), "baseline_us": times(9000.0), "decision": "promote"}

    def found(self, store: Store, *names: str, **record: Any) -> list[tuple[Severity, str]]:
        shapes = [{"K": 4096, "top_k": 2, "models": list(names)}]
        store.measured(store.config(table([64]), self.FILE), **{"shapes": shapes, "rows": {"64": self.ROW}, **record})
        return [(finding.severity, finding.message) for finding in store.findings(RULE)]

    def test_those_with_these_sizes_on_a_rank_are_fine(self, store: Store) -> None:
        names = ("mistralai/Mixtral-8x7B-v0.1 tp=2", "ai21labs/AI21-Jamba-Mini-1.5 tp=4 ep=2")
        assert self.found(store, *names) == []

    @pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V3 tp=16", "mistralai/Mixtral-8x7B-v0.1 tp=4"])
    def test_others_are_an_error(self, store: Store, name: str) -> None:
        message = f"shapes.0.models: expected models with E=8, N=7168, K=4096, top_k=2 on a rank, found {name}"
        assert self.found(store, name) == [(Severity.ERROR, message)]

    def test_in_published_records_too(self, store: Store) -> None:
        shapes = [{"K": 4096, "top_k": 2, "models": ["deepseek-ai/DeepSeek-V3 tp=16"]}]
        store.record(store.config(name=self.FILE), shapes=shapes)
        assert len(store.findings(RULE)) == 1

    def test_one_that_the_registry_does_not_know_is_a_warning(self, store: Store) -> None:
        ((severity, message),) = self.found(store, "a/model tp=2")
        assert severity is Severity.WARNING
        assert message.endswith("expected models of the registry, found a/model tp=2, which nothing here checks")


class TestNeverMeasured:
    @pytest.mark.parametrize("dtype", ["int4_w4a16", "fp8_w8a16", "float32"])
    def test_what_no_kernel_here_runs_has_no_figures_of_ours(self, store: Store, dtype: str) -> None:
        path = store.config(table([64]), NAME.replace(".json", f",dtype={dtype}.json"))
        assert store.findings(RULE) == []
        store.measured(path)
        (message,) = store.messages(RULE)
        assert message == f"source: expected published, as no kernel of this project runs {dtype}, found measured"

    @pytest.mark.parametrize(("N", "is_fine"), [(409_600, True), (442_368, False)])
    def test_nor_have_weights_that_the_device_does_not_hold(self, store: Store, N: int, is_fine: bool) -> None:
        path = store.config(table([64]), f"E=8,N={N},device_name={H100}.json")
        row = {"latency_us": times(1e6), "baseline_us": times(1e6), "decision": "promote"}
        store.measured(path, rows={"64": row})
        too_large = "holds, 80 GiB, found 81.0 GiB with K=4096, top_k=2"
        told = [] if is_fine else [f"shapes.0: expected weights that {H100} {too_large}"]
        assert store.messages(RULE) == told


class TestRowsOfShapes:
    SHAPES = (Shape(2048, 8, ep=8), Shape(6144, 2))

    def messages(self, store: Store, *by_shape: tuple[Shape, float, float], us: float = 1000.0) -> list[str]:
        """by_shape: shape, its time, its heuristic's. us: of the row itself."""
        path = store.config(table([64]))
        rows = [
            {**shape.to_json(), "latency_us": times(own), "baseline_us": times(heuristic)}
            for shape, own, heuristic in by_shape
        ]
        row = {"latency_us": times(us), "baseline_us": times(1000.0), "decision": "promote", "by_shape": rows}
        shapes = [{**shape.to_json(), "models": []} for shape in self.SHAPES]
        store.measured(path, shapes=shapes, rows={"64": row})
        return store.messages(RULE)

    def test_each_of_the_records_shapes_once_is_fine(self, store: Store) -> None:
        first, second = self.SHAPES
        assert self.messages(store, (second, 900.0, 950.0), (first, 1000.0, 1000.0)) == []

    def test_another_shape_or_one_twice_is_not(self, store: Store) -> None:
        first, second = self.SHAPES
        for by_shape in ([first], [first, first], [first, Shape(256, 1)], [first, second, second]):
            (message,) = self.messages(store, *((shape, 1000.0, 1000.0) for shape in by_shape))
            assert message.startswith("rows.64.by_shape: expected each of the record's shapes once, found K=2048")

    def test_a_shape_that_is_slower_than_no_file_is_an_error(self, store: Store) -> None:
        first, second = self.SHAPES
        assert self.messages(store, (first, 1000.0, 1000.0), (second, 1000.0, 900.0)) == [
            "rows.64.by_shape.1: expected at most the heuristic's 900.0 µs, found 1000.0 µs"
        ]

    def test_each_is_held_to_its_own_floor(self, store: Store) -> None:
        """30 µs are possible with K=2048, not with 6144."""
        first, second = self.SHAPES
        assert self.messages(store, (first, 30.0, 1000.0), (second, 1000.0, 1000.0)) == []
        (message,) = self.messages(store, (first, 1000.0, 1000.0), (second, 30.0, 1000.0))
        assert message.startswith("rows.64.by_shape.1.latency_us: expected at least 45.")

    def test_the_row_tells_the_times_of_one_of_them(self, store: Store) -> None:
        first, second = self.SHAPES
        assert self.messages(store, (first, 1000.0, 1000.0), (second, 900.0, 1000.0), us=500.0) == [
            "rows.64: expected the times of one of by_shape, found others"
        ]


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"up_us": 600.0, "down_us": 410.0, "floor_us": 900.0}, None),
        ({"up_us": 600.0}, None),
        ({"floor_us": 1900.0}, None),
        ({"up_us": 1400.0}, "up_us and down_us: expected both to add up to the row's 1000 µs within 30 %, found 1400"),
        ({"up_us": 1.0, "down_us": 1.0}, "up_us and down_us: expected both to add up to the row's 1000 µs within 30 %"),
        ({"floor_us": 2001.0}, "floor_us: expected 15.1 to 2e+03 µs beside the row's 1000, found 2001"),
        ({"floor_us": 1.0}, "floor_us: expected 15.1 to 2e+03 µs beside the row's 1000, found 1"),
    ],
)
def test_what_is_told_beside_a_time_is_of_the_same_row(
    store: Store, figures: dict[str, float], told: str | None
) -> None:
    found = changed(store, **figures)  # type: ignore[arg-type]
    assert len(found) == (told is not None)
    assert all(message.startswith(f"rows.64.{told}") for message in found)


def test_a_mean_is_no_worse_than_the_worst(store: Store) -> None:
    line = {"engine": "vllm", "version": "0.33.0", "triton": "3.8.0", "date": "2026-01-01"}
    store.measured(store.config(), engine_checked=[{**line, "worst_ratio": 0.9, "geomean_ratio": 0.95}])
    assert store.messages(RULE) == [
        "engine_checked.0: expected a geomean_ratio of at most worst_ratio, 0.9, found 0.95"
    ]


def test_nor_under_any_routing(store: Store) -> None:
    line = {"engine": "vllm", "version": "0.33.0", "triton": "3.8.0", "date": "2026-01-01"}
    kinds = {"uniform": 0.9, "skew_0.3": 0.99}
    by_routing = {kind: {"worst_ratio": 0.95, "geomean_ratio": mean, "slower": 0} for kind, mean in kinds.items()}
    checked = {**line, "worst_ratio": 0.95, "geomean_ratio": 0.9, "by_routing": by_routing}
    store.measured(store.config(), engine_checked=[checked])
    assert store.messages(RULE) == [
        "engine_checked.0.by_routing.skew_0.3: expected a geomean_ratio of at most worst_ratio, 0.95, found 0.99"
    ]


@pytest.mark.parametrize(
    ("now", "found"),
    [("the same", None), ("another", f"another ({sha256(b'another')[:12]}…)"), (None, "none")],
)
def test_a_judgement_is_of_the_down_file_that_it_ran_with(store: Store, now: str | None, found: str | None) -> None:
    line = {"engine": "sglang", "version": "0.5.23", "triton": "3.8.0", "date": "2026-01-01"}
    ran_with = sha256(b"the same")
    path = store.config()
    store.measured(path, engine_checked=[{**line, "worst_ratio": 1.0, "geomean_ratio": 0.9, "down_sha256": ran_with}])
    down = path.with_name(NAME.replace(".json", "_down.json"))
    if now is not None:
        down.write_bytes(now.encode())
    told = f"engine_checked.0: expected {down.name} with which it was judged ({ran_with[:12]}…), found {found}"
    assert [each for each in store.messages(RULE) if "judged" in each] == ([] if found is None else [told])


def test_nor_beside_the_file_that_the_engine_ships(store: Store) -> None:
    line = {"engine": "vllm", "version": "0.33.0", "triton": "3.8.0", "date": "2026-01-01"}
    shipped = {"sha256": "ab" * 32, "worst_ratio": 0.95, "geomean_ratio": 0.99, "best_ratio": 0.9}
    checked = {**line, "worst_ratio": 0.95, "geomean_ratio": 0.9, "shipped": shipped}
    store.measured(store.config(), engine_checked=[checked])
    assert store.messages(RULE) == [
        "engine_checked.0.shipped: expected a geomean_ratio of at most worst_ratio, 0.95, found 0.99"
    ]


def test_a_triton_version_of_five_digits_is_a_finding_and_no_crash(store: Store) -> None:
    store.measured(store.config(), triton="12345.0.0")
    (message,) = store.messages(RULE)
    assert message.startswith("environment / triton: ")


def test_engines_folders_have_no_records(store: Store) -> None:
    store.config(record=False)
    assert store.findings(RULE, layout=Layout.VLLM) == []


def test_a_broken_file_does_not_hide_its_records_faults(store: Store) -> None:
    path = store.config()
    store.record(path, workload=Workload(16, 1024, H100).to_json())
    path.write_bytes(b"{")
    assert store.messages(RULE) == ["workload.E: expected 8 as in the name, found 16"]


def test_a_folder_that_can_not_be_read_is_said_once() -> None:
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name))
        store.root.chmod(0o755)
        for E in (8, 16):
            store.config(name=f"E={E},N=1024,device_name=NVIDIA_H200.json", folder="legacy_configs")
        closed = store.root / "records"
        closed.chmod(0)
        paths = [store.root / "legacy_configs"]
        with without_roots_rights():
            (finding,) = store.findings(RULE, paths=paths)
        closed.chmod(0o755)
    assert finding.path == str(closed)
    assert finding.message.startswith("the folder can't be read")
    assert finding.fix == "make it readable"
