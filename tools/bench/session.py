"""What every bench does alike at its edge: the GPU it finds, the kernel it is given, and where its reports go."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.request import EngineFile, Say
from tools.errors import UserError, reason_of
from tools.measure.engine_kernel import EngineKernelError
from tools.measure.environment import environment_here
from tools.measure.gpu import torch_with_gpu
from tools.measure.kernels import EngineKernel
from tools.registry.devices import Device, load_devices
from tools.store.files import write_file
from tools.store.record import Environment
from tools.text import shown_path


@dataclass(frozen=True)
class Gpu:
    """The GPU of this process. torch: the module; name: as the driver reports it; device: its entry in the registry."""

    torch: Any
    name: str
    device: Device

    @classmethod
    def here(cls) -> Gpu:
        """UserError: no torch, or no GPU that is known here."""
        torch = torch_with_gpu()
        name = torch.cuda.get_device_name()
        return cls(torch, name, load_devices().find_measurable(name))

    def environment(self) -> Environment:
        import triton

        return environment_here(self.torch, triton)


def engine_kernel(engine: EngineFile) -> EngineKernel:
    """UserError: the file holds no kernel that can be cut out and launched."""
    # realpath: Path.resolve raises where links lead in a circle; what isn't there the check says.
    kernel = EngineKernel(Path(os.path.realpath(engine.path)), engine.flavour)
    try:
        kernel.check()
    except EngineKernelError as error:
        raise UserError(str(error)) from error
    return kernel


def not_written(error: OSError) -> str:
    """What, and why, on one line."""
    where = shown_path(Path(error.filename)) if error.filename else "the report"
    return f"{where}: {reason_of(error)}"


def claim(folder: Path, stem: str) -> Path:
    """The run's own path for reports, without suffix: `stem`, or `stem-2` and so on where others have it. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder / (stem if number == 1 else f"{stem}-{number}")
        if _with_suffix(path, ".json").exists():
            continue
        try:
            _with_suffix(path, ".md").touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise AssertionError("there is always another number")


def write(path: Path, markdown: str, json: str) -> tuple[Path, Path]:
    """Markdown and JSON at a claimed path, each whole or not at all. OSError: of a first report nothing is left."""
    paths = _with_suffix(path, ".md"), _with_suffix(path, ".json")
    is_first = not (paths[0].exists() and paths[0].stat().st_size)
    try:
        for target, text in zip(paths, (markdown, json), strict=True):
            write_file(target, text.encode())
    except OSError:
        for target in paths if is_first else ():
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True)
        raise
    return paths


class GrowingReport:
    """The files of a report that a run writes anew as it finds more. A disk that is full ends no run: what can't be
    written is said, and there may be room again the next time."""

    def __init__(self, folder: Path, stem: str, say: Say) -> None:
        self._folder, self._stem, self._say = folder, stem, say
        self._path: Path | None = None

    def write(self, markdown: str, json: str) -> tuple[Path, Path] | None:
        """None: it couldn't be."""
        try:
            path = self._path or claim(self._folder, self._stem)
            paths = write(path, markdown, json)
        except OSError as error:
            self._say(f"not written: {not_written(error)}")
            return None
        self._path = path
        return paths

    def finish(self, markdown: str, json: str) -> tuple[Path, ...]:
        """The whole report, and says where it is. Empty: it couldn't be written."""
        paths = self.write(markdown, json) or ()
        for path in paths:
            self._say(f"written: {shown_path(path)}")
        return paths


def file_name_part(text: str) -> str:
    """The text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", text).strip("_")


def _with_suffix(path: Path, suffix: str) -> Path:
    # Not `with_suffix`: versions have points.
    return path.with_name(f"{path.name}{suffix}")
