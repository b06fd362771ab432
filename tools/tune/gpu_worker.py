"""The process that owns the GPU: answers jobs until its pipe closes or its GPU context is lost.

Its parent imports no torch and holds no context, so a crash here costs one job. Imports torch when it starts.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from tools import child_process
from tools.registry.devices import load_devices
from tools.tune.model import Confirmed, ConfirmJob, Screened, ScreenJob, Series, Subject

BUSY_BYTES = 2 << 30
"""More memory in use than this before the worker takes any is somebody else's work; a bare context takes 0.5 GB."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is to measure. max_num_tokens: the largest batch size, for the memory that it takes."""

    subject: Subject
    max_num_tokens: int
    routing_kind: str = "uniform"


@dataclass(frozen=True)
class DeviceReport:
    """What a worker found when it came up. environment: as a record has it. Rates are measured."""

    environment: Mapping[str, Any]
    memory_bytes_per_s: float
    dense_per_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why this machine can't do it. One line for a person."""

    message: str


@dataclass(frozen=True)
class Answer:
    """is_last: the context is lost, and the worker ends."""

    event: Screened | Confirmed
    is_last: bool = False


def main(connection: Connection, log_path: str, spec: WorkerSpec) -> None:
    """Sends a `DeviceReport` or a `Refusal`, then an `Answer` for each job."""
    child_process.settle(log_path)
    import torch

    found = _look_around(torch, spec)
    if isinstance(found, Refusal):
        connection.send(found)
        return
    device = torch.device("cuda", torch.cuda.current_device())
    with torch.cuda.stream(torch.cuda.Stream()), torch.inference_mode():
        from tools.measure.gpu import measure_ceilings
        from tools.tune.row_timer import RowTimer

        ceilings = measure_ceilings(device)
        bits = 8 if spec.subject.quant.quantizes_activations else 16
        environment, notes = found
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        timer = RowTimer(spec.subject, device, l2_bytes, spec.routing_kind)
        connection.send(DeviceReport(environment, ceilings.memory_bytes_per_s, ceilings.dense_per_s(bits), notes))
        _serve(connection, timer)


def _serve(connection: Connection, timer: Any) -> None:
    from tools.tune.row_timer import ContextLost

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            answer = Answer(timer.screen(job) if isinstance(job, ScreenJob) else timer.confirm(job))
        except ContextLost as error:
            answer = Answer(failed(job, "runtime", str(error)), is_last=True)
        connection.send(answer)
        if answer.is_last:
            return


def failed(job: ScreenJob | ConfirmJob, status: str, message: str, seconds: float = 0.0) -> Screened | Confirmed:
    """The event of a job that gave no time."""
    from tools.compile.outcome import Status

    if isinstance(job, ScreenJob):
        return Screened(job, Status(status), seconds, message=message)
    return Confirmed(job, tuple(Series(config, Status(status), message=message) for config in job.configs), seconds)


def _look_around(torch: Any, spec: WorkerSpec) -> Refusal | tuple[dict[str, Any], tuple[str, ...]]:
    if not torch.cuda.is_available():
        return Refusal("expected a GPU that torch can use, found none. Fix: run where there is one.")
    name = torch.cuda.get_device_name()
    devices, wanted = load_devices(), spec.subject.workload.device_name
    if devices.get(name) != devices.get(wanted):
        return Refusal(f"GPU: expected {wanted}, found {name}. Fix: CUDA_VISIBLE_DEVICES chooses another.")
    free, total = torch.cuda.mem_get_info()
    need = _memory_bytes(spec)
    if need > free:
        return Refusal(
            f"{spec.subject.workload.file_name()}: expected {need / 2**30:.1f} GiB of free GPU memory for weights and "
            f"activations, found {free / 2**30:.1f}. Fix: a larger tp or ep, or smaller batch sizes (--num-tokens)."
        )
    busy = total - free
    notes = (f"{busy / 2**30:.1f} GiB of the GPU were in use by others at the start: figures may be disturbed.",)
    return _environment(torch, name), notes if busy > BUSY_BYTES else ()


def _memory_bytes(spec: WorkerSpec) -> int:
    """Weights once for each hidden size, rows for the shape that needs most."""
    from tools.tune.row_timer import layer_shapes

    shapes = layer_shapes(spec.subject)
    by_width = {shape.hidden_size: shape for shape in shapes}
    largest = max(shape.memory_bytes(spec.max_num_tokens) for shape in shapes)
    others = [shape.memory_bytes(1) for shape in by_width.values()]
    return largest + sum(others) - max(others)


def _environment(torch: Any, device_name: str) -> dict[str, Any]:
    """As the record's schema has it."""
    import triton

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    is_rocm = torch.version.hip is not None
    arch = properties.gcnArchName.split(":")[0] if is_rocm else f"{properties.major}.{properties.minor}"
    return {
        "device_name": device_name,
        "compute_capability": arch,
        "sm_count": properties.multi_processor_count,
        "driver": None if is_rocm else _driver(),
        "cuda": torch.version.hip if is_rocm else torch.version.cuda,
        "torch": str(torch.__version__),
        "triton": str(triton.__version__),
        "python": platform.python_version(),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None
