"""How long a thousand files take, and how much memory: target ≤ 3 s and ≤ 200 MB on two cores.

And files of a megabyte that are nothing but faults: their schema's faults take at most half a second each.

A whole process is measured, as a person starts it. Nothing here fails on time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Store, entry, table
from tools.checkout import CHECKOUT
from tools.store import schemas

pytest.importorskip("pytest_benchmark")

FILES = 1000
DEVICES = ("NVIDIA_H200", "NVIDIA_H100_80GB_HBM3", "NVIDIA_B200", "AMD_Instinct_MI300X")


def validate(root: Path) -> tuple[int, float, dict[str, Any]]:
    """Exit code, peak memory in MB and report of a child process."""
    command = [sys.executable, "-m", "tools.validate", str(root), "--format", "json"]
    child = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    report = json.loads(child.stdout.read())
    child.stdout.close()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return child.returncode, usage.ru_maxrss * unit / 1e6, report


@pytest.fixture
def sound(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for number in range(FILES):
        document = table()
        for rank, num_tokens in enumerate(document):  # no two files alike
            document[num_tokens]["GROUP_SIZE_M"] = 1 + (number >> rank & 1)
        name = f"E={number // len(DEVICES) + 1},N=512,device_name={DEVICES[number % len(DEVICES)]}.json"
        path = store.config(document, name, record=False)
        store.measured(path)
    return store


@pytest.fixture
def broken(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for number in range(FILES):
        name = f"E={number + 1},N=512,device_name=NVIDIA_H{number}_of_some_kind.json"
        store.config(table([2, 16, 8], num_warps=3, BLOCK_SIZE_K="64"), name, record=False)
    return store


@pytest.mark.parametrize(("kind", "exit_code"), [("sound", 0), ("broken", 1)])
def test_a_thousand_files(benchmark: Any, kind: str, exit_code: int, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(kind)
    code, peak_mb, report = benchmark.pedantic(validate, args=(store.root,), rounds=3, warmup_rounds=1)
    benchmark.extra_info["peak_memory_mb"] = round(peak_mb, 1)
    assert (code, report["files"]) == (exit_code, FILES)


HOSTILE: dict[str, Any] = {
    "wrong keys": {f"k{i}": 0 for i in range(80_000)},
    "empty rows": {str(i): {} for i in range(1, 80_000)},
    "unknown keys": {"1": entry(**{f"k{i}": 0 for i in range(80_000)})},
    "a long key of whole floats": {"k" * 500_000: [1.0] * 100_000},
    "a fault behind thousands of rows": {**{str(i): entry() for i in range(1, 8000)}, "8000": entry(num_warps="4")},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_megabyte(benchmark: Any, kind: str) -> None:
    assert benchmark.pedantic(schemas.faults, args=("tuned_config", HOSTILE[kind]), rounds=3, warmup_rounds=1)
