"""The comment on a pull request: what its files do on our runners, beside what they claim. Markdown, pure.

Every text that came through an artifact is written as a code span, whatever its schema allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tools.measure.gate import PromotionPolicy
from tools.measure.statistics import Verdict
from tools.pull_request.artifacts import NO_RESULTS, has_results
from tools.pull_request.documents import Leg, MeasuredFile, Plan, PlannedFile, PlannedShape, Results, Row
from tools.pull_request.standing import (
    CLAIM_TOLERANCE_PCT,
    Standing,
    claim_gap,
    is_slower,
    retuned_gap,
    standing,
)
from tools.store.record import Decision
from tools.text import counted

MAX_CHARACTERS = 60_000
"""GitHub takes comments of 65,536 characters; the rest is for the marker."""

REASONS: Mapping[str, str] = {
    NO_RESULTS: NO_RESULTS,
    "no_gpu": "the runner has no GPU",
    "wrong_device": "the runner's GPU is another one",
    "wrong_triton": "the runner has another Triton than the folder says",
    "unsupported": "this project's kernel does not run it, or it does not fit the GPU",
    "crashed": "a crash; the run's log says more",
    "timeout": "it took too long",
}

NOTHING = "not measured: no runner sent results"

HEADLINES: Mapping[Standing, str] = {
    Standing.SLOWER: "not as it is: some rows are slower than what runs today",
    Standing.UNKNOWN: "incomplete: not everything could be measured",
    Standing.RETAIN: "no gain: nothing is slower, and nothing faster by the margin",
    Standing.PROMOTE: "promote",
}

LEFT_OUT = "The table is left out: the comment would get too long. The artifact of the run has it."

HEADER = ("M", "claimed", "measured", "main's", "heuristic", "re-tuned best", "verdict")


@dataclass(frozen=True)
class Part:
    """One file: what is always said, and its table, which may be left out where the comment gets too long."""

    planned: PlannedFile
    measured: MeasuredFile
    leg: Leg


def render(plan: Plan, results: Mapping[str, Results]) -> str:
    """results: one for each leg of the plan, by device name, of the plan's files in the plan's order."""
    parts = [
        Part(planned, measured, leg)
        for leg in plan.legs
        for planned, measured in zip(leg.files, results[leg.device_name].files, strict=True)
    ]
    places = [_place(results[leg.device_name]) for leg in plan.legs]
    head = [*_head(plan, parts, is_empty=not has_results(results)), *places, ""]
    sections = [_section(part) for part in parts]
    tables = [_table(part) for part in parts]
    length = sum(len(line) + 1 for lines in (head, *sections) for line in lines)
    body: list[str] = []
    for section, table in zip(sections, tables, strict=True):
        more = sum(len(line) + 1 for line in table)
        fits = length + more <= MAX_CHARACTERS
        length += more if fits else len(LEFT_OUT) + 2
        body += [*section, *(table if fits else ["", LEFT_OUT]), ""]
    text = "\n".join([*head, *body]).rstrip() + "\n"
    return text if len(text) <= MAX_CHARACTERS else _cut(text)


def code(text: str) -> str:
    """A code span that nothing in the text can leave; a bar would end a table's cell."""
    inner = "".join(c if c.isprintable() and c not in "`|" else "?" for c in text)
    return f"`{inner}`"


def _cut(text: str) -> str:
    kept = text[:MAX_CHARACTERS].rpartition("\n")[0]
    return f"{kept}\n\nThe rest is left out: the artifacts of the run hold all of it.\n"


def _head(plan: Plan, parts: Sequence[Part], *, is_empty: bool) -> list[str]:
    standings = [standing(part.measured) for part in parts]
    worst = next((s for s in Standing if s in standings), Standing.RETAIN)
    counts = Counter(standings)
    told = ", ".join(f"{counts[s]} {s.value}" for s in reversed(Standing) if counts[s])
    headline = NOTHING if is_empty else HEADLINES[worst]
    margin_pct = PromotionPolicy().min_improvement_pct
    return [
        "## Measured on our runners",
        "",
        f"**Verdict: {headline}.** {counted(len(parts), 'file')}: {told}. Commit {code(plan.head_sha)}.",
        "",
        "*Claimed* is what the pull request's record says, and nobody here has seen it. All other times are *verified "
        "here*: measured for this report by main's code, medians in µs, up and down projection together. "
        "The verdict is the claimed file's, beyond noise, against main's (against the heuristic where main has none); "
        "then whose entry the policy would write: the claimed one "
        f"(promote; over main's from {margin_pct:g} % on), main's (retain) or the heuristic's (baseline). "
        "«–»: no such entry, or it does not run.",
        "",
    ]


def _place(results: Results) -> str:
    environment, device = results.environment, code(results.device_name)
    if any(file.reason == NO_RESULTS for file in results.files):
        return f"- {device}: not measured ({NO_RESULTS})."
    if environment is None:
        return f"- {device}: nothing was measured."
    software = ", ".join(
        f"{title} {code(str(environment[name]))}"
        for name, title in (("driver", "driver"), ("cuda", "CUDA"), ("torch", "torch"), ("triton", "Triton"))
        if environment.get(name) is not None
    )
    return f"- {device}: {code(str(environment['device_name']))}, {software}."


def _section(part: Part) -> list[str]:
    planned, measured = part.planned, part.measured
    lines = [f"### {code(str(planned.id.relative))}", "", f"**{_headline(planned, measured)}**", ""]
    lines.append(f"- Shapes: {_shapes(planned.shapes)}")
    if measured.is_measured and planned.claimed:
        lines += [f"- Claims: {_claims(measured)}", f"- Re-tuning: {_retuning(part)}"]
    return lines


def _headline(planned: PlannedFile, measured: MeasuredFile) -> str:
    if not measured.is_measured:
        return f"Not measured: {REASONS[measured.reason or 'crashed']}."
    rows = measured.rows.values()
    slower, promoted, total = sum(map(is_slower, rows)), _promoted(rows), counted(len(rows), "row")
    if not planned.claimed:
        worth = "keep it" if slower else "it is no loss"
        return f"Removal: slower without main's file in {slower} of {total}; {worth}."
    rival = "main's file" if planned.main else "the heuristic"
    match standing(measured):
        case Standing.SLOWER:
            losing_to = "main's file or the heuristic" if planned.main else "the heuristic"
            return f"Slower than {losing_to} in {slower} of {total}, promoted in {promoted}."
        case Standing.UNKNOWN:
            unknown = sum(row.verdict is None for row in rows)
            return f"Incomplete: no comparison in {unknown} of {total}; promoted in {promoted}, slower in none."
        case Standing.RETAIN:
            return f"No gain: not faster than {rival} by the margin in any of {total}, slower in none."
        case Standing.PROMOTE:
            faster = sum(row.verdict is Verdict.FASTER for row in rows)
            return f"Promote: faster than {rival} in {faster} of {total}, slower in none."


def _promoted(rows: Iterable[Row]) -> int:
    return sum(row.decision is Decision.PROMOTE for row in rows)


def _shapes(shapes: Sequence[PlannedShape]) -> str:
    return "; ".join(
        f"K={shape.K}, top_k={shape.top_k}" + ("" if shape.registered else " (**not in the registry**)")
        for shape in shapes
    )


def _claims(measured: MeasuredFile) -> str:
    gap = claim_gap(measured)
    if gap is None:
        return "the record claims no times."
    if gap.pct > CLAIM_TOLERANCE_PCT:
        return f"**do not hold**: M={gap.num_tokens} takes {gap.pct:.1f} % longer here than claimed."
    above = max(gap.pct, 0.0)
    return f"hold: no row takes more than {above:.1f} % longer here than claimed ({CLAIM_TOLERANCE_PCT:g} % may be)."


def _retuning(part: Part) -> str:
    if part.measured.reason is not None:
        return f"failed: {REASONS[part.measured.reason]}."
    if part.planned.claimed == part.planned.main:
        return "not done, the entries are main's."
    gap = retuned_gap(part.measured)
    if not part.measured.retuned_file:
        return "found nothing better."
    gain = f", up to {gap.pct:.1f} % (M={gap.num_tokens})" if gap and gap.pct > 0 else ""
    return (
        f"found another file{gain}: {code('configs/')} in the artifact {code(f'results-{part.leg.device_name}')} "
        "holds it with its record, ready to be taken over."
    )


def _table(part: Part) -> list[str]:
    rows = part.measured.rows
    if not rows:
        return []
    lines = [f"| {' | '.join(HEADER)} |", f"|{' ---: |' * (len(HEADER) - 1)} --- |"]
    lines += [f"| {' | '.join(_cells(num_tokens, row))} |" for num_tokens, row in sorted(rows.items())]
    return ["", f"<details><summary>{counted(len(rows), 'row')}</summary>", "", *lines, "", "</details>"]


def _cells(num_tokens: int, row: Row) -> tuple[str, ...]:
    times = (row.claimed_us, row.measured_us, row.main_us, row.heuristic_us, row.retuned_us)
    words = [word.value for word in (row.verdict, row.decision) if word is not None]
    return (str(num_tokens), *("–" if us is None else f"{us:.1f}" for us in times), ", ".join(words) or "–")
