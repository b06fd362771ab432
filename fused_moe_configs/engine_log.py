"""Which tuned files a server's log says that vLLM or SGLang read, and which they looked for in vain.

What is recognised is a file's name (E=…,N=…,device_name=….json) behind «config file not found at» or «config from»,
«configuration from», which every wording has had since the engines log it (vLLM 0.6 to 0.33, SGLang 0.4 to 0.5.23):
lists in brackets, several places after another, SGLang's fallback to another Triton's folder and its `_down` files.
What stands before and around it, such as a process, a colour, a container's name or JSON quotes, is no matter.

Pure: bytes in, what they say out. Memory stays the same however long the log or a line of it is.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping

from .lookup import is_down
from .serving import parallel_text

MOST_FILES = 1000
"""A server reads a handful. What a log names beyond this is counted and not kept."""
MOST_PLACES = 8
_LONGEST_PATH = 4096
_LONGEST_LINE = 2**16
_OVERLAP = 2**14  # of the pieces of a longer line: what is recognised is shorter
_COLOUR = re.compile(r"(?:\x1b|\\u001b|\\x1b)\[[0-9;?]*[A-Za-z]")
_TOLD = re.compile(
    r"(?P<missed>config file not found at )|(?P<read>\bconfig(?:uration)? from )"
    r"|(?P<name>\bE=\d{1,9},N=\d{1,9},device_name=[^/\\\n\"']{1,300}?\.json)",
    re.ASCII | re.IGNORECASE,
)
_NEXT_PLACE = re.compile(r"['\"]?, ?['\"]?(?=[/.~\w])")
_OF_SGLANG = re.compile(r"MoE kernel config|Down MoE config|[/\\]sglang[/\\]|[/\\]configs[/\\]triton_\d", re.I)
_OTHER_KERNELS = {
    "FlyDSL MoE config": "FlyDSL",
    "SSM config from": "Mamba",
    "Mamba SSU config": "Mamba",
    "LoRA kernel config": "LoRA",
    "Block FP8 kernel": "linear layers",
    "Block INT8 kernel": "linear layers",
}
_BACKEND = re.compile(r"Using ([\w' ]{1,60}?) MoE backend")
_VLLM = re.compile(r"LLM engine \(v([\w.+-]{1,40})\) with config: ")
_SETTING = re.compile(
    r"\b(?P<key>model|model_path|tensor_parallel_size|tp_size|data_parallel_size|ep_size|enable_expert_parallel"
    r"|moe_runner_backend)['\"]?(?:=|: )(?:'(?P<quoted>[^']{1,1000})'|(?P<bare>[^'\",)}\s]{1,40}))"
)
_ENGINE = "LLM engine ("
"""Of a server that another line has started: vLLM's first line, which alone tells of expert parallelism."""
_SETTINGS = (_ENGINE, "non-default args:", "server_args=")
_DETERMINISTIC = "Deterministic inference is enabled, using default MoE"
_SIGNS = ("device_name=", " MoE backend", _DETERMINISTIC, *_SETTINGS, *_OTHER_KERNELS)
"""A line without any of these says nothing here. Plain text, since a server's log is millions of such lines."""


class Server:
    """One server of a log, which may hold several. settings: of its command line, as far as the log has it."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings

    @property
    def model(self) -> str | None:
        return self.settings.get("model_path") or self.settings.get("model")

    @property
    def tp(self) -> int:
        return self._number("tensor_parallel_size", "tp_size")

    @property
    def dp(self) -> int:
        """vLLM's data parallel size."""
        return self._number("data_parallel_size")

    @property
    def ep(self) -> int:
        """vLLM's expert parallelism has no size of its own: it is that of all ranks."""
        if self.settings.get("enable_expert_parallel") == "True":
            return self.tp * self.dp
        return self._number("ep_size")

    def told(self, found: Mapping[str, str], *, starts: bool) -> Server:
        """With what one more line says of it, or another server, which the line starts."""
        return Server(found if starts or "model_path" in self.settings else {**self.settings, **found})

    def _number(self, *keys: str) -> int:
        values = [self.settings[key] for key in keys if key in self.settings]
        return int(values[0]) if values and re.fullmatch(r"[1-9]\d{0,4}", values[0], re.ASCII) else 1

    def __str__(self) -> str:
        """The model and its parallel sizes; empty where the log names no model."""
        return f"{self.model} {parallel_text(self.tp, self.ep)}" if self.model else ""


class LoggedFile:
    """A tuned file that an engine speaks of.

    name: as the engine spells it. server: that asks for it. path: where it was read, as the log says; None while it was
    not. places: where it was looked for in vain. was_read: what the last line about it says.
    """

    def __init__(self, engine: str, name: str, server: Server) -> None:
        self.engine, self.name, self.server = engine, name, server
        self.path: str | None = None
        self.places: list[str] = []
        self.was_read = False

    @property
    def is_down(self) -> bool:
        return is_down(self.name)


class EngineLog:
    """What a log says. server: the last one that it shows starting."""

    def __init__(self) -> None:
        self.bytes = self.lines = self.left_out = 0
        self.files: dict[tuple[str, str], LoggedFile] = {}
        self.backends: dict[str, None] = {}
        self.other_kernels: dict[str, None] = {}
        self.server = Server({})
        self.vllm_version: str | None = None
        self.is_deterministic = False

    def server_of(self, file: LoggedFile) -> Server:
        """The one that asked for the file. Where the log begins after that one's start: the next that it names."""
        return file.server if file.server.model else self.server

    def read(self, chunks: Iterable[bytes]) -> None:
        """Takes in a log, or one part of a rotated one, the oldest first."""
        for text in _pieces(self._counted(chunks)):
            if any(sign in text for sign in _SIGNS):
                for line in re.split(r"[\r\n]+", text):
                    if any(sign in line for sign in _SIGNS):
                        self._take(line)

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        last = b"\n"
        for chunk in chunks:
            self.bytes += len(chunk)
            self.lines += chunk.count(b"\n")
            last = chunk[-1:] or last
            yield chunk
        self.lines += last != b"\n"

    def _take(self, line: str) -> None:
        for sign, kernel in _OTHER_KERNELS.items():
            if sign in line:
                self.other_kernels[kernel] = None
        if len(self.backends) < MOST_PLACES and (match := _BACKEND.search(line)):
            self.backends[match[1].replace("'", "")] = None
        if match := _VLLM.search(line):
            self.vllm_version = match[1]
        if any(sign in line for sign in _SETTINGS):
            found = [(match["key"], match["quoted"] or match["bare"]) for match in _SETTING.finditer(line)]
            # The first of a line counts: a draft model's come later.
            self.server = self.server.told(dict(reversed(found)), starts=_ENGINE not in line)
        self.is_deterministic |= _DETERMINISTIC in line
        for engine, was_read, path in statements(line):
            self._file(engine, was_read, path)

    def _file(self, engine: str, was_read: bool, path: str) -> None:
        name = re.split(r"[/\\]", path)[-1]
        if ",backend=" in name:  # another kernel's file, which shares the folder
            return
        if (engine, name) not in self.files and len(self.files) >= MOST_FILES:
            self.left_out += 1
            return
        file = self.files.setdefault((engine, name), LoggedFile(engine, name, self.server))
        file.was_read, file.server = was_read, self.server
        if was_read:
            file.path = path
        elif path not in file.places and len(file.places) < MOST_PLACES:
            file.places.append(path)


def statements(line: str) -> Iterator[tuple[str, bool, str]]:
    """(engine, whether it was read, path) of each tuned file that the line speaks of, in order."""
    told, start = "", 0
    for match in _TOLD.finditer(line):
        if not match["name"]:
            told, start = str(match.lastgroup), match.end()
            before = line[max(0, match.start() - 60) : match.end()]
            continue
        path = line[start : match.end()].lstrip("[ '\"")
        if told and len(path) <= _LONGEST_PATH:
            yield "sglang" if _OF_SGLANG.search(before + path) else "vllm", told == "read", path
        following = _NEXT_PLACE.match(line, match.end())
        told, start = (told, following.end()) if told == "missed" and following else ("", 0)


def _pieces(chunks: Iterable[bytes]) -> Iterator[str]:
    """The text in whole lines, several at a time. A line too long to keep comes in pieces that overlap.

    Colours are taken out. Bytes that are no UTF-8 are kept, so that a path can be asked for.
    """
    rest, decoder = "", None
    for chunk in chunks:
        if decoder is None:
            is_utf16 = chunk[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            encoding, errors = ("utf-16", "replace") if is_utf16 else ("utf-8", "surrogateescape")
            decoder = codecs.getincrementaldecoder(encoding)(errors)
        text = rest + decoder.decode(chunk)
        end = max(text.rfind("\n"), text.rfind("\r")) + 1
        rest = text[end:]
        if end:
            yield _COLOUR.sub("", text[:end])
        if len(rest) > _LONGEST_LINE:
            yield _COLOUR.sub("", rest)
            rest = rest[-_OVERLAP:]
    if rest:
        yield _COLOUR.sub("", rest)
