"""How a worker and the coordinator's API talk: what the worker sends and asks, and what
it hears in its inbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx

from protocol.machine.outage import COORDINATOR, outage
from tasks.flow_process import kind_of

POLL_SECONDS = 40.0
"""Longer than the API keeps a call to an inbox that has nothing new."""

BEGIN, WAIT, END = "begin", "wait", "end"
"""What the coordinator's API says of a flow run (decision 54)."""


class Verdict(NamedTuple):
    """What is to be done with a flow run."""

    what: str  # BEGIN, WAIT or END
    sentence: str = ""  # why it is to end


class CoordinatorAway(Exception):
    """The coordinator has not said which runs may begin.

    That was noted, and the worker looks again.
    """


@dataclass(frozen=True)
class Post:
    """A worker's calls to the coordinator's API, with its own token."""

    client: httpx.AsyncClient
    # Read at each call: it may be rotated while the worker runs.
    token: Callable[[], str]

    async def read(self, boot: str, cursor: int) -> dict[str, Any]:
        """The news in this worker's inbox since `cursor`, by long polling.

        `boot` is the API's process that gave it.
        """
        query: dict[str, str | int] = {"boot": boot, "cursor": cursor}
        answer = await self.client.get(
            "/exchange/inbox",
            params=query,
            headers=self._headers(),
            timeout=POLL_SECONDS,
        )
        answer.raise_for_status()
        news: dict[str, Any] = answer.json()
        return news

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        return await self.client.request(
            method, path, json=body, headers=self._headers(), timeout=POLL_SECONDS
        )

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What it answers.

        CoordinatorAway where that is no answer of it: a proxy's page is none either.
        """
        asked_at = time.monotonic()
        try:
            answer = await self.send(method, path, body)
            answer.raise_for_status()
            data: dict[str, Any] = answer.json()["data"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            outage.missed(COORDINATOR, kind_of(error), asked=asked_at)
            raise CoordinatorAway from error
        return data

    def _headers(self) -> dict[str, str]:
        token = self.token()
        return {"Authorization": f"Bearer {token}"}
