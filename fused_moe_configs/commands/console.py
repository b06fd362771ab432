"""What the subcommands share: printing so that a failure is the output's own, and arguments that several take."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fused_moe_configs.lookup import DTYPES, shown

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


class StdoutError(Exception):
    """stdout could not be written; its cause is the OSError."""


class _Closed(io.TextIOBase):
    """What stands for a stdout that was closed before the process began: what is written to it was asked for."""

    def write(self, _text: str, /) -> int:
        raise OSError(errno.EBADF, "it is closed")


def open_streams() -> None:
    """Python leaves None for a closed stream, and prints to stdout then what was meant for stderr."""
    sys.stdout, sys.stderr = sys.stdout or _Closed(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")  # for the process's life


def flush_streams() -> None:
    """Nothing is left in a buffer: where Python's own flush at its exit fails, the process would end with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show(*lines: object) -> None:
    """On stdout, at once, so that a failure is stdout's and none of the files'. StdoutError."""
    try:
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)
    except OSError as error:
        raise StdoutError from error


def say(*lines: str) -> None:
    """On stderr. Where it can't be written, the work goes on."""
    with contextlib.suppress(OSError):
        print(*lines, sep="\n", file=sys.stderr, flush=True)


def without_output(error: BaseException | None) -> int:
    """The exit code where stdout could not be written."""
    if isinstance(error, BrokenPipeError):  # the reader has seen enough
        return 0
    found = getattr(error, "strerror", None) or error
    say(f"error: the output: expected to write there, found: {found}. Fix: name another place")
    return 2


class Parser(argparse.ArgumentParser):
    """Prints as the commands do. By itself it lets a failure out up to Python 3.11.3, and swallows it from then on."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            show(message.removesuffix("\n"))
        elif message:
            say(message.removesuffix("\n"))


def machine_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--triton-version", metavar="X", help="such as 3.8.0")
    parser.add_argument("--device-name", metavar="D", help="as the driver reports it")
    return parser


def quantisation_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--dtype", help=f"{', '.join(DTYPES)}; nothing for bf16 and fp16")
    parser.add_argument("--block-shape", type=_block_shape, metavar="n,k")
    parser.add_argument("--per-channel-quant", action="store_true")
    return parser


def workload_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, parents=[quantisation_arguments()])
    parser.add_argument("--down", action="store_true", help="the down projection's own file")
    return parser


def size(text: str) -> int:
    """As argparse has it: an argument that is a number, written with digits alone."""
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    raise argparse.ArgumentTypeError(f"expected an integer such as 8, found {shown(text)}")


def _block_shape(text: str) -> tuple[int, int]:
    if match := re.fullmatch(r"\[?(-?[0-9]{1,18}), ?(-?[0-9]{1,18})\]?", text):
        return int(match[1]), int(match[2])
    raise argparse.ArgumentTypeError(f"expected n,k such as 128,128, found {shown(text)}")
