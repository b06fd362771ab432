"""Findings: what a check has to say about a file, and the three ways to print them."""

from __future__ import annotations

import enum
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from tools.text import counted, dumped, printable


class Severity(enum.StrEnum):
    """error: the file must not stay. warning: a person should look. info: good to know."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """One fault of one file: which rule, what was expected and found, and the way out."""

    path: str
    rule: str
    severity: Severity
    message: str
    fix: str


@dataclass(frozen=True)
class Report:
    """All findings on `files` files."""

    files: int
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)


def as_json(report: Report) -> str:
    """The report as one JSON object, `{"files": n, "findings": [...]}`."""
    return dumped({"files": report.files, "findings": [asdict(finding) for finding in report.findings]})


def as_text(report: Report) -> str:
    """The report for people: grouped by rule, one line a finding with its fix, a count at the end."""
    lines: list[str] = []
    by_rule = sorted(report.findings, key=lambda finding: finding.rule)
    for rule, group in itertools.groupby(by_rule, key=lambda finding: finding.rule):
        findings = list(group)
        lines.append(f"{rule} ({len(findings)})")
        for finding in findings:
            lines.append(f"  {finding.severity}: {finding.path}: {_sentence(finding)}")
        lines.append("")
    return "\n".join([*lines, summary(report)])


def summary(report: Report) -> str:
    """One line: files, errors, warnings, infos."""
    counts = [(severity, sum(f.severity is severity for f in report.findings)) for severity in Severity]
    return f"{counted(report.files, 'file')}: {', '.join(counted(count, severity) for severity, count in counts)}"


def as_github(report: Report) -> str:
    """The report as GitHub workflow commands, one annotation a finding, then the summary."""
    level = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
    lines = [
        f"::{level[finding.severity]} file={_escape(finding.path, property_=True)},title={finding.rule}::"
        + _escape(_sentence(finding))
        for finding in report.findings
    ]
    return "\n".join([*lines, summary(report)])


def _sentence(finding: Finding) -> str:
    return f"{printable(finding.message)}. Fix: {printable(finding.fix)}"


def _escape(text: str, *, property_: bool = False) -> str:
    # github.com/actions/toolkit: command data and properties escape these characters
    pairs: Sequence[tuple[str, str]] = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")]
    if property_:
        pairs = [*pairs, (":", "%3A"), (",", "%2C")]
    for character, code in pairs:
        text = text.replace(character, code)
    return text


FORMATS: dict[str, Callable[[Report], str]] = {"text": as_text, "json": as_json, "github": as_github}


def emit(text: str) -> None:
    """Prints to stdout; a character that its encoding lacks is escaped, never a crash."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Without repetitions, by path, rule and message."""
    return tuple(sorted(set(findings), key=lambda f: (f.path, f.rule, f.message)))
