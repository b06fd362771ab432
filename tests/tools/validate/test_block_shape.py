"""BLOCK_SIZE_K divides block_k: a deeper tile would multiply with a neighbour's scales."""

from __future__ import annotations

import pytest

from tests.builders import H100, NAME, Store, table
from tools.findings import Severity
from tools.validate.rules.block_shape import RULE


def quantised(block_n: int, block_k: int) -> str:
    return f"E=8,N=1024,device_name={H100},dtype=fp8_w8a8,block_shape=[{block_n},{block_k}].json"


@pytest.mark.parametrize(("block_k", "tile"), [(128, 128), (128, 64), (128, 32), (64, 64), (256, 128)])
def test_a_tile_that_divides_the_block_is_fine(store: Store, block_k: int, tile: int) -> None:
    store.config(table(BLOCK_SIZE_K=tile), quantised(128, block_k))
    assert store.findings(RULE) == []


@pytest.mark.parametrize(("block_k", "tile"), [(128, 256), (64, 128), (32, 64), (96, 64), (128, 0), (128, -64)])
def test_a_tile_that_does_not_divide_the_block_is_an_error(store: Store, block_k: int, tile: int) -> None:
    document = table([1, 2])
    document["2"]["BLOCK_SIZE_K"] = tile
    document["1"]["BLOCK_SIZE_K"] = 32
    store.config(document, quantised(128, block_k))
    (finding,) = store.findings(RULE)
    assert finding.severity is Severity.ERROR
    assert finding.message.startswith(
        f"row 2: expected BLOCK_SIZE_K to divide block_k = {block_k}, found {tile}: SGLang computes"
    )


def test_block_k_is_the_second_number(store: Store) -> None:
    store.config(table([1], BLOCK_SIZE_K=128), quantised(64, 128))
    assert store.findings(RULE) == []


def test_batch_sizes_with_the_same_fault_share_a_finding(store: Store) -> None:
    store.config(table([1, 2, 4], BLOCK_SIZE_K=256), quantised(128, 128))
    (finding,) = store.findings(RULE)
    assert finding.message.startswith("rows 1, 2 and 4:")


def test_files_without_block_scales_may_use_any_depth(store: Store) -> None:
    store.config(table(BLOCK_SIZE_K=256), NAME)
    assert store.findings(RULE) == []
