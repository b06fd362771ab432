"""`report`: a plan and its results become the markdown of one comment. Takes the artifacts for hostile.

The pull request's number and commit come from the caller, who has them from the event or the API; an artifact that
says otherwise is refused, and so is one that answers another question than the plan asked. A leg without results is
reported as such.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fused_moe_configs.naming import ENGINE_NAMES
from tools.cli import path_argument, say
from tools.measure.judgement import Verdict
from tools.measure.panel import LARGEST_RATIO, PromotionPolicy
from tools.pull_request.documents import (
    IMPOSSIBLE,
    NO_RESULTS,
    RESULTS,
    DocumentError,
    Leg,
    MeasuredFile,
    MeasuredPart,
    MeasuredRow,
    Plan,
    PlannedFile,
    PlannedShape,
    Results,
    has_results,
    read_plan,
    results_of,
    shortened,
)
from tools.pull_request.judge import CLAIM_TOLERANCE_PCT, FileSummary, claim_gap, is_slower, retuned_gap, summary_of
from tools.pull_request.plan import with_runner
from tools.registry.devices import load_devices
from tools.store.files import write_file
from tools.store.record import Decision
from tools.text import MAX_REPORT, as_a_report, code, counted, table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pull_request report",
        description="Writes the comment on a pull request from a plan and the results of its legs.",
        epilog="Exit 0: written. 1: plan or results are refused. 2: bad use.",
    )
    parser.add_argument("--plan", type=path_argument, required=True, metavar="FILE")
    parser.add_argument(
        "--results", type=path_argument, required=True, metavar="DIR", help=f"one folder a leg: {RESULTS}"
    )
    parser.add_argument(
        "--runners",
        default="",
        metavar="NAMES",
        help="as `plan` had them: results of other devices are refused; default: every device",
    )
    parser.add_argument("--number", type=int, required=True, metavar="N", help="of the pull request, from the API")
    parser.add_argument("--head-sha", required=True, metavar="SHA", help="its commit, from the API")
    parser.add_argument("--out", type=path_argument, required=True, metavar="FILE", help="markdown")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        plan = read_plan(options.plan)
        check_plan(plan, options.number, options.head_sha)
        results = results_of(plan, options.results, with_runner(options.runners, load_devices()))
    except DocumentError as error:
        say(f"report: {error}")
        return 1
    write_file(options.out, render(plan, results).encode())
    return 0


def check_plan(plan: Plan, number: int, head_sha: str) -> None:
    """DocumentError: the plan is of another pull request or commit."""
    if plan.number != number:
        raise DocumentError(f"plan: expected pull request {number}, found {plan.number}. Fix: run `plan` again.")
    if plan.head_sha != head_sha:
        raise DocumentError(
            f"plan: expected commit {shortened(head_sha, 40)}, found {plan.head_sha}. Fix: run `plan` again."
        )


# The comment: what the files do on our runners, beside what they claim. Markdown, pure. Every text that came through an
# artifact is written as a code span, whatever its schema allows.

REASONS: Mapping[str, str] = {
    NO_RESULTS: NO_RESULTS,
    IMPOSSIBLE: IMPOSSIBLE,
    "no_gpu": "the runner has no GPU",
    "wrong_device": "the runner has another GPU",
    "wrong_triton": "the runner has another Triton than the file's folder names",
    "unsupported": "this project's kernel does not run it, or it does not fit the GPU",
    "crashed": "a crash; the run's log says more",
    "timeout": "it took too long",
}

NOTHING = "not measured: no runner sent results"

HEADLINES: Mapping[FileSummary, str] = {
    FileSummary.SLOWER: "not as it is: some rows are slower than what runs today",
    FileSummary.UNKNOWN: "incomplete: not everything could be measured",
    FileSummary.RETAIN: "no gain: nothing is slower, and nothing faster by the margin",
    FileSummary.PROMOTE: "promote",
}

LEFT_OUT = "The table is left out: the comment would get too long. The artifact of the run has it."

HEADER = ("M", "claimed", "measured", "main's", "heuristic", "re-tuned best", "verdict", "worst beside no file")

MOST_LOSSES = 10
"""Named one by one."""


@dataclass(frozen=True)
class FileSection:
    """One file: what is always said, and its table, which may be left out where the comment gets too long."""

    planned: PlannedFile
    measured: MeasuredFile
    leg: Leg


def render(plan: Plan, results: Mapping[str, Results]) -> str:
    """results: one for each leg of the plan, by device name, of the plan's files in the plan's order."""
    parts = [
        FileSection(planned, measured, leg)
        for leg in plan.legs
        for planned, measured in zip(leg.files, results[leg.device_name].files, strict=True)
    ]
    places = [_place(results[leg.device_name]) for leg in plan.legs]
    head = [*_head(plan, parts, is_empty=not has_results(results)), *places, ""]
    sections = [_section(part) for part in parts]
    tables = [_table(part) for part in parts]
    length = sum(len(line) + 1 for lines in (head, *sections) for line in lines)
    body: list[str] = []
    for section, rows in zip(sections, tables, strict=True):
        more = sum(len(line) + 1 for line in rows)
        fits = length + more <= MAX_REPORT
        length += more if fits else len(LEFT_OUT) + 2
        body += [*section, *(rows if fits else ["", LEFT_OUT]), ""]
    return as_a_report("\n".join([*head, *body]).rstrip() + "\n")


def _head(plan: Plan, parts: Sequence[FileSection], *, is_empty: bool) -> list[str]:
    summaries = [summary_of(part.measured) for part in parts]
    worst = next((s for s in FileSummary if s in summaries), FileSummary.RETAIN)
    counts = Counter(summaries)
    tally = ", ".join(f"{counts[s]} {s.value}" for s in reversed(FileSummary) if counts[s])
    headline = NOTHING if is_empty else HEADLINES[worst]
    margin_pct = PromotionPolicy().min_improvement_pct
    return [
        "## Measured on our runners",
        "",
        f"**Verdict: {headline}.** {counted(len(parts), 'file')}: {tally}. Commit {code(plan.head_sha)}.",
        "",
        "*Claimed*: the times in the pull request's record, which nothing here has checked. All other times are "
        "*verified here*: measured for this report by main's code, median in µs, up and down projection together, "
        "with uniform routing, as vLLM runs the kernel (SGLang where it alone reads the name). The verdict is over "
        "both engines that read the name, with uniform and with skewed routing: it compares the claimed file with "
        "main's, which is what its readers get there today (with the engine's heuristic where they get no file). "
        f"Slower: more than {100 * (LARGEST_RATIO - 1):.0f} % on average somewhere, and slower at all beyond doubt. "
        "After it stands whose entry the policy would write: the claimed one (promote; over main's if at least "
        f"{margin_pct:g} % faster), main's (retain) or the heuristic's (baseline). "
        "Last comes where the claimed file does worst beside that engine's heuristic, as a share of its time. "
        "«–»: no such entry, or it does not run.",
        "",
    ]


def _place(results: Results) -> str:
    environment, device = results.environment, code(results.device_name)
    if any(file.reason == NO_RESULTS for file in results.files):
        return f"- {device}: not measured ({NO_RESULTS})."
    if environment is None:
        return f"- {device}: nothing was measured."
    versions = {
        "driver": environment.driver,
        "CUDA": environment.cuda,
        "torch": environment.torch,
        "Triton": environment.triton,
    }
    software = ", ".join(f"{title} {code(version)}" for title, version in versions.items() if version is not None)
    return f"- {device}: {code(environment.device_name)}, {software}."


def _section(part: FileSection) -> list[str]:
    planned, measured = part.planned, part.measured
    lines = [f"### {code(str(planned.id.relative))}", "", f"**{_headline(planned, measured)}**", ""]
    lines.append(f"- Shapes: {_shapes(planned.shapes)}")
    if measured.is_measured and planned.claimed:
        lines += [f"- Claims: {_claims(measured)}", f"- Re-tuning: {_retuning(part)}"]
        lines += _losses(measured)
    return lines


def _losses(measured: MeasuredFile) -> list[str]:
    """Every part that is slower than what runs there today; none: no line."""
    found = [
        (num_tokens, one) for num_tokens, row in sorted(measured.rows.items()) for one in row.parts if one.is_slower
    ]
    told = [f"M={num_tokens} {_part(part)} ({_loss(part)})" for num_tokens, part in found[:MOST_LOSSES]]
    more = [f"and {len(found) - MOST_LOSSES} more"] if len(found) > MOST_LOSSES else []
    return [f"- Slower in: {'; '.join([*told, *more])}."] if found else []


def _part(part: MeasuredPart) -> str:
    return f"{ENGINE_NAMES[part.engine]} {part.routing}"


def _loss(part: MeasuredPart) -> str:
    if not part.runs:
        return "does not run"
    rivals = {"the heuristic's time": part.over_heuristic, "main's": part.over_main}
    return ", ".join(
        f"{ratio.mean:.3f} of {rival}, {ratio.low:.3f} to {ratio.high:.3f}"
        for rival, ratio in rivals.items()
        if ratio and ratio.is_slower
    )


def _headline(planned: PlannedFile, measured: MeasuredFile) -> str:
    if not measured.is_measured:
        return f"Not measured: {REASONS[measured.reason or 'crashed']}."
    rows = measured.rows.values()
    slower, promoted, total = sum(map(is_slower, rows)), _promoted(rows), counted(len(rows), "row")
    if not planned.claimed:
        worth = "keep it" if slower else "it is no loss"
        return f"Removal: slower without main's file in {slower} of {total}; {worth}."
    other = "main's file" if planned.main else "the heuristic"
    match summary_of(measured):
        case FileSummary.SLOWER:
            losing_to = "main's file or the heuristic" if planned.main else "the heuristic"
            return f"Slower than {losing_to} in {slower} of {total}, promoted in {promoted}."
        case FileSummary.UNKNOWN:
            unknown = sum(row.verdict is None for row in rows)
            return f"Incomplete: no comparison in {unknown} of {total}; promoted in {promoted}, slower in none."
        case FileSummary.RETAIN:
            return f"No gain: not faster than {other} by the margin in any of {total}, slower in none."
        case FileSummary.PROMOTE:
            faster = sum(row.verdict is Verdict.FASTER for row in rows)
            return f"Promote: faster than {other} in {faster} of {total}, slower in none."


def _promoted(rows: Iterable[MeasuredRow]) -> int:
    return sum(row.decision is Decision.PROMOTE for row in rows)


def _shapes(shapes: Sequence[PlannedShape]) -> str:
    return "; ".join(str(shape.shape) + ("" if shape.registered else " (**not in the registry**)") for shape in shapes)


def _claims(measured: MeasuredFile) -> str:
    gap = claim_gap(measured)
    if gap is None:
        return "the record claims no times."
    if gap.pct > CLAIM_TOLERANCE_PCT:
        return f"**do not hold**: M={gap.num_tokens} takes {gap.pct:.1f} % longer here than claimed."
    above = max(gap.pct, 0.0)
    return (
        f"hold: no row takes more than {above:.1f} % longer here than claimed ({CLAIM_TOLERANCE_PCT:g} % is accepted)."
    )


def _retuning(part: FileSection) -> str:
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
        "holds it with its record, ready to be copied into the pull request."
    )


def _table(part: FileSection) -> list[str]:
    rows = part.measured.rows
    if not rows:
        return []
    cells = [_cells(num_tokens, row) for num_tokens, row in sorted(rows.items())]
    lines = table(HEADER, cells, right=len(HEADER) - 2)
    return ["", f"<details><summary>{counted(len(rows), 'row')}</summary>", "", *lines, "", "</details>"]


def _cells(num_tokens: int, row: MeasuredRow) -> tuple[str, ...]:
    times = (row.claimed_us, row.measured_us, row.main_us, row.heuristic_us, row.retuned_us)
    words = [word.value for word in (row.verdict, row.decision) if word is not None]
    shown = ("–" if us is None else f"{us:.1f}" for us in times)
    return (str(num_tokens), *shown, ", ".join(words) or "–", _worst_part(row))


def _worst_part(row: MeasuredRow) -> str:
    found = [(part.over_heuristic.mean, part) for part in row.parts if part.over_heuristic]
    if not found:
        return "–"
    mean, part = max(found, key=lambda pair: pair[0])
    return f"{mean:.3f}, {_part(part)}"
