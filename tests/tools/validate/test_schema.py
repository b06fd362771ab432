"""The document is batch sizes to launch configs, each with its six keys, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import ENTRY, Store, entry, table
from tools.store.workload import Layout
from tools.validate.rules.schema import RULE


def test_a_tuned_file_is_fine(store: Store) -> None:
    store.config()
    assert store.findings(RULE) == []


@pytest.mark.parametrize("key", ENTRY)
def test_each_of_the_six_keys_is_required(store: Store, key: str) -> None:
    store.config({"16": entry(**{key: None})})
    assert store.messages(RULE) == [f"16: {key} is missing"]


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({}, "top level"),
        ({"0": entry()}, "top level"),
        ({"M": entry()}, "top level"),
        ({"triton_version": 3}, "triton_version"),
        ({"16": []}, "16"),
        ({"16": entry(num_wraps=4)}, "16"),
        ({"16": entry(num_warps="4")}, "16 / num_warps"),
        ({"16": entry(num_warps=0)}, "16 / num_warps"),
        ({"16": entry(num_warps=True)}, "16 / num_warps"),
        ({"16": entry(SPLIT_K=2)}, "16 / SPLIT_K"),
        ({"16": entry(grf_mode="512")}, "16 / grf_mode"),
    ],
)
def test_a_violation_is_named_with_its_place(store: Store, document: dict[str, Any], where: str) -> None:
    store.file(json.dumps(document).encode())
    assert any(message.startswith(f"{where}: ") for message in store.messages(RULE))


def test_a_number_with_a_fraction_is_no_integer_to_triton(store: Store) -> None:
    store.config({"16": entry(num_warps=4.0)})
    assert store.messages(RULE) == ["16 / num_warps: expected an integer of at least 1, found 4.0"]


@pytest.mark.parametrize("layout", list(Layout))
def test_vllms_version_key_is_the_triton_version_rules_business(store: Store, layout: Layout) -> None:
    folder = "triton_3_8_0" if layout is Layout.SGLANG else ""
    store.file(json.dumps({"triton_version": "3.8.0", **table()}).encode(), folder=folder)
    assert store.findings(RULE, layout=layout) == []


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"3"])
def test_what_is_no_object_is_the_json_rules_business(store: Store, data: bytes) -> None:
    store.file(data)
    assert store.findings(RULE) == []


def test_as_many_wrong_keys_as_are_read_are_cut_short(store: Store) -> None:
    store.file(json.dumps({f"k{i}": 0 for i in range(256)}).encode())
    messages = store.messages(RULE)
    assert len(messages) == 101
    assert "top level: only the first 100 faults are listed" in messages


def test_keys_and_values_of_any_length_make_short_messages(store: Store) -> None:
    store.file(json.dumps({"k" * 60_000: entry(num_warps="w" * 60_000)}).encode())
    messages = store.messages(RULE)
    assert messages
    assert max(map(len, messages)) < 1000
