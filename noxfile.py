# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Every task that a person or CI runs. `nox -l` lists them; what stands after `--` goes to the tool."""

from __future__ import annotations

import shutil
import sys
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


@nox.session
def validate(session: nox.Session) -> None:
    """Prove every tuned file without a GPU."""
    install_group(session, "validate")
    session.run("python", "-m", "tools.validate", *session.posargs)


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
    install_torch_and_triton(session)
    arguments = session.posargs or ["-m", "not slow", "-n", "auto", "--benchmark-disable"]
    session.run("python", "-m", "pytest", *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the directions of imports."""
    install_group(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Time the validator and the loader (pytest-benchmark)."""
    install_group(session, "tests")
    session.run("python", "-m", "pytest", *unless_named("tests/benchmarks"), "-p", "no:xdist", *session.posargs)


@nox.session(default=False)
def tune(session: nox.Session) -> None:
    """Find the best launch configs of a workload, on a GPU: nox -s tune -- --model NAME --tp N."""
    install_group(session, "bench")
    if has_gpu_driver() and "--replay" not in session.posargs:
        install_torch_and_triton(session)
    session.run("python", "-m", "tools.tune", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure tuned files side by side (PATH…), or our kernel beside an engine's own (--workload …), on a GPU."""
    install_group(session, "bench")
    if has_gpu_driver():
        install_torch_and_triton(session)
    session.run("python", "-m", "tools.bench", *session.posargs)


@nox.session(default=False)
def workflows(session: nox.Session) -> None:
    """Lint the GitHub workflows, and run them here with act on stub actions (Linux)."""
    install_group(session, "workflows")
    install_triton(session, SETTINGS["reference-triton"])
    arguments = session.posargs or ["-n", "2"]
    session.run("python", "-m", "pytest", *unless_named("tests/workflows"), "-p", "no:benchmark", *arguments)


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """See whether a release is due, or write its version: nox -s release -- plan --date YYYY-MM-DD."""
    install_group(session, "validate")
    session.run("python", "-m", "tools.release", *session.posargs)


@nox.session(default=False)
def convert(session: nox.Session) -> None:
    """Take over an engine's tuned files: nox -s convert -- PATH --layout vllm --to DIR --attribution WHO."""
    install_group(session, "validate")
    session.run("python", "-m", "tools.convert", *session.posargs)


@nox.session(default=False)
def registry(session: nox.Session) -> None:
    """Say which model explains the E and N of every tuned file."""
    install_group(session, "validate")
    session.run("python", "-m", "tools.registry", *session.posargs)


@nox.session(name="pull-request", default=False)
def pull_request(session: nox.Session) -> None:
    """Say what a pull request changes (diff BASE HEAD), plan what of it a GPU measures (plan …), measure, report."""
    is_measuring = session.posargs[:1] == ["measure"]
    install_group(session, "bench" if is_measuring else "validate")
    if is_measuring:
        install_torch_and_triton(session)
        version, _ = take_option(session.posargs, "--triton", SETTINGS["reference-triton"])
        if version != SETTINGS["reference-triton"]:
            install_triton(session, version)
    session.run("python", "-m", "tools.pull_request", *session.posargs)


@nox.session(default=False)
def github(session: nox.Session) -> None:
    """Ask GitHub what a workflow needs: lookup, comment, issue, push, pull. Needs nothing beside nox itself."""
    session.run("python", "-m", "tools.github", *session.posargs)


@nox.session(default=False)
def nightly(session: nox.Session) -> None:
    """Choose the tuned files that are measured tonight (sample …), or say which figures no longer hold (drift …)."""
    install_group(session, "validate")
    session.run("python", "-m", "tools.nightly", *session.posargs)


@nox.session(default=False)
def canary(session: nox.Session) -> None:
    """Read what we export with the engines' own code: vllm=WHEEL sglang=WHEEL --out FILE. Runs code of the wheels."""
    install_group(session, "validate")
    session.run("python", "-m", "tools.canary", *session.posargs)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build the wheel and the source archive into dist/."""
    install_group(session, "build")
    session.run("python", "-m", "build", "--no-isolation", *session.posargs)


def install_group(session: nox.Session, group: str) -> None:
    """Installs a dependency group of pyproject.toml; with `nox --no-venv`, uses what is installed."""
    if sys.version_info < (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        session.error(f"expected Python 3.11 or newer for the tools, found {found}. Fix: remove .venv, run ./nox again")
    if session.venv_backend != "none":
        session.install(*nox.project.dependency_groups(PYPROJECT, group))


def install_torch_and_triton(session: nox.Session) -> None:
    """Installs torch, and the reference Triton over whatever torch pins. Triton has Linux wheels only."""
    if session.venv_backend != "none" and sys.platform == "linux":
        session.install(SETTINGS["torch"], "numpy")
        install_triton(session, SETTINGS["reference-triton"])


def has_gpu_driver() -> bool:
    """NVIDIA's or AMD's. Without one, tuner and bench say so at once, not after gigabytes of torch."""
    return shutil.which("nvidia-smi") is not None or Path("/dev/kfd").exists()


def install_triton(session: nox.Session, version: str) -> None:
    """Installs one version of Triton by itself, without the dependencies that torch would have it bring."""
    if session.venv_backend != "none":
        session.install("--no-deps", f"triton=={version}")


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
