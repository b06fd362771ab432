# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Every task that a person or CI runs. `nox -l` lists them; what stands after `--` goes to the tool."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.2.9"
# pip, not uv: its own variables (an index of CPU wheels, a mirror) then work everywhere.
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["validate", "compile", "tests", "lint"]
nox.options.reuse_existing_virtualenvs = True

PYPROJECT: dict[str, Any] = nox.project.load_toml("pyproject.toml")
SETTINGS: dict[str, str] = PYPROJECT["tool"]["fused-moe-configs"]
PYTHONS = nox.project.python_versions(PYPROJECT)
"""Every Python that the wheel claims."""

AMD_DRIVER = Path("/dev/kfd")
ROCM = Path("/opt/rocm")
MAIN = ("upstream/main", "origin/main", "main")
"""What a pull request is compared with: the first of these that is there."""

LOCKS = Path("locks")
"""One file a dependency group that CI installs beside a token or builds with: versions and hashes, no addresses.

They are for one Python on one platform, whose wheels the hashes are of. Not for PyTorch, whose CPU builds have others.
"""

LOCKED_PYTHON = (3, 11)
LOCKED_PLATFORM = "Python 3.11 on Linux, x86-64"
LOCKED_GROUPS = ("build", "nox", "site", "validate")
DAYS_OF_REST = 7
"""How old a release must be before a lock takes it: a hijacked one is usually found within days."""

LINTERS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("lint-imports",))

interpreters: dict[str, str] = {}
"""Python of each session that made an environment for others, `python` with --no-venv. nox tells nobody else's."""


@nox.session(name="reader-environment", default=False)
def reader_environment(session: nox.Session) -> None:
    """Make the environment of the sessions that only read files; each of them runs this first."""
    install_group(session, "validate")
    lend(session)


@nox.session(name="gpu-environment", default=False)
def gpu_environment(session: nox.Session) -> None:
    """Make the environment of tune and bench; each of them runs this first. PyTorch only where there is a GPU."""
    install_group(session, "bench")
    if is_for_a_gpu(session):
        install_torch_for_gpu(session)
    lend(session)


@nox.session(venv_backend="none", requires=["reader-environment"])
def validate(session: nox.Session) -> None:
    """Prove every tuned file without a GPU."""
    run_in(session, "reader-environment", "-m", "tools.validate", *session.posargs)


@nox.session(name="compile")
def compile_configs(session: nox.Session) -> None:
    """Prove without a GPU that every launch config compiles and fits its device (--triton X: another Triton)."""
    version, arguments = take_option(session.posargs, "--triton", SETTINGS["reference-triton"])
    install_group(session, "compile")
    install_triton(session, version)
    session.run("python", "-m", "tools.compile", *arguments)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite, without the slow tests where nothing is named (-- -m slow -n auto: those).

    Kernels run under Triton's interpreter where there is no GPU.
    """
    install_group(session, "tests")
    if has_rocm():
        refuse_rocm(session)
    install_torch_and_triton(session)
    arguments = session.posargs or ["-m", "not slow", "-n", "auto", "--benchmark-disable"]
    session.run("python", "-m", "pytest", *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the directions of imports."""
    install_group(session, "lint")
    for command in LINTERS:
        session.run(*command)


@nox.session(default=False)
def ready(session: nox.Session) -> None:
    """Say what the hosted checks will say of this branch as a pull request: ready -- [REVISION of main]."""
    install_group(session, "lint")
    main = session.posargs[0] if session.posargs else find_main(session)
    checks: dict[str, tuple[tuple[str, ...], ...]] = {
        "diff": (("python", "-m", "tools.pull_request", "diff", main, "HEAD"),),
        "validate": (("python", "-m", "tools.validate"),),
        "lint": LINTERS,
    }
    if sys.platform == "linux":  # the only one that Triton has wheels for
        install_triton(session, SETTINGS["reference-triton"])
        checks["compile"] = (("python", "-m", "tools.compile", "--since", main),)
    failed = [name for name, commands in checks.items() if not passes(session, commands)]
    if uncommitted := git("status", "--porcelain"):
        session.warn(f"{len(uncommitted.splitlines())} paths are not committed: a pull request doesn't have them")
    if failed:
        session.error(f"not ready: {', '.join(failed)}, see above")
    session.log(f"ready: {', '.join(checks)} pass. Hosted runners also run: tests (all of them), workflows, wheel")


@nox.session(python=PYTHONS, default=False)
def wheel(session: nox.Session) -> None:
    """Load every shipped file from the built wheel, or from the one in -- FOLDER, with nothing else installed."""
    dist, site = (Path(session.create_tmp()) / name for name in ("dist", "site"))
    for left_over in (dist, site):
        shutil.rmtree(left_over, ignore_errors=True)
    if session.posargs:
        dist = Path(session.posargs[0])
    else:
        install_packages(session, "build")
        session.run("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), silent=True)
    wheels = list(dist.glob("*.whl"))
    if len(wheels) != 1:
        session.error(f"{dist}: expected one wheel in it, found {len(wheels)}. Fix: name the folder of one build")
    pip = ("python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site))
    session.run(*pip, str(wheels[0]))
    # -I and -S: neither this checkout nor the packages that built the wheel are there to import
    session.run("python", "-I", "-S", "tests/packaging/load_everything.py", str(site))


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Time the validator and the loader (pytest-benchmark)."""
    install_group(session, "tests")
    session.run("python", "-m", "pytest", *unless_named("tests/benchmarks"), "-p", "no:xdist", *session.posargs)


@nox.session(venv_backend="none", requires=["gpu-environment"], default=False)
def tune(session: nox.Session) -> None:
    """Find the best launch configs of a workload, on a GPU: nox -s tune -- --model NAME --tp N."""
    run_in(session, "gpu-environment", "-m", "tools.tune", *session.posargs)


@nox.session(venv_backend="none", requires=["gpu-environment"], default=False)
def bench(session: nox.Session) -> None:
    """Measure tuned files side by side (PATH…), or our kernel beside an engine's own (kernels …), on a GPU."""
    run_in(session, "gpu-environment", "-m", "tools.bench", *session.posargs)


@nox.session(venv_backend="none", requires=["gpu-environment"], default=False)
def portfolio(session: nox.Session) -> None:
    """Say which files people need and what is there (status, next), or tune and judge them on the GPUs here (run)."""
    run_in(session, "gpu-environment", "-m", "tools.portfolio", *session.posargs)


@nox.session(default=False)
def workflows(session: nox.Session) -> None:
    """Lint the GitHub workflows, and run them here with act on stub actions (Linux)."""
    install_group(session, "workflows")
    install_triton(session, SETTINGS["reference-triton"])
    arguments = session.posargs or ["-n", "2"]
    session.run("python", "-m", "pytest", *unless_named("tests/workflows"), "-p", "no:benchmark", *arguments)


@nox.session(venv_backend="none", requires=["reader-environment"], default=False)
def release(session: nox.Session) -> None:
    """See whether a release is due, write its version or its data: nox -s release -- plan --date YYYY-MM-DD."""
    run_in(session, "reader-environment", "-m", "tools.release", *session.posargs)


@nox.session(venv_backend="none", requires=["reader-environment"], default=False)
def convert(session: nox.Session) -> None:
    """Take over an engine's tuned files: nox -s convert -- PATH --layout vllm --to DIR --attribution WHO."""
    run_in(session, "reader-environment", "-m", "tools.convert", *session.posargs)


@nox.session(venv_backend="none", requires=["reader-environment"], default=False)
def registry(session: nox.Session) -> None:
    """Say which model explains each file's E and N; -- --model NAME: what runs; -- --citations vllm=WHEEL: still so?"""
    run_in(session, "reader-environment", "-m", "tools.registry", *session.posargs)


@nox.session(name="pull-request", venv_backend="none", requires=["reader-environment"], default=False)
def pull_request(session: nox.Session) -> None:
    """Say what a pull request changes (diff BASE HEAD), plan what of it a GPU measures (plan …), measure, report."""
    if session.posargs[:1] == ["measure"]:
        session.notify("measure")
    else:
        run_in(session, "reader-environment", "-m", "tools.pull_request", *session.posargs)


@nox.session(default=False)
def measure(session: nox.Session) -> None:
    """Measure a plan: what `nox -s pull-request -- measure …` hands on, since that alone of it needs PyTorch."""
    install_group(session, "bench")
    if is_for_a_gpu(session):
        install_torch_for_gpu(session)
        version, _ = take_option(session.posargs, "--triton", SETTINGS["reference-triton"])
        if version != SETTINGS["reference-triton"]:
            install_triton(session, version)
    session.run("python", "-m", "tools.pull_request", *session.posargs)


@nox.session(default=False)
def github(session: nox.Session) -> None:
    """Ask GitHub what a workflow needs: lookup, comment, issue, commit, push, pull. Needs nothing beside nox itself."""
    session.run("python", "-m", "tools.github", *session.posargs)


@nox.session(venv_backend="none", requires=["reader-environment"], default=False)
def nightly(session: nox.Session) -> None:
    """Choose the tuned files that are measured tonight (sample …), or say which figures no longer hold (drift …)."""
    run_in(session, "reader-environment", "-m", "tools.nightly", *session.posargs)


@nox.session(venv_backend="none", requires=["reader-environment"], default=False)
def canary(session: nox.Session) -> None:
    """Read what we export with the engines' own code: vllm=WHEEL sglang=WHEEL --out FILE. Runs code of the wheels."""
    run_in(session, "reader-environment", "-m", "tools.canary", *session.posargs)


@nox.session(default=False)
def site(session: nox.Session) -> None:
    """Build the site: nox -s site -- OUT. Look at it with: python3 -m http.server --directory OUT."""
    install_group(session, "site")
    session.run("python", "-m", "tools.site", *session.posargs)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """Test the site in the Chrome or Chromium that is here ($CHROME: another one)."""
    install_group(session, "browser")
    arguments = session.posargs or ["-n", "2", "--dist", "loadfile", "-p", "no:benchmark"]
    session.run("python", "-m", "pytest", *unless_named("tests/tools/site/browser"), *arguments)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Write locks/ anew from pyproject's groups, with releases that are a week old (Python 3.11 on Linux)."""
    if not is_locked_platform():
        session.error(f"expected {LOCKED_PLATFORM}, found another. Fix: run ./nox -s lock there")
    session.install("pip>=26.1")  # the first that knows how old a release is
    for group in LOCKED_GROUPS:
        report = session.run(
            *("python", "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"),
            *("--only-binary", ":all:", "--uploaded-prior-to", f"P{DAYS_OF_REST}D"),
            *nox.project.dependency_groups(PYPROJECT, group),
            silent=True,
        )
        (LOCKS / f"{group}.txt").write_text(locked(str(report)), "utf-8")


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build the wheel and the source archive into dist/."""
    install_group(session, "build")
    session.run("python", "-m", "build", "--no-isolation", *session.posargs)


def install_group(session: nox.Session, group: str) -> None:
    """Installs a dependency group of pyproject.toml for the tools; with `nox --no-venv`, uses what is installed."""
    if sys.version_info < (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        session.error(f"expected Python 3.11 or newer for the tools, found {found}. Fix: remove .venv, run ./nox again")
    if session.venv_backend != "none" and group in LOCKED_GROUPS and os.environ.get("GITHUB_ACTIONS") == "true":
        install_lock(session, group)
    else:
        install_packages(session, group)


def install_lock(session: nox.Session, group: str) -> None:
    """Installs what the lock of a group names, and nothing else. A person's own `./nox` needs no lock."""
    path = LOCKS / f"{group}.txt"
    if platform.machine() != "x86_64":  # a GPU machine, which holds no token
        session.warn(f"{path} is for {LOCKED_PLATFORM}: installing what pyproject.toml asks for")
        install_packages(session, group)
        return
    if not is_locked_platform():
        session.error(f"{path}: expected {LOCKED_PLATFORM}, found another. Fix: set that Python up in the job")
    session.install("--require-hashes", "--requirement", str(path))


def is_locked_platform() -> bool:
    """Whether the locks' hashes are of the wheels that pip takes here."""
    return sys.version_info[:2] == LOCKED_PYTHON and sys.platform == "linux" and platform.machine() == "x86_64"


def locked(report: str) -> str:
    """A lock from pip's report of what it would install: a line a package, with the hash of its file."""
    packages = [
        (
            re.sub(r"[-_.]+", "-", found["metadata"]["name"]).lower(),
            found["metadata"]["version"],
            found["download_info"],
        )
        for found in json.loads(report)["install"]
    ]
    return "".join(
        f"{name}=={version} --hash=sha256:{download['archive_info']['hashes']['sha256']}\n"
        for name, version, download in sorted(packages, key=lambda package: package[0])
    )


def install_packages(session: nox.Session, group: str) -> None:
    """Installs a dependency group on any Python."""
    if session.venv_backend != "none":
        session.install(*nox.project.dependency_groups(PYPROJECT, group))


def lend(session: nox.Session) -> None:
    """Lets the sessions that require this one run in its environment: nox has one environment a session."""
    interpreters[session.name] = "python" if session.venv_backend == "none" else str(Path(session.bin) / "python")


def run_in(session: nox.Session, owner: str, *arguments: str) -> None:
    """Runs Python in the environment of a session that ran before."""
    session.run(interpreters[owner], *arguments, external=True)


def install_torch_and_triton(session: nox.Session) -> None:
    """Installs torch, and the reference Triton over whatever torch pins. Triton has Linux wheels only."""
    if session.venv_backend != "none" and sys.platform == "linux":
        session.install(SETTINGS["torch"], "numpy")
        install_triton(session, SETTINGS["reference-triton"])


def install_torch_for_gpu(session: nox.Session) -> None:
    """As install_torch_and_triton, where the GPU is NVIDIA's."""
    if not has_nvidia_driver() and AMD_DRIVER.exists():
        refuse_rocm(session)
    install_torch_and_triton(session)


def refuse_rocm(session: nox.Session) -> None:
    """Ends a session that would install torch: the wheels of the package index are for CUDA and for CPUs."""
    if session.venv_backend != "none":
        session.error(
            "expected an NVIDIA GPU or none, found AMD's, for which nox installs no PyTorch. "
            "Fix: activate an environment that has PyTorch for ROCm, and put --no-venv before -s"
        )


def is_for_a_gpu(session: nox.Session) -> bool:
    """Whether torch is of use: without a GPU the tool says so at once, not after gigabytes, and a replay needs none."""
    return "--replay" not in session.posargs and (has_nvidia_driver() or AMD_DRIVER.exists())


def has_nvidia_driver() -> bool:
    """Whether NVIDIA's own tool is there."""
    return shutil.which("nvidia-smi") is not None


def has_rocm() -> bool:
    """Whether AMD's GPU computes here. Its driver alone says little: it also draws the screen of many a laptop."""
    return not has_nvidia_driver() and AMD_DRIVER.exists() and ROCM.is_dir()


def install_triton(session: nox.Session, version: str) -> None:
    """Installs one version of Triton by itself, without the dependencies that torch would have it bring."""
    if session.venv_backend != "none":
        session.install("--no-deps", f"triton=={version}")


def find_main(session: nox.Session) -> str:
    """The revision that a pull request is compared with."""
    found = next((name for name in MAIN if git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")), None)
    if found is None:
        session.error(f"expected one of {', '.join(MAIN)}, found none. Fix: name main's revision after --")
    return found


def git(*arguments: str) -> str:
    """What git prints; nothing where it fails."""
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def passes(session: nox.Session, commands: Iterable[tuple[str, ...]]) -> bool:
    """Runs all of the commands, also after one that failed."""
    failures = 0
    for command in commands:
        try:
            session.run(*command)
        except nox.command.CommandFailed:
            failures += 1
    return failures == 0


def unless_named(folder: str) -> list[str]:
    """For pytest: the tests of this folder, unless a path is given."""
    return ["--override-ini", f"testpaths={folder}"]


def take_option(arguments: list[str], name: str, default: str) -> tuple[str, list[str]]:
    """The value of an option that the session itself takes, and the arguments that are left for the tool."""
    if name not in arguments:
        return default, arguments
    at = arguments.index(name)
    return (arguments[at + 1 : at + 2] or [default])[0], arguments[:at] + arguments[at + 2 :]


if __name__ == "__main__":
    nox.main()
