"""`portfolio status` and `portfolio next`: what is wanted against what is there, and the work list. Needs no GPU."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tools.checkout import CONFIGS, MEASUREMENTS
from tools.cli import path_argument, say
from tools.errors import UserError, reason_of
from tools.findings import emit
from tools.measure.gpu import find_gpu
from tools.portfolio import status as report
from tools.portfolio.progress import read_progress
from tools.portfolio.status import DeviceStatus
from tools.portfolio.stock import GOOD, Item, Method, look_up
from tools.portfolio.today import read_shipped
from tools.portfolio.wanted import WantedList, wanted_on
from tools.registry.devices import Device, DeviceRegistry, load_devices
from tools.registry.models import load_models, unknown_device_classes
from tools.store.files import discover, write_file
from tools.store.tiers import DEFAULT_TIER, Role
from tools.store.workload import Layout, parse_file_name
from tools.text import counted, printable, shown_path
from tools.tune.policy import PanelPolicy
from tools.tune.run_journals import JOURNALS

PROGRESS = JOURNALS / "portfolio"
"""Where runs of this machine say what became of each name, a file a GPU."""


@dataclass(frozen=True)
class Folders:
    """Where files, surveys and progress are read; the checkout's own but for tests."""

    configs: Path = CONFIGS
    measurements: Path = MEASUREMENTS
    progress: Path = PROGRESS

    def progress_of(self, device: Device) -> Path:
        return self.progress / f"{device.name}.jsonl"


def wanted_of(device: Device, folders: Folders) -> WantedList:
    """UserError: a registry or a survey is broken."""
    models, families = load_models(), {each.family for each in load_devices()}
    found = wanted_on(device, models, read_shipped(folders.measurements, device))
    return replace(found, notes=(*found.notes, *(_nowhere(*each) for each in unknown_device_classes(models, families))))


def _nowhere(model_id: str, family: str) -> str:
    said = f"{model_id}: placed on {printable(family)!r}, which is no GPU's family: nothing is wanted there"
    return f"{said}. Fix: correct the placement in models.json, or add a GPU of that family to devices.json"


def items_of(found: WantedList, folders: Folders, *, down: Iterable[str] = ()) -> tuple[Item, ...]:
    """What the store has of each name. down: those for which up and down are to be tried apart.

    UserError: progress that can't be read.
    """
    lines, method, apart = read_progress(folders.progress_of(found.device)), Method(), frozenset(down)
    return tuple(
        look_up(rank, wanted, folders.configs, lines.get(wanted.name), method, down=wanted.name in apart)
        for rank, wanted in enumerate(found.names, start=1)
    )


def devices_of(names: Sequence[str], folders: Folders) -> tuple[Device, ...]:
    """Those named; without names, the GPUs that the store has files for and the one that is here, as far as known.

    UserError: an unknown name, or none to speak of.
    """
    devices = load_devices()
    if names:
        return tuple(dict.fromkeys(map(devices.find, names)))
    found = {device for name in _stored(folders.configs) if (device := devices.get(name)) is not None}
    here = find_gpu()
    if here is not None and (device := devices.get(here)) is not None:
        found.add(device)
    placed = _with_placements(devices)
    if not (found := found & placed):
        raise UserError("--device-name: expected a GPU's name, found no GPU here and no file of one. Fix: name one.")
    return tuple(sorted(found, key=lambda device: device.name))


def _stored(configs: Path) -> set[str]:
    """The devices of the default tier's files."""
    found = discover([configs], Layout.REPO) if configs.is_dir() else []
    files = [each for each in found if each.role is Role.CONFIG and each.folder in ("", DEFAULT_TIER)]
    workloads = (parse_file_name(each.path.name).workload for each in files)
    return {workload.device_name for workload in workloads if workload is not None}


def _with_placements(devices: DeviceRegistry) -> set[Device]:
    families = {placement.device for model in load_models() for placement in model.placements}
    return {device for device in devices if device.family in families}


def add_device_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device-name",
        action="extend",
        nargs="+",
        default=[],
        metavar="D",
        help="GPUs, as their drivers or file names spell them; default: those with files here and the one at hand",
    )


def add_status(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Which files people need, by rank, and what is there of them. A name is done only if its search was not cut "
        f"short, every usual row was decided among at least {PanelPolicy().finalists} finalists, and it is judged on "
        "the kernel of every engine that reads it."
    )
    parser.epilog = "Exit 0: said. 2: bad use."
    add_device_names(parser)
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text")
    parser.add_argument("--output", type=path_argument, metavar="FILE", help="write there instead of printing")


def status(options: argparse.Namespace, folders: Folders | None = None) -> int:
    """Runs `portfolio status`. UserError: as the registries, surveys and progress."""
    folders = folders or Folders()
    found = [_status_of(device, folders) for device in devices_of(options.device_name, folders)]
    if options.format == "json":
        text = json.dumps(report.to_json(found), indent=2)
    else:
        text = report.to_text(found) if options.format == "text" else report.to_markdown(found).rstrip("\n")
    names = counted(sum(len(each.items) for each in found), "wanted file")
    _give(text, options.output, f"{names} on {counted(len(found), 'GPU')}")
    return 0


def _give(text: str, output: Path | None, what: str) -> None:
    """Prints it, or writes the file and says so. UserError: it can't be written."""
    if output is None:
        emit(text)
        return
    try:
        write_file(output, f"{text}\n".encode() if text else b"")
    except OSError as error:
        raise UserError(f"--output: {shown_path(output)}: can't be written: {reason_of(error)}.") from error
    say(f"written: {shown_path(output)}: {what}")


def _status_of(device: Device, folders: Folders) -> DeviceStatus:
    found = wanted_of(device, folders)
    return DeviceStatus(device, items_of(found, folders), found.notes)


def add_next(parser: argparse.ArgumentParser) -> None:
    parser.description = "The names that are to be tuned or judged next, most wanted first."
    parser.epilog = "Exit 0: said. 2: bad use."
    add_device_names(parser)
    parser.add_argument("-n", type=int, default=20, dest="count", metavar="N", help="so many of each GPU (20)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE", help="write there; text is what run --names FILE reads"
    )


def next_names(options: argparse.Namespace, folders: Folders | None = None) -> int:
    """Runs `portfolio next`. Text: one name a line, as `run --names FILE` reads it. Errors as `status`.

    What can't be served, and a GPU for which nothing is left, is said on stderr.
    """
    if options.count < 1:
        raise UserError(f"-n: expected at least 1, found {options.count}.")
    folders = folders or Folders()
    found: list[Item] = []
    notes: list[str] = []
    for device in devices_of(options.device_name, folders):
        wanted = wanted_of(device, folders)
        items = items_of(wanted, folders)
        left = [item for item in items if item.standing not in GOOD]
        found += left[: options.count]
        notes += wanted.notes
        if not left:
            done = f"nothing is missing: {counted(len(items), 'wanted file')}, all finished"
            notes.append(f"{device.name}: {done if items else 'no registered model is placed on it'}")
    for note in dict.fromkeys(notes):
        say(f"portfolio: {note}")
    text = "\n".join(item.name for item in found)
    if options.format == "json":
        text = json.dumps([report.item_json(item) for item in found], indent=2)
    if text or options.output is not None:
        _give(text, options.output, counted(len(found), "name"))
    return 0
