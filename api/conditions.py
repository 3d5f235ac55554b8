"""What each agent tells of its site: a full disk, that a person is needed, how far its clock is from ours.

Names and numbers only, no path and no text. In memory: agents tell it to each process of the coordinator anew.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from api.live import Bell

LONGEST_CLOCK_SECONDS = 10**10


class Condition(BaseModel):
    """`not_ready`: settings or token need a person there. `clock_seconds`: how far the site's clock is ahead, negative
    behind; 0 while that is no trouble."""

    model_config = ConfigDict(extra="forbid")

    disk_full: bool = False
    not_ready: bool = False
    clock_seconds: Annotated[int, Field(ge=-LONGEST_CLOCK_SECONDS, le=LONGEST_CLOCK_SECONDS)] = 0

    @property
    def holds_up(self) -> bool:
        """Whether orders cannot get on there."""
        return self.disk_full or self.not_ready


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong at a site, and the same as a sentence with what ends it."""

    cause: str
    message: str


class Conditions:
    """The newest word of each agent."""

    def __init__(self, bell: Bell) -> None:
        self._told: dict[int, Condition] = {}
        self._held_up_since: dict[int, float] = {}
        self._bell = bell

    def tell(self, user_id: int, condition: Condition) -> None:
        """Rings the bell for "hospitals" where it is news."""
        is_news = self._told.get(user_id, Condition()) != condition
        self._told[user_id] = condition
        if condition.holds_up:
            self._held_up_since.setdefault(user_id, time.monotonic())
        else:
            self._held_up_since.pop(user_id, None)
        if is_news:
            self._bell.ring("hospitals")

    def forget(self, user_id: int) -> None:
        """Its agent connects anew, and tells what is true now."""
        self._told.pop(user_id, None)
        self._held_up_since.pop(user_id, None)

    def held_up_seconds(self, user_id: int) -> float:
        """For how long no order has got on at this site; 0 where orders do."""
        since = self._held_up_since.get(user_id)
        return 0.0 if since is None else time.monotonic() - since

    def troubles(self, user_id: int, name: str) -> list[Trouble]:
        """What is wrong there, the worst first."""
        told = self._told.get(user_id, Condition())
        found = []
        if told.disk_full:
            sentence = f"The disk of {name} is full. Its IT makes room, and the order goes on by itself."
            found.append(Trouble("disk", sentence))
        if told.not_ready:
            sentence = f"{name} is not ready. Its IT reads the agent's log, and the order goes on by itself."
            found.append(Trouble("site", sentence))
        if told.clock_seconds:
            word = "ahead of" if told.clock_seconds > 0 else "behind"
            sentence = f"The clock of {name} is {abs(told.clock_seconds)} seconds {word} the coordinator's."
            found.append(Trouble("clock", f"{sentence} Its IT turns on time synchronisation (NTP)."))
        return found


def shown(troubles: list[Trouble]) -> list[dict[str, Any]]:
    return [vars(one) for one in troubles]
