"""Identical files of unrelated devices are mostly one file and one copy."""

from __future__ import annotations

import pytest

from tests.builders import Store, table
from tools.findings import Severity
from tools.validate.rules.copied_file import RULE


def name(device: str, N: int = 1024) -> str:
    return f"E=8,N={N},device_name={device}.json"


def test_a_copy_under_an_unrelated_device_is_a_warning_on_both(store: Store) -> None:
    store.config(name=name("NVIDIA_H200"))
    store.config(name=name("NVIDIA_A100-SXM4-80GB"))
    findings = store.findings(RULE)
    assert [finding.severity for finding in findings] == [Severity.WARNING] * 2
    assert "NVIDIA_H200" in findings[0].message
    assert "NVIDIA_A100-SXM4-80GB" in findings[1].message


def test_form_does_not_hide_a_copy(store: Store) -> None:
    store.config(table([1, 2]), name("NVIDIA_H200"))
    store.config(dict(reversed(table([1, 2]).items())), name("NVIDIA_L40S"))
    assert len(store.findings(RULE)) == 2


def test_relatives_may_share_a_file(store: Store) -> None:
    store.config(name=name("NVIDIA_H100_80GB_HBM3"))
    store.config(name=name("NVIDIA_H100_PCIe"))
    assert store.findings(RULE) == []


@pytest.mark.parametrize("other", ["E=16,N=1024", "E=8,N=2048"])
def test_a_copy_under_another_workload_of_one_device_is_a_warning_on_both(store: Store, other: str) -> None:
    store.config(name=name("NVIDIA_H200"))
    store.config(name=f"{other},device_name=NVIDIA_H200.json")
    findings = store.findings(RULE)
    assert [finding.severity for finding in findings] == [Severity.WARNING] * 2
    assert all("a file of another workload" in finding.message for finding in findings)


def test_one_workload_may_share_a_file_between_tiers_and_projections(store: Store) -> None:
    store.config(name=name("NVIDIA_H200"))
    store.config(name=name("NVIDIA_H200"), folder="triton_3_6_0")
    store.config(name=name("NVIDIA_H200").replace(".json", "_down.json"))
    assert store.findings(RULE) == []


def test_of_three_the_measured_ones_agree_and_the_third_is_the_copy(store: Store) -> None:
    for device in ("NVIDIA_H200", "NVIDIA_L40S"):
        store.measured(store.config(name=name(device)))
    store.config(name=name("NVIDIA_B200"))
    assert ["NVIDIA_B200" in finding.path + finding.message for finding in store.findings(RULE)] == [True] * 3


def test_different_figures_are_no_copy(store: Store) -> None:
    store.config(name=name("NVIDIA_H200"))
    store.config(table(num_stages=4), name("NVIDIA_L40S"))
    assert store.findings(RULE) == []


def test_a_single_row_proves_nothing(store: Store) -> None:
    store.config(table([1]), name("NVIDIA_H200"))
    store.config(table([1]), name("NVIDIA_L40S"))
    assert store.findings(RULE) == []


@pytest.mark.parametrize(("both", "count"), [(True, 0), (False, 2)])
def test_measured_files_may_agree_if_all_are_measured(store: Store, both: bool, count: int) -> None:
    first = store.config(name=name("NVIDIA_H200"))
    second = store.config(name=name("NVIDIA_L40S"))
    store.measured(first)
    if both:
        store.measured(second)
    assert len(store.findings(RULE)) == count


def test_unknown_devices_are_unrelated_to_all(store: Store) -> None:
    store.config(name=name("NVIDIA_X1"))
    store.config(name=name("NVIDIA_X2"))
    assert len(store.findings(RULE)) == 2
