"""What runners left is found wherever it lies, held against the plan, and missed by its leg where it isn't there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tools.pull_request.documents_builder import (
    A100,
    H100,
    changed,
    plan_document,
    results_document,
    write_json,
)
from tools.pull_request.documents import (
    NO_RESULTS,
    DocumentError,
    Plan,
    find_results,
    has_results,
    read_plan,
    results_of,
)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two legs with the same file."""
    two = changed(plan_document(), lambda d: d["legs"].append({**d["legs"][0], "device_name": A100}))
    return read_plan(write_json(tmp_path / "plan.json", two))


def left(folder: Path, *documents: Any) -> Path:
    for number, document in enumerate(documents):
        write_json(folder / f"results-{number}" / "results.json", document)
    return folder


BOTH = (H100, A100)
"""What the plan was handed on to."""


def test_each_is_found_however_deep_it_lies(tmp_path: Path) -> None:
    paths = [tmp_path / "results" / place / "results.json" for place in ("", "a", "b/c")]
    for path in paths:
        write_json(path, {})
    assert find_results(tmp_path / "results") == sorted(paths)


def test_no_folder_is_none_found(tmp_path: Path) -> None:
    assert find_results(tmp_path / "nowhere") == []


def test_a_leg_without_results_has_its_files_with_the_reason(plan: Plan, tmp_path: Path) -> None:
    found = results_of(plan, left(tmp_path / "results", results_document()), BOTH)
    assert list(found) == [H100, A100]
    assert found[H100].files[0].is_measured
    (file,) = found[A100].files
    assert (file.is_measured, file.reason, file.rows) == (False, NO_RESULTS, {})
    assert found[A100].environment is None
    assert has_results(found)


def test_none_at_all_are_no_error(plan: Plan, tmp_path: Path) -> None:
    found = results_of(plan, tmp_path / "nowhere", BOTH)
    assert list(found) == [H100, A100]
    assert not has_results(found)


def test_a_runner_that_says_why_it_measured_nothing_did_send_results(plan: Plan, tmp_path: Path) -> None:
    failed = {"status": "failed", "reason": "no_gpu", "rows": {}}
    document = changed(results_document(), lambda d: (d.update(environment=None), d["workloads"][0].update(failed)))
    assert has_results(results_of(plan, left(tmp_path / "results", document), BOTH))


def test_of_no_leg_twice_or_of_another_pull_request_they_are_refused(plan: Plan, tmp_path: Path) -> None:
    lies = {
        "twice": (results_document(), results_document()),
        "no such leg": (changed(results_document(), lambda d: d.update(device_name="NVIDIA_L4")),),
        "found 13": (changed(results_document(), lambda d: d.update(number=13)),),
    }
    for told, documents in lies.items():
        with pytest.raises(DocumentError, match=rf"{told}.*\. Fix: "):
            results_of(plan, left(tmp_path / told, *documents), BOTH)


def test_a_runner_tells_of_its_own_gpu(plan: Plan, tmp_path: Path) -> None:
    another = changed(results_document(), lambda d: d["environment"].update(device_name="AMD Instinct MI300X"))
    with pytest.raises(DocumentError, match=rf"results of {H100}: expected an environment of that GPU, found AMD"):
        results_of(plan, left(tmp_path / "another", another), BOTH)
    nowhere = changed(results_document(), lambda d: d.update(environment=None))
    with pytest.raises(DocumentError, match="expected the environment of what was measured, found none"):
        results_of(plan, left(tmp_path / "nowhere", nowhere), BOTH)
