"""One entry: canonical key order, types as Triton takes them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.launch_config import KEY_VENDOR, REQUIRED_KEYS, LaunchConfig
from tests.builders import ENTRY, entry

OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    key: {"grf_mode": st.text(), "USE_TMA": st.booleans()}.get(key, st.integers())
    for key in KEY_VENDOR
    if key not in REQUIRED_KEYS
}


@given(st.fixed_dictionaries({key: st.integers() for key in REQUIRED_KEYS}, optional=OPTIONAL))
def test_an_entry_comes_back_unchanged_in_canonical_order(values: dict[str, Any]) -> None:
    written = LaunchConfig.from_entry(dict(reversed(values.items()))).to_entry()
    assert written == values
    assert list(written) == [key for key in KEY_VENDOR if key in values]


def test_the_key_table_and_the_class_name_the_same_keys_in_the_same_order() -> None:
    assert [field.name for field in fields(LaunchConfig)] == list(KEY_VENDOR)
    assert list(KEY_VENDOR)[: len(REQUIRED_KEYS)] == list(REQUIRED_KEYS)


@pytest.mark.parametrize("key", REQUIRED_KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^launch config: expected \(.*\), found no \['{key}'\]$"):
        LaunchConfig.from_entry(entry(**{key: None}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_warps", True), ("num_warps", 4.0), ("num_warps", "4"), ("USE_TMA", 1), ("grf_mode", 256), ("kpack", False)],
)
def test_a_value_of_another_type_is_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^launch config, {key}: expected (int|bool|str), found {value!r}$"):
        LaunchConfig.from_entry({**ENTRY, key: value})


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected keys out of .*, found \['num_wraps'\]"):
        LaunchConfig.from_entry(entry(num_wraps=4))
