"""The data of a release, for those who pin a version or have no Python: both exports, the index, and all digests."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from fused_moe_configs.exporting import write_export
from fused_moe_configs.naming import ENGINES
from tools.checkout import CHECKOUT
from tools.cli import say
from tools.errors import UserError

INDEX = "index.json"
SUMS = "SHA256SUMS"
_INSIDE = "fused_moe_configs/configs/"
_WHEEL = re.compile(r"fused_moe_configs-(\d+\.\d+\.\d+)-py3-none-any\.whl")


def write_data(dist: Path, folder: Path) -> list[Path]:
    """Writes the data of the one wheel in `dist` into the folder, and returns the paths of what it wrote.

    An archive for each engine, of what its variable is set to, the wheel's index, and the SHA-256 of all that a release
    holds, the files in `dist` among them, as `sha256sum --check` reads it. The same wheel gives the same bytes.
    UserError: `dist` holds no such wheel, the wheel no index, or the folder holds something.
    """
    wheel, version = _only_wheel(dist)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: expected a new folder, found files in it. Fix: empty it, or name another.")
    day = datetime.datetime.combine(version, datetime.time(), datetime.timezone.utc)
    with tempfile.TemporaryDirectory() as temporary:
        configs = _unpacked(wheel, Path(temporary))
        index = configs / INDEX
        if not index.is_file():
            raise UserError(f"{wheel}: expected {_INSIDE}{INDEX} in it, found none. Fix: nox -s build writes it.")
        files = {INDEX: index.read_bytes()}
        for engine in ENGINES:
            # Not where the index is: an export writes into no folder of the store.
            exported = _exported(configs, Path(temporary) / engine, engine)
            name = f"fused_moe_configs-{_dotted(version)}-{engine}.tar.gz"
            files[name] = archive(exported, int(day.timestamp()))
    released = files | {path.name: path.read_bytes() for path in dist.iterdir() if path.is_file()}
    sums = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(released.items()))
    files[SUMS] = "".join(sums).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in sorted(files)]


def archive(files: Mapping[str, bytes], mtime: int) -> bytes:
    """A tar.gz in which nothing says who made it, where and when: sorted, without owner, of one time (epoch seconds).

    GNU's format, since our names are longer than the oldest one takes; BusyBox reads it too.
    """
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=mtime) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(data), mtime, 0o644
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _only_wheel(dist: Path) -> tuple[Path, datetime.date]:
    found = sorted(dist.glob("*.whl"))
    if len(found) != 1 or not (match := _WHEEL.fullmatch(found[0].name)):
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{dist}: expected one wheel of this package in it, found {names}. Fix: nox -s build.")
    try:
        return found[0], datetime.date(*map(int, match[1].split(".")))
    except ValueError:
        raise UserError(f"{found[0]}: expected a version that is a date, found {match[1]}.") from None


def _unpacked(wheel: Path, folder: Path) -> Path:
    """The configs folder of the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.startswith(_INSIDE)])
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel}: expected a wheel, found: {error}. Fix: nox -s build.") from error
    return folder / _INSIDE


def _exported(configs: Path, destination: Path, engine: str) -> dict[str, bytes]:
    """Name in the archive → bytes. ConfigError: a file of the wheel is broken."""
    export = write_export(configs, destination, engine)
    for note in export.notes:
        say(note)
    files = {path.relative_to(destination).as_posix(): path.read_bytes() for path in export.written}
    return {"LICENSE": (CHECKOUT / "LICENSE").read_bytes(), **files}


def _dotted(version: datetime.date) -> str:
    return f"{version.year}.{version.month}.{version.day}"
