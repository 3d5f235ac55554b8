"""The exchange's REST face: put once, read by long polling that wakes at once.

A hospital puts in its own name and reads what is for it or for everyone. What is for
the coordinator is read by the coordinator's own flow, by nobody else, and dropped when
used.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from api.auth import AGENT, COORDINATOR_ROLE, OPEN, CallerOf, require_role
from api.live import Inbox, rang, read_until
from api.routes.budgets import body_within
from api.routes.services import ORDER_ENDED, Services
from api.store import Store
from api.store.engine import in_thread
from api.store.hospitals import Caller
from protocol.errors import Forbidden, InvalidInput
from protocol.exchange import LONGEST_WAIT_SECONDS, Address, encode_frames
from protocol.message_plan import BOXES
from protocol.messages import COORDINATOR, EVERYONE, KINDS

router = APIRouter(prefix="/exchange", include_in_schema=False)

MOST_DIGITS = 10
"""Of a user id."""

Number = Annotated[int, Path(ge=0, lt=2**31)]
Recipient = Annotated[int, Query(ge=0, lt=2**31)]
Wait = Annotated[float, Query(ge=0, allow_inf_nan=False)]
Topic = Annotated[str, Path(max_length=32, pattern=r"^[a-z_-]+$")]


def _address(
    run: Number, topic: Topic, fold: Number, round_: Number, attempt: Number
) -> Address:
    """The part of every path that names a set of messages."""
    return Address(run, topic, fold, round_, attempt)


AddressOf = Annotated[Address, Depends(_address)]


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
        return await _news(request, services.inbox, COORDINATOR, boot, cursor, wait)
    await in_thread(services.store.hospitals.seen, user_id)
    with services.presence.poll(user_id):
        news = await _news(request, services.inbox, user_id, boot, cursor, wait)
        if await request.is_disconnected():
            services.presence.gone(user_id)
    return news


async def _news(
    request: Request, inbox: Inbox, user_id: int, boot: str, cursor: int, wait: float
) -> dict[str, Any]:
    if (
        boot != inbox.boot
    ):  # an earlier process's cursor says nothing: it has to look at everything
        newest, _ = inbox.since(user_id, 0)
        return _as_answer(inbox, newest, [{"what": "look", "order_id": 0}])
    deadline = time.monotonic() + min(wait, LONGEST_WAIT_SECONDS)
    with inbox.bell.listening(user_id) as event:
        while True:
            event.clear()
            end, news = inbox.since(user_id, cursor)
            is_over = time.monotonic() > deadline or event.over
            # Nobody hears the news of a closed connection; its agent asks again, and
            # gets them then.
            if news or is_over or await request.is_disconnected():
                return _as_answer(inbox, end, news)
            await rang(event, min(deadline, time.monotonic() + 1.0))


def _as_answer(inbox: Inbox, cursor: int, news: list[dict[str, Any]]) -> dict[str, Any]:
    """News, and our time: an agent looks at Prefect by this clock, so that a wrong one
    of its own delays nothing.
    """
    return {"boot": inbox.boot, "cursor": cursor, "news": news, "time": time.time()}


@router.put("/{run}/{topic}/{fold}/{round_}/{attempt}/{sender}/{recipient}")
async def put_message(
    request: Request,
    caller: CallerOf,
    address: AddressOf,
    sender: Number,
    recipient: Number,
    takes_place: bool = True,
) -> Response:
    """Keeps a message; the same bytes again are fine, other bytes are a conflict.

    Who works on an order before it has places says `takes_place=false`; everybody else
    hears OrderWaits then.
    """
    _check_sender(caller, sender)
    _check_topic(caller, address.topic)
    services, run = Services(request), address.run
    await _require_party(services.store, caller, run)
    most_bytes = services.settings.max_message_bytes
    if caller.role == AGENT:
        most_bytes = await services.budgets.most_bytes(address, sender, recipient)
    body = await body_within(request, most_bytes)
    with services.budgets.reserving(run, sender, len(body)):
        is_new = await in_thread(
            services.store.messages.put,
            address,
            sender,
            recipient,
            body,
            takes_place=takes_place,
        )
    if not is_new:
        services.budgets.freed(run, {sender: len(body)})
    services.bell.ring(run)
    if address.topic == "acceptance":
        services.bell.ring(("order", run))
    if address.topic == "predictions":
        await in_thread(services.store.orders.end_inference, run)
        services.bell.ring(ORDER_ENDED)
    return Response(status_code=201 if is_new else 200)


@router.get("/{run}/{topic}/{fold}/{round_}/{attempt}")
async def gather_messages(
    request: Request,
    caller: CallerOf,
    address: AddressOf,
    senders: Annotated[str, Query(max_length=20_000)],
    recipient: Recipient,
    wait: Wait = LONGEST_WAIT_SECONDS,
    takes_place: bool = True,
) -> Response:
    """All senders' messages for one recipient, or 204 when they are not all there in
    time.
    """
    _check_recipient(caller, recipient, senders)
    services, run = Services(request), address.run
    await _require_party(services.store, caller, run)
    wanted = _user_ids(senders)
    # Whom the coordinator's flow waits for is whom the order waits for; a mere look is
    # no waiting.
    is_waiting_flow = caller.role == COORDINATOR_ROLE and wait > 0

    async def gather() -> dict[int, bytes]:
        found = await in_thread(
            services.store.messages.gather,
            address,
            wanted,
            recipient,
            takes_place=takes_place,
        )
        if is_waiting_flow:
            services.waits.note(run, set(wanted) - set(found))
        return found

    found = await read_until(
        services.bell,
        run,
        gather,
        is_enough=lambda found: len(found) == len(wanted),
        seconds=min(wait, LONGEST_WAIT_SECONDS),
    )
    if len(found) < len(wanted):
        return Response(status_code=204)
    return Response(encode_frames(found), media_type="application/octet-stream")


@router.delete("/{run}/{topic}/{fold}/{round_}/{attempt}")
async def discard_messages(
    request: Request,
    caller: CallerOf,
    address: AddressOf,
    recipient: Recipient,
) -> Response:
    """Drops what was for the coordinator alone."""
    require_role(caller, COORDINATOR_ROLE)
    services = Services(request)
    n_bytes = await in_thread(services.store.messages.discard, address, recipient)
    services.budgets.freed(address.run, n_bytes)
    return Response(status_code=204)


def _check_sender(caller: Caller, sender: int) -> None:
    require_role(caller, AGENT, COORDINATOR_ROLE)
    own = COORDINATOR if caller.role == COORDINATOR_ROLE else caller.user_id
    if caller.role != OPEN and sender != own:
        raise Forbidden(
            "A message is put in one's own name only.",
            remedy="Use this hospital's own agent token.",
        )


def _check_topic(caller: Caller, topic: str) -> None:
    """A hospital sends only the kinds of messages that there are."""
    if caller.role == AGENT and topic not in (*KINDS, *BOXES):
        raise Forbidden(
            f"There are no messages of kind {topic}.",
            remedy="Update the agent.",
            code="topic",
        )


def _check_recipient(caller: Caller, recipient: int, senders: str) -> None:
    require_role(caller, AGENT, COORDINATOR_ROLE)
    if caller.role == COORDINATOR_ROLE:
        allowed = recipient in (COORDINATOR, EVERYONE) or senders == str(COORDINATOR)
    else:
        allowed = caller.role == OPEN or recipient in (caller.user_id, EVERYONE)
    if not allowed:
        raise Forbidden(
            "This message is for somebody else.",
            remedy="Read what is addressed to this hospital.",
        )


async def _require_party(store: Store, caller: Caller, run: int) -> None:
    """An agent takes part only in orders of its hospital."""
    if caller.role == AGENT:
        parties = await in_thread(store.orders.hospitals_of, run)
        if caller.user_id not in parties:
            raise Forbidden(
                "This order is not one of this hospital's.",
                remedy="Nothing is to be done here.",
            )


def _user_ids(senders: str) -> list[int]:
    parts = senders.split(",")
    are_numbers = all(part.isdecimal() and len(part) <= MOST_DIGITS for part in parts)
    has_doubles = len(set(parts)) < len(parts)
    if not are_numbers or has_doubles:
        raise InvalidInput(
            "senders is not a list of user ids.",
            remedy="Write each once, with commas between.",
        )
    return [int(part) for part in parts]
