"""What the coordinator has to say to an agent or to its own worker: read by long polling
that wakes at once.

News carry what there is to look at, and an order's number; what is to be done is in the
store and in Prefect. `api.live` has the inboxes.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from api.auth import AGENT, COORDINATOR_ROLE, CallerOf, require_role
from api.live import Inbox, rang
from api.routes.services import Services
from api.store.engine import in_thread
from protocol.exchange import LONGEST_WAIT_SECONDS
from protocol.messages import COORDINATOR

router = APIRouter(prefix="/exchange", include_in_schema=False)

Wait = Annotated[float, Query(ge=0, allow_inf_nan=False)]


@router.get("/inbox")
async def read_inbox(
    request: Request,
    caller: CallerOf,
    boot: str = "",
    cursor: Annotated[int, Query(ge=0)] = 0,
    wait: Wait = LONGEST_WAIT_SECONDS,
) -> dict[str, Any]:
    """News for an agent or the coordinator's worker; waits until there is some. Marks
    the hospital as seen.
    """
    require_role(caller, AGENT, COORDINATOR_ROLE)
    services = Services(request)
    user_id = caller.user_id
    if user_id is None:
        return await _news(
            request,
            services.inbox,
            COORDINATOR,
            boot,
            cursor,
            wait,
        )
    await in_thread(services.store.hospitals.seen, user_id)
    with services.presence.poll(user_id):
        news = await _news(
            request,
            services.inbox,
            user_id,
            boot,
            cursor,
            wait,
        )
        if await request.is_disconnected():
            services.presence.gone(user_id)
    return news


async def _news(
    request: Request,
    inbox: Inbox,
    user_id: int,
    boot: str,
    cursor: int,
    wait: float,
) -> dict[str, Any]:
    deadline = time.monotonic() + min(wait, LONGEST_WAIT_SECONDS)
    with inbox.bell.listening(user_id) as event:
        while True:
            event.clear()
            newest_cursor, news = inbox.since(user_id, cursor)
            # A cursor of an earlier process, or from before this one heard anything,
            # says nothing: who has it has to look at everything.
            if boot != inbox.boot or not inbox.knows(cursor):
                look = {"what": "look", "order_id": 0}
                return _as_answer(inbox, newest_cursor, [look])
            is_over = time.monotonic() > deadline or event.over
            # Nobody hears the news of a closed connection; its agent asks again, and
            # gets them then.
            if news or is_over or await request.is_disconnected():
                return _as_answer(inbox, newest_cursor, news)
            await rang(event, min(deadline, time.monotonic() + 1.0))


def _as_answer(
    inbox: Inbox,
    cursor: int,
    news: list[dict[str, Any]],
) -> dict[str, Any]:
    """News, and our time: an agent looks at Prefect by this clock, so that a wrong one
    of its own delays nothing.
    """
    return {
        "boot": inbox.boot,
        "cursor": cursor,
        "news": news,
        "time": time.time(),
    }
