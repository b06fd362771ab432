"""A tuned file has a record, the record is valid, and it speaks of exactly this file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import H100, NAME, Store, as_nobody, table, times
from tools.checkout import reference_triton
from tools.findings import Severity
from tools.store.files import canonical_config
from tools.store.workload import Layout, Workload
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
        ({"p10": 0.001}, "expected p10 and p90 within 20 % of the median, found 55 %"),
        ({"p90": 1e6}, "expected p10 and p90 within 20 % of the median, found 5e+04 %"),
        ({"p10": 1001.0}, "expected p10 ≤ median ≤ p90, found 1001, 1000 and 1100 µs"),
        ({"p90": 999.0}, "expected p10 ≤ median ≤ p90, found 900, 1000 and 999 µs"),
        (times(5e-324), "expected at least 30.4 µs, which the device's memory takes, found 4.94066e-324"),
        (times(30.0), "expected at least 30.4 µs, which the device's memory takes, found 30"),
        (times(1e300), "expected medians of at most 1e+09 µs, found more"),
        ({"p90": 10**400}, "expected medians of at most 1e+09 µs, found more"),
    ],
)
def test_a_time_that_no_measurement_gives_is_an_error(
    store: Store, figure: str, latency: dict[str, float], told: str
) -> None:
    found = changed(store, **{figure: {**times(1000.0, spread_pct=10.0), **latency}})
    assert f"rows.64.{figure}: {told}" in found


def test_a_time_at_the_devices_limit_is_fine(store: Store) -> None:
    """8 experts' weights of 25 MB each, and the rows, take the H100's memory 60 µs; half is asked for."""
    assert changed(store, latency_us=times(30.5, spread_pct=19.9), incumbent_us=times(30.5)) == []


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
    store.measured(path, rows={"64": {"latency_us": times(10.1), **row}})
    assert store.findings(RULE) == []
    store.measured(path, rows={"64": {"latency_us": times(9.9), **row}})
    assert len(store.findings(RULE)) == 1


def test_a_row_that_is_slower_than_no_file_is_an_error(store: Store) -> None:
    path = store.config(table([1, 2, 16]))
    rows = json.loads(store.measured(path).read_bytes())["rows"]
    rows["2"]["latency_us"]["median"] = rows["2"]["baseline_us"]["median"] + 0.01
    store.measured(path, rows=rows)
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.ERROR
    assert finding.message == "rows.2: expected at most the heuristic's 1000.0 µs, found 1000.01 µs"


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
    ],
)
def test_figures_of_another_gpu_are_no_evidence(store: Store, changes: dict[str, str], message: str) -> None:
    path = store.config()
    environment = json.loads(store.measured(path).read_bytes())["environment"]
    store.measured(path, environment={**environment, **changes})
    (finding,) = store.findings(RULE)
    assert (finding.severity, finding.message) == (Severity.ERROR, message)


def test_any_of_a_devices_names_will_do(store: Store) -> None:
    """Drivers spell the MI300X in three ways."""
    path = store.config(name=NAME.replace(H100, "AMD_Instinct_MI300X"))
    environment = json.loads(store.measured(path).read_bytes())["environment"]
    amd = {"device_name": "AMD Instinct MI300X OAM", "compute_capability": "gfx942"}
    store.measured(path, environment={**environment, **amd})
    assert store.findings(RULE) == []


def test_legacy_files_are_tied_to_no_triton(store: Store) -> None:
    store.measured(store.config(folder="legacy_configs"), triton="3.1.0")
    assert store.findings(RULE) == []


def test_an_older_kernel_is_an_info(store: Store) -> None:
    store.measured(store.config(), kernel_sha256="0" * 64)
    (finding,) = store.findings(RULE)
    assert (finding.severity, finding.message) == (Severity.INFO, "measured on an older kernel")


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
        with as_nobody():
            (finding,) = store.findings(RULE, paths=paths)
        closed.chmod(0o755)
    assert finding.path == str(closed)
    assert finding.message.startswith("the folder can't be read")
    assert finding.fix == "make it readable"
