"""How long the loader takes, and what it may take: import 10 ms, import and first look-up 25 ms, cached look-up 2 µs.

Held to these is the processor's time, the best of many runs: one thread does all the work, so that on an idle machine
it is the time that passes, and a busy one doesn't count.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import timeit
from pathlib import Path

import pytest

import fused_moe_configs
from fused_moe_configs import api

ROOT = Path(__file__).resolve().parents[2]
IMPORT_MS, FIRST_LOOK_UP_MS, CACHED_US = 10, 25, 2
WORKLOAD = {"E": 8, "N": 3584, "device_name": "NVIDIA_A100-SXM4-80GB", "triton_version": "3.8.0"}
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)
KEYS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages")
NEW_PROCESS = f"""
import time
start = time.process_time()
import fused_moe_configs
print(time.process_time() - start)
assert len(fused_moe_configs.get_moe_configs(**{WORKLOAD})) == {len(SIZES)}
print(time.process_time() - start)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The shipped folder, with one file."""
    name = fused_moe_configs.get_config_file_name(8, 3584, "NVIDIA_A100-SXM4-80GB")
    (tmp_path / name).write_text(json.dumps({str(size): dict.fromkeys(KEYS, 16) for size in SIZES}, indent=4))
    monkeypatch.setattr(api, "CONFIGS", tmp_path)
    fused_moe_configs.cache_clear()
    yield tmp_path
    fused_moe_configs.cache_clear()


def test_import_and_first_look_up_in_an_empty_process(benchmark, folder, tmp_path_factory):
    """The process measures itself, with bytecode as pip leaves it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode")),
        "VLLM_TUNED_CONFIG_FOLDER": str(folder),
    }

    def start():
        command = [sys.executable, "-c", NEW_PROCESS]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return [float(line) * 1e3 for line in done.stdout.split()]

    def best():
        """Of twenty processes, or of more while what else runs on the core slows all of them."""
        best_ms = [math.inf, math.inf]
        for number in range(100):
            best_ms = list(map(min, best_ms, start()))
            if number >= 19 and best_ms[0] <= IMPORT_MS and best_ms[1] <= FIRST_LOOK_UP_MS:
                break
        return best_ms

    start()  # writes the bytecode
    import_ms, first_ms = benchmark.pedantic(best)
    benchmark.extra_info |= {"import_ms": import_ms, "import_and_first_look_up_ms": first_ms}
    assert import_ms <= IMPORT_MS
    assert first_ms <= FIRST_LOOK_UP_MS


@pytest.mark.usefixtures("folder")
def test_look_up_after_the_cache_was_cleared(benchmark):
    found = benchmark.pedantic(
        fused_moe_configs.get_moe_configs, setup=fused_moe_configs.cache_clear, kwargs=WORKLOAD, rounds=200
    )
    assert list(found) == list(SIZES)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("call", ["get_moe_configs(**WORKLOAD)", "get_config(64, **WORKLOAD)"])
def test_cached_look_up(benchmark, call):
    timer = timeit.Timer(call, timer=time.process_time, globals={**vars(api), "WORKLOAD": WORKLOAD})
    benchmark(timer.timeit, 1000)
    cached_us = min(timer.repeat(20, 1000)) / 1000 * 1e6
    benchmark.extra_info["cached_us"] = cached_us
    assert cached_us <= CACHED_US
