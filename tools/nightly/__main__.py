"""python -m tools.nightly sample|drift: measure some tuned files every night, and say which figures no longer hold.

Exit 0 good, 1 drift or no results, 2 bad use. With $GITHUB_OUTPUT, `sample` adds devices (a JSON list), any (true or
false) and triton (the release to measure under; empty: the reference), `drift` adds drifted (true or false).
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
from collections.abc import Sequence

from tools.checkout import CONFIGS, reference_triton
from tools.cli import command, day_argument, hand_on, path_argument, run, say
from tools.dates import today
from tools.nightly import drift, sample
from tools.nightly.sample import NightlyError
from tools.pull_request.documents import read_plan, results_of
from tools.pull_request.plan import with_runner
from tools.registry.devices import load_devices
from tools.store.files import version_folder, write_file
from tools.text import counted, shown_path

_RELEASE = re.compile(r"(?:triton \()?([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})\)?", re.ASCII)


@command("nightly")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tools.nightly", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="sample | drift")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--configs", type=path_argument, default=CONFIGS, metavar="DIR", help="the configs folder")
    shared.add_argument("--out", type=path_argument, required=True, metavar="FILE", help="where to write")
    command = commands.add_parser("sample", parents=[shared], help="the plan of a night, as JSON")
    command.set_defaults(command=_sample)
    command.add_argument("--count", type=_count, required=True, metavar="N", help="files a night")
    command.add_argument("--date", type=day_argument, metavar="YYYY-MM-DD", help="which night; default: today in UTC")
    command.add_argument("--all", action="store_true", help="every measured file")
    command.add_argument(
        "--newest",
        metavar="X.Y.Z|pip",
        help="a release of Triton, or pip to ask for the newest that is a week old: --all, under that release, where "
        "no tier is tuned with it",
    )
    command.add_argument(
        "--runners",
        default="",
        metavar="NAMES",
        help="devices that have a runner, with commas: files of others are never due; default: every device has one",
    )
    command = commands.add_parser("drift", parents=[shared], help="the plan's results beside the records, as markdown")
    command.set_defaults(command=_drift)
    command.add_argument("--plan", type=path_argument, required=True, metavar="FILE")
    command.add_argument(
        "--results", type=path_argument, required=True, metavar="DIR", help="with a results.json a leg"
    )
    command.add_argument(
        "--runners", default="", metavar="NAMES", help="as `sample` had them: results of other devices are refused"
    )
    command.add_argument(
        "--triton",
        type=_release_argument,
        default=reference_triton(),
        metavar="X.Y.Z",
        help="as `sample` handed it on: figures of another one count as not measured; default: %(default)s",
    )
    command.add_argument(
        "--margin-pct", type=_margin, default=drift.MARGIN_PCT, metavar="P", help="tolerated; default: %(default)g"
    )
    return parser


def _sample(options: argparse.Namespace) -> int:
    stock = sample.measured_files(options.configs)
    for file in stock.left_out:
        say(f"nightly: {file}")
    reference = _release(reference_triton())
    day = options.date or today()
    newest = reference if options.newest is None else _newest(options.newest, day)
    is_new = sample.is_new(newest, reference, stock.folders)
    triton = ".".join(map(str, newest)) if is_new else ""
    if is_new:
        print(f"Triton {triton} is newer than any that a tier was tuned with: every file is measured under it")
    devices = load_devices(options.configs / "registry" / "devices.json")
    found = sample.measurable(stock.files, devices, with_runner(options.runners, devices))
    # A run for a newer Triton that finds none would measure this night's sample a second time.
    has_work = is_new or options.newest is None or options.all
    count = len(found) if is_new or options.all else options.count
    chosen = sample.of_night(found, day, count) if has_work else []
    plan, left_out = sample.plan(chosen, sample.head_commit(), devices)
    if left_out:
        beyond = counted(len(left_out), "measured file")
        say(f"nightly: left out: {beyond}, more than one plan holds. Another night begins elsewhere.")
    write_file(options.out, plan.to_bytes())
    names = [leg.device_name for leg in plan.legs]
    # Device names are the registry's.
    hand_on({"devices": json.dumps(names), "any": bool(names), "triton": triton})
    of_all = counted(len(found), "measured file")
    print(f"{len(chosen) - len(left_out)} of {of_all} for {counted(len(names), 'device')}: {shown_path(options.out)}")
    return 0


def _drift(options: argparse.Namespace) -> int:
    plan = read_plan(options.plan)
    records = sample.records_of(plan, options.configs)
    devices = load_devices(options.configs / "registry" / "devices.json")
    results = results_of(plan, options.results, with_runner(options.runners, devices))
    found = drift.compare(plan, results, records, options.margin_pct, devices, options.triton)
    write_file(options.out, drift.to_markdown(found, plan.head_sha, options.margin_pct).encode())
    print(f"{drift.summary(found)}: {shown_path(options.out)}")
    files = [file for device in found for file in device.files]
    drifted = any(file.has_drifted for file in files)
    hand_on({"drifted": drifted})
    return 1 if drifted or any(file.is_missing for file in files) else 0


def _count(text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,5}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 999999, found {text[:40]!r}")
    return int(text)


def _newest(text: str, day: datetime.date) -> tuple[int, ...]:
    return _release(sample.newest_triton(day) if text == "pip" else text)


def _release(text: str) -> tuple[int, ...]:
    """Also as `pip index versions` prints it: «triton (3.8.0)»."""
    match = _RELEASE.fullmatch(text.strip())
    if match is None:
        raise NightlyError(f"--newest: expected a release as X.Y.Z, found {text[:40]!r}. Fix: give X.Y.Z, or pip.")
    return tuple(map(int, match.groups()))


def _release_argument(text: str) -> str:
    try:
        version_folder(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a release as X.Y.Z, found {text[:40]!r}") from error
    return text


def _margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = -1.0
    if not 0.0 <= margin <= 100.0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 100, found {text[:40]!r}")
    return margin


if __name__ == "__main__":
    run(main, "nightly")
