"""Batch sizes reach from 1 to 4096 with neighbours at most a factor of 4 apart."""

from __future__ import annotations

import pytest

from tests.builders import BATCH_SIZES, Store, table
from tools.validate.rules.coverage import RULE


@pytest.mark.parametrize(
    "batch_sizes",
    [BATCH_SIZES, [4**i for i in range(7)], [*BATCH_SIZES, 8192], [1, 2, 8, 32, 128, 512, 1500, 6000]],
)
def test_files_without_a_hole_are_fine(store: Store, batch_sizes: list[int]) -> None:
    store.config(table(batch_sizes))
    assert store.findings(RULE) == []


@pytest.mark.parametrize(
    ("batch_sizes", "message"),
    [
        (BATCH_SIZES[1:], "batch sizes: expected to start at 1, found 2, which serves all smaller ones"),
        (BATCH_SIZES[:-1], "batch sizes: expected to reach 4096, found 3072, which serves all larger ones"),
        (
            [1, 4, 17, 64, 256, 1024, 4096],
            "batch sizes: expected neighbours within a factor of 4, found a hole from 4 to 17 (4.25 times)",
        ),
    ],
)
def test_a_hole_is_named_with_its_ends(store: Store, batch_sizes: list[int], message: str) -> None:
    store.config(table(batch_sizes))
    assert store.messages(RULE) == [message]


def test_every_hole_is_named(store: Store) -> None:
    store.config(table([256]))
    assert len(store.findings(RULE)) == 2
    store.config(table([2, 32, 1024]))
    assert len(store.findings(RULE)) == 4


def test_the_order_in_the_file_does_not_matter(store: Store) -> None:
    store.config(dict(reversed(table().items())))
    assert store.findings(RULE) == []


def test_a_broken_row_is_there_and_the_schemas_business(store: Store) -> None:
    store.config({**table(), "1": {"BLOCK_SIZE_M": 16}})
    assert store.findings(RULE) == []


@pytest.mark.parametrize("key", ["0", "00", "064", "-1", "10000000"])
def test_keys_that_are_no_batch_sizes_are_the_schemas_business(store: Store, key: str) -> None:
    store.config({**table(), key: table()["1"]})
    assert store.findings(RULE) == []


def test_a_file_without_any_row_is_the_schemas_business(store: Store) -> None:
    store.config({})
    assert store.findings(RULE) == []
