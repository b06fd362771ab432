"""What to do next: the line to be typed, or that there is nothing to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fused_moe_configs.api import where
from fused_moe_configs.lookup import Lookup
from fused_moe_configs.next_step import export_command, model_flags, next_step, tune_command
from fused_moe_configs.serving import find_serving

FOUND = Lookup((), Path("configs/E=8.json"), "Served.")
MISSED = Lookup((), None, "No tier has a file.")


def serving(engine="vllm"):
    return find_serving("Qwen/Qwen3-30B-A3B", engine, where(), device_name="NVIDIA_H200")


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (("a/b", 2, 1), "--model a/b --tp 2"),
        (("a/b", 8, 4), "--model a/b --tp 8 --ep 4"),
        (("a/b", 1, 1, "fp8_w8a8", (128, 64)), "--model a/b --tp 1 --dtype fp8_w8a8 --block-shape 128,64"),
        (("a/b", 1, 1, "fp8_w8a8", None, True), "--model a/b --tp 1 --dtype fp8_w8a8 --per-channel-quant"),
    ],
)
def test_flags_are_those_of_tune(arguments, flags):
    assert model_flags(*arguments) == flags
    assert tune_command(flags, "vllm") == f"./nox -s tune -- {flags}"
    assert tune_command(flags, "sglang") == f"./nox -s tune -- {flags} --engine sglang"


def test_a_file_that_is_here_is_exported():
    step = next_step("", serving(), FOUND, None)
    assert step.command == export_command("vllm", FOUND.winner)
    assert str(step) == step.command


def test_a_siblings_file_is_exported_as_one():
    assert "--siblings && export" in next_step("", serving("sglang"), MISSED, Path("configs/E=8.json")).command


def test_without_a_file_one_is_tuned_on_that_gpu():
    step = next_step("--model a/b --tp 1", serving(), MISSED, None)
    assert str(step) == "./nox -s tune -- --model a/b --tp 1 (in a clone of the repository, on this GPU)"


def test_where_no_file_is_read_there_is_nothing_to_do():
    unread = replace(serving(), reads_tuned_files=False)
    assert next_step("", unread, FOUND, None) == ("", "nothing: tuned files change nothing here")


@pytest.mark.parametrize("changes", [{"gated": False}, {"dtype": "int4_w4a16"}])
def test_what_the_tuner_refuses_is_not_offered(changes):
    step = next_step("", replace(serving(), **changes), MISSED, None)
    assert step.command == ""
    assert step.note.startswith("nothing: ")
    assert next_step("", replace(serving(), **changes), FOUND, None).command == export_command("vllm", FOUND.winner)


def test_vllm_gets_a_version_files_whole_chain():
    assert "--triton-version 3.6.0" in export_command("vllm", Path("configs/triton_3_6_0/E=8.json"))
    assert "--overlay auto" in export_command("sglang", None)
