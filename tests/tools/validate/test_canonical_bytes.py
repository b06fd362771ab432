"""One way to write a file; --fix writes it and changes no value."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NAME, Store, entry, table
from tools.checkout import CONFIGS
from tools.store.config_file import ConfigFile
from tools.store.files import Content, canonical_config
from tools.store.strict_json import parse
from tools.store.tiers import Found, Role
from tools.store.workload import Layout, parse_file_name
from tools.validate.rules.canonical_bytes import RULE, fixed

SOUND = canonical_config(table([1, 2]))


def test_what_the_store_writes_is_canonical(store: Store) -> None:
    store.config()
    assert store.findings(RULE) == []


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (SOUND.replace(b"\n", b"\r\n"), "line ends or the end of the file"),
        (SOUND.removesuffix(b"\n"), "line ends or the end of the file"),
        (SOUND + b"\n", "line ends or the end of the file"),
        (SOUND.replace(b"    ", b"  "), "line 2"),
        (json.dumps(table([1, 2])).encode(), "line 1"),
        (json.dumps(table([2, 1]), indent=4).encode() + b"\n", "line 2"),
        (json.dumps({"1": dict(reversed(entry().items()))}, indent=4).encode() + b"\n", "line 3"),
    ],
)
def test_any_other_form_is_found_with_its_place(store: Store, data: bytes, where: str) -> None:
    store.file(data)
    (finding,) = store.findings(RULE)
    assert finding.message == f"expected the store's canonical bytes, found a difference at {where}"
    assert finding.fix == "run with --fix"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"1": 5}',
        b"\xef\xbb\xbf" + SOUND,
        SOUND.replace(b"16", b"16.0"),
        SOUND.replace(b"16", b"1.6e1"),
        SOUND.replace(b'{\n    "1"', b'{\n    "triton_version": "3.6.0",\n    "1"'),
        SOUND.replace(b'"num_warps": 4', b'"num_warps": 4, "num_warps": 8'),
    ],
    ids=[
        "empty",
        "broken",
        "array",
        "no rows",
        "no entry",
        "bom",
        "fraction",
        "exponent",
        "triton_version",
        "duplicate key",
    ],
)
def test_what_can_not_be_rewritten_without_changing_it_is_other_rules_business(store: Store, data: bytes) -> None:
    store.file(data)
    assert store.findings(RULE) == []


def config_file(data: bytes) -> ConfigFile:
    path = CONFIGS / NAME
    document, faults = parse(data)
    return ConfigFile(
        Found(path, CONFIGS, path.relative_to(CONFIGS), Role.CONFIG),
        parse_file_name(NAME),
        Content(data, document, faults),
    )


values = st.integers(1, 2**70) | st.floats() | st.booleans() | st.sampled_from(["256", "auto", "x"]) | st.none()
entries = st.dictionaries(st.sampled_from([*entry(), "num_ctas", "grf_mode", "USE_TMA", "SPLIT_K", "x"]), values)
tables = st.dictionaries(
    st.integers(1, 9_999_999).map(str) | st.text(max_size=3),
    (entries.map(lambda e: {**entry(), **e})) | entries,
    max_size=5,
)


@given(tables, st.sampled_from([None, 0, 4, "\t"]))
def test_the_fixer_never_changes_a_value(document: dict[str, object], indent: int | str | None) -> None:
    data = json.dumps(document, indent=indent).encode()
    rewritten = fixed(config_file(data))
    if rewritten is not None:
        assert repr_of(json.loads(rewritten)) == repr_of(document)
        assert fixed(config_file(rewritten)) == rewritten


def repr_of(document: object) -> str:
    """Tells 1, 1.0 and True apart, and no order of keys."""
    if isinstance(document, dict):
        return repr(sorted((key, repr_of(value)) for key, value in document.items()))
    return repr(document)


def test_sound_files_in_any_order_are_fixed() -> None:
    assert fixed(config_file(json.dumps(table([2, 1])).encode())) == SOUND


def test_the_rule_is_for_this_store_alone(store: Store) -> None:
    store.file(json.dumps(table()).encode())
    assert store.findings(RULE, layout=Layout.VLLM) == []
