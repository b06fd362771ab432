"""`portfolio run`: the GPUs at hand, whatever they are, tune and judge what people need for them, most wanted first."""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tools.checkout import installed_triton, reference_triton
from tools.child_process import usable_cores
from tools.cli import check_folder, path_argument, read_pipe, read_text, say
from tools.errors import UserError, reason_of
from tools.findings import emit
from tools.measure.gpu import VisibleGpu, find_gpus
from tools.portfolio import summary
from tools.portfolio.child import MODULE, JobResult
from tools.portfolio.drive import Driver, LaunchJob, Places, PlannedJob, TimeLimit, launch
from tools.portfolio.engines import EngineAtHand, engine_arguments, engines_at_hand, on_device
from tools.portfolio.jobs import Job, Skip, TunerBudget, down_names, job_of
from tools.portfolio.listing import Folders, add_device_names, items_of, wanted_of
from tools.portfolio.pool import Children, Pool, PoolGpu
from tools.portfolio.progress import Outcome
from tools.portfolio.second_triton import Bench, DefaultFile, SecondTriton, default_files, jobs_of
from tools.portfolio.second_triton import bench as run_bench
from tools.portfolio.status import DeviceStatus
from tools.portfolio.stock import GOOD
from tools.portfolio.wanted import Wanted, WantedList, unplaced
from tools.registry.devices import Device, DeviceRegistry, load_devices
from tools.registry.models import ModelRegistry, load_models
from tools.registry.reading import RegistryError
from tools.registry.sharding import Engine
from tools.store.existing import ExistingError, Place, existing_at
from tools.store.files import version_folder
from tools.store.record import Record
from tools.store.workload import parse_file_name
from tools.text import counted, printable, shown_path
from tools.tune.cluster import NodeJob, NodeResult, on_cluster

MOST_MINUTES = 7 * 24 * 60


@dataclass(frozen=True)
class MachineAtHand:
    """What this machine has; replaced in tests. triton: the version that is installed, None: none."""

    gpus: Callable[[], Sequence[VisibleGpu]] = find_gpus
    cores: Callable[[], int] = usable_cores
    triton: Callable[[], str | None] = installed_triton


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Tunes and judges the wanted names of the GPUs at hand, most wanted first, but those before that only have to "
        "be judged: what is finished is passed over, and a killed run goes on where it was."
    )
    parser.epilog = "Exit 0: every name is finished. 1: something is missing, and is said. 2: bad use, or no GPU."
    add_device_names(parser)
    parser.add_argument("--minutes", type=float, metavar="M", help="take no name that may last longer than this")
    parser.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="vllm or sglang: its package, the folder that holds it or its kernel's file, to judge on and, of sglang, "
        "to try down with USE_TMA on (installed)",
    )
    parser.add_argument(
        "--names",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME|FILE",
        help="these in this order; FILE: one name a line",
    )
    parser.add_argument(
        "--separate-down",
        type=int,
        default=0,
        metavar="N",
        help="try up and down apart for N names that SGLang reads, also of those that are finished: first those where "
        "it ships a faster file than ours, then those of most experts; a _down file stays where a row gains more than "
        "the margin (0). With SGLang's kernel at hand, what is tuned with blocks of 128 x 128 is always tried so",
    )
    parser.add_argument(
        "--time-budget",
        type=float,
        default=TunerBudget.time_budget_s,
        metavar="S",
        help=f"of the tuner, as its own ({TunerBudget.time_budget_s:.0f}); twice that for a name whose search was cut "
        "short",
    )
    parser.add_argument(
        "--second-triton",
        action="store_true",
        help="under another Triton than the reference: bench the default files of the GPUs at hand, note the loss in "
        "their records, and tune again into that version's folder what loses more than the margin",
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="work on a Ray cluster, a name a GPU; with one --device-name")
    parser.add_argument("--collect", type=path_argument, metavar="DIR", help="copy all that is written there as well")


def run(
    options: argparse.Namespace,
    folders: Folders | None = None,
    machine: MachineAtHand | None = None,
    start: LaunchJob | None = None,
    bench: Bench | None = None,
) -> int:
    """Runs `portfolio run`. UserError: bad use, or impossible here."""
    folders, machine = folders or Folders(), machine or MachineAtHand()
    _check(options, folders)
    if options.second_triton:
        return _second(options, folders, machine, start, bench)
    # What is mistyped first, then what this machine lacks, a GPU before what only a machine with one has.
    named, (engines, notes) = _named(options.names), engines_at_hand(engine_arguments(options.engine))
    tell(*notes)
    setup = _set_up(options, folders, machine)
    triton = _checked_triton(machine, on_cluster=bool(options.ray))
    clock = TimeLimit(None if options.minutes is None else 60.0 * options.minutes)
    driver = Driver(
        setup.places, start or functools.partial(launch, setup.children), clock, setup.models, setup.registry
    )
    tasks, states = _tasks(options, named, driver, setup.devices, folders, engines, triton)
    tell(f"{counted(len(tasks), 'name')} to work off on {_described(setup.gpus) or f'the cluster {options.ray}'}")
    pool: Pool[PlannedJob] = Pool(setup.gpus, tell)
    left: list[PlannedJob] = []
    with _ended_with(pool, setup.children):
        if options.ray:
            _on_cluster(options.ray, tasks, driver, setup.devices[0])
        else:
            left = driver.run(tasks, pool)
    return _summary(driver, states, left, is_whole=not setup.strange)


def _second(
    options: argparse.Namespace, folders: Folders, machine: MachineAtHand, start: LaunchJob | None, bench: Bench | None
) -> int:
    """`run --second-triton`."""
    engines, notes = engines_at_hand(engine_arguments(options.engine))
    kernel = engines[Engine.SGLANG].kernel if Engine.SGLANG in engines else None
    setup = _set_up(options, folders, machine)  # a GPU is asked for before what only a machine with one has
    triton = machine.triton()
    if triton is None or version_folder(triton) == version_folder(reference_triton()):
        raise UserError(
            f"--second-triton: expected another Triton than the reference {reference_triton()}, found "
            f"{triton or 'none'}. Fix: install the one to judge the files under."
        )
    files, jobs = dict[str, list[DefaultFile]](), dict[str, Job | Skip]()
    faults = [*setup.strange]
    for device in setup.devices:
        known, skipped = default_files(folders.configs, device, triton)
        tell(*skipped)
        faults += skipped
        files[device.name] = [file for file in known if not file.is_done]
        budget = TunerBudget(options.time_budget)
        jobs |= jobs_of(files[device.name], wanted_of(device, folders), setup.models, budget, kernel)
        tell(f"{device.name}: {counted(len(files[device.name]), 'file')} of {len(known)} to judge under {triton}")
    if kernel is None and any(file.has_down for of_one in files.values() for file in of_one):
        tell(*notes)  # why what hides a `_down` file isn't tuned again
    run = SecondTriton(
        setup.places,
        triton,
        jobs,
        bench or functools.partial(run_bench, setup.children),
        start or functools.partial(launch, setup.children),
    )
    pool: Pool[tuple[DefaultFile, ...]] = Pool(setup.gpus, tell)
    with _ended_with(pool, setup.children):
        missing = run.run(files, pool)
    tell(*missing)
    return 1 if missing or faults else 0


@dataclass(frozen=True)
class _Setup:
    """What both kinds of run work with. devices: those to work for. strange: a line for each GPU that isn't used."""

    registry: DeviceRegistry
    models: ModelRegistry
    devices: Sequence[Device]
    gpus: Sequence[PoolGpu]
    strange: Sequence[str]
    places: Places
    children: Children


def _set_up(options: argparse.Namespace, folders: Folders, machine: MachineAtHand) -> _Setup:
    """Tells what is strange. UserError: a registry is broken, or there is no GPU to work on."""
    registry, models = load_devices(), load_models()
    gpus, strange = ([], []) if options.ray else _gpus(machine, registry, options.device_name)
    tell(*strange)
    devices = [registry.find(options.device_name[0])] if options.ray else dict.fromkeys(gpu.device for gpu in gpus)
    places = Places(folders.configs, folders.progress_of, options.collect, folders.configs.parent)
    return _Setup(registry, models, tuple(devices), gpus, strange, places, Children())


@contextlib.contextmanager
def _ended_with(pool: Pool[Any], children: Children) -> Iterator[None]:
    """Whatever ends the run ends the processes that it started."""
    try:
        yield
    except BaseException:
        pool.stop()
        children.stop()
        raise


def tell(*lines: str) -> None:
    for line in lines:
        say(f"portfolio: {printable(line)}")


def _check(options: argparse.Namespace, folders: Folders) -> None:
    limits = (("--minutes", options.minutes, MOST_MINUTES), ("--time-budget", options.time_budget, 60 * MOST_MINUTES))
    for flag, value, most in limits:
        if value is not None and not 0 < value <= most:
            raise UserError(f"{flag}: expected above 0 and at most {most}, found {value:g}.")
    others = ("--names", options.names), ("--ray", options.ray), ("--minutes", options.minutes)
    for flag, given in (*others, ("--separate-down", options.separate_down)):
        if options.second_triton and given:
            raise UserError(f"--second-triton: expected without {flag}, found both. Fix: leave one out.")
    if options.ray and options.minutes is not None:
        raise UserError("--minutes: expected without --ray, found both. Fix: leave one out; --names takes fewer names.")
    if options.separate_down < 0:
        raise UserError(f"--separate-down: expected 0 or more, found {options.separate_down}.")
    if options.ray and len(options.device_name) != 1:
        found = " ".join(options.device_name) or "none"
        raise UserError(f"--ray: expected one --device-name, the cluster's GPU, found {printable(found)}.")
    if options.collect is not None:
        check_folder(options.collect, "--collect")
        collect, store = options.collect.resolve(), folders.configs.resolve()
        if collect == store.parent or collect.is_relative_to(store):
            raise UserError(f"--collect: expected a folder apart from the store, found {shown_path(options.collect)}.")


def _checked_triton(machine: MachineAtHand, *, on_cluster: bool) -> str:
    """UserError: it isn't the reference's, whose files these are. on_cluster: this machine needs none itself."""
    triton, reference = machine.triton(), reference_triton()
    if triton is None and on_cluster:
        return reference
    if triton is None:
        raise UserError(f"expected Triton {reference}, found none. Fix: run `nox -s portfolio`, which installs it.")
    if version_folder(triton) != version_folder(reference):
        raise UserError(
            f"expected the reference Triton {reference}, found {triton}. Fix: install that one, or see what this one "
            "needs: run --second-triton."
        )
    return triton


def _gpus(machine: MachineAtHand, devices: DeviceRegistry, names: Sequence[str]) -> tuple[list[PoolGpu], list[str]]:
    """(those that are known and asked for, a line for each other). UserError: none is left."""
    wanted = {devices.find(name) for name in names}
    visible = machine.gpus()
    if not visible:
        raise UserError("expected a GPU, found none. Fix: run where there is one; `portfolio next` needs none.")
    known: list[tuple[str, Device]] = []
    faults = []
    for gpu in visible:
        try:
            device = devices.find_measurable(gpu.name)
        except RegistryError as error:
            faults.append(f"GPU {gpu.id} is left out: {error}")
            continue
        if not wanted or device in wanted:
            known.append((gpu.id, device))
    here = {device for _, device in known}
    there = ", ".join(dict.fromkeys(printable(gpu.name) for gpu in visible))
    faults += [
        f"--device-name: expected a GPU of this machine ({there}), found {device.name}. Fix: leave it out, or run there"
        for device in sorted(wanted - here, key=str)
    ]
    if not known:
        raise UserError("; ".join(faults))
    jobs = max(1, machine.cores() // len(known))
    return [PoolGpu(place, device, jobs) for place, device in known], faults


def _tasks(
    options: argparse.Namespace,
    named: Sequence[str],
    driver: Driver,
    devices: Sequence[Device],
    folders: Folders,
    sources: Mapping[Engine, EngineAtHand],
    triton: str,
) -> tuple[list[PlannedJob], list[DeviceStatus]]:
    """(what is to be done, what there is). Names that nothing can be done for are written down at once."""
    budget, tasks, states = TunerBudget(options.time_budget), [], []
    wishes = [wanted_of(device, folders) for device in devices]
    if named:
        wishes = [_chosen(wanted, named, driver.models, folders.configs) for wanted in wishes]
        _check_known(named, wishes)
    for wanted in wishes:
        device = wanted.device
        tell(*wanted.notes)
        down = down_names(items_of(wanted, folders), options.separate_down)
        items, engines = items_of(wanted, folders, down=down), on_device(sources, device, triton)
        states.append(DeviceStatus(device, items, wanted.notes))
        for item in items:
            job = job_of(item, device, engines, budget)
            if isinstance(job, Skip):
                tell(f"{item.name}: skipped: {job.reason}")
                driver.skip(item, job, device)
            elif job is not None:
                tasks.append(PlannedJob(item, job, budget.budget_of(item)))
    return tasks, states


def _check_known(named: Sequence[str], wishes: Sequence[WantedList]) -> None:
    """UserError: a name that isn't among those to be had."""
    known = {wanted.name for each in wishes for wanted in each.names}
    if strangers := [name for name in named if name not in known]:
        raise UserError(
            f"--names: expected files of {', '.join(each.device.name for each in wishes)} that a registered model "
            f"reads, found {printable(strangers[0])!r}. Fix: correct it, or tune it by its sizes: nox -s tune -- --E …"
        )


def _named(arguments: Sequence[str]) -> list[str]:
    """UserError: a file that can't be read."""
    names: list[str] = []
    for argument in arguments:
        if argument.endswith(".json"):
            names.append(argument)
            continue
        if not argument:
            raise UserError("--names: expected a name or a file of names, found an empty text. Fix: leave it out.")
        try:
            piped = read_pipe(Path(argument))
            lines = (read_text(Path(argument)) if piped is None else piped.decode()).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--names: {printable(argument)}: {reason_of(error)}. Fix: a name, or its path.") from error
        names += [name for line in lines if (name := line.partition("#")[0].strip())]
    if strange := [name for name in names if parse_file_name(name).workload is None]:
        raise UserError(
            "--names: expected names of tuned files, as E=8,N=7168,device_name=D.json, found "
            f"{printable(strange[0])!r}. Fix: correct it."
        )
    if arguments and not names:
        given = printable(" ".join(arguments))
        raise UserError(
            f"--names: expected a name a line in {given}, found none. Fix: leave --names out for all names."
        )
    return list(dict.fromkeys(names))


def _chosen(wanted: WantedList, names: Sequence[str], models: ModelRegistry, configs: Path) -> WantedList:
    """Of the device, in the order given; also names that no placement gives, where a model has these sizes."""
    by_name = {each.name: each for each in wanted.names}
    found: list[Wanted] = []
    for name in names:
        workload = parse_file_name(name).workload
        if name in by_name:
            found.append(by_name[name])
        elif workload is not None and workload.device_name in wanted.device.names and not workload.down:
            other = unplaced(workload, models, _record_of(name, configs))
            found += [other] if other is not None and other.name == name else []
    return WantedList(wanted.device, tuple(found))


def _record_of(name: str, configs: Path) -> Record | None:
    """None: there is none that can be read; what is broken is said where the name is looked up."""
    try:
        existing = existing_at(Place(configs, PurePosixPath(name)))
    except ExistingError:
        return None
    return existing.record if existing is not None else None


def _on_cluster(address: str, tasks: Sequence[PlannedJob], driver: Driver, device: Device) -> None:
    by_name = {task.job.name: task for task in tasks}
    jobs = [NodeJob(task.job.name, (task.job.to_text(),), MODULE) for task in tasks]
    started = time.monotonic()
    for done in on_cluster(address, jobs, driver.places.configs) if jobs else ():
        answer = _answer_of(done)
        task = by_name[done.job.title]
        finished = driver.write(task, answer, device, f"ray: {device.name}", answer.seconds)
        tell(f"{task.item.name}: {finished.line.outcome} after {time.monotonic() - started:.0f} s")


def _answer_of(done: NodeResult) -> JobResult:
    """What came of the name, once its files are here: a node that tuned it doesn't know whether they could be."""
    if done.exit_code == 0:
        with contextlib.suppress(ValueError):
            return JobResult.read(done.answer)
    last = (done.log.strip() or "silent").splitlines()[-1]
    return JobResult(Outcome.FAILED, f"exit code {done.exit_code}: {last}")


def _summary(driver: Driver, states: Sequence[DeviceStatus], left: Sequence[PlannedJob], *, is_whole: bool) -> int:
    """Prints what there is now; the exit code."""
    now = {done.item.name: done.item for done in driver.finished}
    updated = [
        DeviceStatus(state.device, tuple(now.get(item.name, item) for item in state.items), state.notes)
        for state in states
    ]
    emit(summary.to_text(updated, driver.finished, [task.item for task in left]))
    if left:
        tell(f"not begun: {counted(len(left), 'name')}. Run it again to go on")
    tell(*summary.totals(driver.finished))
    missing = [item for state in updated for item in state.items if item.standing not in GOOD]
    failed = [done for done in driver.finished if done.line.outcome is Outcome.FAILED]  # to be judged again, say
    return 1 if missing or failed or left or not is_whole else 0


def _described(gpus: Sequence[PoolGpu]) -> str:
    return ", ".join(f"{gpu} ({gpu.device.name}, {gpu.jobs} compiling processes)" for gpu in gpus)
