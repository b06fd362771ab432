"""python -m tools.canary vllm=WHEEL|FOLDER sglang=WHEEL|FOLDER --out FILE: do the engines still read what we export?

Runs code of the packages given, in a child process without the environment: for a machine without secrets. With
--report FILE it runs none, and writes the markdown of what another run handed on with --json, which it checks.
Exit 0 no difference, 1 differences, 2 bad use. With --report: 0 written, 2 not what a canary hands on.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence

import fused_moe_configs
from tools.canary import report
from tools.canary.check import EngineReport, LoaderFiles, check
from tools.canary.engines import ENGINES
from tools.checkout import reference_triton
from tools.cli import command, engine_paths, path_argument, run
from tools.errors import UserError
from tools.launch.engine_package import Package, open_package
from tools.registry.devices import load_devices
from tools.scratch import Scratch
from tools.store.files import discover, write_file
from tools.store.tiers import Role, version_of_folder
from tools.store.workload import Layout, parse_file_name
from tools.text import printable

USER_FOLDER = "VLLM_TUNED_CONFIG_FOLDER"
MOST_PRINTED = 10


@command("canary")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    if (options.report is None) == (not options.packages) or (options.report and options.json):
        raise UserError("expected ENGINE=PATH, or --report FILE with --out FILE alone, found neither or both.")
    if options.report is not None:
        text = report.to_markdown(report.read(options.report))
        if options.out is None:
            print(text, end="")
        else:
            write_file(options.out, text.encode())
        return 0
    # What an export leaves out it also logs; it is no difference.
    logging.getLogger("fused_moe_configs").addHandler(logging.NullHandler())
    try:
        packages = _packages(options.packages)
        found = _store()
        reports = [_check(name, package, found, options.time_limit) for name, package in packages.items()]
    except fused_moe_configs.ConfigError as error:
        raise UserError(str(error)) from error
    if options.out is not None:
        write_file(options.out, report.to_markdown(reports).encode())
    if options.json is not None:
        write_file(options.json, report.to_bytes(reports))
    for each in reports:
        print(report.summary(each))
        for difference in each.differences[:MOST_PRINTED]:
            print(f"  {report.line(difference)}")
        if len(each.differences) > MOST_PRINTED:
            print(f"  and {len(each.differences) - MOST_PRINTED} more")
    return 1 if any(each.differences for each in reports) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tools.canary", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("packages", nargs="*", metavar="ENGINE=PATH", help="vllm=… or sglang=…: its wheel or folder")
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="write markdown here")
    parser.add_argument("--json", type=path_argument, metavar="FILE", help="write what another job reports here")
    parser.add_argument("--report", type=path_argument, metavar="FILE", help="render what --json wrote, run nothing")
    parser.add_argument("--time-limit", type=float, default=900.0, metavar="S", help="for an engine's code, in seconds")
    return parser


def _packages(given: Sequence[str]) -> Mapping[str, Package]:
    return {name: open_package(name, path) for name, path in engine_paths("ENGINE=PATH", given, ENGINES).items()}


def _store() -> LoaderFiles:
    if os.environ.get(USER_FOLDER):
        found = printable(os.environ[USER_FOLDER])
        raise UserError(f"{USER_FOLDER}: expected none, found {found}. Fix: unset it: the loader would read it first.")
    fused_moe_configs.cache_clear()
    configs = fused_moe_configs.where()
    files = [file for file in discover([configs], Layout.REPO) if file.role is Role.CONFIG]
    names = [parse_file_name(file.path.name) for file in files]
    folders = {version for file in files if (version := version_of_folder(file.folder)) is not None}
    reference = reference_triton()
    versions = sorted({".".join(map(str, version)) for version in folders} | {reference})
    workloads = tuple(name.workload for name in names if name.workload is not None)
    return LoaderFiles(workloads, load_devices(configs / "registry" / "devices.json"), reference, tuple(versions))


def _check(name: str, package: Package, found: LoaderFiles, timeout_s: float) -> EngineReport:
    with Scratch("canary-") as scratch:
        return check(ENGINES[name], package, found, scratch, timeout_s)


if __name__ == "__main__":
    run(main, "canary")
