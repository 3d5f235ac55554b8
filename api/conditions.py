"""What each agent reports of its site: a full disk, that a person is needed, how far
its clock is from ours.

Names and numbers only, no path and no text (decision 58). In memory: agents report anew
to each process of the coordinator.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from api.live import Bell

LONGEST_CLOCK_SECONDS = 10**10  # beyond it a number is no clock's


class Condition(BaseModel):
    """`not_ready`: settings or token need a person there. `clock_seconds`: how far the
    site's clock is ahead, negative behind; 0 while that is no trouble.
    """

    model_config = ConfigDict(extra="forbid")

    disk_full: bool = False
    not_ready: bool = False
    clock_seconds: Annotated[
        int, Field(ge=-LONGEST_CLOCK_SECONDS, le=LONGEST_CLOCK_SECONDS)
    ] = 0

    @property
    def holds_up(self) -> bool:
        """Whether orders cannot get on there."""
        return self.disk_full or self.not_ready


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong at a site."""

    cause: str  # disk, site or clock
    message: str  # the same as a sentence, with what ends it


class Conditions:
    """The newest report of each agent."""

    def __init__(self, bell: Bell) -> None:
        self._newest: dict[int, Condition] = {}
        # By time.monotonic(); sites where orders get on are not in it.
        self._held_up_since: dict[int, float] = {}
        self._bell = bell

    def tell(self, user_id: int, condition: Condition) -> None:
        """Rings the bell for "hospitals" where it is news."""
        is_news = self._newest.get(user_id, Condition()) != condition
        self._newest[user_id] = condition
        if condition.holds_up:
            self._held_up_since.setdefault(user_id, time.monotonic())
        else:
            self._held_up_since.pop(user_id, None)
        if is_news:
            self._bell.ring("hospitals")

    def forget(self, user_id: int) -> None:
        """Its agent connects anew, and will report what is true now."""
        self._newest.pop(user_id, None)
        self._held_up_since.pop(user_id, None)

    def held_up_seconds(self, user_id: int) -> float:
        """For how long no order has got on at this site; 0 where orders do."""
        since = self._held_up_since.get(user_id)
        if since is None:
            return 0.0
        return time.monotonic() - since

    def troubles(self, user_id: int, name: str) -> list[Trouble]:
        """What is wrong there, the worst first."""
        condition = self._newest.get(user_id, Condition())
        found = []
        if condition.disk_full:
            sentence = f"The disk of {name} is full. Its IT makes room, and the order goes on by itself."
            found.append(Trouble("disk", sentence))
        if condition.not_ready:
            sentence = f"{name} is not ready. Its IT reads the agent's log, and the order goes on by itself."
            found.append(Trouble("site", sentence))
        if condition.clock_seconds:
            word = "ahead of" if condition.clock_seconds > 0 else "behind"
            seconds = abs(condition.clock_seconds)
            sentence = (
                f"The clock of {name} is {seconds} seconds {word} the coordinator's. "
                "Its IT turns on time synchronisation (NTP)."
            )
            found.append(Trouble("clock", sentence))
        return found


def shown(troubles: list[Trouble]) -> list[dict[str, Any]]:
    """As answers show them."""
    return [vars(trouble) for trouble in troubles]
