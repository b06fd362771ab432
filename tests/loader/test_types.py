"""What a type checker knows of the published functions: mypy checks this file in the lint session, and pytest runs it.

Each `type: ignore` is a mistake that mypy must find: strict mypy refuses one that ignores nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import assert_type

import pytest

import fused_moe_configs
from fused_moe_configs import ConfigEntry, ConfigError, Lookup, explain, get_config, get_moe_configs, where
from fused_moe_configs.lookup import REQUIRED

NAME = "E=8,N=1,device_name=D.json"


@pytest.fixture
def _one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / NAME).write_text(json.dumps({"1": dict.fromkeys(REQUIRED, 16) | {"USE_TMA": True}}))
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    fused_moe_configs.cache_clear()
    yield
    fused_moe_configs.cache_clear()


@pytest.mark.usefixtures("_one_file")
def test_a_launch_key_is_an_int() -> None:
    entry = get_config(1, 8, 1, device_name="D", triton_version="3.8.0")
    assert_type(entry, ConfigEntry | None)
    assert entry is not None
    assert_type(entry["num_warps"], int)
    assert_type(entry["USE_TMA"], bool)
    assert entry["num_warps"] + entry["BLOCK_SIZE_M"] == 32
    with pytest.raises(KeyError):
        entry["num_wraps"]  # type: ignore[typeddict-item]
    name: str = entry["num_warps"]  # type: ignore[assignment]
    assert str(name) == "16"


@pytest.mark.usefixtures("_one_file")
def test_a_table_is_of_entries_and_may_be_none() -> None:
    configs = get_moe_configs(8, 1, device_name="D", triton_version="3.8.0")
    assert_type(configs, Mapping[int, ConfigEntry] | None)
    warps = configs[1]["num_warps"]  # type: ignore[index]
    assert warps == 16
    assert configs is not None
    with pytest.raises(TypeError):
        configs[2] = configs[1]  # type: ignore[index]


@pytest.mark.usefixtures("_one_file")
def test_what_is_said_of_a_look_up_has_types() -> None:
    lookup = explain(8, 1, device_name="D", triton_version="3.8.0")
    assert_type(lookup, Lookup)
    assert_type(lookup.winner, Path | None)
    assert_type(lookup.tried, tuple[tuple[Path, str], ...])
    assert lookup.winner is not None
    assert where().is_dir()
    assert_type(ConfigError("a", "b").line, int | None)
    with pytest.raises(AttributeError):
        fused_moe_configs.get_configs  # type: ignore[attr-defined]  # noqa: B018
