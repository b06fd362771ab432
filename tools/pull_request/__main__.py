"""`python -m tools.pull_request`: what a pull request changes, and what of it a GPU runner measures."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.checkout import CHECKOUT, triton_releases
from tools.cli import append, command, hand_on, path_argument, run, say
from tools.errors import UserError
from tools.findings import Finding, Report, as_github, emit
from tools.git import CommitError, Repository, is_sha
from tools.pull_request import changes, diff_report
from tools.pull_request.commit_range import compare
from tools.pull_request.diff import make_diff
from tools.pull_request.documents import Plan
from tools.pull_request.plan import (
    PlanOutcome,
    PlanRequest,
    Rules,
    make_plan,
    with_runner,
)
from tools.pull_request.served import look_beside
from tools.registry.devices import load_devices
from tools.registry.models import load_models
from tools.store.files import write_file
from tools.text import counted, shown, shown_path
from tools.validate.exceptions import Exceptions

MOST_LINES = 20
"""Refusals that are printed; of more only the number is."""

ELSEWHERE = ("measure", "report", "take", "verify")
"""Subcommands that lie in modules of their own, each with its own command line, imported only when asked for."""


def parser() -> argparse.ArgumentParser:
    """The command line of `diff` and `plan`."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pull_request",
        description="What a pull request changes, and what of it a GPU runner measures. Commits are read as data.",
        epilog=f"Also: {', '.join(ELSEWHERE)}, each with --help of its own. "
        "Exit 0: done. 1: refused, with a line for each reason. 2: bad use.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    diff = commands.add_parser("diff", help="tuned files added, re-tuned, moved and removed, and coverage")
    diff.add_argument("base", metavar="BASE", help="a revision; the diff starts where HEAD left it")
    diff.add_argument("head", metavar="HEAD", help="a revision")
    diff.add_argument(
        "--format",
        choices=["text", "markdown", "json", "github"],
        default="text",
        help="github: a notice for each line, and the markdown into $GITHUB_STEP_SUMMARY; default: text",
    )
    diff.add_argument(
        "--of",
        default="",
        metavar="OWNER/NAME:BRANCH",
        help="whose branch HEAD is, as GitHub names it: only verify's own in $GITHUB_REPOSITORY may write `verified`",
    )
    diff.add_argument(
        "--merged", action="store_true", help="main has it already: it is reported, and nothing is refused"
    )
    diff.add_argument(
        "--queued",
        action="store_true",
        help="a merge queue's commit, whose pull requests have passed: only what they come to together is judged",
    )
    plan = commands.add_parser("plan", help="the checked plan of a pull request's commit")
    plan.add_argument("--number", required=True, type=_number, help="of the pull request, 0 after a merge")
    plan.add_argument("--head-sha", required=True, help="the commit to measure, 40 hexadecimal digits")
    plan.add_argument("--base", default="HEAD", metavar="REV", help="main's commit; default: HEAD")
    plan.add_argument(
        "--runners",
        default="",
        metavar="NAMES",
        help="devices that have a runner, with commas, or none; others are planned and not handed on; default: every "
        "device",
    )
    plan.add_argument("--out", required=True, type=path_argument, metavar="FILE", help="where the plan is written")
    for subcommand in (diff, plan):
        subcommand.add_argument(
            "--repository", type=path_argument, default=CHECKOUT, metavar="PATH", help="default: this checkout"
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in ELSEWHERE:
        module = importlib.import_module(f"tools.pull_request.{given[0]}")
        return int(module.main(given[1:]))
    args = parser().parse_args(given)
    run_command = _diff if args.command == "diff" else _plan
    return command(f"pull_request {args.command}")(lambda arguments=None: run_command(args))()  # noqa: ARG005


def _diff(args: argparse.Namespace) -> int:
    repository = Repository(args.repository)
    found = compare(args.base, args.head, repository)
    # What a file hides is looked up for each of its readers: of tens of thousands of names that takes minutes.
    if not args.merged and (too_many := changes.count_refusals(changes.below_root(found.changed))):
        _refuse(too_many)
        return 1
    devices = load_devices()
    beside = look_beside(found, repository, devices, triton_releases())
    diff = make_diff(found, load_models(), devices, beside.hidden)
    if args.format == "github" and (step_summary := os.environ.get("GITHUB_STEP_SUMMARY")):
        append(Path(step_summary), f"{diff_report.as_markdown(diff)}\n")
    emit(diff_report.FORMATS[args.format](diff))
    if args.merged:
        return 0
    if args.queued:
        refusals = changes.queue_refusals(found.versions)
    else:
        commit = changes.verified_commit(args.of, os.environ.get("GITHUB_REPOSITORY", ""))
        refusals = changes.merge_refusals(found.changed, found.versions, commit)
    refusals += changes.figure_refusals(found.versions, beside.standing)
    _refuse(refusals)
    return 1 if refusals else 0


def _plan(args: argparse.Namespace) -> int:
    if not is_sha(args.head_sha):
        raise UserError(f"--head-sha: expected 40 hexadecimal digits, found {shown(args.head_sha, 60)!r}")
    repository = Repository(args.repository)
    request = PlanRequest(args.number, args.head_sha, repository.commit(args.base))
    rules = Rules(load_devices(), load_models(), Exceptions.load())
    runners = with_runner(args.runners, rules.devices)
    try:
        outcome = make_plan(request, repository, rules)
    except CommitError as error:
        outcome = PlanOutcome(None, (error.finding,))
    if outcome.plan is None:
        _refuse(outcome.refusals)
        return 1
    _refuse(outcome.refusals, "left out")
    write_file(args.out, outcome.plan.to_bytes())
    # Device names are the registry's.
    devices = [leg.device_name for leg in outcome.plan.legs if leg.device_name in runners]
    hand_on({"devices": json.dumps(devices, separators=(",", ":")), "any": bool(outcome.plan.legs)})
    emit(f"{shown_path(args.out)}: {summary(outcome.plan, devices)}")
    return 0


def summary(plan: Plan, devices: Sequence[str]) -> str:
    """One line: how much there is to measure, and which of its devices have no runner."""
    names = [leg.device_name for leg in plan.legs]
    files = sum(len(leg.files) for leg in plan.legs)
    on = f" on {', '.join(names)}" if names else ""
    others = [name for name in names if name not in devices]
    return f"{counted(files, 'tuned file')} to measure{on}" + (f"; no runner: {', '.join(others)}" if others else "")


def _refuse(refusals: Sequence[Finding], what: str = "refused") -> None:
    """A line for each reason, as annotations where a workflow runs it."""
    said, unsaid = refusals[:MOST_LINES], len(refusals) - MOST_LINES
    if said and os.environ.get("GITHUB_ACTIONS") == "true":
        emit(as_github(Report(len(refusals), tuple(said))))
    for finding in said:
        say(f"{what}: {finding.path}: {finding.message}. Fix: {finding.fix}.")
    if unsaid > 0:
        say(f"{what}: {unsaid} further reasons.")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        expected = "expected a pull request's number, or 0 for what is merged"
        raise argparse.ArgumentTypeError(f"{expected}, found {shown(text, 60)!r}")
    return int(text)


if __name__ == "__main__":
    run(main, "pull_request")
