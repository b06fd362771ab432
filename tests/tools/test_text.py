"""Foreign text shows as itself: on one line, cut, and as nothing but text in markdown."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.text import LONGEST, MAX_BODY, MAX_REPORT, aligned, as_a_report, cell, code, shown, table


def test_control_characters_and_undecodable_bytes_are_escaped() -> None:
    assert shown("a\nb\x1b[31m\udcff") == "a\\nb\\x1b[31m\\udcff"


def test_long_text_is_cut() -> None:
    assert len(shown("x" * 10_000)) == LONGEST
    assert shown("x" * 10_000).endswith("…")


def test_a_tuned_files_name_is_plain_code() -> None:
    name = "E=8,N=1024,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    assert code(name) == f"`{name}`"


@pytest.mark.parametrize("text", ["`", "a`b`", "<b>", "|", "@me", "#1", "!x", "*x*", "", " ", "a\nb", "&lt;", "\\`"])
def test_markdown_in_it_is_escaped(text: str) -> None:
    inner = code(text).removeprefix("<code>").removesuffix("</code>")
    assert inner != code(text)
    assert not re.search(r"[`<>|@*\[\]\\\n]|#(?!\d+;)", inner.replace("&#", ""))


@given(st.text())
def test_it_reads_as_what_it_is(text: str) -> None:
    answer = code(text)
    inner = answer[1:-1] if answer.startswith("`") else html.unescape(answer[6:-7])
    assert inner == shown(text)
    assert "\n" not in answer


def test_a_table_is_its_head_a_rule_and_its_rows() -> None:
    assert table(("M", "time"), [("1", "2.0"), ("64", "–")]) == [
        "| M | time |",
        "| --- | --- |",
        "| 1 | 2.0 |",
        "| 64 | – |",
    ]


def test_its_first_columns_may_be_aligned_to_the_right() -> None:
    assert table(("M", "time", "verdict"), [], right=2)[1] == "| ---: | ---: | --- |"


def test_a_plain_tables_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned(("M", "decision", "file"), [("1", "promote", "{a}"), ("4096", "-", "")], right=1) == [
        "   M  decision  file",
        "   1  promote   {a}",
        "4096  -",
    ]


@given(st.text())
def test_a_cell_ends_neither_its_row_nor_its_column(text: str) -> None:
    assert len(cell(text).splitlines()) <= 1
    assert not re.search(r"(?<!\\)\|", cell(text))


def test_a_report_that_github_takes_stays_as_it_is() -> None:
    text = "x" * (MAX_REPORT - 1) + "\n"
    assert as_a_report(text) == text


def test_a_longer_one_is_cut_at_a_line_and_says_how_many_are_left_out() -> None:
    head, line = "x" * (MAX_REPORT - 20) + "\n", "twelve chars\n"
    assert as_a_report(head + 3 * line) == (
        head + line + "\n2 more lines left out: what they say is in the artifacts of the run.\n"
    )
    assert len(as_a_report(head + 9999 * line)) < MAX_BODY - 1000
    assert as_a_report("x" * MAX_BODY + "\n").startswith("\n\n1 more line left out: ")
