"""Reading strictly: a file is used whole, or refused with path, position and reason."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fused_moe_configs
from fused_moe_configs import ConfigError, cache_clear, get_moe_configs

from .conftest import ENTRY

NAME = "E=8,N=1,device_name=D.json"
GOOD = json.dumps(ENTRY)


def read():
    cache_clear()
    return get_moe_configs(8, 1, device_name="D", triton_version="3.8.0")


@pytest.mark.parametrize(
    ("data", "line", "column", "reason"),
    [
        (b"", 1, 1, "not JSON"),
        (b'{"1": ', 1, 7, "not JSON"),
        (b'{"1": %s} x' % GOOD.encode(), 1, 8 + len(GOOD) + 1, "Extra data"),
        (b"\xef\xbb\xbf{}", 1, 1, "byte order mark"),
        (b'{\n "\xff"', 2, 3, "UTF-8, found byte 0xff"),
        ('{"ü\n'.encode() + b"\xc3", 2, 1, "UTF-8"),
        (b"[" * 200_000, 1, 1, "nested too deeply"),
        (b'{"1": {"a": ' + b'{"a": ' * 100_000, 1, 1, "nested too deeply"),
        (b'{"1":' + b"9" * 5000 + b"}", 1, 6, "too many digits"),
        (b"[]", 1, 1, "expected a JSON object, found []"),
        (b"null", 1, 1, "found None"),
        (b"{}", 1, 1, "at least one batch size"),
        (b'{"01": {}}', 1, 2, "positive decimal integer"),
        (b'{"": {}}', 1, 2, "positive decimal integer"),
        ('{"١": {}}'.encode(), 1, 2, "positive decimal integer"),
        (b'{"triton_version": "3.8.0"}', 1, 2, "positive decimal integer"),
        (b'{"1": []}', 1, 2, "expected an object of launch keys at 1"),
        (b'{"1": NaN}', 1, 2, "found nan"),
        (f'{{\n"1": {GOOD},\n  "1": {GOOD}}}'.encode(), 3, 3, 'duplicate key \'1\''),
        (f'{{"1":\n{GOOD[:-1]},\n "num_warps": 4}}}}'.encode(), 3, 2, "duplicate key 'num_warps'"),
        (f'{{"1":\n{GOOD[:-1]},\n "x": NaN}}}}'.encode(), 3, 2, "'x': expected integer"),
        (f'{{"1":\n{GOOD[:-1]},\n "x": -Infinity}}}}'.encode(), 3, 2, "found -inf"),
        (f'{{"1":\n{GOOD[:-1]},\n "x": 1.0}}}}'.encode(), 3, 2, "found 1.0"),
        (f'{{"1":\n{GOOD[:-1]},\n "x": null}}}}'.encode(), 3, 2, "found None"),
        (f'{{"1":\n{GOOD[:-1]},\n "x": [1]}}}}'.encode(), 3, 2, "found [1]"),
        (f'{{"1":\n{GOOD[:-1]},\n ":": "\\":", "x": {{}}}}}}'.encode(), 3, 14, "found an object"),
        *(
            (json.dumps({"1": ENTRY | {key: value}}).encode(), 1, None, f"'{key}': expected an integer from 1 to")
            for key in ENTRY
            for value in (0, -1, True, "4", 2**31)
        ),
        (f'{{"1":\n{GOOD[:-1]}000000000000}}}}'.encode(), 2, GOOD.index('"num_stages"') + 1, "'num_stages': expected"),
        (f'{{"1": {GOOD},\n"2": {{"num_warps": 4}}}}'.encode(), 2, 1, "expected BLOCK_SIZE_K, BLOCK_SIZE_M"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_at_its_place(store, data, line, column, reason):
    path = store.write(NAME, data)
    with pytest.raises(ConfigError) as raised:
        read()
    assert reason in raised.value.reason
    assert raised.value.path == str(path)
    if reason != "nested too deeply":
        column = column or raised.value.column
        assert (raised.value.line, raised.value.column) == (line, column)
        assert str(raised.value).startswith(f"{path}: line {line}, column {column}: ")


def test_a_file_over_one_mebibyte_is_refused_and_one_below_is_not(store):
    store.write(NAME, json.dumps({"1": ENTRY}).encode().ljust(2**20))
    assert read()
    store.write(NAME, json.dumps({"1": ENTRY}).encode().ljust(2**20 + 1))
    with pytest.raises(ConfigError, match="1 MiB"):
        read()


def test_a_directory_named_like_a_file_is_refused(store):
    (store.root / NAME).mkdir(parents=True)
    with pytest.raises(ConfigError, match="found a directory"):
        read()


def test_a_pipe_named_like_a_file_is_refused_without_waiting(store):
    os.mkfifo(store.root / NAME)
    with pytest.raises(ConfigError, match="device"):
        read()


def test_a_pipe_for_a_registry_is_refused_without_waiting(store):
    (store.root / "registry/devices.json").unlink()
    os.mkfifo(store.root / "registry/devices.json")
    with pytest.raises(ConfigError, match="device"):
        read()


def test_a_path_with_a_newline_keeps_a_message_on_one_line():
    assert "\n" not in str(ConfigError("a\nb", "reason", 3, 4))


def test_a_link_to_nothing_is_refused(store):
    (store.root / NAME).symlink_to(store.root / "gone")
    with pytest.raises(ConfigError, match="cannot be read"):
        read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(store):
    store.add(NAME).chmod(0)
    with pytest.raises(ConfigError, match="cannot be read"):
        read()


def test_an_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(ConfigError("a b", "reason", 3, 4)))
    assert str(error) == "a b: line 3, column 4: reason"
    assert isinstance(error, ValueError)


def test_integers_booleans_and_strings_are_kept_in_order(store):
    store.write(NAME, {"1": ENTRY | {"USE_TMA": True, "grf_mode": "256"}})
    assert list(read()[1].items()) == [*ENTRY.items(), ("USE_TMA", True), ("grf_mode", "256")]


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["1", "8", *ENTRY]), inner),
).map(lambda document: json.dumps(document).encode()))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_a_mapping_or_a_config_error(store, data):
    store.write(NAME, data)
    try:
        configs = read()
    except ConfigError:
        return
    assert isinstance(configs, Mapping)
    assert all(isinstance(size, int) and set(ENTRY) <= set(entry) for size, entry in configs.items())


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_or_changed_anywhere_gives_a_mapping_or_a_config_error(store, data):
    whole = json.dumps({"1": ENTRY, "16": ENTRY}, indent=4).encode()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    store.write(NAME, whole[:start] + data.draw(st.binary(max_size=3)) + whole[end:])
    try:
        configs = read()
    except ConfigError:
        return
    assert isinstance(configs, Mapping)


BROKEN_REGISTRIES = [
    b"{",
    [],
    {},
    {"devices": 3},
    {"devices": [3]},
    {"devices": [{"aliases": []}]},
    {"devices": [{"name": "../x"}]},
    {"devices": [{"name": "D", "aliases": 3}]},
]


@pytest.mark.parametrize("document", BROKEN_REGISTRIES)
def test_a_broken_registry_is_refused_where_it_is_needed(store, document):
    path = store.write("devices.json", document, "registry")
    with pytest.raises(ConfigError) as raised:
        read()
    assert raised.value.path == str(path)
    store.add(NAME)
    assert read()


def test_without_a_registry_there_are_no_other_names(store):
    (store.root / "registry/devices.json").unlink()
    assert read() is None


def test_where_is_the_folder_that_is_read(store):
    assert fused_moe_configs.where() == store.root
