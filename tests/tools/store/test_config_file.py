"""A tuned file as it is read: its batch sizes, and which of them serves the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fused_moe_configs
from tests.builders import ENTRY
from tools.store.config_file import nearest_batch_size


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(1, 2), (2, 2), (3, 2), (4, 2), (5, 6), (6, 6), (9, 6), (10, 12), (4096, 12)]
)
def test_the_nearest_batch_size_serves_and_ties_go_to_the_smaller(num_tokens: int, expected: int) -> None:
    assert nearest_batch_size([2, 6, 12], num_tokens) == expected
    assert nearest_batch_size([12, 6, 2], num_tokens) == expected, "the order of a file's rows says nothing"


def test_no_batch_size_serves_nothing() -> None:
    with pytest.raises(ValueError):
        nearest_batch_size([], 1)


def test_the_loader_answers_with_the_same_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (1, 4, 10, 11, 32)
    file = tmp_path / "E=8,N=64,device_name=NVIDIA_H200.json"
    file.write_text(json.dumps({str(size): ENTRY | {"GROUP_SIZE_M": size} for size in sizes}), "utf-8")
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    fused_moe_configs.cache_clear()
    for num_tokens in range(1, 40):
        entry = fused_moe_configs.get_config(num_tokens, 8, 64, device_name="NVIDIA_H200", triton_version="3.8.0")
        assert entry is not None
        assert entry["GROUP_SIZE_M"] == nearest_batch_size(sizes, num_tokens)
    monkeypatch.undo()
    fused_moe_configs.cache_clear()
