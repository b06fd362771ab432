"""`python -m tools.github`: what the workflows ask of GitHub, with the job's own token."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tools.cli import command, hand_on, path_argument, run, say
from tools.git import is_sha
from tools.github.api import Api, ApiError
from tools.github.posts import comment, issue, open_pull, read_body
from tools.github.pull import Refused, lookup, read_event
from tools.github.push import Proposal, commit, push


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.github",
        description="Asks GitHub, at GITHUB_API_URL with GITHUB_TOKEN, about GITHUB_REPOSITORY.",
        epilog="Exit 0: done. 1: the pull request is not where it should be. 2: bad use, or GitHub can't be asked.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser("lookup", help="number and commit of the pull request that an event is about")
    add.add_argument("--event", type=path_argument, required=True, metavar="FILE", help="workflow_run or _dispatch")
    add = commands.add_parser("comment", help="write or edit the report on a pull request")
    add.add_argument("--number", type=int, required=True, metavar="N")
    add.add_argument("--head-sha", required=True, metavar="SHA", help="nothing is written once the head has moved on")
    add.add_argument("--body", type=path_argument, required=True, metavar="FILE")
    add = commands.add_parser("issue", help="open or update the one issue of a kind")
    add.add_argument("--marker", required=True, metavar="NAME")
    add.add_argument("--title", required=True)
    add.add_argument("--body", type=path_argument, required=True, metavar="FILE")
    add = commands.add_parser(
        "commit", help="commit what changed below the paths, and bundle the commit; needs no token"
    )
    add.add_argument("--message", required=True)
    add.add_argument("--bundle", type=path_argument, required=True, metavar="FILE", help="where the commit is written")
    add.add_argument("paths", nargs="+", metavar="PATH")
    add = commands.add_parser("push", help="check a bundled commit, and push it to a branch of ours")
    add.add_argument("--bundle", type=path_argument, required=True, metavar="FILE")
    add.add_argument("--commit", required=True, metavar="SHA", help="what `commit` made")
    add.add_argument("--parent", required=True, metavar="SHA", help="main's commit, which must be checked out")
    add.add_argument("--branch", required=True, help="such as verify/NAME; an older run's is replaced")
    add.add_argument("paths", nargs="+", metavar="PATH", help="a file, or a folder with a slash, that it may change")
    add = commands.add_parser("pull", help="open or update the pull request of a branch of ours")
    add.add_argument("--branch", required=True)
    add.add_argument("--title", required=True)
    add.add_argument("--body", type=path_argument, required=True, metavar="FILE")
    return parser


@command("github")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        _run(options)
    except Refused as refusal:
        say(f"github: {refusal}")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    match options.command:
        case "commit":
            made = commit(Path.cwd(), options.message, options.paths, options.bundle)
            _output(changed=str(made is not None).lower(), commit=made or "")
        case "push":
            proposal = Proposal(options.commit, options.parent, options.branch, tuple(options.paths))
            push(Path.cwd(), proposal, options.bundle, os.environ)
        case _:
            _ask(options)


def _ask(options: argparse.Namespace) -> None:
    api = Api.from_environment(os.environ)
    match options.command:
        case "lookup":
            pull = lookup(api, read_event(options.event))
            _output(number=str(pull.number), head_sha=pull.head_sha)
        case "comment":
            if options.number < 1 or not is_sha(options.head_sha):
                raise ApiError("--number, --head-sha: expected a pull request and 40 hex digits, found something else.")
            print(comment(api, options.number, options.head_sha, read_body(options.body)))
        case "issue":
            print(issue(api, options.marker, options.title, read_body(options.body)))
        case "pull":
            print(open_pull(api, options.branch, options.title, read_body(options.body)))


def _output(**values: str) -> None:
    """For the steps that follow, and for people. Numbers, commits and booleans only: nothing in them needs quoting."""
    hand_on(values)
    print("".join(f"{name}={value}\n" for name, value in values.items()), end="")


if __name__ == "__main__":
    run(main, "github")
