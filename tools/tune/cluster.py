"""Tunes many workloads on a Ray cluster, one a GPU. The only module that imports ray, and only when it is asked to.

Each node needs a checkout of the same commit at the same path, with torch and Triton. What a node writes is carried
back, and written here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import store


class ClusterError(ValueError):
    """No cluster to tune on. One line for a person."""


@dataclass(frozen=True)
class Job:
    """One workload: the arguments of `python -m tools.tune` that name it and say how."""

    title: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """files: bytes by path below the output folder. log: what it said, the reason where exit_code is not 0."""

    job: Job
    exit_code: int
    files: dict[str, bytes]
    log: str


def tune_on_cluster(
    address: str, jobs: Sequence[Job], output: Path, say: Callable[[str], None], ray: Any = None
) -> int:
    """Runs every job, writes what comes back as it comes, and returns the worst exit code.

    ClusterError: ray is missing, or no cluster answers. A job that fails is told, and the others go on.
    """
    ray = ray or _import_ray()
    try:
        ray.init(address=address, log_to_driver=False)
    except Exception as error:  # ray has no common error of its own
        raise ClusterError(f"--ray {store.printable(address)}: expected a cluster, found: {error}") from error
    try:
        remote = ray.remote(num_gpus=1, max_retries=0)(run_here)
        waiting = {remote.remote(job): job for job in jobs}
        worst = 0
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            done = _result(ray, ready, waiting.pop(ready))
            worst = max(worst, done.exit_code)
            for relative, data in done.files.items():
                store.write(output / relative, data)
            how = "tuned" if done.exit_code == 0 else f"failed: {done.log.strip().splitlines()[-1:] or ['no output']}"
            say(f"{done.job.title}: {how}")
        return worst
    finally:
        ray.shutdown()


def run_here(job: Job) -> Done:
    """On the node: tunes into a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tools.tune", *job.arguments, "--output", folder]
        answer = subprocess.run(command, capture_output=True, text=True, cwd=store.CHECKOUT, check=False)
        paths = [path for path in Path(folder).rglob("*.json") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return Done(job, answer.returncode, files if answer.returncode == 0 else {}, answer.stderr)


def _result(ray: Any, ready: Any, job: Job) -> Done:
    try:
        done = ray.get(ready)
    except Exception as error:  # a node that died
        return Done(job, 1, {}, f"{type(error).__name__}: {error}")
    assert isinstance(done, Done)
    return done


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ClusterError('--ray: expected the package ray, found none. Fix: pip install "ray"') from error
    return ray
