"""`report`: a plan and its results become the markdown of one comment. Takes the artifacts for hostile.

The pull request's number and commit come from the caller, who has them from the event or the API; an artifact that
says otherwise is refused, and so is one that answers another question than the plan asked. A leg without results is
told as such.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tools.cli import path_argument, say
from tools.pull_request.artifacts import results_of
from tools.pull_request.documents import RESULTS, DocumentError, Plan, read_plan, shortened
from tools.pull_request.report_text import render
from tools.store.files import write_file


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
        results = results_of(plan, options.results)
    except DocumentError as error:
        say(f"report: {error}")
        return 1
    write_file(options.out, render(plan, results).encode())
    return 0


def check_plan(plan: Plan, number: int, head_sha: str) -> None:
    """DocumentError: the plan is of another pull request or commit."""
    if plan.number != number:
        raise DocumentError(f"plan: expected pull request {number}, found {plan.number}. Fix: make the plan anew.")
    if plan.head_sha != head_sha:
        raise DocumentError(
            f"plan: expected commit {shortened(head_sha, 40)}, found {plan.head_sha}. Fix: make the plan anew."
        )
