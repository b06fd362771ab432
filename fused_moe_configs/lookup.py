"""Which tuned file serves a workload, and what stands in it: names, tiers, the chain through them, strict reading.

Everything that an answer depends on is here. Nothing is cached or logged, and no GPU is asked.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypedDict, TypeVar, cast

USER_FOLDER = "VLLM_TUNED_CONFIG_FOLDER"
REFERENCE_TRITON = "3.8.0"  # the default tier is tuned with it
VERSION_FOLDER = "triton_{}_{}_{}"
_VERSION_FOLDER = re.compile(VERSION_FOLDER.replace("{}", "(0|[1-9][0-9]{0,8})"))
DTYPES = ("fp8_w8a8", "fp8_w8a16", "int8_w8a16", "int4_w4a16", "int8_w8a8", "float32")
H200 = "NVIDIA_H200"
MAX_BYTES = 2**20
CORRECT = "Fix: correct the file, or remove it"
UNDO = "undo what changed it: pip install --force-reinstall fused-moe-configs, or git checkout in a clone"
RESTORE = f"Fix: {UNDO}"
"""Of what came with this package."""
INDEX = "index.json"
"""What the build writes beside the tuned files; a checkout has records instead."""
Pairs = tuple[tuple[str, Any], ...]  # a JSON object as it stands in the file, duplicate keys included
Folder = TypeVar("Folder", bound=PurePath)


class _Required(TypedDict):
    BLOCK_SIZE_M: int
    BLOCK_SIZE_N: int
    BLOCK_SIZE_K: int
    GROUP_SIZE_M: int
    num_warps: int
    num_stages: int


class ConfigEntry(_Required, total=False):
    """The launch config of one batch size. A file may hold further keys: integers, true, false or strings."""

    num_ctas: int
    waves_per_eu: int
    matrix_instr_nonkdim: int
    kpack: int
    grf_mode: str
    USE_TMA: bool
    SPLIT_K: int


REQUIRED = tuple(_Required.__annotations__)
TRITON_DEFAULTS = {"num_warps": 4, "num_stages": 3}  # what runs where an engine passes none


class ConfigError(ValueError):
    """A file that exists and cannot be used. line and column count from 1, where it is not JSON; else None."""

    def __init__(self, path: Path | str, reason: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(str(path), reason, line, column)
        self.path, self.reason, self.line, self.column = str(path), reason, line, column

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.said}"

    @property
    def said(self) -> str:
        """All but the path."""
        return f"line {self.line}, column {self.column}: {self.reason}" if self.line else self.reason


class Lookup(NamedTuple):
    """How a workload was looked up. str() is all of it, a line each.

    tried: (path, what was found there), in order. winner: the file that serves it. reason: why, in a sentence.
    """

    tried: tuple[tuple[Path, str], ...]
    winner: Path | None
    reason: str

    def __str__(self) -> str:
        return "\n".join([*(f"{found:>7}  {printable(path)}" for path, found in self.tried), self.reason])


def get_config_file_name(
    E: int, N: int, device_name: str, dtype: str | None = None, block_shape: Sequence[int] | None = None,
    *, per_channel_quant: bool = False, down: bool = False,
) -> str:  # fmt: skip
    """A workload's file name in vLLM's spelling. Raises ValueError, naming the value, where none can exist.

    E: experts on the rank. N: intermediate size per shard, for int4_w4a16 too. device_name: as the driver
    or a file name spells it. dtype: None for bf16 and fp16. block_shape: (block_n, block_k).
    """
    name = f"E={checked_size('E', E)},N={checked_size('N', N)},device_name={device_part(device_name)}"
    if dtype not in (None, "bf16", "bfloat16", "fp16", "float16", "half"):
        if dtype not in DTYPES:
            wish = f"expected one of {', '.join(DTYPES)}, or none for bf16 and fp16"
            raise ValueError(f"dtype: {wish}, found {shown(dtype)}")
        name += f",dtype={dtype}"
    if block_shape is not None:
        if not isinstance(block_shape, (list, tuple)) or len(block_shape) != 2:
            raise ValueError(f"block_shape: expected (block_n, block_k), found {shown(block_shape)}")
        if all(size != 0 for size in block_shape):
            name += ",block_shape=[{},{}]".format(*(checked_size("block_shape", size) for size in block_shape))
    name += ",per_channel_quant=True" * bool(per_channel_quant) + (_DOWN if down else ".json")
    if len(name.encode()) > 255:
        raise ValueError(f"device_name: expected a file name of at most 255 bytes, found {shown(name)}")
    return name


def packed_size(N: int, dtype: str | None) -> int:
    """The N in SGLang's name for a model's N on the rank: w2's last size, where int4 packs two values a byte.

    vLLM takes it from there too, and doubles it back. N of int4_w4a16 is even.
    """
    return N // 2 if dtype == "int4_w4a16" else N


def unpacked_size(name_N: int, dtype: str | None) -> int:
    """The model's N on the rank behind the N of SGLang's name. Inverse of `packed_size`."""
    return 2 * name_N if dtype == "int4_w4a16" else name_N


def device_part(device_name: object) -> str:
    """The driver's name as a file name holds it: trimmed, each run of white space and each slash a `_`."""
    if isinstance(device_name, str) and (trimmed := device_name.strip()).isprintable():
        part = re.sub(r"\s+|/", "_", trimmed)
        if part.strip("_.") and not any(bad in f"{part}$" for bad in ("..", "\\", ",", "=", "_down$", ".$")):
            return part
    wish = "expected the driver's printable name, without '..', '\\', ',' and '=', not ending in '.' or '_down'"
    raise ValueError(f"device_name: {wish}, found {shown(device_name)}")


_DOWN = "_down.json"


def is_down(name: str) -> bool:
    """Whether a file's name or path is of a down projection's own file, which stands beside an up file."""
    return name.endswith(_DOWN)


def up_of(name: str) -> str:
    """The up file that a `_down` file stands beside; of an up file itself."""
    return f"{name.removesuffix(_DOWN)}.json" if is_down(name) else name


def down_of(name: str) -> str:
    """The `_down` file that may stand beside an up file; of a `_down` file itself."""
    return name if is_down(name) else f"{name.removesuffix('.json')}{_DOWN}"


def device_in(name: str) -> str:
    return up_of(name).split("device_name=")[1].removesuffix(".json").split(",")[0]


def renamed(name: str, device: str) -> str:
    return name.replace(f"device_name={device_in(name)}", f"device_name={device}")


def release(triton_version: object) -> tuple[int, ...]:
    """(X, Y, Z) of a Triton version, without what follows, such as +git, rc1 or .post1."""
    pattern = r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?:(?:a|b|rc|\.post|\.dev|[+-])[\w.+-]*)?"
    if isinstance(triton_version, str) and (match := re.fullmatch(pattern, triton_version, re.ASCII)):
        return tuple(int(part or 0) for part in match.groups())
    raise ValueError(f"triton_version: expected a version such as '3.8.0', found {shown(triton_version)}")


def version_in(folder: str) -> tuple[int, ...] | None:
    """The release that a folder of this name, triton_X_Y_Z, is for; None for every other name."""
    match = _VERSION_FOLDER.fullmatch(folder)
    return match and tuple(map(int, match.groups()))


def version_folders(parent: Path) -> dict[tuple[int, ...], Path]:
    """The folders triton_X_Y_Z by release, newest first; other names are ignored. ConfigError: they can't be listed."""
    try:
        names = [path.name for path in parent.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(parent, f"cannot be listed: {error.strerror}. Fix: make it readable") from error
    found = ((version, parent / name) for name in names if (version := version_in(name)))
    return dict(sorted(found, reverse=True))


def ordered_tiers(
    configs: Folder, versions: Mapping[tuple[int, ...], Folder], triton_version: str | None
) -> dict[Folder, str]:
    """Folder → what it is, in order. versions: folder by release. Without a Triton version no version folder counts.

    The default tier is the reference's own folder, so it stands among those of its X.Y by its patch: no folder of
    another patch goes before it for the reference itself, and triton_X_Y_Z of that very release is not read.
    """
    tiers: dict[Folder, str] = {}
    if triton_version is not None:
        asked, known = release(triton_version), {**versions, release(REFERENCE_TRITON): configs}
        same = (known[found] for found in sorted(known, reverse=True) if found[:2] == asked[:2])
        own = known.get(asked, configs / VERSION_FOLDER.format(*asked))
        tiers = dict.fromkeys((own, *same), "the folder of another patch of this Triton")
        tiers[own] = "this Triton's folder"
    default = f"the default tier (Triton {REFERENCE_TRITON})"  # which keeps the place that it may have by now
    return tiers | {configs: default, configs / "legacy_configs": "the legacy tier"}


def places(
    name: str, devices: Iterable[str], tiers: Mapping[Folder, str], siblings: Iterable[str] = ()
) -> Iterator[tuple[Folder, str]]:
    """Where an up file may lie, in order, and why it would serve. devices: its own name first, as `Chain.devices`."""
    own = device_in(name)
    names = ((device, f" as {device}, another name of the same hardware") for device in devices)
    for device, whose in chain(names, ((sibling, f" as {sibling}, a sibling") for sibling in siblings)):
        alias = whose if device != own else ""
        asked = up_of(renamed(name, device))
        for spelled in dict.fromkeys((asked, asked.replace(",per_channel_quant=True", ""))):
            plain = "; no per-channel file exists: the plain one serves" if spelled != asked else ""
            yield from ((folder / spelled, f"Served by {tier}{alias}{plain}") for folder, tier in tiers.items())


class _Device(NamedTuple):
    names: tuple[str, ...]  # its own, then its aliases
    siblings: tuple[str, ...]  # devices whose files carry over to it, as measured


class Chain:
    """The tiers of a configs folder, whichever it is, behind the user's own folder where one is given."""

    def __init__(self, configs: Path, user_folder: Path | None = None) -> None:
        self.configs, self.user_folder = configs, user_folder

    def tiers(self, triton_version: str | None) -> dict[Path, str]:
        """As `ordered_tiers`, behind the user's own."""
        tiers = {self.user_folder: "the user's folder"} if self.user_folder else {}
        versions = {} if triton_version is None else version_folders(self.configs)
        return tiers | ordered_tiers(self.configs, versions, triton_version)

    def devices(self, own: str) -> Iterator[str]:
        """The device's own name, then the others of the same hardware, which are read only when reached."""
        yield own
        yield from (name for name in self._names(own) if name != own)

    def siblings(self, own: str) -> Iterator[str]:
        """Names of the devices whose files are declared to carry over to this one, each with its aliases after it."""
        names = self._names(own)
        for sibling in (sibling for device in self._registry if device.names == names for sibling in device.siblings):
            yield from self.devices(sibling)

    def carried_to(self, own: str) -> list[str]:
        """The devices that have this one among their siblings, each by the first of its names."""
        return [device.names[0] for device in self._registry if own in self.siblings(device.names[0])]

    def look_up(
        self, name: str, tiers: Mapping[Path, str], *, siblings: bool = False
    ) -> tuple[Lookup, dict[int, ConfigEntry] | None]:
        """The first file that exists, and its entries by batch size. A broken one is never passed by: ConfigError.

        name: as `get_config_file_name` spells it. tiers: as `Chain.tiers` lists them. siblings: a sibling's file
        serves where the device has none.
        """
        tried: list[tuple[Path, str]] = []

        def is_there(path: Path) -> bool:
            tried.append((path, "found" if exists(path) else "no file"))
            return tried[-1][1] == "found"

        others = self.siblings(device_in(name)) if siblings else ()
        for path, reason in places(name, self.devices(device_in(name)), tiers, others):
            if not is_there(path):
                continue
            if is_down(name):
                down = path.with_name(down_of(path.name))
                if is_there(down):
                    path, reason = down, f"{reason}; its _down file lies beside the up file"
                else:
                    reason += "; no _down file lies beside the up file, which serves both"
            entries = read_config(path, is_users=path.parent == self.user_folder)
            return Lookup(tuple(tried), path, f"{reason}."), entries
        reason = f"No tier has a file for {device_in(name)} or another name of the same hardware."
        if "dtype=int8_w8a8" in name:
            reason += " int8_w8a8 never falls back to the bf16 file."
        if not siblings and (file := self.siblings_file(name, tiers)):
            reason += f" A sibling has {printable(file)}: siblings=True (--siblings) reads it."
        return Lookup(tuple(tried), None, reason), None

    def siblings_file(self, name: str, tiers: Mapping[Path, str]) -> Path | None:
        """The first file of a sibling that exists. Whether it can be used is not looked at."""
        paths = (path for path, _ in places(name, self.siblings(device_in(name)), tiers))
        return next(filter(exists, paths), None)

    def _names(self, own: str) -> tuple[str, ...]:
        """Every name of this hardware. One that the registry lacks is taken for an H200 where vLLM takes it for one."""
        if known := [device.names for device in self._registry if own in device.names]:
            return known[0]
        is_h200 = own != H200 and "H200" in own.split("_") and "MIG" not in own.split("_")
        return self._names(H200) if is_h200 else (own,)

    @cached_property
    def _registry(self) -> list[_Device]:
        path = devices_path(self.configs)
        document = read_json(path)[1] if path else (("devices", ()),)
        try:
            devices = [dict(device) for device in dict(document)["devices"]]
            # A text is no array, though Python would take it for one of letters.
            lists = [[[device["name"]], device.get("aliases", []), device.get("siblings", [])] for device in devices]
            named = [_Device((*own, *aliases), (*siblings,)) for own, aliases, siblings in lists]
            if any(isinstance(names, str) for of_one in lists for names in of_one):
                raise TypeError("a text")
        except (KeyError, TypeError, ValueError) as error:
            wish = "expected devices, each with a name and aliases, found otherwise"
            raise ConfigError(path or self.configs, f"{wish}. {RESTORE}") from error
        try:
            return [_Device(*(tuple(map(device_part, names)) for names in device)) for device in named]
        except ValueError as error:
            raise ConfigError(path or self.configs, f"{error}. {RESTORE}") from error


def devices_path(configs: Path) -> Path | None:
    """The registry of devices. None: a folder of tuned files that has none, and knows no other names.

    ConfigError: it is gone from an installed package.
    """
    path = configs / "registry" / "devices.json"
    if exists(path):
        return path
    if exists(configs / INDEX):
        raise ConfigError(path, f"expected the devices that the package brings, found none. {RESTORE}")
    return None


def exists(path: Path) -> bool:
    """Whether anything has this name, a broken link included. ConfigError: the folder does not let itself be asked."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(path, f"cannot be looked for: {error.strerror}. Fix: make its folder readable") from error
    return True


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Of a regular file; a pipe would wait for ever. ConfigError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(path, "expected a file, found a directory or a device. Fix: remove or rename it")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}. Fix: make it readable") from error
    if len(data) > max_bytes:
        raise ConfigError(path, f"expected at most {max_bytes // 2**20} MiB, found more. Fix: replace it")
    return data


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> tuple[str, Pairs]:
    """Text and document of a regular UTF-8 file that holds one JSON object. Objects are `Pairs`."""
    data, before = read_bytes(path, max_bytes), ""
    try:
        text = data.decode()
        reason = "expected JSON, found a byte order mark. Fix: save the file without one"
        if not text.startswith("\ufeff"):
            document = json.loads(text, object_pairs_hook=tuple)
            if isinstance(document, tuple):
                return text, document
            reason = f"expected a JSON object, found {shown(document, is_json=True)}. {CORRECT}"
    except UnicodeDecodeError as error:
        reason = f"expected UTF-8, found byte {data[error.start]:#x}. Fix: save the file as UTF-8"
        before = data[: error.start].decode()
    except json.JSONDecodeError as error:
        reason, before = f"not JSON: {error.msg}. {CORRECT}", text[: error.pos]
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        reason += f". {CORRECT}"
        before = re.split(r"\[|\{[^{}]*\{[^{}]*\{|[0-9]{4300}", text)[0]
    raise ConfigError(path, reason, before.count("\n") + 1, len(before) - before.rfind("\n"))


def read_config(path: Path, is_users: bool = False) -> dict[int, ConfigEntry]:
    """Entries by batch size, ascending.

    is_users: as engines read, a `triton_version` string is dropped, and a row may leave num_warps and num_stages out.
    """
    pairs, entries = read_json(path)[1], dict[int, ConfigEntry]()
    try:
        rows = _unique("", pairs)
        if is_users and isinstance(rows.get("triton_version"), str):
            del rows["triton_version"]
        for size, row in rows.items():
            if not re.fullmatch("[1-9][0-9]{0,8}", size):
                raise ValueError(f"expected a batch size (a positive decimal integer) as key, found {shown(size)}")
            entries[int(size)] = _entry(size, row, TRITON_DEFAULTS if is_users else {})
        if not entries:
            raise ValueError("expected at least one batch size, found none")
    except ValueError as error:
        raise ConfigError(path, f"{error}. {CORRECT}") from None
    return dict(sorted(entries.items()))


def _entry(size: str, row: object, defaults: Mapping[str, int]) -> ConfigEntry:
    if not isinstance(row, tuple):
        raise ValueError(f"{size}: expected an object of launch keys, found {shown(row, is_json=True)}")
    entry = _unique(f"{size} / ", row)
    entry |= {key: value for key, value in defaults.items() if key not in entry}
    if missing := [key for key in REQUIRED if key not in entry]:
        raise ValueError(f"{size}: expected {', '.join(missing)}, found nothing")
    for key, value in entry.items():
        if key in REQUIRED:
            checked_size(f"{size} / {key}", value, is_json=True)
        elif not isinstance(value, (int, str)):
            found = "an object" if isinstance(value, tuple) else shown(value, is_json=True)
            raise ValueError(f"{size} / {printable(key)}: expected integer, true, false or string, found {found}")
    return cast("ConfigEntry", entry)


def _unique(at: str, pairs: Pairs) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{at}{printable(key)}: expected it once, found a duplicate key")
        found[key] = value
    return found


def checked_size(what: str, value: object, is_json: bool = False) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
        return int(value)
    raise ValueError(f"{what}: expected an integer from 1 to {2**31 - 1}, found {shown(value, is_json)}")


def shown(value: object, is_json: bool = False) -> str:
    """The value as a message may hold it: printable and short, whatever it is. is_json: null is not None there."""
    try:
        text = json.dumps(value) if is_json and (value is None or isinstance(value, bool)) else ascii(value)
    except (ValueError, RecursionError):  # Python prints no integer of over 4300 digits
        text = f"{type(value).__name__} too large to print"
    return text if len(text) <= 90 else text[:87] + "..."


def counted(count: int, noun: str) -> str:
    """«1 file», «2 files»."""
    return f"{count} {noun}{'s' * (count != 1)}"


def printable(text: object) -> str:
    """A path or a key on one line: quoted where a newline or the like is in it."""
    return plain if (plain := str(text)).isprintable() else ascii(plain)
