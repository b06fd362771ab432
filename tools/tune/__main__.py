"""`python -m tools.tune`: tunes a workload on this machine's GPU, or on a recorded landscape."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence

from tools.checkout import CONFIGS
from tools.cli import run, say
from tools.findings import emit
from tools.measure.gpu import find_gpu
from tools.registry.devices import load_devices
from tools.registry.models import load_models
from tools.registry.reading import RegistryError
from tools.store.tiers import version_of_folder
from tools.text import printable, shown_path
from tools.tune import session
from tools.tune.cluster import ClusterError, Job, tune_on_cluster
from tools.tune.destination import find_destination, folder_of_tiers
from tools.tune.journal import JournalError
from tools.tune.model import RunnerError, Subject
from tools.tune.output import OutputError
from tools.tune.report import Summary, to_json, to_text
from tools.tune.request import Request, RequestError, arguments_of, arguments_of_effort, parse
from tools.tune.subject import ModelSource, Registries, SubjectError, make_subject
from tools.tune.supervisor import DeviceRefused
from tools.tune.tuner import TuneError

IMPOSSIBLE = (RequestError, SubjectError, OutputError, JournalError, DeviceRefused, RegistryError, ClusterError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        request = parse(sys.argv[1:] if arguments is None else arguments)
        if request.ray is not None:
            return _on_cluster(request, request.ray)
        if request.files.replay is not None:
            runs = [functools.partial(session.replay, request, request.files.replay)]
        else:
            runs = [functools.partial(session.tune_here, request, subject) for subject in _subjects(request)]
        summaries, code = _tune(request, runs)
    except IMPOSSIBLE as error:
        _say(str(error))
        return 2
    if request.as_json and summaries:
        documents = [to_json(summary) for summary in summaries]
        emit(json.dumps(documents if len(runs) > 1 else documents[0], indent=2))
    elif summaries:
        emit("\n\n".join(map(to_text, summaries)))
    return code


def _subjects(request: Request) -> list[Subject]:
    """All of them first, and where their files go: a mistyped line of --workloads shouldn't show after an hour."""
    device_name = find_gpu()
    if device_name is None:
        raise RequestError(
            "expected a GPU, found none. Fix: run where there is one, or see the tuner work on a recorded landscape: "
            "nox -s tune -- --replay tests/tools/tune/landscape.jsonl.gz"
        )
    registries, origin = Registries(load_models(), load_devices()), session.origin_here()
    subjects = []
    for source in request.sources:
        try:
            subjects.append(make_subject(source, device_name, registries, all_shapes=request.all_shapes))
        except SubjectError as error:
            where = source.where if isinstance(source, ModelSource) else ""
            raise SubjectError(f"{where}: {error}" if where else str(error)) from error
    for subject in subjects:
        find_destination(request, subject, origin)
    return subjects


def _tune(request: Request, runs: Sequence[Callable[[], Summary]]) -> tuple[list[Summary], int]:
    """(what was tuned, exit code). A workload that can't be tuned is told, and the others go on."""
    summaries: list[Summary] = []
    code = 0
    for run_one in runs:
        try:
            summaries.append(run_one())
        except IMPOSSIBLE as error:
            code = 2
            _say(str(error))
        except (RunnerError, TuneError) as error:
            code = max(code, 1)
            way_on = "" if request.files.replay else " What was measured is kept: --resume goes on with it."
            _say(f"{error}{way_on}")
            if isinstance(error, RunnerError):
                break
    return summaries, code


def _say(line: str) -> None:
    # A name from the command line, or a message from a landscape, may hold anything.
    say(f"tune: {printable(line)}")


def _on_cluster(request: Request, address: str) -> int:
    jobs = [
        Job(f"{source.name} {source.parallel}", (*arguments_of(source), *arguments_of_effort(request)))
        for source in request.sources
        if isinstance(source, ModelSource)
    ]
    output = folder_of_tiers(request.files.output)
    if version_of_folder(output.name) is not None:
        raise RequestError(f"--output: expected the folder above {shown_path(output)} with --ray: nodes name tiers.")
    if request.is_partial and output == CONFIGS.resolve():
        # Which file they are rows of shows on the node.
        raise RequestError("--num-tokens: expected --output DIR outside configs/ with --ray, found none.")
    return tune_on_cluster(address, jobs, output, _say)


if __name__ == "__main__":
    run(main, "tune")
