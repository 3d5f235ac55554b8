"""A finding, and how an error becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from protocol.errors import ConsiliumError

OK = "ok"
WARN = "warn"
WRONG = "wrong"
JOINT = "joint"


@dataclass(frozen=True)
class Finding:
    """One sentence about one part of an installation."""

    check: str  # which part: settings, database, ...
    # ok, warn (worth a look), wrong, or joint: others decide.
    state: str
    sentence: str
    remedy: str = ""  # what to do, where it is warn or wrong

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def guarded(check: str, findings: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check, or its error as one; of an unplanned error its kind
    only, because its text may hold anything.
    """
    collected: list[Finding] = []
    try:
        for finding in findings():  # one by one, so that those before an error stay
            collected.append(finding)
    except ConsiliumError as error:
        collected.append(as_finding(check, error))
    except Exception as error:  # noqa: BLE001
        sentence = f"This check met an unplanned error ({type(error).__name__})."
        remedy = "Correct what the other lines name, then check again."
        collected.append(Finding(check, WRONG, sentence, remedy))
    return collected


def as_finding(check: str, error: ConsiliumError) -> Finding:
    return Finding(check, WRONG, error.sentence, error.remedy)
