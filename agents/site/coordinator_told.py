"""What the coordinator last said of itself to this agent: its version, and the protocol
numbers that it speaks. The hospital's page shows who lags by it, without a call.

    <state>/coordinator.json    written by the agent when it connects, if it is news

Nothing is decided by it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from protocol.machine.disk import write_durably
from protocol.messages import canonical
from protocol.versions import UNSAID_WINDOW, Window

_NAME = "coordinator.json"


@dataclass(frozen=True)
class CoordinatorTold:
    """One coordinator's own words."""

    version: str
    speaks: Window

    @classmethod
    def of_answer(cls, data: object) -> CoordinatorTold | None:
        """`data` of an answer; None where it does not tell a version.

        A coordinator of before there was more than one protocol tells none.
        """
        if not isinstance(data, dict) or not isinstance(data.get("version"), str):
            return None
        newest = data.get("protocol")
        oldest = data.get("oldest_protocol")
        # Not isinstance, for which true and false are numbers.
        if type(newest) is not int or type(oldest) is not int:
            return cls(data["version"], UNSAID_WINDOW)
        return cls(data["version"], Window(oldest, newest))

    def keep(self, state: Path) -> None:
        """Writes it into the state folder, where it is news."""
        if kept_in(state) == self:
            return
        fields = {
            "version": self.version,
            "protocol": self.speaks.newest,
            "oldest_protocol": self.speaks.oldest,
        }
        write_durably(state / _NAME, canonical(fields).encode())


def kept_in(state: Path) -> CoordinatorTold | None:
    """The newest; None where there is none, or none that can be read."""
    try:
        data = json.loads((state / _NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return CoordinatorTold.of_answer(data)
