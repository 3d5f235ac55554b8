"""The exchange's REST face: put once, read by long polling that wakes at once.

A hospital puts in its own name and reads what is for it or for everyone. What is for
the coordinator is read by the coordinator's own flow, by nobody else, and dropped when
used.

Decisions 145 and 153.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.auth import (
    AGENT,
    COORDINATOR_ROLE,
    OPEN,
    CallerOf,
    current_caller,
    require_role,
)
from api.live import read_until
from api.routes.budgets import body_within, message_too_large
from api.routes.order_end import tell_ended
from api.routes.services import ORDER_ENDED, Services
from api.store import Store
from api.store.bodies import Body, DamagedBody
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.messages import Arrived, Found
from api.store.rows import stop_of
from protocol.errors import Forbidden, InvalidInput
from protocol.exchange import (
    FRAME_BYTES,
    LONGEST_WAIT_SECONDS,
    Address,
    Counted,
    Named,
    Topic,
    Used,
    decode_sent,
    frame_head,
    is_worth_reading,
    read_at_once,
)
from protocol.fields import describe
from protocol.message_plan import BOXES
from protocol.messages import COORDINATOR, EVERYONE, KINDS

router = APIRouter(prefix="/exchange", include_in_schema=False)

BYTES = "application/octet-stream"

Pieces = Callable[[], Iterator[bytes]]
"""Reads something from its beginning, piece by piece."""

MOST_DISCARDED = 100
"""Addresses in one call; a round has a handful."""

MOST_DIGITS = 10
"""Of a user id."""

Number = Annotated[int, Path(ge=0, lt=2**31)]


class _OfOrder(BaseModel):
    """What the path and the query of a call for messages say, read in one go: these
    are most of the coordinator's calls (decision 153).
    """

    run: Counted
    takes_place: bool = True

    @classmethod
    def of(cls, request: Request) -> Self:
        """InvalidInput names every field that is wrong."""
        parameters = {**request.query_params, **request.path_params}
        try:
            return cls.model_validate(parameters)
        except ValidationError as error:
            raise describe(error) from None


class _AtAddress(_OfOrder, Named):
    @property
    def address(self) -> Address:
        return self.address_in(self.run)


class _Put(_AtAddress):
    sender: Counted


class _PutTogether(_OfOrder):
    sender: Counted


class _Gathered(_AtAddress):
    senders: Annotated[str, Field(max_length=20_000)]
    wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = LONGEST_WAIT_SECONDS
    some: bool = False
    present: bool = False
    along: Topic | None = None


def _messages_at(address: Address) -> tuple[Any, ...]:
    """What the bell rings for a message there: who waits for another message of the
    order sleeps on (decision 141).
    """
    return ("messages", address.run, address.topic, address.fold, address.round)


async def put_message(request: Request) -> Response:
    """Keeps a message; the same bytes again are fine, other bytes are a conflict.

    Who works on an order before it has places says `takes_place=false`; everybody else
    hears OrderWaits then.
    """
    parameters = _Put.of(request)
    address = parameters.address
    sender = parameters.sender
    recipient = parameters.recipient
    run = address.run
    caller = await current_caller(request)
    _check_sender(caller, sender)
    _check_topic(caller, address.topic)
    services = Services(request)
    await _require_party(services.store, caller, run)
    most_bytes = services.settings.max_message_bytes
    if caller.role == AGENT:
        most_bytes = await services.budgets.most_bytes(address, sender, recipient)
    is_new = await _keep(
        services,
        request,
        address,
        sender,
        recipient,
        most_bytes,
        parameters.takes_place,
    )
    await _tell(services, address)
    return Response(status_code=201 if is_new else 200)


async def _tell(services: Services, address: Address) -> None:
    """Wakes whoever waits for a message that has been put."""
    run = address.run
    services.bell.ring(_messages_at(address))
    if address.topic == "acceptance":
        services.bell.ring(("order", run))
    if address.topic == "predictions":
        await in_thread(
            services.store.orders.end_inference,
            run,
            address.attempt,
        )
        services.bell.ring(ORDER_ENDED)
    if address.topic in BOXES:
        # For these the API itself waits, and for the order's end.
        services.bell.ring(run)


async def put_together(request: Request) -> Response:
    """Keeps several small messages of one sender, all or none, as `put_message` keeps
    one.
    """
    parameters = _PutTogether.of(request)
    run = parameters.run
    sender = parameters.sender
    caller = await current_caller(request)
    _check_sender(caller, sender)
    services = Services(request)
    await _require_party(services.store, caller, run)
    # The door has bounded it.
    messages = decode_sent(run, await request.body())
    budgets = services.budgets
    arrived = []
    for message in messages:
        address = message.address
        _check_topic(caller, address.topic)
        body = Body.of(message.body)
        if caller.role == AGENT:
            most_bytes = await budgets.most_bytes(address, sender, message.recipient)
            if body.size > most_bytes:
                raise message_too_large(most_bytes)
        arrived.append(Arrived(address, message.recipient, body))
    with budgets.reserving(run, sender) as reserve:
        # Of all before any is kept: they stay within the room together.
        reserve(sum(arrival.body.size for arrival in arrived))
        are_new = await in_thread(
            services.store.messages.put_together,
            run,
            sender,
            arrived,
            takes_place=parameters.takes_place,
            most_bytes=budgets.most_held(run, sender),
        )
    for arrival, is_new in zip(arrived, are_new, strict=True):
        if not is_new:
            budgets.freed(run, {sender: arrival.body.size})
        await _tell(services, arrival.address)
    return Response(status_code=201 if any(are_new) else 200)


async def _keep(
    services: Services,
    request: Request,
    address: Address,
    sender: int,
    recipient: int,
    most_bytes: int,
    takes_place: bool,
) -> bool:
    """Brings the body to disk, then enters it; whether it is new."""
    run = address.run
    budgets = services.budgets
    with (
        services.store.bodies.writing(run) as writer,
        budgets.reserving(run, sender) as reserve,
    ):
        body = await body_within(
            request,
            most_bytes,
            writer,
            reserve,
        )
        is_new = await in_thread(
            services.store.messages.put,
            address,
            sender,
            recipient,
            body,
            takes_place=takes_place,
            most_bytes=budgets.most_held(run, sender),
        )
        if is_new:
            writer.keep()
    if not is_new:
        budgets.freed(run, {sender: body.size})
    return is_new


async def gather_messages(request: Request) -> Response:
    """All senders' messages for one recipient, or 204 when they are not all there in
    time; with `present` those that are there when it is over, with `some` a part of them as
    soon as it is worth an answer.
    """
    parameters = _Gathered.of(request)
    address = parameters.address
    run = address.run
    caller = await current_caller(request)
    _check_recipient(caller, parameters.recipient, parameters.senders)
    services = Services(request)
    await _require_party(services.store, caller, run)
    senders = _user_ids(parameters.senders)
    # Whom the coordinator's flow waits for is whom the order waits for; a mere look is
    # no waiting.
    is_waiting_flow = caller.role == COORDINATOR_ROLE and parameters.wait > 0

    def choose(n_bytes: dict[int, int]) -> list[int]:
        if parameters.some:
            is_enough = is_worth_reading(n_bytes, len(senders))
            return read_at_once(n_bytes) if is_enough else []
        return senders if len(n_bytes) == len(senders) else []

    async def look() -> Found:
        found = await in_thread(
            services.store.messages.find_enough,
            address,
            senders,
            parameters.recipient,
            choose,
            takes_place=parameters.takes_place,
            reader=caller.user_id,
            along=parameters.along,
        )
        if is_waiting_flow:
            missing = set(senders) - set(found.n_bytes)
            services.waits.note(run, missing)
        return found

    found = await read_until(
        services.bell,
        run,
        look,
        is_enough=lambda found: bool(found.bodies),
        seconds=min(parameters.wait, LONGEST_WAIT_SECONDS),
        or_key=_messages_at(address),
    )
    if parameters.present and not found.bodies:
        found.bodies = await in_thread(
            services.store.messages.find,
            address,
            found.n_bytes,
            parameters.recipient,
        )
    elif not found.bodies:
        return Response(status_code=204)
    return await _frames(services, run, found.bodies)


# Not by FastAPI's own decorators: reading the arguments of a call one by one took a
# third of the coordinator's work for an order (decision 153).
router.add_route(
    "/exchange/{run}/messages/{sender}",
    put_together,
    methods=["POST"],
    include_in_schema=False,
)
_AT = "/exchange/{run}/{topic}/{fold}/{round}/{attempt}"
router.add_route(_AT, gather_messages, methods=["GET"], include_in_schema=False)
router.add_route(
    _AT + "/{sender}/{recipient}",
    put_message,
    methods=["PUT"],
    include_in_schema=False,
)


async def _frames(
    services: Services,
    run: int,
    bodies: dict[int, Body],
) -> Response:
    """The messages in one body, of large ones a piece in memory at a time.

    A damaged file ends the order before a byte of it is sent.
    """
    opened = contextlib.ExitStack()
    pieces: list[Pieces] = []
    n_bytes = 0
    try:
        for sender, body in bodies.items():
            head = frame_head(sender, body.size)
            pieces.append(_bytes_once(head))
            if body.data is not None:
                pieces.append(_bytes_once(body.data))
            else:
                reading = services.store.bodies.open(body)
                pieces.append(await in_thread(opened.enter_context, reading))
            n_bytes += FRAME_BYTES + body.size
    except DamagedBody as damage:
        opened.close()
        is_new = await in_thread(
            services.store.orders.end,
            run,
            "failed",
            damage,
        )
        if is_new:
            order = await in_thread(services.store.orders.get, run)
            tell_ended(services, order)
        raise stop_of(run, "failed", damage.to_json()) from None
    except BaseException:
        opened.close()
        raise
    if all(body.data is not None for body in bodies.values()):
        opened_pieces = (piece() for piece in pieces)
        joined = b"".join(itertools.chain.from_iterable(opened_pieces))
        return Response(joined, media_type=BYTES)

    def content() -> Iterator[bytes]:
        with opened:
            for piece in pieces:
                yield from piece()

    # Its length is known: an answer that is cut short is found and asked for again.
    headers = {"Content-Length": str(n_bytes)}
    return StreamingResponse(content(), media_type=BYTES, headers=headers)


def _bytes_once(data: bytes) -> Pieces:
    return lambda: iter((data,))


class UsedMessages(Named):
    """Messages of one address for one recipient."""

    model_config = ConfigDict(extra="forbid")


class Discarded(BaseModel):
    """What nobody reads again."""

    model_config = ConfigDict(extra="forbid")

    used: Annotated[list[UsedMessages], Field(max_length=MOST_DISCARDED)]


@router.post("/{run}/discard")
async def discard_messages(
    request: Request,
    caller: CallerOf,
    run: Number,
    body: Discarded,
) -> Response:
    """Drops messages that the coordinator's flow has used, several in one call: each
    call is a commit of the store (decision 151).
    """
    require_role(caller, COORDINATOR_ROLE)
    services = Services(request)
    used_messages = []
    for used_message in body.used:
        used_messages.append(Used(used_message.address_in(run), used_message.recipient))
    n_bytes = await in_thread(services.store.messages.discard, run, used_messages)
    services.budgets.freed(run, n_bytes)
    return Response(status_code=204)


def _check_sender(caller: Caller, sender: int) -> None:
    require_role(caller, AGENT, COORDINATOR_ROLE)
    own_user = COORDINATOR if caller.role == COORDINATOR_ROLE else caller.user_id
    if caller.role != OPEN and sender != own_user:
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
        # Its flow may read again what it has sent itself, and nothing that one hospital
        # sends another.
        allowed = recipient in (COORDINATOR, EVERYONE) or senders == str(COORDINATOR)
    else:
        allowed = caller.role == OPEN or recipient in (caller.user_id, EVERYONE)
    if not allowed:
        raise Forbidden(
            "This message is for somebody else.",
            remedy="Read what is addressed to this hospital.",
        )


async def _require_party(
    store: Store,
    caller: Caller,
    run: int,
) -> None:
    """An agent takes part only in orders of its hospital."""
    if caller.role == AGENT:
        parties = store.orders.known_hospitals_of(run)
        if parties is None:
            parties = await in_thread(store.orders.hospitals_of, run)
        if caller.user_id not in parties:
            raise Forbidden(
                "This order is not one of this hospital's.",
                remedy="Nothing is to be done here.",
            )


def _user_ids(senders: str) -> list[int]:
    sender_texts = senders.split(",")
    are_numbers = all(_is_number(sender_text) for sender_text in sender_texts)
    has_doubles = len(set(sender_texts)) < len(sender_texts)
    if not are_numbers or has_doubles:
        raise InvalidInput(
            "senders is not a list of user ids.",
            remedy="Write each once, with commas between.",
        )
    return [int(sender_text) for sender_text in sender_texts]


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= MOST_DIGITS
