"""Batch sizes ascend: a tie of nearest-M goes to the key that comes first."""

from __future__ import annotations

import json

import pytest

from tests.builders import Store, entry
from tools.validate.rules.ascending_keys import RULE


def written(store: Store, *keys: str) -> None:
    store.file(json.dumps({key: entry() for key in keys}).encode())


@pytest.mark.parametrize("keys", [(), ("1",), ("1", "2", "16"), ("8", "4096")])
def test_ascending_batch_sizes_are_fine(store: Store, keys: tuple[str, ...]) -> None:
    written(store, *keys)
    assert store.findings(RULE) == []


def test_order_is_that_of_numbers_not_of_texts(store: Store) -> None:
    written(store, "9", "16", "128")
    assert store.findings(RULE) == []


@pytest.mark.parametrize(
    ("keys", "later", "earlier"), [(("2", "1"), 1, 2), (("1", "128", "64", "32"), 64, 128), (("1", "16", "2"), 2, 16)]
)
def test_the_first_step_down_is_named(store: Store, keys: tuple[str, ...], later: int, earlier: int) -> None:
    written(store, *keys)
    (finding,) = store.findings(RULE)
    assert finding.message == f"batch sizes: expected ascending order, found {later} after {earlier}"


def test_two_spellings_of_one_batch_size_do_not_ascend(store: Store) -> None:
    written(store, "64", "064")
    (finding,) = store.findings(RULE)
    assert "found 64 after 64" in finding.message


def test_keys_that_are_no_batch_sizes_are_left_to_the_schema(store: Store) -> None:
    written(store, "4096", "triton_version", "١", "99999999", "8192")
    assert store.findings(RULE) == []
