"""A top-level triton_version kills SGLang's reader; vLLM drops it."""

from __future__ import annotations

import json

import pytest

from tests.builders import Store, table
from tools.store.workload import Layout
from tools.validate.rules.triton_version import RULE


@pytest.mark.parametrize(("layout", "count"), [(Layout.REPO, 1), (Layout.SGLANG, 1), (Layout.VLLM, 0)])
def test_it_is_an_error_wherever_sglang_may_read(store: Store, layout: Layout, count: int) -> None:
    folder = "triton_3_8_0" if layout is not Layout.VLLM else ""
    store.file(json.dumps({"triton_version": "3.8.0", **table()}).encode(), folder=folder)
    assert len(store.findings(RULE, layout=layout)) == count


def test_files_without_it_are_fine(store: Store) -> None:
    store.config()
    assert store.findings(RULE) == []


def test_a_key_of_another_type_is_the_schemas_business(store: Store) -> None:
    store.file(json.dumps({"triton_version": 3, **table()}).encode())
    assert store.findings(RULE) == []
