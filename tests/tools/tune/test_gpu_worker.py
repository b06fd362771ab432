"""What the GPU's process finds when it looks around: the right GPU with enough memory, or why not, on a line."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from tools.compile.outcome import Status
from tools.store import schemas
from tools.store.workload import Shape
from tools.tune.gpu_worker import BUSY_BYTES, Refusal, WorkerSpec, _look_around, _memory_bytes, failed
from tools.tune.model import Confirmed, ConfirmJob, NamedShape, Screened, ScreenJob, Subject

pytest.importorskip("torch")
pytest.importorskip("triton")

GIB = 1 << 30


def machine(
    name: str = "NVIDIA H100 80GB HBM3", *, free: int = 79 * GIB, total: int = 80 * GIB, available: bool = True
) -> Any:
    """What the worker asks torch for."""
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132, gcnArchName="")
    cuda = SimpleNamespace(
        is_available=lambda: available,
        get_device_name=lambda: name,
        current_device=lambda: 0,
        mem_get_info=lambda: (free, total),
        get_device_properties=lambda _: properties,
    )
    return SimpleNamespace(cuda=cuda, version=SimpleNamespace(hip=None, cuda="13.0"), __version__="2.13.0+cu130")


def refusal(found: Any) -> str:
    assert isinstance(found, Refusal)
    return found.message


def test_the_environment_is_what_a_record_holds(subject: Subject) -> None:
    found = _look_around(machine(), WorkerSpec(subject, 4096))
    assert not isinstance(found, Refusal)
    environment, notes = found
    assert notes == ()
    assert (environment["device_name"], environment["compute_capability"]) == ("NVIDIA H100 80GB HBM3", "9.0")
    faults = schemas.faults("record", {"environment": environment})
    assert not [fault for fault in faults if fault.where.startswith("environment")]


def test_no_gpu_for_torch(subject: Subject) -> None:
    told = refusal(_look_around(machine(available=False), WorkerSpec(subject, 64)))
    assert told == "expected a GPU that torch can use, found none. Fix: run where there is one."


def test_another_gpu(subject: Subject) -> None:
    told = refusal(_look_around(machine("NVIDIA H200"), WorkerSpec(subject, 64)))
    assert told.startswith("GPU: expected NVIDIA_H100_80GB_HBM3, found NVIDIA H200. Fix: ")


def test_too_little_memory_says_need_and_have(subject: Subject) -> None:
    told = refusal(_look_around(machine(free=3 * GIB), WorkerSpec(subject, 4096)))
    need = _memory_bytes(WorkerSpec(subject, 4096)) / GIB
    assert told == (
        f"{subject.workload.file_name()}: expected {need:.1f} GiB of free GPU memory for weights and "
        "activations, found 3.0. Fix: a larger tp or ep, or smaller batch sizes (--num-tokens)."
    )


def test_a_busy_gpu_is_told_and_used(subject: Subject) -> None:
    busy = machine(free=80 * GIB - BUSY_BYTES - GIB)
    found = _look_around(busy, WorkerSpec(subject, 4096))
    assert not isinstance(found, Refusal)
    assert found[1] == ("3.0 GiB of the GPU were in use by others at the start: figures may be disturbed.",)


def test_more_tokens_need_more_memory(subject: Subject) -> None:
    assert _memory_bytes(WorkerSpec(subject, 65536)) > _memory_bytes(WorkerSpec(subject, 1))


def test_weights_count_once_for_each_hidden_size(subject: Subject) -> None:
    """Shapes that differ in top_k alone share their weights."""

    def need(*shapes: Shape) -> int:
        return _memory_bytes(WorkerSpec(replace(subject, shapes=tuple(map(NamedShape, shapes))), 1))

    one = need(Shape(4096, 2))
    assert need(Shape(4096, 2), Shape(4096, 1)) == one
    assert need(Shape(4096, 2), Shape(2048, 2)) > one


@pytest.mark.parametrize("status", ["runtime", "timeout", "crash"])
def test_a_job_without_times_is_still_answered(status: str) -> None:
    configs = (LaunchConfig(16, 64, 64, 1, 4, 3), LaunchConfig(16, 64, 64, 8, 4, 3))
    screened = failed(ScreenJob(64, 0, configs[0]), status, "why", 1.5)
    assert screened == Screened(ScreenJob(64, 0, configs[0]), Status(status), 1.5, message="why")
    confirmed = failed(ConfirmJob(64, 0, configs, 8), status, "why")
    assert isinstance(confirmed, Confirmed)
    assert [(series.status, series.up_us) for series in confirmed.series] == [(Status(status), ())] * 2
