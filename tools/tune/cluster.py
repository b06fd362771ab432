"""Work on a Ray cluster, one job a GPU: tuning, and what stands on it. The only module that imports ray, if asked to.

Each node needs a checkout of the same commit at the same path, with torch and Triton. What the output folder serves is
carried to every node, since a challenger must beat it; what a node then changes is carried back, and written here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.checkout import CHECKOUT
from tools.errors import UserError
from tools.scratch import Scratch
from tools.store.files import lock, write_file
from tools.store.tiers import REGISTRY
from tools.text import printable, shown_path
from tools.with_parent import bound


@dataclass(frozen=True)
class NodeJob:
    """One workload: the arguments of `python -m MODULE` that name it and say how; `--output DIR` is added."""

    title: str
    arguments: tuple[str, ...]
    module: str = "tools.tune"


@dataclass(frozen=True)
class NodeResult:
    """files: what changed, bytes by path below the output folder, None for what was removed.

    log: what it said, the reason where exit_code is not 0. answer: what it printed.
    """

    job: NodeJob
    exit_code: int
    files: Mapping[str, bytes | None]
    log: str
    answer: str = ""


def tune_on_cluster(
    address: str, jobs: Sequence[NodeJob], output: Path, say: Callable[[str], None], ray: Any = None
) -> int:
    """Runs every job, says how each went as it comes back, and returns the worst exit code. Errors as `on_cluster`."""
    worst = 0
    for done in on_cluster(address, jobs, output, ray):
        worst = max(worst, done.exit_code)
        say(f"{done.job.title}: {_how_it_went(done)}")
    return worst


def on_cluster(address: str, jobs: Sequence[NodeJob], output: Path, ray: Any = None) -> Iterator[NodeResult]:
    """Runs every job, and writes what comes back as it comes. A failed job is one result of several.

    UserError: ray is missing, or no cluster answers.
    """
    ray = ray or _import_ray()
    try:
        ray.init(address=address, log_to_driver=False)
    except Exception as error:  # ray has no common error of its own
        reason = printable(str(error))
        raise UserError(f"--ray {printable(address)}: expected a cluster, found: {reason}") from error
    try:
        remote = ray.remote(num_gpus=1, max_retries=0)(run_here)
        before = ray.put(_files_below(output))
        waiting = {remote.remote(job, before): job for job in jobs}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            yield _taken_over(_result(ray, ready, waiting.pop(ready)), output)
    finally:
        ray.shutdown()


def run_here(job: NodeJob, before: Mapping[str, bytes]) -> NodeResult:
    """On the node: works on a folder of its own that holds these files already."""
    with Scratch("tune-node-") as root:
        for relative, data in before.items():
            write_file(root / relative, data)
        command = [sys.executable, "-m", job.module, *job.arguments, "--output", str(root)]
        answer = subprocess.run(bound(command), capture_output=True, text=True, cwd=CHECKOUT, check=False)
        after = _files_below(root)
    changed: dict[str, bytes | None] = {path: data for path, data in after.items() if before.get(path) != data}
    removed = dict.fromkeys(before.keys() - after.keys())
    files = {**changed, **removed} if answer.returncode == 0 else {}
    return NodeResult(job, answer.returncode, files, answer.stderr, answer.stdout)


def _files_below(folder: Path) -> dict[str, bytes]:
    """Tuned files and records, and the devices' aliases, by which a file may serve; by path below the folder."""
    found = {path.relative_to(folder): path for path in folder.rglob("*.json") if path.is_file()}
    aliases = Path(REGISTRY, "devices.json")
    return {
        key.as_posix(): path.read_bytes() for key, path in found.items() if REGISTRY not in key.parts or key == aliases
    }


def _taken_over(done: NodeResult, output: Path) -> NodeResult:
    """What can't be written here fails one job, not those that still run."""
    try:
        _take_over(done, output)
    except (OSError, UserError) as error:
        return replace(done, exit_code=2, files={}, log=f"can't be written to {shown_path(output)}: {error}")
    return done


def _take_over(done: NodeResult, output: Path) -> None:
    if not done.files:
        return
    with lock(output):
        for relative, data in done.files.items():
            if data is None:
                (output / relative).unlink(missing_ok=True)
            else:
                write_file(output / relative, data)


def _how_it_went(done: NodeResult) -> str:
    if done.exit_code == 0:
        return "tuned"
    last = (done.log.strip() or "no output").splitlines()[-1]
    return f"failed: {printable(last.removeprefix('tune: '))}"


def _result(ray: Any, ready: Any, job: NodeJob) -> NodeResult:
    try:
        done = ray.get(ready)
    except Exception as error:  # a node that died
        return NodeResult(job, 1, {}, f"{type(error).__name__}: {error}")
    assert isinstance(done, NodeResult)
    return done


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError('--ray: expected the package ray, found none. Fix: pip install "ray"') from error
    return ray
