"""Where the files of a run go, and what stands in their way: all of it is told before anything is measured."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tools import cli
from tools.checkout import CONFIGS, reference_triton
from tools.errors import UserError
from tools.launch.engine_package import KERNEL_FILES
from tools.launch.heuristic_version import outdated
from tools.launch.kernel_hash import kernel_sha256
from tools.registry.models import Model
from tools.registry.sharding import Engine
from tools.store.existing import Existing, Place, existing_at, hidden_down, place_of, served_today
from tools.store.files import version_folder
from tools.store.record import ShapeOfModels
from tools.store.tiers import LEGACY, RECORDS, REGISTRY, version_of_folder
from tools.text import printable, shown_path
from tools.tune.protocol import Subject
from tools.tune.request import TuneRequest
from tools.tune.subject import with_shapes


@dataclass(frozen=True)
class Origin:
    """What a run's figures come from besides the workload: rows of another origin don't go into one record."""

    triton: str
    kernel_sha256: str


def find_destination(request: TuneRequest, subject: Subject, origin: Origin) -> tuple[Place, Existing | None]:
    """Where the file goes, and what an engine would read today.

    UserError: the folder is none, or of another Triton; rows or a twin would be left without what they need.
    ExistingError: what an engine would read is broken.
    """
    triton = origin.triton
    folder = folder_of_tiers(request.files.output)
    version, reference = version_of_folder(folder.name), version_folder(reference_triton())
    own = version_folder(triton)
    if version is not None and (folder.name != own or own == reference):
        is_default = own == reference
        expected = "a folder that holds tiers" if is_default else f"{own}/"
        why = "as the default tier is of" if is_default else "the folder of"
        other = "" if folder.name == reference else ", or run that Triton"
        raise UserError(
            f"--output: expected {expected}, {why} the Triton that runs here ({triton}), found {shown_path(folder)}. "
            f"Fix: name the folder above it{other}."
        )
    root = _root_of(folder)
    is_of_configs = root == CONFIGS.resolve()
    if request.files.replay and is_of_configs:
        raise UserError(
            f"--replay: expected --output outside {shown_path(root)}, found {shown_path(folder)}: a replay measures "
            "nothing, so it is no evidence."
        )
    place = place_of(root, subject.workload, triton, reference_triton())
    if version is not None:
        place = Place(root, PurePosixPath(folder.name, place.relative.name))
    _check_writable(place)
    existing = served_today(root, subject.workload, triton)
    there = existing if existing is not None and existing.place == place else None
    _check_flags(request, place, existing, there, subject)
    if request.is_partial:
        if is_of_configs:
            _check_evidence(request, place, there)
        if existing is not None:
            _check_nothing_is_hidden(request, place, existing)
        if there is not None:
            check_origin(there, request.batch_sizes, subject, origin)
        if request.separate_down and (twin := existing_at(place.down)):
            check_origin(twin, request.batch_sizes, subject, origin)
    return place, existing


def with_standing_shapes(request: TuneRequest, subject: Subject, triton: str, models: Iterable[Model]) -> Subject:
    """With `--all-shapes` also what the file that is read today is measured for, so that none loses its evidence.

    UserError, ExistingError: as `find_destination`.
    """
    if not request.all_shapes:
        return subject
    existing = served_today(_root_of(folder_of_tiers(request.files.output)), subject.workload, triton)
    left_out = shapes_left_out(existing, subject)
    return with_shapes(subject, [*subject.shapes, *left_out], models) if left_out else subject


def shapes_left_out(existing: Existing | None, subject: Subject) -> tuple[ShapeOfModels, ...]:
    """What a file is measured for and a run isn't. A record of other bytes, or without figures, says nothing."""
    if existing is None or existing.record is None or not existing.record.speaks_of(existing.data):
        return ()
    return existing.record.measured_beyond(subject.shapes)


def _root_of(folder: Path) -> Path:
    """The folder that holds the tiers, of which `folder` may be one."""
    return folder.parent if version_of_folder(folder.name) is not None else folder


def folder_of_tiers(wanted: Path | None) -> Path:
    """The folder that `--output` names (None: configs/), links followed: one that holds tiers, or a version's own.

    UserError: it is neither, or no folder.
    """
    try:
        folder = (wanted or CONFIGS).resolve()
        is_none = folder.exists() and not folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, links in a circle
        raise UserError(f"--output: expected a folder, found: {printable(str(error))}.") from error
    is_version = version_of_folder(folder.name) is not None
    above = folder.parents
    is_inside_a_tier = any(f.name == LEGACY or version_of_folder(f.name) is not None for f in above)
    configs = CONFIGS.resolve()
    is_lost_in_configs = configs in above and not (is_version and folder.parent == configs)
    is_special = folder.name in (LEGACY, RECORDS, REGISTRY)
    if is_none or is_special or is_inside_a_tier or is_lost_in_configs:
        raise UserError(f"--output: expected a folder that holds tiers, found {shown_path(folder)}.")
    return folder


_ALL_OR_ELSEWHERE = "Fix: tune all batch sizes, or name another --output."


def check_origin(standing: Existing, batch_sizes: Sequence[int], subject: Subject, origin: Origin) -> None:
    """UserError: rows that stay would pass as measured under shapes, Triton, kernel or heuristics that they weren't."""
    record = standing.record
    if record is None or set(standing.entries) <= set(batch_sizes):
        return
    triton = record.environment.triton if record.environment else None
    for name, expected, found in (
        ("shapes", _sizes(subject.shapes), _sizes(record.shapes)),
        ("Triton", origin.triton, triton),
        ("kernel_sha256", origin.kernel_sha256, record.kernel_sha256),
    ):
        if expected != found:
            raise UserError(
                f"{shown_path(standing.place.record_path)}: expected the rows that stay to be of this run's {name}, "
                f"{expected}, found {found}. {_ALL_OR_ELSEWHERE}"
            )
    if engines := outdated(record):
        raise UserError(
            f"{shown_path(standing.place.record_path)}: expected the rows that stay to be measured against this run's "
            f"heuristic of {' and '.join(engines)}, found an older one. {_ALL_OR_ELSEWHERE}"
        )


def _sizes(shapes: Sequence[ShapeOfModels]) -> str:
    return "; ".join(sorted(str(named.shape) for named in shapes))


def _check_writable(place: Place) -> None:
    """Now, not after a minute on the GPU."""
    for path in (place.path, place.record_path):
        cli.check_folder(path.parent, "--output")
        if os.path.isdir(path):  # noqa: PTH112 (never raises)
            raise UserError(f"--output: expected a file or none at {shown_path(path)}, found a folder.")


def _check_evidence(request: TuneRequest, place: Place, there: Existing | None) -> None:
    """In configs/ every row has its evidence, those that stay as well."""
    if there is None:
        raise UserError(
            f"--num-tokens: expected an existing {shown_path(place.path)} to replace rows of, found none. "
            "Fix: tune all batch sizes, or give --output DIR outside configs/."
        )
    unmeasured = [m for m in there.entries if m not in request.batch_sizes and m not in there.rows]
    if unmeasured:
        raise UserError(
            f"--num-tokens: expected measured rows in {shown_path(place.record_path)}, found none for "
            f"{', '.join(map(str, unmeasured))}, which would stay. Fix: tune all batch sizes."
        )


def _check_nothing_is_hidden(request: TuneRequest, place: Place, existing: Existing) -> None:
    """The first file that exists wins whole: one of a few rows in a tier before hides all others of the one behind."""
    hidden = [m for m in existing.entries if m not in request.batch_sizes]
    if existing.place != place and hidden:
        raise UserError(
            f"{shown_path(place.path)}: expected a file to replace rows of, found none, and "
            f"{shown_path(existing.place.path)}, which one of these rows alone would hide. {_ALL_OR_ELSEWHERE}"
        )


def look_at_destination(request: TuneRequest, subject: Subject, models: Iterable[Model]) -> tuple[Subject, str | None]:
    """(what a run would tune, why it would be refused for what stands where its files go; None: it wouldn't).

    By the reference Triton, or that of the folder.
    """
    version = version_of_folder(folder_of_tiers(request.files.output).name)
    triton = reference_triton() if version is None else ".".join(map(str, version))
    try:
        subject = with_standing_shapes(request, subject, triton, models)
        find_destination(request, subject, Origin(triton, kernel_sha256()))
    except UserError as error:
        return subject, str(error)
    return subject, None


def _check_flags(
    request: TuneRequest, place: Place, existing: Existing | None, there: Existing | None, subject: Subject
) -> None:
    """UserError, with all flags that the run lacks: it would take evidence away, or leave or hide a `_down` file.

    ExistingError: that file, or its record, is broken: nobody knows what would be lost.
    """
    lacks = _lacks_shapes(existing, subject)
    if place.down.path.exists():
        lacks += _lacks_down(request, place.down, f"{shown_path(place.down.path)} belongs to the file to be tuned")
    elif request.is_partial and there is not None:  # its other rows stay, and whatever they hide
        if request.separate_down:
            raise UserError(
                f"--separate-down: expected an existing {shown_path(place.down.path)} to replace rows of, found none. "
                "Fix: tune all batch sizes."
            )
    elif (hidden := hidden_down(place)) is not None:
        why = f"SGLang would read {shown_path(hidden.path)} no longer, where {shown_path(place.path)} has no _down file"
        lacks += _lacks_down(request, hidden, why)
    if lacks:
        asked, why = " and ".join(lack.flag for lack in lacks), ", and ".join(lack.reason for lack in lacks)
        fix = "name another --output" if request.files.replay else f"give {asked}, or name another --output"
        raise UserError(f"{shown_path(lacks[0].path)}: expected {asked}, since {why}. Fix: {fix}.")


def check_shapes_kept(standing: Existing, subject: Subject) -> None:
    """UserError: what stands there by now, which another run wrote, is measured for shapes that this one leaves out."""
    if left_out := shapes_left_out(standing, subject):
        raise UserError(
            f"{shown_path(standing.place.record_path)}: expected a file of no other shapes, found one that is measured "
            f"for {_sizes(left_out)} by now. Fix: run it again with --all-shapes."
        )


class _Lack(NamedTuple):
    """A flag, why the run needs it, and the file for whose sake."""

    flag: str
    reason: str
    path: Path


def _lacks_shapes(existing: Existing | None, subject: Subject) -> list[_Lack]:
    """What stands there is measured for shapes that the run leaves out: they would lose their evidence."""
    left_out = shapes_left_out(existing, subject)
    if existing is None or not left_out:
        return []
    why = f"this file is measured for {_sizes(left_out)} too, and the run is for {_sizes(subject.shapes)} alone"
    return [_Lack("--all-shapes", why, existing.place.record_path)]


def _lacks_down(request: TuneRequest, down: Place, why: str) -> list[_Lack]:
    """Of a run that replaces a `_down` file's rows, or hides them."""
    twin = existing_at(down)
    replaced = request.batch_sizes if request.is_partial else (twin.entries if twin else ())
    has_descriptors = twin is not None and any(twin.entries[m].USE_TMA for m in replaced if m in twin.entries)
    lacks = [] if request.separate_down else [_Lack("--separate-down", why, down.path)]
    if request.down_kernel is None and has_descriptors:
        flag = f"--kernel {Engine.SGLANG}=PATH/{KERNEL_FILES[Engine.SGLANG]}"
        reason = f"entries of {down.path.name} say USE_TMA, which is tried on that kernel alone"
        lacks.append(_Lack(flag, reason, down.path))
    return lacks
