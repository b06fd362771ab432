"""`python -m tools.tune`: tunes a workload on this machine's GPU, or on a recorded landscape."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from tools import store
from tools.console import run
from tools.registry import RegistryError, load_devices, load_models
from tools.tune import session
from tools.tune.cluster import ClusterError, Job, tune_on_cluster
from tools.tune.device import find_gpu
from tools.tune.journal import JournalError
from tools.tune.model import RunnerError
from tools.tune.output import OutputError
from tools.tune.report import Summary, to_json, to_text
from tools.tune.request import Request, RequestError, arguments_of, arguments_of_effort, parse
from tools.tune.subject import ModelSource, Registries, SubjectError, make_subject
from tools.tune.supervisor import DeviceRefused
from tools.tune.tuner import TuneError

IMPOSSIBLE = (RequestError, SubjectError, OutputError, JournalError, DeviceRefused, RegistryError, ClusterError)
ENDED_EARLY = (RunnerError, TuneError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        request = parse(sys.argv[1:] if arguments is None else arguments)
        if request.ray is not None:
            return _on_cluster(request, request.ray)
        summaries = _tune(request)
    except IMPOSSIBLE as error:
        print(f"tune: {error}", file=sys.stderr)
        return 2
    except ENDED_EARLY as error:
        print(f"tune: {error} What was measured is kept: --resume goes on with it.", file=sys.stderr)
        return 1
    if request.as_json:
        documents = [to_json(summary) for summary in summaries]
        print(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(map(to_text, summaries)))
    return 0


def _tune(request: Request) -> list[Summary]:
    if request.files.replay is not None:
        return [session.replay(request, request.files.replay)]
    device_name = find_gpu()
    if device_name is None:
        raise RequestError(
            "expected a GPU, found none. Fix: run where there is one, or see the tuner work on a recorded landscape: "
            "nox -s tune -- --replay tests/tools/tune/landscape.jsonl.gz"
        )
    registries = Registries(load_models(), load_devices())
    # All of them first: a mistyped line of --workloads shouldn't show after an hour.
    subjects = [make_subject(s, device_name, registries, all_shapes=request.all_shapes) for s in request.sources]
    return [session.tune_here(request, subject) for subject in subjects]


def _on_cluster(request: Request, address: str) -> int:
    jobs = [
        Job(f"{source.name} {source.parallel}", (*arguments_of(source), *arguments_of_effort(request)))
        for source in request.sources
        if isinstance(source, ModelSource)
    ]
    output = request.files.output or store.CONFIGS
    return tune_on_cluster(address, jobs, output, lambda line: print(f"tune: {line}", file=sys.stderr, flush=True))


if __name__ == "__main__":
    run(main)
