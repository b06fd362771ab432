"""The edge of the nightly: tuned files and records of the checkout, its commit, and Triton's newest release."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.checkout import CHECKOUT
from tools.nightly.drift import Recorded, recorded_rows
from tools.nightly.sample import MeasuredFile, measured_file
from tools.pull_request.documents import FileId, Plan
from tools.store import config_file, schemas
from tools.store.config_file import ConfigFile
from tools.store.files import discover, read_file, record_path
from tools.store.strict_json import Json
from tools.store.tiers import Found, Role, version_of_folder
from tools.store.workload import Layout
from tools.text import shown_path

_FIX = "Fix: nox -s validate says what is wrong."


class NightlyError(ValueError):
    """What was asked can't be done here. One line for a person."""


def measured_files(configs: Path) -> tuple[list[MeasuredFile], set[tuple[int, int, int]]]:
    """Files with figures, and the Triton versions that have a folder. NightlyError: a file or record is broken."""
    try:
        found = [file for file in discover([configs], Layout.REPO) if file.role is Role.CONFIG]
    except OSError as error:
        what = error.strerror or "none"
        raise NightlyError(f"{shown_path(configs)}: expected the configs folder, found {what}.") from error
    folders = {version for file in found if (version := version_of_folder(file.folder)) is not None}
    tree = config_file.load(found, Layout.REPO)
    return [measured for file in tree.configs if (measured := _measured(file)) is not None], folders


def _measured(file: ConfigFile) -> MeasuredFile | None:
    record = _record(file.found)
    if record is None or record["source"] != "measured" or not record["rows"]:
        return None
    if file.content.faults or file.workload is None or not schemas.is_valid("tuned_config", file.document):
        raise NightlyError(f"{shown_path(file.found.path)}: expected a tuned file, found a broken one. {_FIX}")
    return measured_file(file.workload, file.found.folder, file.launch_configs, record)


def _record(found: Found) -> Json:
    """None where the file has none."""
    path = record_path(found.root, found.relative)
    if not os.path.lexists(path):
        return None
    content = read_file(path)
    if content.faults or not schemas.is_valid("record", content.document):
        raise NightlyError(f"{shown_path(path)}: expected a record, found a broken one. {_FIX}")
    return content.document


def records_of(plan: Plan, configs: Path) -> Mapping[FileId, Mapping[int, Recorded]]:
    """Rows of the plan's files as the checkout's records have them now; of a file that is gone, none."""
    found: dict[FileId, Mapping[int, Recorded]] = {}
    for file in (file for leg in plan.legs for file in leg.files):
        relative = file.id.relative
        found[file.id] = recorded_rows(_record(Found(configs / relative, configs, relative, Role.CONFIG)))
    return found


def head_commit(checkout: Path = CHECKOUT) -> str:
    """The commit that is checked out. NightlyError: none is."""
    command = ["git", "-C", str(checkout), "rev-parse", "--verify", "HEAD^{commit}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NightlyError("expected a git checkout with a commit, found none. Fix: run it in a clone.") from error
    return done.stdout.strip()


def newest_triton() -> str:
    """What pip finds: its first line, «triton (3.9.0)». NightlyError: it finds none."""
    command = [sys.executable, "-m", "pip", "index", "versions", "triton"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NightlyError("--newest: expected pip to know Triton's releases, found none. Fix: give X.Y.Z.") from error
    return done.stdout.partition("\n")[0]
