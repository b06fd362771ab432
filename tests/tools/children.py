"""What the children of the tests do: each behaves as some worker did. Imported in a fresh process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from tools.child_process import settle


def echo(connection: Connection, log_path: str) -> None:
    """Sends back what it is sent, until its pipe closes."""
    settle(log_path)
    connection.send("ready")
    while True:
        try:
            connection.send(connection.recv())
        except EOFError:
            return


def report(connection: Connection, log_path: str) -> None:
    """Says who it is and what it may."""
    settle(log_path)
    connection.send(
        {
            "group": os.getpgrp(),
            "pid": os.getpid(),
            "core_bytes": resource.getrlimit(resource.RLIMIT_CORE)[0],
            "file_bytes": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
            "interrupt_is_blocked": signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []),
        }
    )


def speak(connection: Connection, log_path: str) -> None:
    """Prints by Python, by the C level's descriptor and by a child of its own."""
    settle(log_path)
    for stream, text in ((sys.stdout, "by Python\n"), (sys.stderr, "in error\n")):
        stream.write(text)
        stream.flush()
    os.write(1, b"by descriptor\n")
    subprocess.run(["echo", "by a child"], check=True)


def flood(connection: Connection, log_path: str) -> None:
    """Writes past the limit of its log."""
    settle(log_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        for _ in range(100):
            os.write(1, b"x" * 100)
    except OSError as error:
        connection.send(type(error).__name__)


def hang(connection: Connection, log_path: str) -> None:
    """Hangs, with a child of its own that would outlive it."""
    settle(log_path)
    connection.send((os.getpid(), subprocess.Popen(["sleep", "600"]).pid))
    time.sleep(600)


def hang_up(connection: Connection, log_path: str) -> None:
    """Hangs behind the end of its pipe, and of all others that it has: as an end does that a driver holds up."""
    settle(log_path)
    connection.send((os.getpid(), subprocess.Popen(["sleep", "600"]).pid))
    os.closerange(3, 1024)
    time.sleep(600)


def end(connection: Connection, how: str) -> None:
    """Ends by an exit code or a signal."""
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)
    raise SystemExit(int(how))


def work(folder: str, _data: bytes) -> None:
    """For a pool: leaves a line in a file that is named for this process, and takes a second."""
    with Path(folder, str(os.getpid())).open("a", encoding="utf-8") as file:
        file.write("begun\n")
    time.sleep(1)
