"""fused-moe-configs doctor --engine-log: what a server's log says of tuned files, and what answers each miss."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import json
import lzma
import os
import re
import shlex
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fused_moe_configs.api import where
from fused_moe_configs.engine_log import EngineLog, LoggedFile, Server
from fused_moe_configs.exporting.destination import MANIFEST_MAX_BYTES
from fused_moe_configs.index import indexed
from fused_moe_configs.lookup import Chain, ConfigError, counted, exists, printable, read_json, up_of
from fused_moe_configs.naming import MANIFEST, ParsedFileName, parse
from fused_moe_configs.next_step import (
    MOE_CONFIGS,
    UNTUNED_DTYPES,
    export_to,
    parallel_flags,
    quantisation_flags,
    set_variable,
    tune_command,
)
from fused_moe_configs.registry import ServingError, find_model

from .console import show
from .of_model import AskedModel, serving_here

STDIN = "-"
CHUNK_BYTES = 2**16
PACKED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
ZSTANDARD = b"\x28\xb5\x2f\xfd"
SIGNS_OF_PACKAGE = re.compile(r"[/\\](vllm[/\\]model_executor|sglang[/\\]srt)[/\\]")
WHOSE = {
    "ours": "written by fused-moe-configs export",
    "copied": "the engine's own, copied by fused-moe-configs export --overlay",
    "engine": "the engine's own",
    "other": "a folder that no export of ours wrote",
    "unknown": "a folder that is not on this machine (doctor says there whose it is)",
}


class AnsweredFile(NamedTuple):
    """A tuned file that the engine asked for.

    status: "read", "missed", or "shared" for a `_down` file whose up file serves both projections. path: where it was
    read. whose: a key of WHOSE. places: where it was looked for in vain. here: this repository's file for the workload,
    below configs/. commands: what answers it. note: what else is to be said, in a sentence.
    """

    engine: str
    file: str
    status: str
    path: str | None
    whose: str | None
    places: tuple[str, ...]
    here: str | None
    commands: tuple[str, ...]
    note: str | None


def run(logs: list[str], output: str, triton_version: str | None) -> int:
    """0: every file that the log asks for was read. 1: some were missed, or it speaks of none.

    ValueError: a log can't be read.
    """
    log, notes = EngineLog(), list[str]()
    for name in sorted(logs, key=_age):
        log.read(_chunks(name, notes))
    verdicts = [_answered(file, log, triton_version) for file in log.files.values()]
    notes += _notes(log, verdicts) if log.bytes or not notes else []
    if output == "json":
        show(json.dumps(_json(log, verdicts, notes), indent=4, ensure_ascii=True))
    else:
        show(*_text(log, verdicts), *notes)
    return 0 if verdicts and all(verdict.status != "missed" for verdict in verdicts) else 1


# ---------------------------------------------------------------
# Reading


def _age(name: str) -> float:
    """So that the parts of a rotated log are read oldest first, and what is still being written last."""
    try:
        return float("inf") if name == STDIN else Path(name).stat().st_mtime
    except OSError:
        return 0.0


def _chunks(name: str, notes: list[str]) -> Iterator[bytes]:
    """The log's bytes, unpacked. ValueError: it can't be read, or is packed in a way that Python can't undo."""
    place = "standard input" if name == STDIN else printable(name)
    if name == STDIN and sys.stdin is None:
        raise ValueError("--engine-log: expected a log on standard input, found it closed. Fix: pipe one into it")
    try:
        with sys.stdin.buffer if name == STDIN else Path(name).open("rb") as file:
            stream = _unpacked(file, place)
            while chunk := stream.read1(CHUNK_BYTES):
                yield chunk
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # without a number it is bz2's or gzip's
            wish = f"--engine-log: expected a server's log, found {place}, which can't be read: {error.strerror}"
            raise ValueError(f"{wish}. Fix: name a file that you may read, or - for standard input") from error
        reason = printable(str(error).rstrip("."))
        notes.append(f"{place}: its packed data end or break in the middle ({reason}): what stands before counts")


def _unpacked(file: Any, place: str) -> Any:
    """The file, or what it holds packed: an object with read1."""
    start = file.peek(8)[:8]
    if start.startswith(ZSTANDARD):
        fix = "Fix: unpack it on the way: zstdcat FILE | fused-moe-configs doctor --engine-log -"
        raise ValueError(f"--engine-log: expected text, gzip, bzip2 or xz, found Zstandard in {place}. {fix}")
    for magic, opened in PACKED.items():
        if start.startswith(magic):
            return opened(file)
    return file


# ---------------------------------------------------------------
# Judging


def _answered(file: LoggedFile, log: EngineLog, triton_version: str | None) -> AnsweredFile:
    asked = parse(file.name, file.engine)
    version = _triton_of(file) or triton_version
    chain = Chain(where())
    winner = chain.look_up(asked.file_name, chain.tiers(version))[0].winner if asked else None
    here = winner.relative_to(where()).as_posix() if winner else None
    if file.was_read:
        whose = _whose(file, bool(here))
        # What another hand wrote is never replaced by an export.
        commands = _export(file, winner) if here and whose == "engine" else ()
        note = _on_reading(file, here, whose)
        return AnsweredFile(file.engine, file.name, "read", file.path, whose, tuple(file.places), here, commands, note)
    up = log.files.get((file.engine, up_of(file.name)))
    if file.is_down and up:
        note = (
            "its up file serves both projections" if up.was_read else "answered with its up file, which is missed too"
        )
        return AnsweredFile(file.engine, file.name, "shared", None, None, tuple(file.places), None, (), note)
    commands, missing = (_export(file, winner), None) if here else _tune(asked, file.engine, log.server_of(file))
    return AnsweredFile(file.engine, file.name, "missed", None, None, tuple(file.places), here, commands, missing)


def _triton_of(file: LoggedFile) -> str | None:
    """The Triton that the engine runs: SGLang looks first into its folder."""
    return _triton_in((file.places or [file.path or ""])[0])


def _triton_in(path: str) -> str | None:
    found = re.search(r"[/\\]triton_(\d{1,9}_\d{1,9}_\d{1,9})[/\\]", path, re.ASCII)
    return found[1].replace("_", ".") if found else None


def _whose(file: LoggedFile, is_here: bool) -> str:
    path = Path(file.path or "")
    folder = _root(file, path)
    try:
        if exists(folder / MANIFEST):
            exported = dict(read_json(folder / MANIFEST, MANIFEST_MAX_BYTES)[1])
            if path.relative_to(folder).as_posix() in dict(exported.get(file.engine, ())):
                return "ours" if is_here else "copied"
    except (ConfigError, TypeError, ValueError):  # no manifest of an export, then
        pass
    if SIGNS_OF_PACKAGE.search(str(path)):
        return "engine"
    return "other" if os.path.isdir(folder) else "unknown"  # noqa: PTH112 (never raises)


def _root(file: LoggedFile, path: Path) -> Path:
    """What the engine's variable names: SGLang's files lie in configs/triton_X_Y_Z/ below it."""
    return path.parents[2] if file.engine == "sglang" and len(path.parents) > 2 else path.parent


def _on_reading(file: LoggedFile, here: str | None, whose: str) -> str | None:
    lines = []
    runs, read_for = _triton_of(file), _triton_in(file.path or "")
    if runs != read_for:
        lines.append(f"it is for Triton {read_for}; the engine runs {runs}")
    elif file.places:
        lines.append("elsewhere in the log it was missed")
    if here and whose in ("engine", "copied", "other"):
        lines.append(f"this package has one for it too: {here}{_gain(here, file.engine)}")
    return "; ".join(lines) or None


def _gain(here: str, engine: str) -> str:
    measured = {entry.file: entry.gain(engine) for entry in indexed(where()) if engine in entry.ratios}
    return f" ({measured[here]} over no file)" if here in measured else ""


def _export(file: LoggedFile, winner: Path | None) -> tuple[str, ...]:
    """The lines that give the engine this file."""
    places = [place for place in (*file.places, file.path or "") if place]
    # A log may be anybody's: what stands in a line to be typed is quoted, and printable.
    own = [place for place in places if place.isprintable() and not SIGNS_OF_PACKAGE.search(place)]
    if own:
        return (export_to(shlex.quote(str(_root(file, Path(own[0])))), file.engine, winner),)
    overlay = None
    if file.engine == "sglang" and places[0].isprintable():
        overlay = shlex.quote(str(_root(file, Path(places[0])) / "configs"))
    return export_to(MOE_CONFIGS, file.engine, winner, overlay=overlay), set_variable(file.engine)


def _tune(asked: ParsedFileName | None, engine: str, server: Server) -> tuple[tuple[str, ...], str | None]:
    """The line that makes the file that was asked for, and what is missing to it."""
    if asked is None:
        return (), "no file of this repository can have this name: ask in an issue"
    if asked.dtype in UNTUNED_DTYPES:
        return (), f"not tuned here: another kernel runs {asked.dtype}"
    note = "the log names no model: take both words from its config.json"
    if server.model and server.model.isprintable():
        try:
            checkpoint = find_model(server.model, where())
        except ServingError:  # the tuner reads it, or says what it needs
            return (tune_command(_unregistered(server), engine),), None
        if flags := _flags_of(server, asked, engine):
            if not checkpoint.gated:
                return (), "not tuned here: experts without a gate"
            return (tune_command(flags, engine),), None
        note = f"{server} doesn't ask for it: take both words from the config.json of the model that does"
    sizes = f"--E {asked.E} --N {asked.N} --K HIDDEN_SIZE --top-k EXPERTS_PER_TOKEN"
    sizes += quantisation_flags(asked.dtype, asked.block_shape, asked.per_channel_quant)
    return (tune_command(sizes),), note


def _unregistered(server: Server) -> str:
    """The tuner's words for a model that the registry lacks: an id, or the folder that its config.json lies in."""
    model = server.model or ""
    is_id = re.fullmatch(r"\w[\w.-]*/[\w.-]+", model, re.ASCII)
    return parallel_flags(
        f"--model {model}" if is_id else f"--config-json {shlex.quote(f'{model}/config.json')}", server.tp, server.ep
    )


def _flags_of(server: Server, asked: ParsedFileName, engine: str) -> str | None:
    """The registered model's flags with which the engine asks for this very file; None: there are none.

    As it is stored, or else quantised while loading to what the name says; split over the tensor parallel ranks, or
    else over all, as vLLM splits experts under data parallelism.
    """
    named = (asked.dtype or "bf16", asked.block_shape, asked.per_channel_quant)
    for tp, quantisation in itertools.product((server.tp, server.tp * server.dp), ((None, None, False), named)):
        model = AskedModel(server.model or "", tp, server.ep, *quantisation)
        with contextlib.suppress(ServingError):
            if serving_here(model, engine, asked.device_name).file == asked._replace(down=False).file_name:
                return model.flags
    return None


# ---------------------------------------------------------------
# Saying


def _notes(log: EngineLog, verdicts: list[AnsweredFile]) -> list[str]:
    notes = []
    if log.left_out:
        notes.append(f"{log.left_out} further lines name more than {len(log.files)} files: left out")
    if log.is_deterministic:
        notes.append("SGLang runs deterministically: it reads no tuned file then")
    if log.other_kernels:
        kernels = ", ".join(sorted(log.other_kernels))
        notes.append(f"the log also speaks of other kernels' files ({kernels}), which this package has none of")
    if any(any(word.startswith("./nox") for word in verdict.commands) for verdict in verdicts):
        notes.append("(./nox: in a clone of the repository, on a machine with this GPU; then export from there)")
    if verdicts:
        return notes
    if not log.bytes:
        return [*notes, "the log is empty. Fix: send the server's stderr to it too, where engines log: 2>&1"]
    notes.append("no line says that a tuned file was read or missed. That is so")
    if log.backends:
        notes.append(f"- where the experts run on another backend, as here: {', '.join(log.backends)}")
    elif backend := log.server.settings.get("moe_runner_backend"):
        notes.append(f"- where the experts run on another backend than triton; here moe_runner_backend is {backend}")
    else:
        notes.append("- where the experts run on another backend than Triton, or the model has none")
    notes.append("- until the server has run its first batch, and in a log of another process or of its start's end")
    notes.append("- of files that were read, where the log level is above INFO")
    return notes


def _servers(log: EngineLog) -> list[Server]:
    """Those that asked for files, or else the one that the log names: each once."""
    servers = [log.server_of(file) for file in log.files.values()] or [log.server]
    return [*{str(server): server for server in servers if server.model}.values()]


def _text(log: EngineLog, verdicts: list[AnsweredFile]) -> list[str]:
    files = f"{counted(len(log.files), 'tuned MoE file')} named in them"
    facts = [counted(log.lines, "line") + f", {files}" * (log.bytes > 0)]
    facts += [f"vLLM {log.vllm_version}"] if log.vllm_version else []
    facts += [printable(server) for server in map(str, _servers(log))]
    lines = ["; ".join(facts)]
    for verdict in verdicts:
        if verdict.status == "shared":
            continue
        lines.append(f"{verdict.status:<6}  {verdict.engine}  {printable(verdict.file)}")
        if verdict.path:
            lines.append(f"        from {printable(verdict.path)}: {WHOSE[verdict.whose or 'unknown']}")
        else:
            lines += [f"        not at {printable(place)}" for place in verdict.places]
            if verdict.here:
                lines.append(f"        this package has {verdict.here}{_gain(verdict.here, verdict.engine)}")
        lines += [f"        {verdict.note}"] if verdict.note else []
    read, missed = (sum(verdict.status == status for verdict in verdicts) for status in ("read", "missed"))
    ours, unknown = (sum(verdict.whose == whose for verdict in verdicts) for whose in ("ours", "unknown"))
    known = f"{ours} of them ours" + f", {unknown} not known whose" * (unknown > 0)
    lines += [f"{read} read, {known}; {missed} missed"] if verdicts else []
    if commands := dict.fromkeys(command for verdict in verdicts for command in verdict.commands):
        lines += ["next, and then start the server again:", *(f"  $ {command}" for command in commands)]
    return lines


def _json(log: EngineLog, verdicts: list[AnsweredFile], notes: list[str]) -> dict[str, Any]:
    return {
        "lines": log.lines,
        "servers": [{"model": server.model, "tp": server.tp, "ep": server.ep} for server in _servers(log)],
        "backends": [*log.backends],
        "files": [verdict._asdict() for verdict in verdicts],
        "notes": notes,
    }
