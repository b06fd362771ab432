"""Commits what a tool wrote and pushes it to a branch of our own, for a pull request. The edge to git.

The token goes to git by the environment: neither its command line nor the checkout's settings ever hold it.
"""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.github.api import ApiError
from tools.github.posts import AUTHOR, one_line
from tools.text import printable

TIMEOUT_S = 300
EMAIL = f"41898282+{AUTHOR}@users.noreply.github.com"


def push(folder: Path, branch: str, message: str, paths: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether there was something to commit below the paths; it is then on origin's branch, and checked out.

    The branch has a folder, as in `verify/…`: main and the like can't be meant, so an older run's may be replaced.
    ApiError: git refuses.
    """
    if not re.fullmatch(r"[a-z][a-z-]*/[A-Za-z0-9][A-Za-z0-9._-]{0,99}", branch) or branch.endswith((".", ".lock")):
        raise ApiError(f"--branch: expected one such as verify/NAME, found {printable(branch)[:80]!r}.")
    one_line(message)
    git = _Git(folder, _with_token(environment))
    if not git.run("status", "--porcelain", "--", *paths):
        return False
    git.run("switch", "--quiet", "--force-create", branch)
    git.run("add", "--", *paths)
    git.run("commit", "--quiet", f"--message={message}")
    git.run("push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{branch}")
    return True


class _Git:
    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, dict(environment)

    def run(self, *arguments: str) -> str:
        command = ["git", "-c", f"user.name={AUTHOR}", "-c", f"user.email={EMAIL}", "-c", "core.hooksPath=/dev/null"]
        try:
            answer = subprocess.run(
                [*command, *arguments],
                cwd=self._folder,
                env=self._environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise ApiError(f"git {arguments[0]}: expected it to run, found {type(error).__name__}.") from error
        if answer.returncode:
            reason = printable((answer.stderr or answer.stdout).strip().split("\n")[0])[:200]
            raise ApiError(f"git {arguments[0]}: expected success, found: {reason}")
        return answer.stdout


def _with_token(environment: Mapping[str, str]) -> dict[str, str]:
    """What git reads as http.SERVER/.extraHeader; a remote that is a folder has no use for it."""
    server = environment.get("GITHUB_SERVER_URL", "https://github.com").rstrip("/")
    word = base64.b64encode(f"x-access-token:{environment.get('GITHUB_TOKEN', '')}".encode()).decode()
    kept = {name: value for name, value in environment.items() if name != "GITHUB_TOKEN"}
    return {
        **kept,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{server}/.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: basic {word}",
        "GIT_TERMINAL_PROMPT": "0",
    }
