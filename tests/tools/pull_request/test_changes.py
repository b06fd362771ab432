"""What a change is, and which changes are data, by number, place, mode and name alone."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from tests.builders import NAME
from tools.git import Entry
from tools.pull_request.changes import (
    MAX_CHANGED_FILES,
    Change,
    changes,
    oversized,
    path_refusals,
    touches_registry,
    tuned_paths,
)
from tools.store.tiers import Role

FILE, OTHER, LINK = (
    Entry("100644", "blob", "a" * 40),
    Entry("100644", "blob", "b" * 40),
    Entry("120000", "blob", "a" * 40),
)


def added(path: str) -> Change:
    return Change(path, None, FILE)


def test_content_mode_and_existence_make_a_change() -> None:
    before = {"same": FILE, "content": FILE, "mode": FILE, "gone": FILE}
    after = {"same": FILE, "content": OTHER, "mode": LINK, "new": FILE}
    assert [change.path for change in changes(before, after)] == ["content", "gone", "mode", "new"]


@pytest.mark.parametrize(
    ("path", "relative", "role"),
    [
        (f"configs/{NAME}", NAME, Role.CONFIG),
        (f"configs/records/{NAME}", f"records/{NAME}", Role.RECORD),
        ("configs/README.md", "README.md", Role.KNOWN),
        ("configs", None, Role.FOREIGN),
        ("configs/", None, Role.FOREIGN),
        ("configs//a.json", None, Role.FOREIGN),
        ("configs/./a.json", None, Role.FOREIGN),
        ("configs/../a.json", None, Role.FOREIGN),
        ("Configs/a.json", None, Role.FOREIGN),
        ("tools/a.json", None, Role.FOREIGN),
    ],
)
def test_a_place_counts_only_where_it_is_spelt_plainly(path: str, relative: str | None, role: Role) -> None:
    change = added(path)
    assert change.relative == (None if relative is None else PurePosixPath(relative))
    assert change.role is role


def test_a_file_and_its_record_are_one_tuned_file() -> None:
    paths = [f"configs/{NAME}", f"configs/records/{NAME}", f"configs/records/triton_3_6_0/{NAME}", "configs/README.md"]
    assert tuned_paths(map(added, paths)) == (PurePosixPath(NAME), PurePosixPath("triton_3_6_0", NAME))


def test_sound_changes_are_not_refused() -> None:
    paths = [f"configs/{NAME}", f"configs/records/{NAME}", "configs/README.md", "configs/registry/models.json"]
    assert path_refusals([added(path) for path in paths]) == []


def test_whatever_lies_below_configs_may_be_removed() -> None:
    assert path_refusals([Change("configs/evil.py", LINK, None)]) == []


def test_the_number_is_looked_at_before_anything_else() -> None:
    many = [added(f"x{i}") for i in range(MAX_CHANGED_FILES + 1)]
    assert [finding.rule for finding in path_refusals(many)] == ["count"]
    assert [finding.rule for finding in path_refusals(many[1:])] == ["outside"]


def test_a_file_is_too_large_by_its_blobs_size() -> None:
    found = oversized([added("configs/a.json"), Change("b", FILE, None)], {FILE.sha: 11}, 10)
    assert [(finding.path, finding.message) for finding in found] == [
        ("configs/a.json", "expected at most 10 bytes, found 11")
    ]
    assert oversized([added("configs/a.json")], {FILE.sha: 10}, 10) == []


def test_a_registry_is_noticed() -> None:
    assert touches_registry([added("configs/registry/models.json")])
    assert not touches_registry([added(f"configs/{NAME}"), added("registry/models.json")])
