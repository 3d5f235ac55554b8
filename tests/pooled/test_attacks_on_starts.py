"""Attacks on who takes part in an order that starts with who is there: by its initiator,
by the coordinator, and by both together.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.order import starting
from agents.order.party import open_party
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.training import party as parties
from agents.training.party import VerifiedTraining
from deployments.local.one_process import run_order, submit
from protocol.errors import ConsiliumError, OrderStopped, ProtocolViolation, Refused
from protocol.exchange import Address, Exchange
from protocol.memory_transport import MemoryTransport
from protocol.messages import (
    EVERYONE,
    Acceptance,
    Header,
    read_envelope,
    write_envelope,
)
from protocol.sealing import Identity
from protocol.start_window import PartyDocument, digest_of
from protocol.training_request import parse_training_request
from tests.made_sites import make_sites, order_body
from tests.made_study import N_PATIENTS, USERS, Study, make_study
from tests.made_windows import WINDOW, over_when_accepted
from tests.pooled.test_newton_orders import made_rows

FOUR = (2, 3, 4, 5)
FRAMES = made_rows({2: 200, 3: 150, 4: 230, 5: 170})
BODY = order_body(
    FOUR,
    attributes=["age", "dose", "sex"],
    scoring="none",
    model_params={"standardize": True},
    **WINDOW,
)


@pytest.fixture
def sites(tmp_path: Path) -> dict[int, SiteSettings]:
    tables = {user: {"rows": frame} for user, frame in FRAMES.items()}
    return make_sites(tmp_path, tables)


@pytest.fixture
def verified(sites: dict[int, SiteSettings]) -> dict[int, VerifiedTraining]:
    """An order of hospital 2 that all four have verified, and of which no row is read."""
    transport = MemoryTransport()
    submit(transport, parse_training_request(BODY), sites, 1)
    orders = {}
    for user in FOUR:
        orders[user] = parties.verify_order(open_party(sites[user], 1, transport))
    return orders


ACCEPTED = {user: digest_of(b"acceptance of %d" % user) for user in FOUR}


def signed(order: VerifiedTraining, document: PartyDocument) -> bytes:
    """As the order's initiator signs it."""
    header = Header("party", 2, EVERYONE, context=order.signed.digest)
    identity = Vault(order.settings.vault).identity()
    return write_envelope(identity, header, document.encode())


def among(*users: int) -> dict[int, bytes]:
    return {user: ACCEPTED.get(user, bytes(32)) for user in users}


FORGED: dict[str, tuple[Callable[[bytes], PartyDocument], str]] = {
    "of another order": (
        lambda digest: PartyDocument(bytes(32), among(2, 3, 4)),
        "order_altered",
    ),
    "fewer than at_least": (
        lambda digest: PartyDocument(digest, among(2, 3)),
        "bad_message",
    ),
    "a hospital that was not asked": (
        lambda digest: PartyDocument(digest, among(2, 3, 4, 9)),
        "bad_message",
    ),
    "without its initiator": (
        lambda digest: PartyDocument(digest, among(3, 4, 5)),
        "bad_message",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_party_that_the_order_cannot_have(
    verified: dict[int, VerifiedTraining], what: str
) -> None:
    make, code = FORGED[what]
    envelope = signed(verified[2], make(verified[2].signed.digest))
    for user in (3, 4):
        with pytest.raises(ConsiliumError) as caught:
            starting._verified(verified[user], envelope)
        assert caught.value.code == code
        assert not verified[user].store.has("party"), "it stands for nothing"


def test_the_coordinator_can_write_none(verified: dict[int, VerifiedTraining]) -> None:
    """Nobody but the initiator's key signs who takes part; an altered one is none."""
    digest = verified[2].signed.digest
    document = PartyDocument(digest, among(2, 3, 4))
    header = Header("party", 2, EVERYONE, context=digest)
    own = write_envelope(Identity.generate(), header, document.encode())
    true = signed(verified[2], document)
    for envelope in (own, true[:-1] + bytes([true[-1] ^ 1])):
        with pytest.raises(ProtocolViolation) as caught:
            starting._verified(verified[3], envelope)
        assert caught.value.code == "bad_signature"
    # That of an earlier run of the same hospitals is none of this one.
    earlier = Header("party", 2, EVERYONE, context=bytes(32))
    identity = Vault(verified[2].settings.vault).identity()
    with pytest.raises(ProtocolViolation):
        starting._verified(
            verified[3], write_envelope(identity, earlier, document.encode())
        )


def test_a_second_party_for_an_order(verified: dict[int, VerifiedTraining]) -> None:
    """The first one that a hospital has seen stands, after a restart too."""
    digest = verified[2].signed.digest
    first = signed(verified[2], PartyDocument(digest, among(2, 3, 4)))
    second = signed(verified[2], PartyDocument(digest, among(2, 3, 5)))
    starting._verified(verified[3], first)
    starting._verified(verified[3], first)
    with pytest.raises(Refused) as caught:
        starting._verified(verified[3], second)
    assert caught.value.code == "party_altered"


def test_the_door_lets_no_second_one_out(verified: dict[int, VerifiedTraining]) -> None:
    order = verified[2]
    digest = order.signed.digest
    header = Header("party", 2, EVERYONE, context=digest)
    documents = [
        PartyDocument(digest, among(2, 3, 4)),
        PartyDocument(digest, among(2, 3, 5)),
    ]
    for document in documents:
        order.release.send(header, document.encode, address=Address(1, "party"))
    sent = order.exchange.get(Address(1, "party"), 2, EVERYONE)
    body = read_envelope(sent, header, order.identity.public)
    assert body == documents[0].encode(), "what was made is sent again"
    others = [
        (header, Address(1, "party", round=1)),
        (header, Address(1, "party", attempt=1)),
        (replace(header, recipient=1), Address(1, "party")),
    ]
    for other_header, address in others:
        with pytest.raises(Refused) as caught:
            order.release.send(other_header, documents[1].encode, address=address)
        assert caught.value.code == "release"


def test_a_hospital_that_is_left_out_though_it_has_accepted(
    verified: dict[int, VerifiedTraining],
) -> None:
    """It takes no part, whoever says so, and keeps nothing."""
    digest = verified[2].signed.digest
    envelope = signed(verified[2], PartyDocument(digest, among(2, 3, 4)))
    with pytest.raises(OrderStopped) as caught:
        starting._verified(verified[5], envelope)
    assert caught.value.code == "late"
    assert Vault(verified[5].settings.vault).orders() == []


# Whole orders


def ended(sites: dict[int, SiteSettings]) -> ConsiliumError:
    """The error of an order that must leave no model."""
    with pytest.raises(ConsiliumError) as caught:
        run_order(sites, BODY)
    for site in sites.values():
        assert Vault(site.vault).models() == []
    return caught.value


def on_document(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[PartyDocument], PartyDocument]
) -> None:
    """An initiator that signs another party than it has seen, and believes itself."""
    make, verify = starting._document, starting._verified

    def changed(*args: Any) -> PartyDocument:
        return change(make(*args))

    def believe(order: Any, envelope: bytes) -> PartyDocument:
        if not order.is_initiator:
            return verify(order, envelope)
        header = Header("party", 2, EVERYONE, context=order.signed.digest)
        return PartyDocument.decode(read_envelope(envelope, header, None))

    monkeypatch.setattr(starting, "_document", changed)
    monkeypatch.setattr(starting, "_verified", believe)


def test_another_acceptance_than_the_named_one(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(document: PartyDocument) -> PartyDocument:
        digests = {**document.acceptances, 4: digest_of(b"another one")}
        return replace(document, acceptances=digests)

    on_document(monkeypatch, change)
    assert ended(sites).code == "order_altered"


def test_a_hospital_that_has_not_accepted(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Initiator and coordinator make an acceptance for it, with a key of their own: no
    pin is of that key.
    """
    forged: list[bytes] = []

    def change(document: PartyDocument) -> PartyDocument:
        identity = Identity.generate()
        accepted = Acceptance(
            order_digest=document.order_digest,
            n_rows=100,
            n_test_rows=0,
            regroup=True,
            least_hospitals=2,
            ephemeral=bytes(31) + b"\x09",
            identity=identity.public,
        ).encode()
        header = Header("acceptance", 5, EVERYONE, context=document.order_digest)
        forged.append(write_envelope(identity, header, accepted))
        digests = {**document.acceptances, 5: digest_of(accepted)}
        return replace(document, acceptances=digests)

    on_document(monkeypatch, change)
    gather = MemoryTransport.gather

    def with_forged(
        self: MemoryTransport, address: Address, senders: Any, *rest: Any, **more: Any
    ) -> Any:
        if address.topic != "acceptance" or not forged:
            return gather(self, address, senders, *rest, **more)
        others = [user for user in senders if user != 5]
        found = gather(self, address, others, *rest, **more)
        return found and {**found, 5: forged[0]}

    monkeypatch.setattr(MemoryTransport, "gather", with_forged)
    with over_when_accepted(USERS), pytest.raises(ConsiliumError) as caught:
        run_order(sites, BODY, away=[5])
    assert caught.value.code == "pin_mismatch"
    for site in sites.values():
        assert Vault(site.vault).models() == []


def test_two_parties_shown_to_two_hospitals(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An initiator that signs two, and a coordinator that shows each to another
    hospital: the keys of a run are of its party, so that nobody reads what the other
    half sends.
    """
    get = Exchange.get
    identity = Vault(sites[2].vault).identity()

    def show(self: Exchange, address: Address, sender: int, *rest: Any) -> bytes:
        envelope = get(self, address, sender, *rest)
        if address.topic != "party" or self.me != 3:
            return envelope
        body = json.loads(envelope[113:-64])
        digest = bytes.fromhex(body["order"])
        header = Header("party", 2, EVERYONE, context=digest)
        document = PartyDocument.decode(read_envelope(envelope, header, None))
        fewer = {user: document.acceptances[user] for user in (2, 3, 4)}
        other = replace(document, acceptances=fewer)
        return write_envelope(identity, header, other.encode())

    monkeypatch.setattr(Exchange, "get", show)
    error = ended(sites)
    assert error.code == "bad_message", error.code


def test_an_acceptance_held_back_once_tells_no_hospital_s_sum(tmp_path: Path) -> None:
    """The coordinator holds hospital 5's acceptance back, so that the first order is
    without it and the next one with it: refused, as if both had been asked so.
    """
    study: Study = make_study(tmp_path)
    gather_present = MemoryTransport.gather_present

    def without_5(
        self: MemoryTransport, address: Address, senders: Any, *rest: Any, **more: Any
    ) -> dict[int, bytes]:
        found = gather_present(self, address, senders, *rest, **more)
        if address.topic == "acceptance":
            found.pop(5, None)
        return found

    with pytest.MonkeyPatch.context() as patch, over_when_accepted(FOUR):
        patch.setattr(MemoryTransport, "gather_present", without_5)
        study.hospitals.ask(
            "avg",
            dict.fromkeys(FOUR, "data.pooled"),
            key="age",
            absent=[5],
            **WINDOW,
        )
    assert study.refused("avg", "age", users=FOUR) == "earlier_hospitals"
    assert study.answer("count", "age").number == 3 * N_PATIENTS
