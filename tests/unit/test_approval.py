"""A person's word on an order: what is asked, who decides, and that a decision made
once stands.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents.order import approval
from agents.order.approval import Approvals, await_decision, person
from agents.order.party import Party
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings, load_settings
from agents.site.vault import Vault
from protocol.errors import (
    BadRequest,
    Conflict,
    ConsiliumError,
    NotFound,
    OrderStopped,
    ProtocolViolation,
    Refused,
)
from protocol.exchange import Exchange
from protocol.memory_transport import MemoryTransport

DIGEST = b"d" * 32
NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
TERMS: dict[str, Any] = {
    "kind": "training",
    "initiator": 4,
    "parties": [2, 4],
    "receivers": [2, 4],
    "purpose": "Ward 3 <b>",
    "data": {"train": "SELECT * FROM data.rows"},
    "columns": ["id", "y", "x1"],
    "method": "Mask",
    "scoring": "none",
    "details": {"model_type": "lr", "model_params": {"max_iter": 5}},
}


@pytest.fixture
def settings(tmp_path: Path) -> SiteSettings:
    (tmp_path / "settings.toml").write_text(
        f'user_id = 2\nname = "North"\nstate = "{tmp_path / "state"}"\n'
    )
    return load_settings(tmp_path)


@pytest.fixture
def approvals(settings: SiteSettings) -> Approvals:
    return Approvals(settings, now=lambda: NOW)


def ask(approvals: Approvals, *numbers: int) -> None:
    for number in numbers:
        approvals.ask(number, DIGEST.hex(), {**TERMS, "names": {"2": "North"}})


def events(settings: SiteSettings) -> list[tuple[str, Any]]:
    return [
        (entry["event"], entry.get("decision"))
        for entry in Ledger(settings.ledger).entries()
    ]


# Asking


def test_what_is_asked_is_for_the_owner_alone_and_says_everything(
    settings: SiteSettings, approvals: Approvals
) -> None:
    ask(approvals, 7)
    path = settings.vault / "approvals" / "7.json"
    assert path.stat().st_mode & 0o777 == 0o600
    (question,) = approvals.waiting()
    lines = dict(question.lines())
    assert lines["purpose"] == "Ward 3 <b>"
    assert lines["parties"] == "2 North, 4"
    assert lines["data: train"] == "SELECT * FROM data.rows"
    assert lines["columns"] == "id, y, x1"
    assert (lines["initiator"], lines["model_type"], lines["model_params"]) == (
        "4",
        "lr",
        '{"max_iter": 5}',
    )


def test_it_is_asked_once(settings: SiteSettings, approvals: Approvals) -> None:
    ask(approvals, 7, 7)
    assert events(settings) == [("asked", None)]


def test_another_order_of_that_number_is_refused(approvals: Approvals) -> None:
    ask(approvals, 7)
    with pytest.raises(Refused) as caught:
        approvals.ask(7, "ab" * 32, TERMS)
    assert caught.value.code == "order_number"


def test_those_that_wait_come_by_number(approvals: Approvals) -> None:
    ask(approvals, 10, 9, 2)
    assert [question.order_id for question in approvals.waiting()] == [2, 9, 10]


def test_an_order_that_ended_waits_no_more(
    settings: SiteSettings, approvals: Approvals
) -> None:
    ask(approvals, 7)
    Vault(settings.vault).end_order(7, "cancelled")
    assert approvals.waiting() == []
    with pytest.raises(NotFound) as caught:
        approvals.decide(7, approve=True, person="li")
    assert caught.value.code == "no_approval"


def test_a_damaged_question_is_told(
    settings: SiteSettings, approvals: Approvals
) -> None:
    ask(approvals, 7)
    for text in ("{", "[]", '{"order_id": 7}', '{"order_id": 7, "x": 1}'):
        (settings.vault / "approvals" / "7.json").write_text(text)
        with pytest.raises(Conflict) as caught:
            approvals.waiting()
        assert caught.value.code == "vault_damaged"


# Deciding


@pytest.mark.parametrize("approve", [True, False])
def test_a_decision_is_signed_and_stands_in_vault_and_ledger(
    settings: SiteSettings, approvals: Approvals, approve: bool
) -> None:
    ask(approvals, 7)
    made = approvals.decide(7, approve=approve, reason="因为", person="li")
    assert (made.is_approved, made.person, made.at, made.reason) == (
        approve,
        "li",
        NOW.isoformat("T", "milliseconds"),
        "因为",
    )
    assert Approvals(settings).decision(7, DIGEST.hex()) == made
    assert approvals.waiting() == []
    path = settings.vault / "approvals" / "7.decision.json"
    assert path.stat().st_mode & 0o777 == 0o600
    stored = json.loads(path.read_text())
    made.verify(Vault(settings.vault).identity(), stored["signature"])
    last = list(Ledger(settings.ledger).entries())[-1]
    assert last["event"] == "decided"
    assert {key: last[key] for key in stored["decision"]} == stored["decision"]
    assert last["signature"] == stored["signature"]


def test_a_decision_stands(settings: SiteSettings, approvals: Approvals) -> None:
    ask(approvals, 7)
    made = approvals.decide(7, approve=True, person="li")
    with pytest.raises(Conflict, match="approved by li at 2025-03-04") as caught:
        approvals.decide(7, approve=False, person="wang")
    assert caught.value.code == "decided"
    assert approvals.decision(7, DIGEST.hex()) == made
    assert events(settings) == [("asked", None), ("decided", "approved")]


def test_of_many_people_at_once_one_decides(
    settings: SiteSettings, approvals: Approvals
) -> None:
    ask(approvals, 7)
    start, refused = threading.Barrier(8), []

    def one(number: int) -> None:
        start.wait()
        try:
            Approvals(settings).decide(7, approve=number % 2 == 0, person=str(number))
        except Conflict:
            refused.append(number)

    people = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in people:
        thread.start()
    for thread in people:
        thread.join()
    assert len(refused) == 7
    assert [event for event, _ in events(settings)] == ["asked", "decided"]


def test_what_nobody_asked_is_not_decided(
    settings: SiteSettings, approvals: Approvals
) -> None:
    for number in (0, -1, 7):
        with pytest.raises(NotFound):
            approvals.decide(number, approve=True, person="li")
    assert events(settings) == []


@pytest.mark.parametrize(
    "reason", ["x" * 501, "two\nlines", "\x1b[2J", "half \udc80", "\u2028"]
)
def test_a_reason_is_one_short_line(
    settings: SiteSettings, approvals: Approvals, reason: str
) -> None:
    ask(approvals, 7)
    with pytest.raises(BadRequest) as caught:
        approvals.decide(7, approve=False, reason=reason, person="li")
    assert caught.value.code == "reason"
    assert len(approvals.waiting()) == 1
    approvals.decide(7, approve=False, reason="x" * 500, person="li")


FORGERIES: list[Callable[[dict[str, Any]], Any]] = [
    lambda stored: stored["decision"].update(decision="approved"),
    lambda stored: stored["decision"].update(person="somebody else"),
    lambda stored: stored.update(signature="00" * 64),
]


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_decision_lets_nothing_pass(
    settings: SiteSettings, approvals: Approvals, forge: Any
) -> None:
    ask(approvals, 7)
    approvals.decide(7, approve=False, person="li")
    path = settings.vault / "approvals" / "7.decision.json"
    stored = json.loads(path.read_text())
    forge(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(ProtocolViolation) as caught:
        approvals.decision(7, DIGEST.hex())
    assert caught.value.code == "bad_signature"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"decision": {}, "signature": ""}',
        '{"decision": 1, "signature": "zz"}',
    ],
)
def test_a_damaged_decision_lets_nothing_pass(
    settings: SiteSettings, approvals: Approvals, text: str
) -> None:
    ask(approvals, 7)
    (settings.vault / "approvals" / "7.decision.json").write_text(text)
    with pytest.raises(Conflict) as caught:
        approvals.decision(7, DIGEST.hex())
    assert caught.value.code == "vault_damaged"


def test_a_decision_on_another_order_or_of_another_number_lets_nothing_pass(
    settings: SiteSettings, approvals: Approvals
) -> None:
    ask(approvals, 7)
    approvals.decide(7, approve=True, person="li")
    folder = settings.vault / "approvals"
    (folder / "8.decision.json").write_bytes((folder / "7.decision.json").read_bytes())
    for number, digest in ((7, "ab" * 32), (8, DIGEST.hex())):
        with pytest.raises(Conflict):
            approvals.decision(number, digest)


def test_who_sits_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")
    assert person()
    assert person() != "somebody-else"
    monkeypatch.setattr(
        approval.pwd, "getpwuid", lambda uid: (_ for _ in ()).throw(KeyError)
    )
    assert person().isdecimal()


# Waiting


class Waiting:
    """A party that waits, in a thread of its own."""

    def __init__(
        self,
        settings: SiteSettings,
        transport: MemoryTransport,
        *,
        approval: str = "manual",
    ) -> None:
        rules = SimpleNamespace(orders=SimpleNamespace(approval=approval))
        party = SimpleNamespace(
            settings=settings, order_id=7, me=2, policy=rules, store=Vault(settings.vault).order(7),
            exchange=Exchange(transport, 2),
        )  # fmt: skip
        self.outcome: ConsiliumError | str | None = None
        self.thread = threading.Thread(
            target=self._wait, args=(cast(Party, party),), daemon=True
        )
        self.thread.start()

    def _wait(self, party: Party) -> None:
        try:
            await_decision(party, DIGEST, TERMS)
            self.outcome = "approved"
        except ConsiliumError as error:
            self.outcome = error

    def ended(self) -> Any:
        self.thread.join(timeout=10)
        assert not self.thread.is_alive()
        return self.outcome


def until_asked(settings: SiteSettings) -> None:
    event = threading.Event()
    for _ in range(500):
        if (settings.vault / "orders" / "7" / "decided").exists() and Approvals(
            settings
        ).waiting():
            return
        event.wait(0.01)
    raise AssertionError("nobody was asked")


def test_nobody_is_asked_where_the_policy_decides_alone(settings: SiteSettings) -> None:
    assert (
        Waiting(settings, MemoryTransport(), approval="automatic").ended() == "approved"
    )
    assert not settings.ledger.exists()


def test_it_sleeps_until_it_is_approved(settings: SiteSettings) -> None:
    waiting = Waiting(settings, MemoryTransport())
    until_asked(settings)
    waiting.thread.join(timeout=0.3)
    assert waiting.thread.is_alive()
    Approvals(settings).decide(7, approve=True, person="li")
    assert waiting.ended() == "approved"


def test_a_refusal_carries_its_reason(settings: SiteSettings) -> None:
    waiting = Waiting(settings, MemoryTransport())
    until_asked(settings)
    Approvals(settings).decide(7, approve=False, reason="No vote yet.", person="li")
    error = waiting.ended()
    assert (type(error), error.code) == (Refused, "approval")
    assert error.sentence == "A person at this hospital refused the order: No vote yet."


def test_an_order_that_is_cancelled_is_heard_of_while_it_waits(
    settings: SiteSettings,
) -> None:
    transport = MemoryTransport()
    waiting = Waiting(settings, transport)
    until_asked(settings)
    transport.stop(7, OrderStopped("Cancelled.", remedy="", code="cancelled"))
    assert waiting.ended().code == "cancelled"


def test_a_decision_made_while_nobody_waited_is_found(settings: SiteSettings) -> None:
    ask(Approvals(settings), 7)
    Approvals(settings).decide(7, approve=True, person="li")
    assert Waiting(settings, MemoryTransport()).ended() == "approved"


def test_a_decision_stands_when_the_policy_has_changed_meanwhile(
    settings: SiteSettings,
) -> None:
    ask(Approvals(settings), 7)
    Approvals(settings).decide(7, approve=False, person="li")
    assert (
        Waiting(settings, MemoryTransport(), approval="automatic").ended().code
        == "approval"
    )


def test_all_who_wait_for_one_order_hear_of_it(settings: SiteSettings) -> None:
    """A process that should be dead may still wait beside its successor."""
    both = [Waiting(settings, MemoryTransport()) for _ in range(2)]
    until_asked(settings)
    threading.Event().wait(0.2)
    Approvals(settings).decide(7, approve=True, person="li")
    assert [waiting.ended() for waiting in both] == ["approved"] * 2


def test_waiting_takes_no_time_of_the_processor(settings: SiteSettings) -> None:
    waiting = Waiting(settings, MemoryTransport())
    until_asked(settings)
    before = sum(os.times()[:2])
    waiting.thread.join(timeout=1)
    assert sum(os.times()[:2]) - before < 0.2
    Approvals(settings).decide(7, approve=True, person="li")
    waiting.ended()


def test_rung_for_nothing_it_waits_on(settings: SiteSettings) -> None:
    waiting = Waiting(settings, MemoryTransport())
    until_asked(settings)
    for _ in range(3):
        approval._ring(settings.vault / "orders" / "7")
    waiting.thread.join(timeout=0.3)
    assert waiting.thread.is_alive()
    Approvals(settings).decide(7, approve=False, person="li")
    assert waiting.ended().sentence == "A person at this hospital refused the order."
