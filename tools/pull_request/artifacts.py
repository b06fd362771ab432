"""The results that the runners of a plan left behind, found below a folder and held against the plan.

A leg may have no results: its device has no runner, or its machine was lost. That is told of its files; the other
legs count all the same. What is there must answer this very plan.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.pull_request.documents import (
    RESULTS,
    DocumentError,
    Leg,
    MeasuredFile,
    Plan,
    Results,
    read_results,
    shortened,
)
from tools.registry.devices import DeviceRegistry, load_devices
from tools.text import shown_path

MAX_ARTIFACT_FILES = 4096

NO_RESULTS = "no results of its runner"
"""Why a file was not measured where nothing came from its leg. No word of a document: only what is missing says it."""

_ANEW = "Fix: run that leg again, on a machine made anew."


def results_of(plan: Plan, folder: Path) -> dict[str, Results]:
    """By device, one for each leg of the plan. DocumentError: broken ones, or an answer to another question."""
    found = [read_results(path) for path in find_results(folder)]
    by_device = check_results(plan, found)
    devices = load_devices()
    for result in found:
        check_machine(result, devices)
    return by_device


def find_results(folder: Path) -> list[Path]:
    """Every `results.json` below the folder, however deep. DocumentError: it is no folder, or holds too many files.

    No folder at all is none found: where there is no artifact, GitHub's action for downloading makes none.
    """
    if not os.path.lexists(folder):
        return []
    shown = shown_path(folder)
    found: list[Path] = []
    count = 0
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > MAX_ARTIFACT_FILES:
                        raise DocumentError(
                            f"{shown}: expected at most {MAX_ARTIFACT_FILES} files, found more. {_ANEW}"
                        )
                    path = Path(entry.path)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    elif entry.name == RESULTS:
                        found.append(path)
        except OSError as error:
            reason = error.strerror or "an error"
            raise DocumentError(f"{shown}: expected a folder, found: {reason}. Fix: correct --results.") from error
    return sorted(found)


def check_results(plan: Plan, results: Sequence[Results]) -> dict[str, Results]:
    """One for each leg, by device. DocumentError: of another pull request, commit, leg or file, or twice."""
    by_device: dict[str, Results] = {}
    legs = {leg.device_name: leg for leg in plan.legs}
    for result in results:
        where = f"results of {shortened(result.device_name)}"
        if (result.number, result.head_sha) != (plan.number, plan.head_sha):
            raise DocumentError(
                f"{where}: expected pull request {plan.number} at {plan.head_sha}, "
                f"found {result.number} at {result.head_sha}. Fix: give the results of this plan."
            )
        if result.device_name not in legs:
            raise DocumentError(f"{where}: expected none, found some: the plan has no such leg. {_ANEW}")
        if result.device_name in by_device:
            raise DocumentError(f"{where}: expected once, found twice. {_ANEW}")
        _check_files(legs[result.device_name], result)
        by_device[result.device_name] = result
    return {name: by_device.get(name) or _without(plan, leg) for name, leg in legs.items()}


def check_machine(result: Results, devices: DeviceRegistry) -> None:
    """DocumentError: measured times without a machine, or of another GPU than the leg's."""
    where = f"results of {shortened(result.device_name)}"
    if result.environment is None:
        if any(file.is_measured for file in result.files):
            raise DocumentError(f"{where}: expected the environment of what was measured, found none. {_ANEW}")
        return
    told = str(result.environment["device_name"])
    device = devices.get(told)
    if device is None or result.device_name not in device.names:
        raise DocumentError(f"{where}: expected an environment of that GPU, found {shortened(told)}. {_ANEW}")


def has_results(results: Mapping[str, Results]) -> bool:
    """Whether any leg sent some."""
    return any(file.reason != NO_RESULTS for result in results.values() for file in result.files)


def _without(plan: Plan, leg: Leg) -> Results:
    files = tuple(MeasuredFile(file.id, {}, NO_RESULTS, is_measured=False) for file in leg.files)
    return Results(plan.number, plan.head_sha, leg.device_name, None, files)


def _check_files(leg: Leg, results: Results) -> None:
    """The plan's files in the plan's order, and of each no batch size or claim that the plan doesn't have."""
    where = f"results of {leg.device_name}"
    expected, found = [file.id for file in leg.files], [file.id for file in results.files]
    if expected != found:
        raise DocumentError(
            f"{where}: expected the plan's {len(expected)} files in its order, found other ones. {_ANEW}"
        )
    for planned, measured in zip(leg.files, results.files, strict=True):
        name = planned.id.relative
        if measured.is_measured and tuple(sorted(measured.rows)) != planned.batch_sizes:
            raise DocumentError(f"{where}: expected the batch sizes of {name}, found other ones. {_ANEW}")
        claims: Mapping[int, float] = planned.claims_us if planned.claimed else {}
        if any(row.claimed_us != claims.get(num_tokens) for num_tokens, row in measured.rows.items()):
            raise DocumentError(f"{where}: expected the times that {name}'s record claims, found other ones. {_ANEW}")
