"""What each hospital's agent tells of its site: that its disk is full, and how far its clock is from the coordinator's.

Names and numbers only, no path and no text. In memory: agents tell it to each process of the coordinator anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from api.exchange import Bell

LONGEST_CLOCK_SECONDS = 10**10


class Condition(BaseModel):
    """`clock_seconds`: how far the site's clock is ahead, negative behind; 0 while that is no trouble."""

    model_config = ConfigDict(extra="forbid")

    disk_full: bool = False
    clock_seconds: Annotated[int, Field(ge=-LONGEST_CLOCK_SECONDS, le=LONGEST_CLOCK_SECONDS)] = 0


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong at a site, and the same as a sentence with what ends it."""

    cause: str
    message: str


class Conditions:
    """The newest word of each agent."""

    def __init__(self, bell: Bell) -> None:
        self._told: dict[int, Condition] = {}
        self._bell = bell

    def tell(self, user_id: int, condition: Condition) -> None:
        """Rings the bell for "hospitals" where it is news."""
        is_news = self._told.get(user_id, Condition()) != condition
        self._told[user_id] = condition
        if is_news:
            self._bell.ring("hospitals")

    def forget(self, user_id: int) -> None:
        """Its agent connects anew, and tells what is true now."""
        self._told.pop(user_id, None)

    def troubles(self, user_id: int, name: str) -> list[Trouble]:
        """What is wrong there, the worst first."""
        told = self._told.get(user_id, Condition())
        found = []
        if told.disk_full:
            sentence = f"The disk of {name} is full. Its IT makes room, and the order goes on by itself."
            found.append(Trouble("disk", sentence))
        if told.clock_seconds:
            word = "ahead of" if told.clock_seconds > 0 else "behind"
            sentence = f"The clock of {name} is {abs(told.clock_seconds)} seconds {word} the coordinator's."
            found.append(Trouble("clock", f"{sentence} Its IT turns on time synchronisation (NTP)."))
        return found


def shown(troubles: list[Trouble]) -> list[dict[str, Any]]:
    return [vars(one) for one in troubles]
