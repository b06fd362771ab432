"""The bytes are one strict JSON object of a sane size; the parser itself is tested beside it."""

from __future__ import annotations

import os

import pytest

from tests.builders import NAME, Store
from tools.store.workload import Layout
from tools.validate.rules import RULES
from tools.validate.rules.strict_json import RULE


def test_a_mebibyte_of_nested_keys_is_one_finding_and_read_no_further(store: Store) -> None:
    row = '{"a":' * 29 + "{}" + "}" * 29
    data = ("{" + ",".join(f'"{size}":{row}' for size in range(1, 5500)) + "}").encode()
    assert 2**19 < len(data) < 2**20
    store.file(data)
    store.file(data, folder="records")
    messages = store.messages(*RULES)
    assert sum("expected at most 10000 objects and lists" in message for message in messages) == 2
    assert len(messages) == 2


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
    assert store.messages(RULE) == [f"expected at most {1024**2} bytes, found {50 * 1024**2}"]


@pytest.mark.parametrize(("layout", "folder"), [(Layout.REPO, ""), (Layout.VLLM, ""), (Layout.SGLANG, "triton_3_8_0")])
def test_a_directory_named_like_a_file_is_an_error(store: Store, layout: Layout, folder: str) -> None:
    (store.root / folder / NAME).mkdir(parents=True)
    assert store.messages(RULE, layout=layout) == ["a directory named like a file"]


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nothing"), os.mkfifo], ids=["dangling link", "pipe"])
def test_a_link_to_nothing_and_a_pipe_are_errors_and_nobody_waits(store: Store, make: object) -> None:
    make(store.root / NAME)  # type: ignore[operator]
    (message,) = store.messages(RULE, layout=Layout.VLLM)
    assert message.startswith("not a regular file")
