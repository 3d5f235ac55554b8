"""Starting with who is there: an order's fields `start_within_seconds` and `at_least`, and
the second document that names who takes part.

An order that has them does not wait for everybody. So many seconds after its agent has
begun with the order, the initiator's agent names the hospitals that have accepted by
then, in one document that it signs, with the digest of the order and of each of their
acceptances. All parties verify it before keys are agreed; from then on the order is one
over these hospitals, as if nobody else had been asked. The set is fixed before any mask
is drawn, so that sums stay exact, and nobody is left out of one that has begun.

`agents.order.starting` makes and verifies it, `tasks.coordinator.order` reads it.

Decision 134.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, Self, TypeVar

from pydantic import BaseModel, Field

from protocol.errors import BadRequest, Conflict, bad_request, listed
from protocol.fields import Number, Whole
from protocol.messages import bad_message, canonical, read_fields

LONGEST_SECONDS = 7 * 86_400
MOST_HOSPITALS = 1_001

StartSeconds = Annotated[Number, Field(gt=0, le=LONGEST_SECONDS)]
AtLeast = Annotated[Whole, Field(ge=2, le=MOST_HOSPITALS)]

LATE = "late"
"""How an order has ended at a hospital that had not accepted it in time; the code of the
OrderStopped by which it hears so.
"""

DIGEST_BYTES = hashlib.sha256().digest_size

Request = TypeVar("Request", bound=BaseModel)


class Windowed(Protocol):
    """An order's request, as far as its start goes."""

    @property
    def start_within_seconds(self) -> float | None: ...

    @property
    def at_least(self) -> int | None: ...


# The fields


def check_window(request: Windowed, *, n_hospitals: int, needs_all: str = "") -> None:
    """BadRequest (code start_within_seconds or at_least) where they cannot be honoured.

    n_hospitals: that the order names. needs_all: why this order cannot start without
    some of them, as the rest of a sentence; empty where it can.
    """
    seconds, least = request.start_within_seconds, request.at_least
    if seconds is None and least is None:
        return
    if seconds is None:
        raise bad_request(
            "start_within_seconds",
            "at_least is given, and start_within_seconds is missing.",
            "Give both, or neither: without them the order waits for all its hospitals.",
        )
    if least is None:
        raise bad_request(
            "at_least",
            "start_within_seconds is given, and at_least is missing.",
            "Give both, or neither: without them the order waits for all its hospitals.",
        )
    if needs_all:
        raise bad_request(
            "start_within_seconds",
            f"start_within_seconds is given, and {needs_all}.",
            "Leave start_within_seconds and at_least out: the order then waits for all its hospitals.",
        )
    if least > n_hospitals:
        raise bad_request(
            "at_least",
            f"at_least is {least}, and the order names {n_hospitals} hospitals.",
            f"Give {n_hospitals} or fewer, or name more hospitals.",
        )


def check_no_window(request: Windowed) -> None:
    """BadRequest (code start_within_seconds) for a question of a schedule that does not
    wait for all: its last result may stand again, which is of other hospitals then.
    """
    if request.start_within_seconds is not None:
        raise bad_request(
            "start_within_seconds",
            "start_within_seconds is given, and a schedule's last result, which stands again where rows have hardly"
            " changed, may be of other hospitals.",
            "Leave start_within_seconds and at_least out: each order of the schedule then waits for all its hospitals.",
        )


def check_smallest(check: Callable[[], object], least: int) -> None:
    """Makes a check of the order with as few hospitals as it may start with; its
    BadRequest says that `at_least` is why.
    """
    try:
        check()
    except BadRequest as error:
        raise bad_request(
            error.code,
            f"With at_least {least} the order may start with so few hospitals: {error.sentence}",
            f"Raise at_least, or: {error.remedy}",
        ) from None


def smallest(hospitals: Sequence[int], initiator: int, least: int) -> list[int]:
    """As few hospitals as an order may start with, the initiator among them."""
    other_hospitals = [user_id for user_id in hospitals if user_id != initiator]
    return sorted([initiator, *other_hospitals[: least - 1]])


def with_fields(request: Request, **changes: Any) -> Request:
    """The request with other values in some fields.

    Nothing is copied that was computed of the fields as they were.
    """
    form = type(request)
    field_values = {name: getattr(request, name) for name in form.model_fields}
    return form.model_construct(request.model_fields_set, **(field_values | changes))


# The second document


def digest_of(acceptance: bytes) -> bytes:
    """SHA-256 of an acceptance as its hospital has signed it (the envelope's payload)."""
    return hashlib.sha256(acceptance).digest()


@dataclass(frozen=True)
class PartyDocument:
    """Initiator to everyone, signed: who takes part in an order, by whose acceptances."""

    # `SignedOrder.digest`, 32 bytes.
    order_digest: bytes
    # By hospital, `digest_of` its acceptance.
    acceptances: Mapping[int, bytes]

    @property
    def hospitals(self) -> list[int]:
        return sorted(self.acceptances)

    def encode(self) -> bytes:
        named = [[user, self.acceptances[user].hex()] for user in self.hospitals]
        party_fields = {"order": self.order_digest.hex(), "acceptances": named}
        return canonical(party_fields).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """ProtocolViolation (code bad_message) for what `encode` does not write."""
        party_fields = read_fields(data, {"order": str, "acceptances": list})
        try:
            order_digest = bytes.fromhex(party_fields["order"])
            acceptances = {}
            for user_id, digest in party_fields["acceptances"]:
                acceptances[int(user_id)] = bytes.fromhex(digest)
        except (ValueError, TypeError):
            raise bad_message("of kind party cannot be read") from None
        document = cls(order_digest, acceptances)
        digests = [order_digest, *acceptances.values()]
        are_digests = all(len(digest) == DIGEST_BYTES for digest in digests)
        # Sorted, each hospital once, in this one spelling.
        if not are_digests or document.encode() != data:
            raise bad_message("of kind party is not written as it should be")
        return document


def check_named(
    named: Collection[int], request: Windowed, *, asked: Sequence[int], initiator: int
) -> None:
    """ProtocolViolation (code bad_message) for a party that the order cannot have."""
    if not set(named) <= set(asked):
        raise bad_message("of kind party names a hospital that the order does not")
    if initiator not in named:
        raise bad_message("of kind party leaves the order's initiator out")
    least = request.at_least
    if least is None:
        raise bad_message("of kind party is for an order that waits for all")
    if len(named) < least:
        raise bad_message("of kind party names fewer hospitals than at_least")


def too_few(
    accepted: Sequence[int], asked: Sequence[int], request: Windowed
) -> Conflict:
    """The error of an order whose time is over before enough have accepted."""
    missing = sorted(set(asked) - set(accepted))
    return Conflict(
        f"{len(accepted)} of {len(asked)} hospitals had accepted after {request.start_within_seconds:g} seconds, and"
        f" at_least is {request.at_least}. Missing: {listed(missing)}.",
        remedy="Ask the missing hospitals whether their agents run, give more start_within_seconds, or lower at_least,"
        " and send the order again.",
        code="too_few_accepted",
        hospitals=missing,
    )


def incomplete(shortage: str) -> Conflict:
    """The error of an order whose party would lack something that it needs."""
    return Conflict(
        f"The order cannot start with who is there: {shortage}.",
        remedy="Ask the missing hospitals whether their agents run, or give more start_within_seconds, and send the"
        " order again.",
        code="too_few_accepted",
    )
