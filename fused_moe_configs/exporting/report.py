"""What an export wrote, for whom, and what to set so that the engine reads it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fused_moe_configs.lookup import counted, device_in, printable
from fused_moe_configs.machine import VARIABLES
from fused_moe_configs.naming import ENGINE_NAMES, by_number

from .layout import Served, is_plain

MOST_MODELS = 4  # of a line


@dataclass(frozen=True)
class Export:
    """What an export did. alike: files of another hand that had the very bytes already. served: by the name below the
    destination, what is there of the loader's own. models: by its file in the store, those that read it, as far as
    known.

    engines_own: how many of the engine's own files lie beneath. notes: what was left out or left alone, and why.
    is_whole: something is there, and nothing that was asked for is missing.
    """

    engine: str
    destination: Path
    written: list[Path]
    alike: list[Path]
    served: dict[str, Served]
    models: Mapping[Path, tuple[str, ...]]
    engines_own: int
    notes: list[str]
    is_whole: bool


def summary(export: Export) -> list[str]:
    """GPUs and, a line each, the workloads that they have files of; what to set; GPUs that have the same together.

    A file that no model is known to read stands as E, N and dtype alone.
    """
    name = ENGINE_NAMES[export.engine]
    alike = f", {len(export.alike)} there already" if export.alike else ""
    beneath = f", {export.engines_own} of them {name}'s own" if export.engines_own else ""
    lines = [f"{counted(len(export.written), 'file')} written to {printable(export.destination)}{alike}{beneath}"]
    lines += _for_whom(export.served, export.models)
    if not export.written and not export.alike:
        return lines
    if export.engine == "sglang" and not export.engines_own:
        lines.append("SGLang then reads no file of its own: the variable replaces them. Fix: add --overlay auto")
    # An absolute path, links as they are: the line holds from any folder.
    path = _in_shell(os.path.abspath(export.destination))  # noqa: PTH100
    return [*lines, f"Where {name} starts, set:", f"export {VARIABLES[export.engine]}={path}"]


def _in_shell(path: str) -> str:
    """A word that any POSIX shell reads as this path; in octal where a line of text can't hold it."""
    if path.isprintable():
        return shlex.quote(path)
    data = os.fsencode(path if not path.endswith("\n") else f"{path}/")  # $() drops newlines at the end
    plain = {*range(ord(" "), 127)} - set(b"\\'%")
    octal = "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in data)
    return f"\"$(printf '{octal}')\""


def _for_whom(served: Mapping[str, Served], models: Mapping[Path, tuple[str, ...]]) -> Iterator[str]:
    of_device = dict[str, set[str]]()
    for path, each in served.items():
        sibling = f", of {device_in(each.source.name)}, a sibling" if each.is_siblings else ""
        readers = _listed(models.get(each.source, ()))
        channels = ", for scales per channel too" if is_plain(path, each) else ""
        line = f"    {_workload(each.source.name)}{sibling}{channels}{readers and f': tuned for {readers}'}"
        of_device.setdefault(each.device, set()).add(line)
    devices_of = dict[tuple[str, ...], list[str]]()
    for device, lines in sorted(of_device.items()):
        devices_of.setdefault(tuple(sorted(lines, key=by_number)), []).append(device)
    for workloads, devices in devices_of.items():
        yield ", ".join(devices)
        yield from workloads


def _listed(models: tuple[str, ...]) -> str:
    more = [f"{len(models) - MOST_MODELS} more"] if len(models) > MOST_MODELS else []
    return ", ".join([*map(printable, models[:MOST_MODELS]), *more])


def _workload(name: str) -> str:
    """E, N and the parts of a file name after the device, bf16 where it has no dtype."""
    size, rest = name.removesuffix(".json").split(",device_name=")
    device = device_in(name)
    parts = [part for part in re.split(r",(?![^\[]*\])", rest.removeprefix(device)) if part]
    parts = [part.replace("dtype=", "").replace("block_shape=", "").replace("_quant=True", "") for part in parts]
    dtype = [] if "dtype=" in rest else ["bf16"]
    return " ".join([*size.split(","), *dtype, *parts]).replace("_down", " down")
