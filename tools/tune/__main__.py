"""`python -m tools.tune`: tunes a workload on this machine's GPU, or on a recorded landscape."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence

from tools.checkout import CONFIGS
from tools.cli import check_folder, command, run, say
from tools.errors import MachineError, UserError
from tools.findings import emit
from tools.measure.gpu import find_gpu
from tools.registry.devices import DeviceRegistry, load_devices
from tools.registry.models import ModelRegistry, load_models
from tools.registry.sharding import Engine
from tools.store.tiers import version_of_folder
from tools.text import printable, shown_path
from tools.tune import dry_run, session
from tools.tune.cluster import NodeJob, tune_on_cluster
from tools.tune.destination import (
    find_destination,
    folder_of_tiers,
    look_at_destination,
    with_standing_shapes,
)
from tools.tune.dry_run import DryWorkload, look_ahead, title_of
from tools.tune.protocol import RunnerError, Subject
from tools.tune.report import TuneSummary, to_json, to_text
from tools.tune.request import DryRun, TuneRequest, arguments_of, arguments_of_effort, parse
from tools.tune.subject import ModelSource, Source, SubjectError, make_subject, shared_name
from tools.tune.tuner import TuneError


@command("tune")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    request = parse(sys.argv[1:] if arguments is None else arguments)
    if request.dry_run is not None:
        return _look_ahead(request, request.dry_run)
    if request.ray is not None:
        return _on_cluster(request, request.ray)
    if request.files.replay is not None:
        runs = [functools.partial(session.replay, request, request.files.replay)]
    else:
        runs = [functools.partial(session.tune_here, request, subject) for subject in _subjects(request)]
    summaries, code = _tune(request, runs)
    if request.as_json and summaries:
        documents = [to_json(summary) for summary in summaries]
        emit(json.dumps(documents if len(runs) > 1 else documents[0], indent=2))
    elif summaries:
        emit("\n\n".join(map(to_text, summaries)))
    return code


def _subjects(request: TuneRequest) -> list[Subject]:
    """All of them first, and where their files go: a mistyped line of --workloads shouldn't show after an hour."""
    models, devices = _checked(request)
    device_name = find_gpu()
    if device_name is None:
        raise UserError(
            "expected a GPU, found none. Fix: run where there is one, or see the tuner work on a recorded landscape: "
            "nox -s tune -- --replay tests/tools/tune/landscape.jsonl.gz"
        )
    origin = session.origin_here()
    subjects = [
        with_standing_shapes(
            request, _subject(request, each, device_name, models, devices, request.engine), origin.triton, models
        )
        for each in request.sources
    ]
    for note in filter(None, (shared_name(subject, models) for subject in subjects)):
        _say(note)
    for subject in subjects:
        find_destination(request, subject, origin)
    return subjects


def _look_ahead(request: TuneRequest, asked: DryRun) -> int:
    """The dry run. What is wrong with the request is said as without it."""
    models, devices = _checked(request)
    device_name = asked.device_name or find_gpu()
    if device_name is None:
        raise UserError(
            "--dry-run: expected a GPU's name, found no GPU here to ask. Fix: add --device-name, such as "
            "--device-name NVIDIA_H100_80GB_HBM3."
        )
    device = devices.find_measurable(device_name)
    workloads: list[DryWorkload] = []
    notes: list[str] = []
    for source in request.sources:
        tuned = _subject(request, source, device_name, models, devices, request.engine)
        tuned, refused = look_at_destination(request, tuned, models)
        rows, refusals = [], []
        for engine in Engine if request.engine is None else (request.engine,):
            try:
                subject = _subject(request, source, device_name, models, devices, engine)
                subject = tuned if subject.workload == tuned.workload else subject
                rows.append(look_ahead(source, subject, tuned, engine, device, models, request.batch_sizes[-1]))
            except UserError as error:  # the engine that tunes it runs it, so one row there is
                refusals.append(f"{engine}: {error}")
        if not rows:
            raise UserError(refusals[0])
        workloads.append(DryWorkload(title_of(source, tuned), tuple(rows), tuple(refusals), refused))
        notes += session.untried(request, tuned) if refused is None else ()
        notes += filter(None, [shared_name(tuned, models)])
    if request.as_json:
        emit(json.dumps(dry_run.to_json(workloads, notes), indent=2))
    else:
        emit(dry_run.to_text(workloads, notes, device.name))
    return 0 if all(workload.is_good for workload in workloads) else 1


def _checked(request: TuneRequest) -> tuple[ModelRegistry, DeviceRegistry]:
    """The registries, once all that no GPU is asked for is sound."""
    models, devices = load_models(), load_devices()
    _check_output(request)
    session.with_down_kernel(request)
    _check_sources(request, models, devices)
    return models, devices


def _check_output(request: TuneRequest) -> None:
    """As far as no GPU is asked: a mistake shows on the machine where it is made, not on the expensive one."""
    check_folder(folder_of_tiers(request.files.output), "--output")


def _check_sources(request: TuneRequest, models: ModelRegistry, devices: DeviceRegistry) -> None:
    """On any device: what is wrong there is wrong on all."""
    any_other = next(device.name for device in devices if device.vendor == "nvidia" and device.smem_bytes_per_block)
    known: dict[str, Subject] = {}
    for source in request.sources:
        subject = _subject(request, source, any_other, models, devices, request.engine)
        session.with_recorded(request, subject)
        first = known.setdefault(subject.workload.file_name(), subject)
        if {named.shape for named in first.shapes} != {named.shape for named in subject.shapes}:
            one, other = (each.shapes[0].models[0] for each in (first, subject))
            raise UserError(
                f"--workloads: expected one line for a file, found {one} and {other}, which read the same one. "
                "Fix: leave one of them out, and give --all-shapes."
            )


def _subject(
    request: TuneRequest,
    source: Source,
    device_name: str,
    models: ModelRegistry,
    devices: DeviceRegistry,
    engine: Engine | None,
) -> Subject:
    try:
        return make_subject(source, device_name, models, devices, engine=engine, all_shapes=request.all_shapes)
    except SubjectError as error:
        where = source.where if isinstance(source, ModelSource) else ""
        raise SubjectError(f"{where}: {error}" if where else str(error)) from error


def _tune(request: TuneRequest, runs: Sequence[Callable[[], TuneSummary]]) -> tuple[list[TuneSummary], int]:
    """(what was tuned, exit code). The error of a workload that can't be tuned is printed, and the others go on."""
    summaries: list[TuneSummary] = []
    code = 0
    for run_one in runs:
        try:
            summaries.append(run_one())
        except MachineError as error:  # the next workload would fare no better
            code = 2
            _say(f"{error}{_way_on(request)}")
            break
        except session.IncompleteLandscapeError as error:
            code = max(code, 1)
            summaries.append(error.summary)
            _say(str(error))
        except session.NotWrittenError as error:
            code = 2
            summaries.append(error.summary)
            _say(str(error))
        except UserError as error:
            code = 2
            _say(str(error))
        except (RunnerError, TuneError) as error:
            code = max(code, 1)
            _say(f"{error}{_way_on(request)}")
            if isinstance(error, RunnerError):
                break
    return summaries, code


def _way_on(request: TuneRequest) -> str:
    if request.files.replay:
        return ""
    rest = ", and with what comes after; leave out what is finished" if len(request.sources) > 1 else ""
    return f" The measurements are kept: --resume continues with them{rest}."


def _say(line: str) -> None:
    # A name from the command line, or a message from a landscape, may hold anything.
    say(f"tune: {printable(line)}")


def _on_cluster(request: TuneRequest, address: str) -> int:
    _check_output(request)
    _check_sources(request, load_models(), load_devices())
    jobs = [
        NodeJob(f"{source.name} {source.parallel}", (*arguments_of(source), *arguments_of_effort(request)))
        for source in request.sources
        if isinstance(source, ModelSource)
    ]
    output = folder_of_tiers(request.files.output)
    if version_of_folder(output.name) is not None:
        raise UserError(
            f"--output: expected with --ray a folder that holds tiers, found the tier {shown_path(output)}. "
            "Fix: name the folder above it."
        )
    if request.is_partial and output == CONFIGS.resolve():
        # Which file they are rows of shows on the node.
        raise UserError("--num-tokens: expected --output DIR outside configs/ with --ray, found none.")
    return tune_on_cluster(address, jobs, output, _say)


if __name__ == "__main__":
    run(main, "tune")
