"""What a check finds: a status, a sentence, and for a warning or a fault what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

NAMED = 3  # nodes or packages that a sentence names


class Status(StrEnum):
    """From the best to the worst."""

    NOT_APPLICABLE = "not applicable"
    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"

    @property
    def severity(self) -> int:
        """0 is the best."""
        return list(Status).index(self)


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    text: of `not applicable` the reason.
    remedy: what to do; "" where nothing is to be done, or the text says it.
    numbers: that were measured, by name with their unit.
    """

    status: Status
    text: str
    remedy: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A finding with the check's name, where it was made, and the seconds that it took."""

    check: str
    where: str
    finding: Finding
    seconds: float

    def line(self) -> str:
        """For people, on one line."""
        finding, where = self.finding, f" ({self.where})" if self.where else ""
        remedy = f" → {finding.remedy}" if finding.remedy else ""
        return f"{finding.status:<14}  {self.check}{where}: {finding.text}{remedy}"

    def record(self) -> dict[str, object]:
        """For programs."""
        finding = self.finding
        return {
            "check": self.check,
            "where": self.where,
            "status": finding.status.value,
            "finding": finding.text,
            "remedy": finding.remedy,
            "seconds": round(self.seconds, 3),
            "numbers": dict(finding.numbers),
        }


def ok(text: str, **numbers: float) -> Finding:
    """All is as it should be."""
    return Finding(Status.OK, text, numbers=numbers)


def not_applicable(reason: str) -> Finding:
    """There is nothing to check."""
    return Finding(Status.NOT_APPLICABLE, reason)


def warning(text: str, remedy: str, **numbers: float) -> Finding:
    """It works, but not as well as it could, or not for everything."""
    return Finding(Status.WARNING, text, remedy, numbers)


def fault(text: str, remedy: str = "", **numbers: float) -> Finding:
    """It does not work."""
    return Finding(Status.FAULT, text, remedy, numbers)


def of_nodes(findings: Mapping[str, Finding]) -> Finding:
    """One finding of several nodes': the worst status, and which nodes have it.

    findings: by the node's name, at least one.
    """
    worst = max((finding.status for finding in findings.values()), key=lambda s: s.severity)
    named = [(name, f) for name, f in findings.items() if f.status is worst]
    if worst in (Status.OK, Status.NOT_APPLICABLE):
        return Finding(worst, f"all {len(findings)}: {named[0][1].text}")
    shown = [f"{name}: {finding.text}" for name, finding in named]
    return Finding(worst, first_few(shown), named[0][1].remedy)


def first_few(sentences: Sequence[str]) -> str:
    """The first sentences, and how many more there are."""
    more = len(sentences) - NAMED
    return "; ".join(sentences[:NAMED]) + (f"; and {more} more" if more > 0 else "")
