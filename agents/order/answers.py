"""An order's answer for the person who reads it, sealed to that person's own key.

The hospital of who asked seals it, by its own policy as it stands at that moment: the
other hospitals have let it open the answer, and whom it tells is its own matter, as with
the files of its results folder.

Decision 97.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from agents.order.party import Hospital, Party
from agents.site.policy import load_policy
from protocol.errors import Refused, Rule
from protocol.readers import AnswerKind, AnswerPlace


def reader_rules(
    hospital: Hospital, *, initiator: int, reader: str | None
) -> list[Rule]:
    """Whether the reader whom an order names is listed here, before a row is read; none
    at hospitals that seal nothing to anybody.
    """
    if reader is None or hospital.me != initiator:
        return []
    return [Rule("reader", partial(hospital.policy.check_reader, reader))]


def send_answer(
    party: Party, kind: AnswerKind, make: Callable[[], Any], *, reader: str
) -> None:
    """Seals what `make` gives, as JSON, to the reader's key, and sends it.

    Raises Refused (code reader) where the policy does not list the reader any more, with
    nothing sent. Disclosure: the answer to the reader; its size, coarsely, to the
    coordinator.
    """

    def encoded() -> bytes:
        return json.dumps(make(), ensure_ascii=False).encode()

    # Who is listed may have changed since this process began with the order.
    now = replace(party.release, policy=load_policy(party.settings.policy))
    answer_place = AnswerPlace(party.order_id, kind, party.me)
    now.send_answer(encoded, place=answer_place, reader=reader)


def send_answer_of_ended(
    party: Party, kind: AnswerKind, make: Callable[[], Any], *, reader: str
) -> None:
    """As `send_answer`, of an order whose answer this hospital has already.

    A reader who was taken off the list while it went on does not undo it: the ledger
    says that nothing was sent.
    """
    try:
        send_answer(party, kind, make, reader=reader)
    except Refused as refusal:
        party.release.ledger.write(
            "refused",
            order_id=party.order_id,
            rule=refusal.code,
            sentence=refusal.sentence,
        )
