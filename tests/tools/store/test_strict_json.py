"""What parses strictly parses the same everywhere; what does not is a fault with its place, never an exception."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tools.store.strict_json import parse

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
nearly_json = st.text('{}[]",:0123456789.eE+-truefalsn \\\\udDN8\n', max_size=40).map(str.encode)


class TestAnyBytes:
    @given(st.binary() | nearly_json | json_values.map(lambda value: json.dumps(value).encode()))
    @example(b'"\\ud83d\\ude00"')
    @example(b'{"a": 1, "a": 1}')
    @example(b"1e999")
    @example(b'"\\ud800"')
    @example(b"\xef\xbb\xbf{}")
    def test_it_never_raises_and_agrees_with_json_on_what_it_accepts(self, data: bytes) -> None:
        document, faults = parse(data)
        for fault in faults:
            assert str(fault)
            assert fault.fix
        if not faults:
            assert repr(document) == repr(json.loads(data))
            assert json.dumps(document, ensure_ascii=False, allow_nan=False).encode()

    @given(json_values)
    def test_what_a_strict_writer_writes_is_accepted(self, value: Any) -> None:
        document, faults = parse(json.dumps(value, allow_nan=False).encode())
        if not faults:
            assert repr(document) == repr(value)
        else:  # the writer escapes half a pair where the text held one
            assert "surrogate" in faults[0].message


class TestFaults:
    @pytest.mark.parametrize(
        ("data", "line", "column", "message"),
        [
            (b'{\n  "a": 1,\n}', 2, 9, "not JSON: expected no comma before the closing bracket"),
            (b"[\n  1 ,\n\n]", 2, 5, "not JSON: expected no comma before the closing bracket"),
            (b'{\n  "a": 1\n  "b": 2\n}', 2, 9, "not JSON: expected a comma or the closing bracket"),
            (b'{\n  "a": 1\n\n', 2, 9, "not JSON: expected a comma or the closing bracket"),
            (b'{"a"\n1}', 1, 5, "not JSON: expected a colon after the key"),
            (b'{"a": tru}', 1, 7, "not JSON: expected a value"),
            (b'{"a": "\\q"}', 1, 8, "not JSON: expected an escape that JSON has"),
            (b'{"a": "x\ty"}', 1, 9, "not JSON: expected a text on one line"),
            (b'{"a": "x', 1, 7, "not JSON: expected a double quote that ends the text"),
            (b'{"a": 1}\n}', 2, 1, "not JSON: expected the end of the file"),
            (b"{'a': 1}", 1, 2, "not JSON: expected a key in double quotes"),
            (b'{"a": 1 // one\n}', 1, 9, "not JSON: "),
            (b"{}\x00", 1, 3, "not JSON: expected the end of the file"),
            (b'{"a":\n "\xc3("}', 2, 3, "expected UTF-8, found byte 0xc3"),
            (b"\xff\xfe{\x00}\x00", 1, 1, "expected UTF-8, found byte 0xff"),
            (b"\xef\xbb\xbf{}", 1, 1, "starts with a UTF-8 byte order mark"),
        ],
    )
    def test_a_place_is_given_where_it_is_known(self, data: bytes, line: int, column: int, message: str) -> None:
        _, faults = parse(data)
        (fault,) = faults
        assert (fault.line, fault.column) == (line, column)
        assert fault.message.startswith(message)
        assert str(fault).startswith(f"line {line}, column {column}: ")

    @pytest.mark.parametrize("data", [b"", b" ", b"\n\t\r "])
    def test_nothing_is_called_empty(self, data: bytes) -> None:
        (fault,) = parse(data)[1]
        assert "found an empty file" in fault.message

    @pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400 + ".0"])
    def test_only_finite_numbers_are_json(self, text: str) -> None:
        document, (fault,) = parse(f'{{"a": [{text}]}}'.encode())
        assert document is None
        assert "is no finite number" in fault.message
        assert len(fault.message) < 80

    def test_large_finite_numbers_are(self) -> None:
        document, faults = parse(b"[1e308, 5e-324]")
        assert (faults, all(map(math.isfinite, document))) == ((), True)

    def test_numbers_of_thousands_of_digits_are_a_fault(self) -> None:
        document, (fault,) = parse(b"[" + b"9" * 5000 + b"]")
        assert document is None
        assert fault.message.startswith("cannot be read: ")

    @pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]', '{"a": 1, "\\u0061": 2}'])
    def test_duplicate_keys_are_a_fault_at_any_depth(self, text: str) -> None:
        document, (fault,) = parse(text.encode())
        assert fault.message == "duplicate keys: 'a'"
        assert document == json.loads(text)

    def test_the_same_key_in_two_objects_is_fine(self) -> None:
        assert parse(b'[{"a": 1}, {"a": {"a": 1}}]')[1] == ()

    def test_many_and_long_duplicates_make_a_short_message(self) -> None:
        keys = [f'"{i}{"x" * 1000}": 1' for i in range(300)]
        (fault,) = parse(f"{{{', '.join(keys + keys)}}}".encode())[1]
        assert len(fault.message) < 300

    @pytest.mark.parametrize("text", ['"\\ud800"', '{"\\uDFFF": 1}', '["\\ude00\\ud83d"]'])
    def test_half_a_surrogate_pair_is_a_fault(self, text: str) -> None:
        document, (fault,) = parse(text.encode())
        assert document is None
        assert "surrogate" in fault.message

    def test_a_whole_pair_is_a_character_and_an_escaped_backslash_is_no_escape(self) -> None:
        assert parse(b'["\\ud83d\\ude00", "\\\\ud800"]') == (["\U0001f600", "\\ud800"], ())

    @pytest.mark.parametrize(("depth", "count"), [(32, 0), (33, 1), (100_000, 1)])
    @pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
    def test_nesting_ends_at_32_levels(self, depth: int, count: int, opening: str, closing: str) -> None:
        faults = parse(f"{opening * depth}1{closing * depth}".encode())[1]
        assert [fault.message for fault in faults] == ["nested over 32 levels"] * count

    def test_brackets_in_texts_and_side_by_side_do_not_nest(self) -> None:
        assert parse(json.dumps(["[" * 100, '"{' * 100, [[]] * 100]).encode())[1] == ()

    def test_an_open_text_and_escaped_quotes_hide_brackets_too(self) -> None:
        for text in ('["' + "[" * 100, json.dumps(['\\"' + "[" * 100, "\\\\" + "{" * 100])):
            assert not any("nested" in fault.message for fault in parse(text.encode())[1])

    @pytest.mark.parametrize(("most", "count"), [(None, 0), (5, 0), (4, 1)])
    def test_more_objects_and_lists_than_the_caller_wants_are_not_read(self, most: int | None, count: int) -> None:
        document, faults = parse(b'{"a": [{"b": [[]]}]}', most_lists=most)
        assert [fault.message for fault in faults] == ["expected at most 4 objects and lists, found more"] * count
        assert (document is None) == (count == 1)

    def test_every_fault_is_listed(self) -> None:
        _, faults = parse(b'\xef\xbb\xbf{"a": 1, "a": 1, "b": {"c": 1, "c": 1}}')
        assert len(faults) == 3
