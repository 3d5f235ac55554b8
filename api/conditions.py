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

from api.live import Bell, Say, nobody_hears
from protocol import VERSION
from protocol.versions import (
    SPOKEN,
    Window,
    numbers_of,
    other_version_remedy,
    upgrade_command,
)

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

    cause: str  # disk, site, clock, version or protocol
    message: str  # the same as a sentence, with what ends it


class Conditions:
    """The newest report of each agent."""

    def __init__(self, bell: Bell) -> None:
        self._newest: dict[int, Condition] = {}
        # By time.monotonic(); sites where orders get on are not in it.
        self._held_up_since: dict[int, float] = {}
        self._bell = bell
        self.say: Say = nobody_hears

    def tell(self, user_id: int, condition: Condition) -> None:
        """Rings the bell for "hospitals" where it is news."""
        self.hear(user_id, condition)
        self.say("condition", user_id, condition.model_dump(mode="json"))

    def forget(self, user_id: int) -> None:
        """Its agent connects anew, and will report what is true now."""
        self.hear(user_id, None)
        self.say("condition", user_id, None)

    def tell_all(self) -> None:
        """To a process that has just come."""
        for user_id, condition in self._newest.items():
            self.say("condition", user_id, condition.model_dump(mode="json"))

    def hear(self, user_id: int, condition: Condition | None) -> None:
        """As `tell` and `forget`, in this process."""
        if condition is None:
            self._newest.pop(user_id, None)
            self._held_up_since.pop(user_id, None)
            return
        # Agents say the same again and again: each time all who look at hospitals would
        # read them anew.
        is_news = self._newest.get(user_id, Condition()) != condition
        self._newest[user_id] = condition
        if condition.holds_up:
            # Kept from the first report on: by each new one the grace would begin anew.
            self._held_up_since.setdefault(user_id, time.monotonic())
        else:
            self._held_up_since.pop(user_id, None)
        if is_news:
            self._bell.ring_here("hospitals")

    def held_up_seconds(self, user_id: int) -> float:
        """For how long no order has got on at this site; 0 where orders do."""
        since = self._held_up_since.get(user_id)
        if since is None:
            return 0.0
        return time.monotonic() - since

    def troubles(self, user_id: int, name: str) -> list[Trouble]:
        """What is wrong there, the worst first."""
        condition = self._newest.get(user_id, Condition())
        troubles = []
        if condition.disk_full:
            sentence = f"The disk of {name} is full. Its IT makes room, and the order goes on by itself."
            troubles.append(Trouble("disk", sentence))
        if condition.not_ready:
            sentence = f"{name} is not ready. Its IT reads the agent's log, and the order goes on by itself."
            troubles.append(Trouble("site", sentence))
        if condition.clock_seconds:
            word = "ahead of" if condition.clock_seconds > 0 else "behind"
            seconds = abs(condition.clock_seconds)
            sentence = (
                f"The clock of {name} is {seconds} seconds {word} the coordinator's. "
                "Its IT turns on time synchronisation (NTP)."
            )
            troubles.append(Trouble("clock", sentence))
        return troubles


def version_troubles(
    version: str | None, speaks: Window, name: str, *, own: Window = SPOKEN
) -> list[Trouble]:
    """Whether a hospital's agent was older or newer than this coordinator when it last
    connected, and what is done then.

    `version`: it has another version or lags within the window, and its orders run.
    `protocol`: it speaks no number that the coordinator speaks, and none does. Nothing
    where nothing differs, and no word of it that is no version.
    """
    upgrade = f"The hospital's IT upgrades the agent: {upgrade_command(VERSION)}."
    if not speaks.meets(own):
        is_older = speaks.newest < own.oldest
        remedy = upgrade if is_older else "The operator upgrades the coordinator."
        sentence = (
            f"The agent of {name} speaks protocol {speaks}, the coordinator {own}:"
            f" every order that names it is refused. {remedy}"
        )
        return [Trouble("protocol", sentence)]

    sentences = []
    remedy = upgrade
    if version is not None and version != VERSION and numbers_of(version) is not None:
        sentences.append(
            f"The agent of {name} is {version}, the coordinator {VERSION}."
        )
        remedy = other_version_remedy(version, VERSION)
    if speaks.newest < own.newest:
        sentences.append(
            f"{name} speaks protocol {speaks.newest} of {own}: orders with it are written in {speaks.newest}."
        )
    if not sentences:
        return []
    return [Trouble("version", " ".join([*sentences, remedy]))]


def shown(troubles: list[Trouble]) -> list[dict[str, Any]]:
    """As answers show them."""
    return [vars(trouble) for trouble in troubles]
