"""The bytes are one strict JSON object of a sane size; the parser itself is tested beside it."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from tests.builders import H100, NAME, Store, entry
from tools.store.workload import Layout
from tools.validate.rules import RULES
from tools.validate.rules.strict_json import RULE


def test_a_mebibyte_of_nested_keys_is_one_finding_and_read_no_further(store: Store) -> None:
    row = '{"a":' * 29 + "{}" + "}" * 29
    data = ("{" + ",".join(f'"{size}":{row}' for size in range(1, 2500)) + "}").encode()
    assert 2**18 < len(data) < 2**19
    store.file(data)
    store.file(data, folder="records")
    messages = store.messages(*RULES)
    assert sum("expected at most 10000 objects and lists" in message for message in messages) == 1
    assert f"expected at most {128 * 1024} bytes, found {len(data)}" in messages
    assert len(messages) == 2


@pytest.mark.parametrize("entry", [0, entry()], ids=["numbers", "launch configs"])
def test_more_rows_than_a_file_may_have_are_one_finding_before_any_rule_reads_them(store: Store, entry: Any) -> None:
    path = store.file(json.dumps({str(size): entry for size in range(1, 400)}).encode())
    store.record(path)
    (finding,) = store.findings()
    assert finding.rule == RULE.name
    assert finding.message == "expected at most 256 keys at the top level, found 399"


def test_as_many_as_it_may_have_are_read(store: Store) -> None:
    store.config({str(size): entry() for size in [*range(1, 251), 500, 1000, 1500, 2048, 3072, 4096]})
    assert store.findings() == []


def test_sixty_mebibytes_of_flat_rows_take_no_seconds(store: Store) -> None:
    """They took 24 s of a core. Timed by the process's own clock: other processes don't count."""
    rows = json.dumps({str(size): entry() for size in range(1, 6000)}, indent=4).encode()[: 2**20 - 2] + b"}}"
    for E in range(8, 68):
        store.record(store.file(rows, f"E={E},N=1024,device_name={H100}.json"))
    started = time.process_time()
    assert len(store.findings()) == 60
    assert time.process_time() - started < 4.0


def test_an_object_is_fine(store: Store) -> None:
    store.config()
    assert store.findings(RULE) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a JSON object, found an empty file"),
        (b" \n", "expected a JSON object, found an empty file"),
        (b"[]", "expected an object at the top level, found a list"),
        (b"null", "expected an object at the top level, found null"),
        (b"{", "line 1, column 2: not JSON: "),
        (b"{} {}", "line 1, column 4: not JSON: expected the end of the file"),
        (b'\xef\xbb\xbf{"1": 1}', "line 1, column 1: starts with a UTF-8 byte order mark"),
        (b"\x7fELF\x02\x01\x01\x00", "line 1, column 1: not JSON: "),
        (b'{"\xff": 1}', "line 1, column 3: expected UTF-8, found byte 0xff"),
        (b'{"1": 1, "1": 2}', "duplicate keys: '1'"),
        (b'{"1": NaN}', "NaN is no finite number"),
        (b'{"1": -Infinity}', "-Infinity is no finite number"),
        (b'{"1": 1e999}', "1e999 is no finite number"),
        (b'{"\\ud800": 1}', "holds half a surrogate pair"),
        (b"[" * 100_000, "nested over 32 levels"),
        (b'{"1": ' + b"9" * 5000 + b"}", "cannot be read: a number of over 4300 digits"),
    ],
)
def test_what_is_not_is_an_error_with_place_and_reason(store: Store, data: bytes, message: str) -> None:
    store.file(data)
    (found,) = store.messages(RULE)
    assert found.startswith(message)


def test_a_huge_file_is_not_read(store: Store) -> None:
    path = store.file(b"")
    os.truncate(path, 50 * 1024**2)
    assert store.messages(RULE) == [f"expected at most {128 * 1024} bytes, found {50 * 1024**2}"]


@pytest.mark.parametrize(("layout", "folder"), [(Layout.REPO, ""), (Layout.VLLM, ""), (Layout.SGLANG, "triton_3_8_0")])
def test_a_directory_named_like_a_file_is_an_error(store: Store, layout: Layout, folder: str) -> None:
    (store.root / folder / NAME).mkdir(parents=True)
    assert store.messages(RULE, layout=layout) == ["a directory named like a file"]


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nothing"), os.mkfifo], ids=["dangling link", "pipe"])
def test_a_link_to_nothing_and_a_pipe_are_errors_and_nobody_waits(store: Store, make: object) -> None:
    make(store.root / NAME)  # type: ignore[operator]
    (message,) = store.messages(RULE, layout=Layout.VLLM)
    assert message.startswith("not a regular file")
