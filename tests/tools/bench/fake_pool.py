"""A compile pool that compiles nothing, for the tests of what is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from tools.compile.outcome import CompileOutcome, Resources, Status
from tools.measure.kernels import KernelTask, OwnKernel
from tools.registry.devices import load_devices

DEVICE = load_devices().find("NVIDIA H100 80GB HBM3")


class FakePool:
    """Answers every task at once, in reverse; `status` by the task's number of stages; is_bad: doesn't compile.

    spills: the numbers of stages whose kernels keep registers in memory.
    """

    def __init__(
        self,
        is_bad: Callable[[KernelTask], bool] = lambda task: False,
        spills: tuple[int, ...] = (),
        **status: Status,
    ) -> None:
        self.is_bad, self.spills = is_bad, spills
        self.status = {int(stages.removeprefix("stages_")): value for stages, value in status.items()}
        self.tasks: list[KernelTask] = []

    def run(self, tasks: Iterable[KernelTask]) -> Iterator[tuple[int, CompileOutcome]]:
        given = list(tasks)
        self.tasks += given
        for index, task in reversed(list(enumerate(given))):
            stages = dict(task.problem.config.options)["num_stages"]
            status = Status.COMPILE if self.is_bad(task) else self.status.get(stages, Status.OK)
            resources = Resources(1024, 255, 1504 if stages in self.spills else 0) if status is Status.OK else None
            yield index, CompileOutcome(status, 0.1, resources, "" if status is Status.OK else "of the compiler")


def with_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a process where the kernels' own tests asked for Triton's interpreter, whose kernels name none."""
    jit = pytest.importorskip("triton.runtime.jit")
    kernel = OwnKernel().load()
    if not hasattr(kernel, "params"):
        compiled = jit.JITFunction(kernel.fn)
        monkeypatch.setattr(OwnKernel, "load", lambda self: compiled)
