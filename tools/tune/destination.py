"""Where a request's file goes, and whether what stands there can take it: all that is refused before measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools import cli
from tools.checkout import CONFIGS, reference_triton
from tools.store.files import version_folder
from tools.store.tiers import LEGACY, RECORDS, REGISTRY, version_of_folder
from tools.text import printable, shown_path
from tools.tune import output
from tools.tune.model import Subject
from tools.tune.output import Existing, Place
from tools.tune.request import Request, RequestError


@dataclass(frozen=True)
class Origin:
    """What a run's figures come from besides the workload: rows of another origin don't go into one record."""

    triton: str
    kernel_sha256: str


def find_destination(request: Request, subject: Subject, origin: Origin) -> tuple[Place, Existing | None]:
    """Where the file goes, and what an engine would read today.

    RequestError: the folder is none, or of another Triton; rows or a twin would be left without what they need.
    OutputError: what an engine would read is broken.
    """
    triton = origin.triton
    folder = folder_of_tiers(request.files.output)
    version = version_of_folder(folder.name)
    if version is not None and folder.name != version_folder(triton):
        raise RequestError(
            f"--output: expected {version_folder(triton)}/, the folder of the Triton that runs here ({triton}), "
            f"found {shown_path(folder)}. Fix: name the folder above it, or run that Triton."
        )
    root = folder.parent if version is not None else folder
    is_of_configs = root == CONFIGS.resolve()
    if request.files.replay and is_of_configs:
        raise RequestError(
            f"--replay: expected --output outside {shown_path(root)}, found {shown_path(folder)}: what is replayed "
            "is no evidence of today."
        )
    place = output.place_of(root, subject.workload, triton, reference_triton())
    if version is not None:
        place = Place(root, PurePosixPath(folder.name, place.relative.name))
    _check_writable(place)
    existing = output.find_existing(output.chain(root, subject.workload, triton))
    there = existing if existing is not None and existing.place == place else None
    if request.is_partial:
        if is_of_configs:
            _check_evidence(request, place, there)
        if existing is not None:
            _check_nothing_is_hidden(request, place, existing)
        if there is not None:
            check_origin(there, request.batch_sizes, subject, origin)
    _check_twin(request, place, there)
    if request.is_partial and request.separate_down and (twin := output.find_existing((place.down,))):
        check_origin(twin, request.batch_sizes, subject, origin)
    return place, existing


def folder_of_tiers(wanted: Path | None) -> Path:
    """The folder that `--output` names (None: configs/), links followed: one that holds tiers, or a version's own.

    RequestError: it is neither, or no folder.
    """
    try:
        folder = (wanted or CONFIGS).resolve()
        is_none = folder.exists() and not folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, links in a circle
        raise RequestError(f"--output: expected a folder, found: {printable(str(error))}.") from error
    is_version = version_of_folder(folder.name) is not None
    above = folder.parents
    is_inside_a_tier = any(f.name == LEGACY or version_of_folder(f.name) is not None for f in above)
    configs = CONFIGS.resolve()
    is_lost_in_configs = configs in above and not (is_version and folder.parent == configs)
    is_special = folder.name in (LEGACY, RECORDS, REGISTRY)
    if is_none or is_special or is_inside_a_tier or is_lost_in_configs:
        raise RequestError(f"--output: expected a folder that holds tiers, found {shown_path(folder)}.")
    return folder


def check_origin(standing: Existing, batch_sizes: Sequence[int], subject: Subject, origin: Origin) -> None:
    """RequestError: rows that stay would be told as measured under shapes, Triton or kernel that they weren't."""
    if not standing.record or set(standing.entries) <= set(batch_sizes):
        return
    record = standing.record
    for name, expected, found in (
        ("the shapes (K, top_k)", _shapes_of(subject), sorted((s["K"], s["top_k"]) for s in record["shapes"])),
        ("Triton", origin.triton, record.get("environment", {}).get("triton")),
        ("kernel_sha256", origin.kernel_sha256, record.get("kernel_sha256")),
    ):
        if expected != found:
            raise RequestError(
                f"--num-tokens: expected the rows that stay, in {shown_path(standing.place.record_path)}, to be of "
                f"this run's {name}, {expected}, found {found}. Fix: tune all batch sizes."
            )


def _shapes_of(subject: Subject) -> list[tuple[int, int]]:
    return sorted((named.shape.K, named.shape.top_k) for named in subject.shapes)


def _check_writable(place: Place) -> None:
    """Now, not after a minute on the GPU."""
    for path in (place.path, place.record_path):
        try:
            cli.check_folder(path.parent)
            is_blocked = path.is_dir()
        except OSError as error:
            found = shown_path(Path(error.filename or path.parent))
            raise RequestError(f"--output: expected a folder that can be written, found {found}.") from error
        if is_blocked:
            raise RequestError(f"--output: expected a file or none at {shown_path(path)}, found a folder.")


def _check_evidence(request: Request, place: Place, there: Existing | None) -> None:
    """In configs/ every row has its evidence, those that stay as well."""
    if there is None:
        raise RequestError(
            f"--num-tokens: expected an existing {shown_path(place.path)} to replace rows of, found none. "
            "Fix: tune all batch sizes, or give --output DIR outside configs/."
        )
    unmeasured = [m for m in there.entries if m not in request.batch_sizes and str(m) not in there.rows]
    if unmeasured:
        raise RequestError(
            f"--num-tokens: expected measured rows in {shown_path(place.record_path)}, found none for "
            f"{', '.join(map(str, unmeasured))}, which would stay. Fix: tune all batch sizes."
        )


def _check_nothing_is_hidden(request: Request, place: Place, existing: Existing) -> None:
    """The first file that exists wins whole: one of a few rows in a tier before hides all others of the one behind."""
    hidden = [m for m in existing.entries if m not in request.batch_sizes]
    if existing.place != place and hidden:
        raise RequestError(
            f"--num-tokens: expected an existing {shown_path(place.path)} to replace rows of, found "
            f"{shown_path(existing.place.path)}, which a file of these rows alone would hide. "
            "Fix: tune all batch sizes."
        )


def _check_twin(request: Request, place: Place, there: Existing | None) -> None:
    """A `_down` file has the batch sizes and the BLOCK_SIZE_M of the file that it stands beside."""
    has_twin = place.down.path.exists()
    if has_twin and not request.separate_down:
        raise RequestError(
            f"{shown_path(place.down.path)}: expected --separate-down, since this file is bound to the one to be "
            "tuned. Fix: give --separate-down, or remove it."
        )
    if request.separate_down and request.is_partial and there is not None and not has_twin:
        raise RequestError(
            f"--separate-down: expected an existing {shown_path(place.down.path)} to replace rows of, found none. "
            "Fix: tune all batch sizes."
        )
