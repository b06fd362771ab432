"""`take`: the tuned file and the record that were asked for, out of what a GPU runner handed on, into configs/.

The runner's folder is taken for hostile: with anything in it that wasn't asked for, nothing of it is taken.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tools.checkout import CONFIGS
from tools.cli import command, path_argument, say
from tools.errors import UserError
from tools.pull_request.documents import MAX_ARTIFACT_FILES
from tools.registry.devices import load_devices
from tools.registry.models import Asked, load_models
from tools.store import schemas
from tools.store.existing import ExistingError, Place, existing_at
from tools.store.files import RECORD, TUNED_FILE, read_file, write_file
from tools.store.record import Record, RecordError, as_record
from tools.store.tiers import RECORDS
from tools.store.workload import Workload
from tools.text import shown
from tools.tune.subject import ModelSource, Parallel, make_subject


class TakeError(UserError):
    """What was handed on isn't what was asked for. One line for a person."""


@dataclass(frozen=True)
class TakenPair:
    """The bytes of the file and of its record, checked each by its schema. relative: below configs/."""

    relative: PurePosixPath
    config: bytes
    record: Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pull_request take",
        description="Lays the tuned file and record of one workload into the store, from a runner's folder.",
        epilog="Exit 0: both are there. 2: bad use, or the folder holds something else; nothing is written.",
    )
    parser.add_argument("--tuned", type=path_argument, required=True, metavar="DIR", help="what the runner handed on")
    parser.add_argument("--model", required=True, metavar="NAME", help="of configs/registry/models.json, as was asked")
    parser.add_argument("--device", required=True, metavar="NAME", help="of configs/registry/devices.json")
    parser.add_argument("--tp", type=int, default=1, metavar="N")
    parser.add_argument("--ep", type=int, default=1, metavar="N")
    parser.add_argument("--dtype", metavar="D", help="default: the checkpoint's")
    parser.add_argument("--configs", type=path_argument, default=CONFIGS, metavar="DIR", help="default: configs/")
    return parser


@command("take")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    source = ModelSource(options.model, Parallel(options.tp, options.ep), Asked(options.dtype or None))
    devices = load_devices()
    workload = make_subject(source, options.device, load_models(), devices).workload
    device = devices.get(options.device)
    names = device.names if device else (options.device,)
    taken = take(options.tuned, [replace(workload, device_name=name) for name in names])
    _check_twin(options.configs, taken)
    _check_shapes(options.configs, taken)
    write_file(options.configs / taken.relative, taken.config)
    write_file(options.configs / RECORDS / taken.relative, taken.record.to_bytes())
    say(f"take: {taken.relative} and its record")
    return 0


def take(folder: Path, wanted: Collection[Workload]) -> TakenPair:
    """wanted: the workload, under each name of its device. TakeError: other files are there, or no sound ones."""
    found = sorted(_files(folder))
    for workload in wanted:
        relative = PurePosixPath(workload.file_name())
        if found == sorted([relative, PurePosixPath(RECORDS, relative)]):
            return _read(folder, relative, workload)
    expected = min((workload.file_name() for workload in wanted), default="")
    listed = ", ".join(shown(str(path), 120) for path in found[:4]) or "nothing"
    raise TakeError(
        f"--tuned: expected {expected} and {RECORDS}/{expected} alone, found {listed}. "
        "Fix: tune again on a fresh machine, with the reference Triton."
    )


def _check_shapes(configs: Path, taken: TakenPair) -> None:
    """TakeError: the file that is replaced is measured for shapes that the new one isn't. A broken one is no matter."""
    try:
        standing = existing_at(Place(configs, taken.relative))
    except ExistingError:
        return
    if standing is None or standing.record is None:
        return
    if lost := standing.record.measured_beyond(taken.record.shapes):
        listed = "; ".join(str(named.shape) for named in lost)
        raise TakeError(
            f"{RECORDS}/{taken.relative}: expected what the file here is measured for, found no {listed}. "
            "Fix: tune it by hand, with --all-shapes."
        )


def _check_twin(configs: Path, taken: TakenPair) -> None:
    """TakeError: the new file would get a `_down` file that was tuned behind another."""
    twin = Place(configs, taken.relative).down
    if os.path.lexists(twin.path):
        raise TakeError(
            f"{twin.relative}: expected no file for down beside the one that is taken, found one. Fix: tune both, with "
            "--separate-down, or remove it."
        )


def _files(folder: Path) -> Iterator[PurePosixPath]:
    """Every file below the folder. TakeError: one that is no plain file, too many, or no folder."""
    folders, count = [folder], 0
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError as error:
            raise TakeError(f"--tuned: expected a folder, found: {error.strerror}. Fix: correct --tuned.") from error
        count += len(entries)
        if count > MAX_ARTIFACT_FILES:
            raise TakeError(f"--tuned: expected two files, found over {MAX_ARTIFACT_FILES}. Fix: tune again.")
        for entry in entries:
            path = Path(entry.path)
            relative = PurePosixPath(path.relative_to(folder).as_posix())
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                yield relative
            else:
                found = shown(str(relative), 120)
                raise TakeError(f"--tuned: expected plain files, found {found}, which is none. Fix: tune again.")


def _read(folder: Path, relative: PurePosixPath, workload: Workload) -> TakenPair:
    config, content = read_file(folder / relative, TUNED_FILE), read_file(folder / RECORDS / relative, RECORD)
    faults = [*config.faults, *schemas.faults("tuned_config", config.document)]
    if config.data is None or faults:
        raise TakeError(f"{relative}: expected a tuned file, found: {faults[0]}. Fix: tune again.")
    try:
        record = as_record(content)
    except RecordError as error:
        raise TakeError(f"{RECORDS}/{relative}: {error}") from error
    if not (record.workload == workload and record.is_measured and record.speaks_of(config.data)):
        raise TakeError(f"{RECORDS}/{relative}: expected the record of these bytes, found another. Fix: tune again.")
    if record.verified is not None:
        raise TakeError(f"{RECORDS}/{relative}: verified: expected null, found main's word. Fix: tune again.")
    return TakenPair(relative, config.data, record)
