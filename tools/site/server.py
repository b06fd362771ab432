"""What the page «Which file does my server read?» selects from: a JSON document a model, with every answer in it.

Texts stand once, in `texts`; answers hold their places there, -1 for none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fused_moe_configs.naming import ENGINE_NAMES
from fused_moe_configs.next_step import NextStep
from fused_moe_configs.serving import Serving
from tools.registry.models import Model
from tools.site.figures import percent
from tools.site.questions import DeviceAnswer, Row
from tools.store.record import EngineChecked

GPU_FIELDS = (
    "device", "verdict", "reason", "source", "file", "engine_file", "state", "walk", "command", "note", "page", "gain",
    "behind", "notes",
)  # fmt: skip
"""What an answer holds for a GPU, in this order."""


@dataclass
class _Texts:
    """Each text once, by its place."""

    places: dict[str, int] = field(default_factory=dict)

    def __call__(self, text: str | None) -> int:
        return self.places.setdefault(text, len(self.places)) if text else -1


def document(model: Model, rows: Iterable[Row], repository: str) -> dict[str, Any]:
    """model, fields, texts, and rows: engine, version, tp, ep, and a refusal, or a shape and an answer a GPU."""
    texts = _Texts()
    found = [_row(row, texts, repository) for row in rows]
    return {"model": model.id, "fields": GPU_FIELDS, "texts": list(texts.places), "rows": found}


def lines_to_type(step: NextStep, repository: str) -> str:
    """All that it takes, from nothing installed; empty: there is nothing to do."""
    if step.command.startswith("fused-moe-configs"):
        return f"{install_line(repository)}\n{step.command}"
    return step.command


def install_line(repository: str) -> str:
    """Installs the loader from the repository, which works before and after the first release."""
    return f"pip install git+{repository}"


def _row(row: Row, texts: _Texts, repository: str) -> dict[str, Any]:
    head = {"engine": row.release.name, "version": row.release.version, "tp": row.tp, "ep": row.ep}
    head |= {"name": ENGINE_NAMES[row.release.name], "placed": row.is_placed}
    if row.refusal:
        return {**head, "refusal": row.refusal}
    first = next(iter(row.answers.values()), None)
    shape = shape_of(first) if first else ""
    by_arch = {id(answer.of_arch): answer.of_arch for answer in row.answers.values()}
    backends = {key: _backend(serving, texts) for key, serving in by_arch.items()}
    answers = [
        [texts(answer.device.name), *backends[id(answer.of_arch)], *_answer(answer, texts, repository)]
        for answer in row.answers.values()
    ]
    return {**head, "shape": shape, "answers": answers}


def shape_of(answer: DeviceAnswer) -> str:
    """As `explain` has it."""
    serving = answer.of_arch
    return f"E={serving.E}, N={serving.N}, K={serving.K}, top_k={serving.top_k}, {serving.kind}"


def behind_words(line: EngineChecked | None) -> str:
    """Where the engine's own file is faster than ours. Empty: there is no such."""
    if line is None or line.shipped is None:
        return ""
    own, more = f"{ENGINE_NAMES[line.engine]} {line.version}’s own file", percent(line.shipped.geomean_ratio)
    more = more.removeprefix("+")
    return f"{own} is faster: with this one the layer takes {more} more time. An export over the engine’s own keeps it."


def _backend(serving: Serving, texts: _Texts) -> list[int]:
    """Alike on every device of an architecture."""
    return [texts(serving.verdict), texts(serving.reason), texts(", ".join(map(str, serving.source)))]


def _answer(answer: DeviceAnswer, texts: _Texts, repository: str) -> list[int]:
    of_arch, looked, file = answer.of_arch, answer.looked, answer.file
    notes = answer.serving.notes if of_arch.notes else ()
    step = answer.step
    return [
        texts(looked.name if looked else None),
        texts(looked.engine_name if looked else None),
        texts(answer.state.value),
        texts(looked.walk if looked else None),
        texts(lines_to_type(step, repository)),
        texts(step.note),
        texts(file.slug if file else None),
        texts(percent(answer.ratio) if answer.ratio is not None else None),
        texts(behind_words(answer.behind)),
        texts("\n".join(notes)),
    ]
