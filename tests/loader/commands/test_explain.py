"""fused-moe-configs explain: what comes near is named where nothing serves."""

from __future__ import annotations

import pytest

import fused_moe_configs
from fused_moe_configs.cli import main
from tests.loader.conftest import H100


def explained(capsys, *arguments: str):
    fused_moe_configs.cache_clear()
    code = main(["explain", *arguments, "--triton-version", "3.8.0"])
    return code, capsys.readouterr().out.splitlines()


def test_a_near_miss_follows_the_places_that_were_looked_at(store, capsys):
    store.add(f"E=8,N=7168,device_name={H100}.json")
    code, lines = explained(capsys, "8", "7168", "--device-name", "H100")
    assert code == 1
    assert lines[-3].startswith("No tier has a file for H100")
    assert lines[-2] == f"H100: did you mean {H100} or NVIDIA_H100_OEM?"
    assert lines[-1] == f"E=8,N=7168 for bf16 and fp16 is here for {H100}"


def test_nothing_is_near_where_a_file_serves(store, capsys):
    store.add(f"E=8,N=7168,device_name={H100}.json")
    store.add("E=8,N=7168,device_name=NVIDIA_H200.json")
    code, lines = explained(capsys, "8", "7168", "--device-name", H100)
    assert code == 0
    assert lines[-1].startswith("Served by the default tier")


def test_the_answer_that_is_offered_answers(store, capsys):
    """What «did you mean» names, typed as it stands, finds the file."""
    store.add(f"E=8,N=7168,device_name={H100}.json")
    _, lines = explained(capsys, "8", "7168", "--device-name", "H100")
    meant = lines[-2].removeprefix("H100: did you mean ").partition(" or ")[0]
    assert explained(capsys, "8", "7168", "--device-name", meant)[0] == 0


@pytest.mark.parametrize("size", ["x", "8_0", "٨", "8.0", "", "9" * 5000, "0x8", "+8"])
def test_a_size_is_written_with_digits_alone(store, capsys, size):
    assert main(["explain", size, "1", "--device-name", "D"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "expected an integer such as 8, found " in error
    assert len(error) < 250


@pytest.mark.parametrize("size", ["0", "-1", "2147483648"])
def test_a_size_that_none_can_be_says_what_it_may_be(store, capsys, size):
    assert main(["explain", size, "1", "--device-name", "D"]) == 2
    wish = f"error: E: expected an integer from 1 to 2147483647, found {size}"
    assert capsys.readouterr().err == f"{wish}. Fix: correct it; `fused-moe-configs explain --help` helps\n"
