"""`report`: a plan and its results become the markdown of one comment. Takes the artifacts for hostile.

The pull request's number and commit come from the caller, who has them from the event or the API; an artifact that
says otherwise is refused, and so is one that answers another question than the plan asked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools import store
from tools.console import path_argument, say
from tools.pull_request.documents import (
    RESULTS,
    DocumentError,
    Leg,
    Plan,
    Results,
    read_plan,
    read_results,
    shortened,
)
from tools.pull_request.report_text import render

MAX_FILES = 4096


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pull_request report",
        description="Writes the comment on a pull request from a plan and the results of its legs.",
        epilog="Exit 0: written. 1: plan or results are refused. 2: bad use.",
    )
    parser.add_argument("--plan", type=path_argument, required=True, metavar="FILE")
    parser.add_argument(
        "--results", type=path_argument, required=True, metavar="DIR", help=f"one folder a leg: {RESULTS}"
    )
    parser.add_argument("--number", type=int, required=True, metavar="N", help="of the pull request, from the API")
    parser.add_argument("--head-sha", required=True, metavar="SHA", help="its commit, from the API")
    parser.add_argument("--out", type=path_argument, required=True, metavar="FILE", help="markdown")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        plan = read_plan(options.plan)
        check_plan(plan, options.number, options.head_sha)
        results = check_results(plan, [read_results(path) for path in find_results(options.results)])
    except DocumentError as error:
        say(f"report: {error}")
        return 1
    store.write(options.out, render(plan, results).encode())
    return 0


def find_results(folder: Path) -> list[Path]:
    """Every `results.json` below the folder, however deep. DocumentError: none, or too many files."""
    shown = store.shown(folder)
    found: list[Path] = []
    count = 0
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > MAX_FILES:
                        raise DocumentError(f"{shown}: expected at most {MAX_FILES} files, found more.")
                    path = Path(entry.path)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    elif entry.name == RESULTS:
                        found.append(path)
        except OSError as error:
            raise DocumentError(f"{shown}: expected a folder, found: {error.strerror or 'an error'}.") from error
    if not found:
        raise DocumentError(f"{shown}: expected the {RESULTS} of each leg, found none.")
    return sorted(found)


def check_plan(plan: Plan, number: int, head_sha: str) -> None:
    """DocumentError: the plan is of another pull request or commit."""
    if plan.number != number:
        raise DocumentError(f"plan: expected pull request {number}, found {plan.number}.")
    if plan.head_sha != head_sha:
        raise DocumentError(f"plan: expected commit {shortened(head_sha, 40)}, found {plan.head_sha}.")


def check_results(plan: Plan, results: Sequence[Results]) -> dict[str, Results]:
    """The results by device. DocumentError: of another pull request, commit, leg or file, twice, or missing."""
    by_device: dict[str, Results] = {}
    for result in results:
        where = f"results of {shortened(result.device_name)}"
        if (result.number, result.head_sha) != (plan.number, plan.head_sha):
            raise DocumentError(
                f"{where}: expected pull request {plan.number} at {plan.head_sha}, "
                f"found {result.number} at {result.head_sha}."
            )
        if result.device_name in by_device:
            raise DocumentError(f"{where}: expected once, found twice.")
        by_device[result.device_name] = result
    legs = {leg.device_name: leg for leg in plan.legs}
    extra = [name for name in by_device if name not in legs]
    if extra:
        raise DocumentError(f"results of {shortened(extra[0])}: expected none, the plan has no such leg.")
    missing = [name for name in legs if name not in by_device]
    if missing:
        raise DocumentError(f"results of {missing[0]}: expected, found none. Fix: run that leg again.")
    for name, leg in legs.items():
        _check_files(leg, by_device[name])
    return by_device


def _check_files(leg: Leg, results: Results) -> None:
    """The plan's files in the plan's order, and of each no batch size or claim that the plan doesn't have."""
    where = f"results of {leg.device_name}"
    expected, found = [file.id for file in leg.files], [file.id for file in results.files]
    if expected != found:
        raise DocumentError(f"{where}: expected the plan's {len(expected)} files in its order, found other ones.")
    for planned, measured in zip(leg.files, results.files, strict=True):
        name = planned.id.relative
        if measured.is_measured and tuple(sorted(measured.rows)) != planned.batch_sizes:
            raise DocumentError(f"{where}: expected the batch sizes of {name}, found other ones.")
        claims: Mapping[int, float] = planned.claims_us if planned.claimed else {}
        if any(row.claimed_us != claims.get(num_tokens) for num_tokens, row in measured.rows.items()):
            raise DocumentError(f"{where}: expected the times that {name}'s record claims, found other ones.")
