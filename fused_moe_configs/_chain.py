"""Names, and the fallback chain: user's folder, Triton version's folder, default tier, legacy tier."""
# pathlib takes longer to import than the whole loader may.
# ruff: noqa: PTH112, PTH118, PTH208

from __future__ import annotations

import os

from ._read import ConfigError, Entries, printable, read_config, read_json, shown, size_fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

USER_FOLDER = "VLLM_TUNED_CONFIG_FOLDER"
DTYPES = ("fp8_w8a8", "fp8_w8a16", "int8_w8a16", "int4_w4a16", "int8_w8a8", "float32")


def positive(what: str, value: int) -> int:
    if fault := size_fault(value):
        raise ValueError(f"{what}: {fault}")
    return int(value)


def device_part(device_name: object) -> str:
    """The driver's name as a file name holds it: trimmed, each run of white space and each slash a `_`."""
    import re

    if isinstance(device_name, str) and (trimmed := device_name.strip()).isprintable():
        part = re.sub(r"\s+|/", "_", trimmed)
        if part.strip("_.") and not any(bad in f"{part}$" for bad in ("..", "\\", ",", "=", "_down$", ".$")):
            return part
    wish = "expected the driver's printable name, without '..', '\\', ',' and '=', not ending in '.' or '_down'"
    raise ValueError(f"device_name: {wish}, found {shown(device_name)}")


def get_config_file_name(
    E: int, N: int, device_name: str, dtype: str | None = None, block_shape: Sequence[int] | None = None,
    *, per_channel_quant: bool = False, down: bool = False,
) -> str:  # fmt: skip
    """A workload's file name in vLLM's spelling. Raises ValueError, naming the value, where none can exist.

    E: experts on the rank. N: intermediate size per shard (doubled for int4_w4a16). device_name: as the driver
    or a file name spells it. dtype: None for bf16 and fp16. block_shape: (block_n, block_k).
    """
    name = f"E={positive('E', E)},N={positive('N', N)},device_name={device_part(device_name)}"
    if dtype not in (None, "bf16", "bfloat16", "fp16", "float16", "half"):
        if dtype not in DTYPES:
            wish = f"expected one of {', '.join(DTYPES)}, or None for bf16 and fp16"
            raise ValueError(f"dtype: {wish}, found {shown(dtype)}")
        name += f",dtype={dtype}"
    if block_shape is not None:
        if not isinstance(block_shape, (list, tuple)) or len(block_shape) != 2:
            raise ValueError(f"block_shape: expected (block_n, block_k), found {shown(block_shape)}")
        if all(size != 0 for size in block_shape):
            name += ",block_shape=[{},{}]".format(*(positive("block_shape", size) for size in block_shape))
    name += ",per_channel_quant=True" * bool(per_channel_quant) + "_down" * bool(down) + ".json"
    if len(name.encode()) > 255:
        raise ValueError(f"device_name: expected a file name of at most 255 bytes, found {shown(name)}")
    return name


def device_in(name: str) -> str:
    return name.split("device_name=")[1].removesuffix(".json").removesuffix("_down").split(",")[0]


def renamed(name: str, device: str) -> str:
    return name.replace(f"device_name={device_in(name)}", f"device_name={device}")


def release(triton_version: object) -> tuple[int, ...]:
    """(X, Y, Z) of a Triton version, without what follows, such as +git, rc1 or .post1."""
    import re

    pattern = r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?:(?:a|b|rc|\.post|\.dev|[+-])[\w.+-]*)?"
    if isinstance(triton_version, str) and (match := re.fullmatch(pattern, triton_version, re.ASCII)):
        return tuple(int(part or 0) for part in match.groups())
    raise ValueError(f"triton_version: expected a version such as '3.8.0', found {shown(triton_version)}")


def version_folders(parent: str) -> dict[tuple[int, ...], str]:
    """The folders triton_X_Y_Z by release, newest first. Any other name is nobody's."""
    found = {}
    for name in os.listdir(parent) if os.path.isdir(parent) else ():
        parts = name.removeprefix("triton_").split("_")
        if len(parts) == 3 and all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            version = tuple(map(int, parts))
            if name == "triton_{}_{}_{}".format(*version):
                found[version] = os.path.join(parent, name)
    return dict(sorted(found.items(), reverse=True))


class Lookup:
    """How a workload was looked up. tried: (path, what was found there), in order. winner: the file that serves
    it, or None. reason: why, in a sentence. str() is all of it, a line each."""

    __slots__ = ("reason", "tried", "winner")

    def __init__(self, tried: tuple[tuple[Path, str], ...], winner: Path | None, reason: str) -> None:
        self.tried, self.winner, self.reason = tried, winner, reason

    def __str__(self) -> str:
        return "\n".join([*(f"{found:>7}  {printable(path)}" for path, found in self.tried), self.reason])


class Chain:
    """The tiers below one configs folder, behind the user's own folder where there is one."""

    def __init__(self, configs: str, user_folder: str | None = None) -> None:
        self.configs, self.user_folder = configs, user_folder
        self._devices: list[list[str]] | None = None
        if user_folder and not os.path.isdir(user_folder):
            import logging

            message = "%s: expected a folder, found none at %s. Fix: correct or unset it"
            logging.getLogger("fused_moe_configs").warning(message, USER_FOLDER, printable(user_folder))

    def tiers(self, triton_version: str | None) -> dict[str, str]:
        """Folder → what it is, in order. Without a Triton version no version folder counts."""
        tiers = {self.user_folder: "the user's folder"} if self.user_folder else {}
        if triton_version is not None:
            asked = release(triton_version)
            tiers[os.path.join(self.configs, "triton_{}_{}_{}".format(*asked))] = "this Triton's folder"
            for found, folder in version_folders(self.configs).items():
                if found[:2] == asked[:2]:
                    tiers.setdefault(folder, "the folder of another patch of this Triton")
        legacy = os.path.join(self.configs, "legacy_configs")
        return tiers | {self.configs: "the default tier", legacy: "the legacy tier"}

    def names(self, own: str) -> Iterator[str]:
        """The device's own name, then the others of the same hardware, which are read only when reached."""
        yield own
        if self._devices is None:
            self._devices = _read_devices(os.path.join(self.configs, "registry", "devices.json"))
        yield from (name for names in self._devices if own in names for name in names if name != own)

    def look_up(self, tiers: dict[str, str], name: str) -> tuple[Lookup, Entries | None]:
        """The first file that exists, and its entries. A broken one raises ConfigError: it is never passed by."""
        from pathlib import Path

        tried: list[tuple[Path, str]] = []

        def there(path: str) -> bool:
            tried.append((Path(path), "found" if exists(path) else "no file"))
            return tried[-1][1] == "found"

        own = device_in(name)
        for device in self.names(own):
            asked = renamed(name, device).replace("_down.json", ".json")
            for spelled in dict.fromkeys((asked, asked.replace(",per_channel_quant=True", ""))):
                for folder, tier in tiers.items():
                    if not there(path := os.path.join(folder, spelled)):
                        continue
                    reason = f"Served by {tier}"
                    if device != own:
                        reason += f" as {device}, another name of the same hardware"
                    if spelled != asked:
                        reason += "; no per-channel file exists: the plain one serves"
                    if name.endswith("_down.json"):
                        twin = path.removesuffix(".json") + "_down.json"
                        if there(twin):
                            path, reason = twin, f"{reason}; its _down file lies beside the up file"
                        else:
                            reason += "; no _down file lies beside the up file, which serves both"
                    entries = read_config(path, accept_version=folder == self.user_folder)
                    return Lookup(tuple(tried), Path(path), reason + "."), entries
        reason = f"No tier has a file for {own} or another name of the same hardware."
        if "dtype=int8_w8a8" in name:
            reason += " int8_w8a8 never falls back to the bf16 file."
        return Lookup(tuple(tried), None, reason), None


def exists(path: str) -> bool:
    """Whether anything has this name, a broken link included. ConfigError: the folder does not let itself be asked."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(path, f"cannot be looked for: {error.strerror}") from error
    return True


def _read_devices(path: str) -> list[list[str]]:
    if not exists(path):
        return []
    document = read_json(path)[1]
    try:
        devices = [dict(device) for device in dict(document)["devices"]]
        return [[device_part(name) for name in (d["name"], *d.get("aliases", ()))] for d in devices]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(path, f"expected devices with a name and aliases, found otherwise: {error}") from error
