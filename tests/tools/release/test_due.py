"""When a release is due, and what it is called."""

from __future__ import annotations

import datetime

import pytest

from tools.release.due import Due, ReleaseError, decide, stamped

TODAY = datetime.date(2026, 3, 9)
FIRST_COMMIT = "a" * 40


def test_the_version_is_the_date_without_zeros() -> None:
    due = decide(TODAY, "v2026.3.2", ["configs/E=8.json"], is_forced=False)
    assert due == Due(True, "2026.3.9", "v2026.3.2")
    assert (due.is_due, due.version, due.previous) == (True, "2026.3.9", "v2026.3.2")


@pytest.mark.parametrize(
    ("path", "is_due"),
    [
        ("configs/legacy_configs/E=8.json", True),
        ("configs/registry/devices.json", True),
        ("fused_moe_configs/lookup.py", True),
        ("configs/records/E=8.json", False),
        ("configs/registry/models.json", False),
        ("tools/tune/tuner.py", False),
        ("README.md", False),
    ],
)
def test_due_is_what_the_wheel_holds(path: str, is_due: bool) -> None:
    assert decide(TODAY, "v2026.3.2", [path], is_forced=False).is_due is is_due


def test_a_person_may_ask_for_one_anyway() -> None:
    assert decide(TODAY, FIRST_COMMIT, [], is_forced=True) == Due(True, "2026.3.9", FIRST_COMMIT)


@pytest.mark.parametrize("previous", ["v2026.3.9", "v2026.3.10", "v2026.12.1", "v2027.1.1"])
def test_a_day_has_one_release_and_time_runs_forward(previous: str) -> None:
    with pytest.raises(ReleaseError, match=f"expected a day after the release {previous}"):
        decide(TODAY, previous, [], is_forced=True)


def test_stamping_changes_that_line_alone() -> None:
    source = '"""Doc."""\n__version__ = "2026.3.2"\nx = "2026.3.2"\n'
    assert stamped(source, "2026.3.9") == '"""Doc."""\n__version__ = "2026.3.9"\nx = "2026.3.2"\n'


@pytest.mark.parametrize("version", ["2026.03.09", "2026.13.1", '2026.3.9"\nimport os', "", "v2026.3.9"])
def test_what_is_no_date_is_not_written(version: str) -> None:
    with pytest.raises(ReleaseError, match="expected a date"):
        stamped('__version__ = "2026.3.2"\n', version)


def test_a_loader_without_its_line_is_said() -> None:
    with pytest.raises(ReleaseError, match="expected one line"):
        stamped("", "2026.3.9")
