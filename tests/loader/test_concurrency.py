"""Many readers, and a writer that replaces the file: whole files only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import fused_moe_configs
from fused_moe_configs._read import read_config

from .conftest import ENTRY

NAME = "E=8,N=1,device_name=D.json"


READER = """
import sys
from fused_moe_configs._read import read_config
for _ in range(100):
    marks = {entry["num_warps"] for entry in read_config(sys.argv[1]).values()}
    assert len(marks) == 1, marks
"""


def uniform(path):
    """Whether each of many readings saw one whole file."""
    return all(len({entry["num_warps"] for entry in read_config(path).values()}) == 1 for _ in range(50))


def document(mark):
    return json.dumps({str(size): ENTRY | {"num_warps": mark} for size in range(1, 60)}).encode()


def test_readers_in_threads_and_processes_see_whole_files_while_a_writer_replaces_them(store):
    path = store.write(NAME, document(1))
    stop = threading.Event()

    def write():
        mark = 1
        while not stop.is_set():
            mark += 1
            temporary = store.write("temporary", document(mark))
            os.replace(temporary, path)  # noqa: PTH105

    writer = threading.Thread(target=write)
    writer.start()
    try:
        processes = [subprocess.Popen([sys.executable, "-c", READER, path]) for _ in range(2)]
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(uniform, [str(path)] * 4))
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        stop.set()
        writer.join()


def test_threads_share_one_result_and_one_message(store, caplog):
    store.write(NAME, document(1))
    barrier = threading.Barrier(8)

    def look_up(N):
        barrier.wait()
        return fused_moe_configs.get_moe_configs(8, N, device_name="D", triton_version="3.8.0")

    with ThreadPoolExecutor(8) as threads:
        assert len({id(found) for found in threads.map(look_up, [1] * 8)}) == 1
        assert set(threads.map(look_up, [2] * 8)) == {None}
    assert len(caplog.records) == 1
