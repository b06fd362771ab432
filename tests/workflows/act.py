"""Runs the workflow files with act in host mode, offline: actions are stubs, GitHub is a folder and a local server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STUBS = Path(__file__).parent / "stubs"
TIMEOUT_S = 600
"""Only ends what hangs: on a busy machine a release takes over a minute."""
REPOSITORY = "fused-moe-configs/fused-moe-configs"
_USES = re.compile(r"uses: (?P<action>[\w-]+/[\w-]+)@(?P<ref>\S+)")

TOKEN = f"token-of-the-{'workflow'}"
"""Put together here: a test looks for it in every file of the checkout, this one among them."""


@dataclass(frozen=True)
class Annotation:
    """A line beside a file, as a reader of the pull request sees it."""

    level: str
    file: str
    title: str
    message: str


def annotation(raw: str) -> Annotation:
    """`::error file=…,title=…::message`, taken apart as GitHub's runner does it."""
    head, _, message = raw.strip().removeprefix("::").partition("::")
    level, _, rest = head.partition(" ")
    properties = dict(pair.partition("=")[::2] for pair in rest.split(","))
    return Annotation(level, unescaped(properties.get("file", "")), properties.get("title", ""), unescaped(message))


def unescaped(text: str) -> str:
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, character)
    return text


@dataclass(frozen=True)
class Run:
    """What act told of a run, line by line."""

    lines: tuple[Mapping[str, Any], ...]

    @property
    def jobs(self) -> dict[str, str]:
        """Result by job id; a leg of a matrix counts once, a job that was skipped is not there."""
        results: dict[str, str] = {}
        for line in self.lines:
            if "jobResult" in line and results.get(line["jobID"]) != "failure":
                results[line["jobID"]] = line["jobResult"]
        return results

    @property
    def failed_steps(self) -> list[str]:
        """Names of steps that failed, by themselves."""
        return [line["step"] for line in self.lines if line.get("stepResult") == "failure" and line["stage"] == "Main"]

    @property
    def summary(self) -> str:
        return "".join(line["content"] for line in self.lines if line.get("command") == "summary")

    @property
    def annotations(self) -> list[Annotation]:
        """From the raw lines: act loses a property whose value has an equals sign, as all our names have."""
        commands = [line for line in self.lines if line.get("command") in ("error", "warning", "notice")]
        return [annotation(line["raw"]) for line in commands]

    @property
    def log(self) -> str:
        """What the steps printed."""
        return "".join(line["msg"] for line in self.lines if line.get("raw_output"))

    def __str__(self) -> str:
        return "\n".join(line.get("msg", "").rstrip() for line in self.lines)


@dataclass(frozen=True)
class World:
    """One run's surroundings. checkout: the files that act reads; remote: the bare repository that jobs clone."""

    folder: Path
    checkout: Path
    remote: Path
    api_url: str
    compiled: Path

    def act(self, workflow: str, event: str, payload: Mapping[str, Any], *options: str, **environment: str) -> Run:
        """Runs .github/workflows/WORKFLOW.yml on an event. AssertionError: an action has no stub."""
        here = self.folder / f"run-{len(list(self.folder.glob('run-*')))}"
        for folder in ("artifacts", "numbers"):
            (here / folder).mkdir(parents=True)
        (here / "event.json").write_text(json.dumps(payload), "utf-8")
        given = {
            "FAKE_ARTIFACTS": here / "artifacts",
            "FAKE_ATTESTED": here / "attested",
            "FAKE_GH_LOG": here / "gh.log",
            "FAKE_INDEX": here / "index",
            "FAKE_LANDSCAPES": self.folder / "landscapes",
            "FAKE_NUMBERS": here / "numbers",
            "FAKE_PYTHON": sys.executable,
            "FAKE_REMOTE": self.remote,
            "FAKE_RUNNER": "",
            "FAKE_TUNE_LOG": here / "tune.log",
            "GITHUB_API_URL": self.api_url,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PAGER": "cat",
            "PIP_NO_INDEX": "1",
            "TRITON_CACHE_DIR": self.compiled,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **environment,
        }
        path = f"{STUBS / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = [
            *("act", event, "--json", "--workflows", f".github/workflows/{workflow}.yml"),
            *("--eventpath", str(here / "event.json")),
            *("--platform", "ubuntu-24.04=-self-hosted", "--platform", "self-hosted=-self-hosted"),
            *("--no-skip-checkout", "--no-cache-server", "--action-offline-mode"),
            *("--action-cache-path", str(here / "cache")),
            *("--secret", f"GITHUB_TOKEN={TOKEN}", "--secret", f"BOT_PRIVATE_KEY=key-of-the-{'app'}"),
            *(part for action, stub in stubs(self.checkout) for part in ("--local-repository", f"{action}={stub}")),
            *(part for name, value in given.items() for part in ("--env", f"{name}={value}")),
            *options,
        ]
        result = subprocess.run(
            command,
            cwd=self.checkout,
            env={"PATH": path, "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        lines = tuple(json.loads(line) for line in result.stdout.splitlines() if line.startswith("{"))
        run = Run(lines)
        # act fails without a word for a job where the file itself is at fault
        assert run.jobs or result.returncode == 0, result.stdout + result.stderr
        return run


def stubs(checkout: Path) -> Iterator[tuple[str, Path]]:
    """Each action that the files use, as they pin it, with its stub."""
    files: Sequence[Path] = sorted((checkout / ".github").rglob("*.yml"))
    found = {match.group("action", "ref") for file in files for match in _USES.finditer(file.read_text("utf-8"))}
    for action, ref in sorted(found):
        stub = STUBS / action
        assert (stub / "action.yml").is_file(), f"{action}: expected a stub in {STUBS}, found none"
        yield f"{action}@{ref}", stub
