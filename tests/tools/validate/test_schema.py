"""The document is batch sizes to launch configs, each with its six keys, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.builders import ENTRY, Store, entry, table
from tools.findings import Severity
from tools.store.workload import Layout
from tools.validate.rules.schema import RULE


def test_a_tuned_file_is_fine(store: Store) -> None:
    store.config()
    assert store.findings(RULE) == []


@pytest.mark.parametrize("key", ENTRY)
def test_each_of_the_six_keys_is_required(store: Store, key: str) -> None:
    store.config({"16": entry(**{key: None})})
    assert store.messages(RULE) == [f"row 16: {key} is missing"]


@pytest.mark.parametrize("key", ENTRY)
@pytest.mark.parametrize(("layout", "folder"), [(Layout.VLLM, ""), (Layout.SGLANG, "triton_3_8_0")])
def test_in_an_engines_folder_triton_has_defaults_for_two_of_them(
    store: Store, layout: Layout, folder: str, key: str
) -> None:
    store.config(table(**{key: None}), folder=folder, record=False)
    (finding,) = store.findings(layout=layout)
    own = {"num_warps": 4, "num_stages": 3}
    if key in own:
        assert finding.severity is Severity.WARNING
        assert finding.message == (
            f"rows 1 to 4096 (18 rows): expected {key}, found none: Triton's own run, {key} {own[key]}"
        )
    else:
        assert (finding.rule, finding.severity) == ("schema", Severity.ERROR)
        assert finding.message == f"rows 1 to 4096 (18 rows): {key} is missing"


def test_rows_that_are_silent_on_both_are_one_warning(store: Store) -> None:
    document = table()
    for num_tokens in ("64", "4096"):
        del document[num_tokens]["num_warps"], document[num_tokens]["num_stages"]
    store.config(document, record=False)
    assert store.messages(layout=Layout.VLLM) == [
        "rows 64 and 4096: expected num_warps and num_stages, found none: Triton's own run, num_warps 4 and "
        "num_stages 3"
    ]
    assert store.messages(RULE) == ["rows 64 and 4096: num_warps and num_stages are missing"]


def test_one_fault_of_many_rows_is_one_line(store: Store) -> None:
    store.config(table(num_warps="4"))
    assert store.messages(RULE) == ['rows 1 to 4096 (18 rows), num_warps: expected an integer of at least 1, found "4"']


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({}, "top level"),
        ({"0": entry()}, "top level"),
        ({"M": entry()}, "top level"),
        ({"triton_version": 3}, "triton_version"),
        ({"16": []}, "row 16"),
        ({"16": entry(num_wraps=4)}, "row 16"),
        ({"16": entry(num_warps="4")}, "row 16, num_warps"),
        ({"16": entry(num_warps=0)}, "row 16, num_warps"),
        ({"16": entry(num_warps=True)}, "row 16, num_warps"),
        ({"16": entry(SPLIT_K=2)}, "row 16, SPLIT_K"),
        ({"16": entry(grf_mode="512")}, "row 16, grf_mode"),
    ],
)
def test_a_violation_is_named_with_its_place(store: Store, document: dict[str, Any], where: str) -> None:
    store.file(json.dumps(document).encode())
    assert any(message.startswith(f"{where}: ") for message in store.messages(RULE))


def test_a_number_with_a_fraction_is_no_integer_to_triton(store: Store) -> None:
    store.config({"16": entry(num_warps=4.0)})
    assert store.messages(RULE) == ["row 16, num_warps: expected an integer of at least 1, found 4.0"]


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
