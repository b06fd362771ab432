"""`python -m tools.site OUT`: coverage and evidence of the store as a folder of static pages."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from fused_moe_configs.lookup import ConfigError
from tools.checkout import CONFIGS, MEASUREMENTS
from tools.child_process import MAX_JOBS, usable_cores
from tools.cli import check_folder, check_within, command, path_argument, run, say
from tools.errors import UserError
from tools.text import counted, printable, shown_path

REPOSITORY = "https://github.com/fused-moe-configs/fused-moe-configs"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.site",
        description="Writes the site: what is covered, which file a server reads, what each file gains and why it can "
        "be trusted. Look at it with: python3 -m http.server --directory OUT",
        epilog="Exit 0: written. 2: bad use, or a registry that can't be read.",
    )
    parser.add_argument("out", type=path_argument, metavar="OUT", help="a new folder, or one with an earlier build")
    parser.add_argument("--configs", type=path_argument, default=CONFIGS, metavar="DIR", help="another store")
    parser.add_argument("--measurements", type=path_argument, default=MEASUREMENTS, metavar="DIR", help="other surveys")
    parser.add_argument(
        "--pictures", type=path_argument, metavar="DIR", help="write the README's two charts into this folder too"
    )
    parser.add_argument("--repository", type=_address, default=REPOSITORY, metavar="URL", help="where links lead")
    parser.add_argument("--revision", default="", metavar="COMMIT", help="what it is built from, for the footer")
    parser.add_argument("--jobs", type=int, default=usable_cores(), metavar="N", help="processes; all cores")
    return parser


def _address(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise argparse.ArgumentTypeError(f"expected an address such as {REPOSITORY}, found {text!r}")
    return text


@command("site")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(arguments)
    check_within("--jobs", [args.jobs], MAX_JOBS)
    configs: Path = args.configs.absolute()
    if not (configs / "registry").is_dir():
        raise UserError(f"--configs: expected a store with its registry, found none in {configs}. Fix: name one.")
    if not args.measurements.is_dir():
        raise UserError(f"--measurements: expected a folder, found none at {args.measurements}. Fix: name one.")
    # Of OUT itself `write` says whether it may be written over.
    for flag, folder in (("OUT", args.out.parent), ("--pictures", args.pictures)):
        if folder is not None:
            check_folder(folder, flag)
    from tools.site.build import PICTURES, Sources, write  # a command line is checked without its libraries

    try:
        count, faults = write(Sources(configs, args.measurements, args.repository, args.revision), args.out, args.jobs)
    except ConfigError as error:
        raise UserError(str(error)) from error
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
        for name in PICTURES:
            shutil.copyfile(args.out / name, args.pictures / Path(name).name)
    for fault in faults:
        say(f"site: {printable(fault)}")
    print(f"{counted(count, 'file')} in {shown_path(args.out)}")
    return 0


if __name__ == "__main__":
    run(main, "site")
