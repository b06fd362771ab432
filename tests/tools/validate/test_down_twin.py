"""SGLang binds a _down file to its up file: same batch sizes, same BLOCK_SIZE_M."""

from __future__ import annotations

import json

import pytest

from tests.builders import NAME, Store, table
from tools.store.workload import Layout
from tools.validate.rules.down_twin import RULE

DOWN = NAME.replace(".json", "_down.json")


def test_matching_twins_are_fine(store: Store) -> None:
    store.config()
    store.config(table(BLOCK_SIZE_N=128, num_warps=8), DOWN)
    assert store.findings(RULE) == []


def test_an_up_file_needs_no_twin(store: Store) -> None:
    store.config()
    assert store.findings(RULE) == []


def test_a_down_file_alone_is_an_error(store: Store) -> None:
    path = store.config(name=DOWN)
    (finding,) = store.findings(RULE)
    assert finding.path.endswith(path.name)
    assert finding.message == f"expected the up file {NAME!r} beside it, found none"


def test_the_twin_is_looked_for_in_the_same_folder(store: Store) -> None:
    store.config(folder="triton_3_6_0")
    store.config(name=DOWN)
    assert len(store.findings(RULE)) == 1


def test_sglangs_spelling_finds_its_twin(store: Store) -> None:
    up = NAME.replace(".json", ",dtype=fp8_w8a8,block_shape=[128, 128].json")
    for name in (up, up.replace(".json", "_down.json")):
        store.config(name=name, folder="triton_3_8_0", record=False)
    assert store.findings(RULE, layout=Layout.SGLANG) == []


def test_other_batch_sizes_are_named_from_both_sides_once(store: Store) -> None:
    store.config(table([1, 2, 4]))
    path = store.config(table([1, 2, 8]), DOWN)
    (finding,) = store.findings(RULE)
    assert finding.path.endswith(path.name)
    assert finding.message == "expected the batch sizes of the up file, found 4 only there and 8 only here"


def test_another_block_size_m_is_named_with_both_values(store: Store) -> None:
    store.config(table([1, 2, 4]))
    document = table([1, 2, 4])
    document["2"]["BLOCK_SIZE_M"] = document["4"]["BLOCK_SIZE_M"] = 64
    store.config(document, DOWN)
    (finding,) = store.findings(RULE)
    assert finding.message.startswith("rows 2 and 4: expected the up file's BLOCK_SIZE_M (16 at 2), found 64")


@pytest.mark.parametrize("name", [NAME, DOWN])
def test_only_one_of_them_on_the_command_line_is_enough(store: Store, name: str) -> None:
    store.config(table([1, 2]))
    store.config(table([1, 4]), DOWN)
    assert len(store.findings(RULE, paths=[store.root / name])) == 1


def test_form_and_a_version_key_do_not_matter(store: Store) -> None:
    store.file(json.dumps({"triton_version": "3.8.0", **table([1, 2])}).encode())
    store.config(table([1, 2]), DOWN)
    assert store.findings(RULE) == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"\xff"])
@pytest.mark.parametrize("broken", [NAME, DOWN])
def test_a_twin_that_can_not_be_read_is_another_rules_finding(store: Store, broken: str, data: bytes) -> None:
    store.config()
    store.config(name=DOWN)
    store.file(data, broken)
    assert store.findings(RULE) == []


def test_a_name_too_long_for_a_twin_is_no_crash(store: Store) -> None:
    name = NAME.replace("HBM3", "H" * (253 - len(NAME)))
    store.config(name=name, record=False)
    assert store.findings(RULE) == []
