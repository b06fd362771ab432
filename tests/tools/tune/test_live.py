"""Compiles without a GPU while a worker measures; here the worker is a stand-in that needs no GPU."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Descriptors, Flavour
from tests.tools.measure.sglangs_kernel import write
from tests.tools.processes import PATIENCE_S
from tests.tools.tune.decided import ENVIRONMENT
from tools.compile.machine import MachineFault
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.errors import MachineError
from tools.measure.kernels import EngineKernel
from tools.measure.panel import Part, RoutingKind
from tools.tune.live import DeviceRefused, LiveRunner, Supervisor, WorkerLimits, kernel_tasks
from tools.tune.protocol import (
    BlockJob,
    Compiled,
    CompileJob,
    DeviceReport,
    Measured,
    Refusal,
    RunnerError,
    Screened,
    ScreenJob,
    Series,
    Subject,
    WorkerAnswer,
    WorkerSpec,
    failed,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton has Linux wheels only")

PART = Part(Flavour.VLLM, 0, RoutingKind.UNIFORM)
GOOD = LaunchConfig(16, 64, 128, 1, 4, 3)
ALSO_GOOD = LaunchConfig(16, 64, 128, 8, 4, 3)
CRASHES = LaunchConfig(16, 64, 128, 1, 4, 5)
HANGS = LaunchConfig(16, 64, 128, 1, 8, 5)
LOSES_CONTEXT = LaunchConfig(16, 32, 128, 1, 4, 5)
NO_DISK = LaunchConfig(16, 128, 128, 1, 4, 5)
HUGE = LaunchConfig(256, 256, 256, 1, 8, 5)

PATIENT = WorkerLimits(PATIENCE_S, PATIENCE_S, PATIENCE_S, max_failed_starts=2)


def stand_in(connection: Connection, log_path: str, spec: WorkerSpec) -> None:
    """Answers like a worker with a GPU; some configs make it crash, hang or lose its context."""
    connection.send(DeviceReport(ENVIRONMENT, 3e12, 7e14))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        configs = (job.config,) if isinstance(job, ScreenJob) else job.configs
        if CRASHES in configs:
            os.kill(os.getpid(), signal.SIGSEGV)
        if HANGS in configs:
            time.sleep(600)
        if NO_DISK in configs:
            connection.send(MachineFault("No space left on device").error())
            return
        if LOSES_CONTEXT in configs:
            connection.send(WorkerAnswer(failed(job, Status.RUNTIME, "illegal address"), is_last=True))
            return
        if isinstance(job, ScreenJob):
            connection.send(WorkerAnswer(Screened(job, Status.OK, 0.0, float(job.num_tokens), 1.0)))
        else:
            series = tuple(Series(c, Status.OK, (3.0,) * job.count) for c in configs)
            connection.send(WorkerAnswer(Measured(job, series, 0.0)))


def refuses(connection: Connection, log_path: str, spec: WorkerSpec) -> None:
    connection.send(Refusal("expected 9.0 GiB of free GPU memory, found 1.0."))


def refuses_later(connection: Connection, log_path: str, spec: WorkerSpec) -> None:
    """The first process works; whoever comes in its place finds no memory."""
    first_is_gone = Path(log_path).parent / "first is gone"
    if first_is_gone.exists():
        refuses(connection, log_path, spec)
        return
    first_is_gone.touch()
    stand_in(connection, log_path, spec)


def ends_after_a_job(connection: Connection, log_path: str, spec: WorkerSpec) -> None:
    """As where the machine's memory runs out between two jobs."""
    connection.send(DeviceReport(ENVIRONMENT, 3e12, 7e14))
    job = connection.recv()
    connection.send(WorkerAnswer(Screened(job, Status.OK, 0.0, 1.0, 1.0)))


def never_up(connection: Connection, log_path: str, spec: WorkerSpec) -> None:
    raise SystemExit(3)


@pytest.fixture
def sglangs_kernel(tmp_path: Path) -> EngineKernel:
    return EngineKernel(write(tmp_path), Flavour.SGLANG)


@pytest.fixture
def supervisor(subject: Subject) -> Iterator[Supervisor]:
    with Supervisor(WorkerSpec(subject, 64), PATIENT, stand_in) as one:
        yield one


@pytest.fixture
def runner(subject: Subject, supervisor: Supervisor) -> Iterator[LiveRunner]:
    with CompilePool(1, timeout_s=10 * PATIENCE_S) as pool:
        yield LiveRunner(subject, pool, supervisor, 1)


@pytest.fixture
def impatient_for_blocks(subject: Subject) -> Iterator[LiveRunner]:
    """Whatever it waits for besides has all the time that a busy machine may take."""
    spec, limits = WorkerSpec(subject, 64), replace(PATIENT, blocks_s=0.5)
    with CompilePool(1) as pool, Supervisor(spec, limits, stand_in) as one:
        yield LiveRunner(subject, pool, one, 1)


def test_answers_in_order(runner: LiveRunner) -> None:
    for num_tokens in (1, 2, 3):
        runner.submit(ScreenJob(num_tokens, 0, GOOD))
    events = [runner.wait() for _ in range(3)]
    assert [event.up_us for event in events if isinstance(event, Screened)] == [1.0, 2.0, 3.0]
    with pytest.raises(LookupError):
        runner.wait()


@pytest.mark.parametrize(
    ("config", "status", "told"),
    [
        (CRASHES, Status.CRASH, "killed by signal 11"),
        (LOSES_CONTEXT, Status.RUNTIME, "illegal address"),
    ],
    ids=["crash", "illegal address"],
)
def test_what_takes_the_worker_down_is_a_status_and_a_fresh_one_goes_on(
    runner: LiveRunner, config: LaunchConfig, status: Status, told: str
) -> None:
    for one in (GOOD, config, ALSO_GOOD):
        runner.submit(ScreenJob(64, 0, one))
    events = [runner.wait() for _ in range(3)]
    assert [event.status for event in events if isinstance(event, Screened)] == [Status.OK, status, Status.OK]
    assert isinstance(events[1], Screened)
    assert told in events[1].message


def test_what_hangs_costs_the_worker_at_its_limit_and_a_fresh_one_goes_on(impatient_for_blocks: LiveRunner) -> None:
    runner = impatient_for_blocks
    for job in (ScreenJob(64, 0, GOOD), BlockJob(64, PART, (HANGS,), 0, 4), ScreenJob(64, 0, ALSO_GOOD)):
        runner.submit(job)
    before, hung, after = [runner.wait() for _ in range(3)]
    assert isinstance(before, Screened)
    assert isinstance(hung, Measured)
    assert isinstance(after, Screened)
    (series,) = hung.series
    assert [before.status, series.status, after.status] == [Status.OK, Status.TIMEOUT, Status.OK]
    assert "no answer within 0.5 s" in series.message


@pytest.mark.parametrize(("config", "status"), [(CRASHES, Status.CRASH), (LOSES_CONTEXT, Status.RUNTIME)])
def test_what_takes_the_worker_down_in_a_block_is_alone_to_blame(
    runner: LiveRunner, config: LaunchConfig, status: Status
) -> None:
    runner.submit(BlockJob(64, PART, (GOOD, config, ALSO_GOOD), 0, 4))
    event = runner.wait()
    assert isinstance(event, Measured)
    assert [series.status for series in event.series] == [Status.OK, status, Status.OK]
    assert [len(series.us) for series in event.series] == [4, 0, 4]


@pytest.mark.parametrize("job", [ScreenJob(64, 0, NO_DISK), BlockJob(64, PART, (GOOD, NO_DISK), 0, 4)])
def test_what_the_machine_fails_at_ends_the_run(runner: LiveRunner, job: ScreenJob | BlockJob) -> None:
    runner.submit(job)
    with pytest.raises(MachineError, match="No space left on device"):
        runner.wait()


def test_a_refusal_is_one_line(subject: Subject) -> None:
    with (
        Supervisor(WorkerSpec(subject, 64), PATIENT, refuses) as supervisor,
        pytest.raises(DeviceRefused, match=r"expected 9\.0 GiB of free GPU memory, found 1\.0"),
    ):
        _ = supervisor.report


def test_a_refusal_in_mid_run_is_none_of_the_device(subject: Subject) -> None:
    """What was measured until then is kept: a device that refuses leaves nothing behind."""
    with (
        Supervisor(WorkerSpec(subject, 64), PATIENT, refuses_later) as supervisor,
        CompilePool(1, timeout_s=10 * PATIENCE_S) as pool,
    ):
        runner = LiveRunner(subject, pool, supervisor, 1)
        runner.submit(ScreenJob(64, 0, CRASHES))
        assert runner.wait().status is Status.CRASH
        runner.submit(ScreenJob(64, 0, GOOD))
        with pytest.raises(RunnerError, match=r"in place of another can't measure: expected 9\.0 GiB"):
            runner.wait()


def test_a_process_that_ends_between_two_jobs_is_none_of_the_next_ones_fault(subject: Subject) -> None:
    with (
        Supervisor(WorkerSpec(subject, 64), PATIENT, ends_after_a_job) as supervisor,
        CompilePool(1, timeout_s=10 * PATIENCE_S) as pool,
    ):
        runner = LiveRunner(subject, pool, supervisor, 1)
        for config in (GOOD, ALSO_GOOD, GOOD):
            runner.submit(ScreenJob(64, 0, config))
            assert runner.wait().status is Status.OK
            time.sleep(0.5)  # it has ended by then


def test_a_worker_that_never_comes_up_ends_the_run(subject: Subject) -> None:
    with (
        Supervisor(WorkerSpec(subject, 64), PATIENT, never_up) as supervisor,
        pytest.raises(RunnerError, match="exit code 3"),
    ):
        _ = supervisor.report


def test_compiles_both_projections_once_for_all_group_sizes(runner: LiveRunner) -> None:
    for config in (GOOD, ALSO_GOOD):
        runner.submit(CompileJob(config, 0, False))
    first, second = runner.wait(), runner.wait()
    assert isinstance(first, Compiled)
    assert isinstance(second, Compiled)
    assert [first.status, second.status] == [Status.OK, Status.OK]
    assert [first.kernels, second.kernels] == [2, 0]


def test_what_does_not_fit_the_gpu_is_out_with_its_figures(runner: LiveRunner) -> None:
    runner.submit(CompileJob(HUGE, 0, False))
    event = runner.wait()
    assert isinstance(event, Compiled)
    assert event.status is Status.CONSTRAINTS
    assert event.message.startswith("shared memory: expected at most 232448 bytes, found ")


def test_sglangs_binaries_are_those_of_its_launches(subject: Subject) -> None:
    """Few rows let the next launch start at once, more only at the stores: up has a row a token, down one a pair."""

    def gdc(num_tokens: int) -> list[str]:
        job = subject.compile_job(GOOD, num_tokens, 0, Flavour.SGLANG)
        return [task.problem.gdc for task in kernel_tasks(subject, job)]

    assert [gdc(m) for m in (1, 256, 257, 512, 513, 16384)] == [
        ["early", "early"],
        ["early", "early"],
        ["early", "late"],
        ["early", "late"],
        ["late", "late"],
        ["late", "late"],
    ]
    tasks = kernel_tasks(subject, subject.compile_job(GOOD, 64, 0, Flavour.SGLANG))
    assert {task.kernel.flavour for task in tasks} == {Flavour.SGLANG}


def test_an_entry_for_down_that_uses_descriptors_compiles_on_the_kernel_that_has_them(
    subject: Subject, sglangs_kernel: EngineKernel
) -> None:
    loads = replace(GOOD, BLOCK_SIZE_N=128, USE_TMA=True)
    job = subject.compile_job(loads, 64, 0, Flavour.SGLANG, ALSO_GOOD)
    up, down = (task.problem for task in kernel_tasks(subject, job, sglangs_kernel))
    assert (up.config.BLOCK_SIZE_N, up.descriptors) == (64, Descriptors(sorted_c=True))
    assert (down.config.BLOCK_SIZE_N, down.descriptors) == (128, Descriptors(a=True, b=True))
    with pytest.raises(ValueError, match=r"found \['USE_TMA'\]"):
        kernel_tasks(subject, job)
    both = subject.compile_job(GOOD, 64, 0, Flavour.SGLANG)
    assert {task.kernel.name for task in kernel_tasks(subject, both, sglangs_kernel)} == {"ours"}


def test_its_batch_sizes_are_told_apart_for_that_kernels_code_depends_on_them(subject: Subject) -> None:
    jobs = {subject.compile_job(replace(GOOD, USE_TMA=True), m, 0, Flavour.SGLANG, GOOD) for m in (1, 2, 64, 128)}
    assert len(jobs) == 4
    loads = replace(GOOD, USE_TMA=True)
    ups = [replace(GOOD, GROUP_SIZE_M=size) for size in (1, 64)]
    assert len({subject.compile_job(loads, 64, 0, Flavour.SGLANG, up) for up in ups}) == 1, "size of group: no code"


def test_a_binary_is_compiled_once_for_all_batch_sizes_that_run_it(subject: Subject) -> None:
    def jobs(engine: Flavour) -> set[CompileJob]:
        return {subject.compile_job(GOOD, m, 0, engine) for m in (1, 8, 64, 256, 512, 1024, 4096, 16384)}

    assert len(jobs(Flavour.VLLM)) == 2, "naive and aligned"
    assert len(jobs(Flavour.SGLANG)) == 3
