"""The child process that runs an engine's code: a time limit, an environment without anybody's secrets, no output."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.canary.answers import LAST_TOKEN
from tools.canary.cut import Cut
from tools.canary.engines import EngineLookup
from tools.canary.questions import Question
from tools.store.workload import Layout

CHILD = Path(__file__).with_name("child.py")


class ProcessError(RuntimeError):
    """The child gave no answers. One line that says how it ended."""


@dataclass(frozen=True)
class EngineSetting:
    """Questions that share what the engine sees around it: its folder, Triton and GPU."""

    folder: Path
    triton_version: str
    driver_name: str
    questions: tuple[Question, ...]


def settings(folder: Path, questions: Sequence[Question]) -> list[EngineSetting]:
    """The questions to one exported folder, grouped."""
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.triton_version, question.driver_name), []).append(question)
    return [EngineSetting(folder, version, driver, tuple(group)) for (version, driver), group in groups.items()]


def ask(
    engine: EngineLookup, code: Cut, asked: Sequence[EngineSetting], scratch: Path, timeout_s: float
) -> list[list[Any]]:
    """The answers as the child wrote them, a list for each setting. ProcessError: none, or not in time."""
    scratch.mkdir(parents=True, exist_ok=True)
    request, answers = scratch / "request.json", scratch / "answers.json"
    document = {
        "engine": engine.name,
        "source": code.text,
        "last_token": LAST_TOKEN,
        "settings": [_setting(engine, setting) for setting in asked],
    }
    request.write_text(json.dumps(document), "utf-8")
    _run([sys.executable, "-I", str(CHILD), str(request), str(answers)], scratch, timeout_s)
    try:
        found = json.loads(answers.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ProcessError(f"expected answers of the engine's code, found none that can be read ({error})") from error
    expected = [len(setting.questions) for setting in asked]
    if not isinstance(found, list) or [len(each) if isinstance(each, list) else -1 for each in found] != expected:
        raise ProcessError("expected an answer of the engine's code to each question, found another number of them")
    return found


def _setting(engine: EngineLookup, setting: EngineSetting) -> Mapping[str, Any]:
    return {
        "folder": str(setting.folder),
        "triton_version": setting.triton_version,
        "driver_name": setting.driver_name,
        "questions": [_question(engine, question) for question in setting.questions],
    }


def _question(engine: EngineLookup, question: Question) -> Mapping[str, Any]:
    workload = question.workload
    halved = engine.layout is Layout.SGLANG and workload.dtype == "int4_w4a16"
    return {
        "E": workload.E,
        "N": workload.N // 2 if halved else workload.N,
        "dtype": workload.dtype,
        "block_shape": workload.block_shape,
        "per_channel_quant": workload.per_channel_quant,
    }


def _run(command: Sequence[str], folder: Path, timeout_s: float) -> None:
    # PATH alone: the engine's code has no business with the rest, least of all with a token.
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    log = folder / "output.txt"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ProcessError(f"expected answers within {timeout_s:g} s, found the engine's code at work") from error
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # with all that it started
            child.wait()
    if code:
        with log.open("rb") as output:
            output.seek(max(0, log.stat().st_size - 300))
            last = output.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        raise ProcessError(f"expected answers of the engine's code, found its process ended ({ended}): {last}")
