"""Where a request's file goes, and whether what stands there can take it: all that is refused before measuring."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from tools import store
from tools.tune import output
from tools.tune.model import Subject
from tools.tune.output import Existing, Place
from tools.tune.request import Request, RequestError


def find_destination(request: Request, subject: Subject, triton: str) -> tuple[Place, Existing | None]:
    """Where the file goes, and what an engine would read today.

    RequestError: the folder is none, or of another Triton; rows or a twin would be left without what they need.
    OutputError: what an engine would read is broken.
    """
    folder = (request.files.output or store.CONFIGS).absolute()
    version = store.version_of_folder(folder.name)
    if folder.name in (store.LEGACY, store.RECORDS, store.REGISTRY) or (folder.exists() and not folder.is_dir()):
        raise RequestError(f"--output: expected a folder that holds tiers, found {store.shown(folder)}.")
    if version is not None and folder.name != store.version_folder(triton):
        raise RequestError(
            f"--output: expected {store.version_folder(triton)}/, the folder of the Triton that runs here ({triton}), "
            f"found {store.shown(folder)}. Fix: name the folder above it, or run that Triton."
        )
    root = folder.parent if version is not None else folder
    _check_writable(root)
    place = output.place_of(root, subject.workload, triton, store.reference_triton())
    if version is not None:
        place = Place(root, PurePosixPath(folder.name, place.relative.name))
    existing = output.find_existing(output.chain(root, subject.workload, triton))
    there = existing if existing is not None and existing.place == place else None
    if request.is_partial and root == store.CONFIGS:
        _check_rows(request, place, there)
    _check_twin(request, place, there)
    return place, existing


def _check_writable(folder: Path) -> None:
    """Now, not after a minute on the GPU."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"--output: expected a folder that can be written, found {store.shown(there)}.")


def _check_rows(request: Request, place: Place, there: Existing | None) -> None:
    """In configs/ every row has its evidence, those that stay as well."""
    if there is None:
        raise RequestError(
            f"--num-tokens: expected an existing {store.shown(place.path)} to replace rows of, found none. "
            "Fix: tune all batch sizes, or give --output DIR outside configs/."
        )
    unmeasured = [m for m in there.entries if m not in request.batch_sizes and str(m) not in there.rows]
    if unmeasured:
        raise RequestError(
            f"--num-tokens: expected measured rows in {store.shown(place.record_path)}, found none for "
            f"{', '.join(map(str, unmeasured))}, which would stay. Fix: tune all batch sizes."
        )


def _check_twin(request: Request, place: Place, there: Existing | None) -> None:
    """A `_down` file has the batch sizes and the BLOCK_SIZE_M of the file that it stands beside."""
    has_twin = place.down.path.exists()
    if has_twin and not request.separate_down:
        raise RequestError(
            f"{store.shown(place.down.path)}: expected --separate-down, since this file is bound to the one to be "
            "tuned. Fix: give --separate-down, or remove it."
        )
    if request.separate_down and request.is_partial and there is not None and not has_twin:
        raise RequestError(
            f"--separate-down: expected an existing {store.shown(place.down.path)} to replace rows of, found none. "
            "Fix: tune all batch sizes."
        )
