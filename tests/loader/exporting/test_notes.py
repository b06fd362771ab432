"""What an export says besides: each line once, and of many files one line."""

from __future__ import annotations

import pytest

from fused_moe_configs.exporting.notes import Notes


@pytest.mark.parametrize(
    ("files", "line"),
    [(["a"], "a: left out"), (["a", "b", "c"], "a; b; c: left out"), (["a", "b", "c", "d"], "4 files: left out"),
     (["a", "b", "a", "a"], "a; b: left out")],
)  # fmt: skip
def test_few_files_of_which_the_same_is_said_are_named_and_many_counted(files, line):
    notes = Notes()
    for file in files:
        notes.say_of(file, "left out")
    assert (notes.lines, notes.is_loss) == ([line], False)


def test_lines_stand_once_and_in_the_order_in_which_they_were_said_first():
    notes = Notes()
    notes.say("one")
    notes.say_of("a", "two")
    notes.lose("three")
    notes.say("one")
    notes.say_of("b", "two")
    assert (notes.lines, notes.is_loss) == (["one", "a; b: two", "three"], True)
