"""Which devices have a runner, by a variable that a person wrote."""

from __future__ import annotations

import pytest

from tests.tools.validate.builder import H100, devices
from tools.pull_request.runners import RunnersError, with_runner


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_where_nothing_is_said_every_device_has_one(text: str) -> None:
    assert with_runner(text, devices()) == {device.name for device in devices()}


def test_names_stand_with_commas_and_may_be_a_drivers() -> None:
    assert with_runner("NVIDIA H100 80GB HBM3, NVIDIA_H200,", devices()) == {H100, "NVIDIA_H200"}


def test_an_alias_is_the_device() -> None:
    assert with_runner("AMD_Instinct_MI300X_OAM", devices()) == {"AMD_Instinct_MI300X"}


def test_a_name_that_nothing_has_is_no_silent_none() -> None:
    with pytest.raises(
        RunnersError, match=r"^--runners: .*found 'H1OO'. Fix: correct the repository's variable"
    ) as told:
        with_runner(f"{H100},H1OO", devices())
    assert "\n" not in str(told.value)
