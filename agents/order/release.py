"""The one door: only here are bytes made that leave a hospital.

For every message: check that it may leave, write the ledger, seal and sign, keep the
sealed bytes in the outbox, send. After a crash the bytes in the outbox are sent again;
nothing that was made is made anew, because other randomness would be refused by the
exchange and, under masks, would be a two-time pad (decision 14).

`agents.order.party.send` is how messages of a session come here; what a message is,
`protocol.messages`.

Decisions 7 and 97.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from agents.site.ledger import Ledger
from agents.site.vault import OrderVault
from protocol.errors import Conflict, Refused
from protocol.exchange import Address, Exchange
from protocol.messages import COORDINATOR, EVERYONE, KINDS, Header, write_envelope
from protocol.policy import Policy
from protocol.readers import TOPIC, AnswerPlace, reader_fingerprint, seal_answer
from protocol.sealing import Identity, Session, seal_to


@dataclass
class Release:
    """The door of one hospital for one order.

    Clear kinds hold what the coordinator may read: the signed order, row counts, sealed
    parts of sums, metrics.
    """

    order_id: int
    identity: Identity
    ledger: Ledger
    vault: OrderVault
    exchange: Exchange
    policy: Policy

    def send(
        self,
        header: Header,
        make: Callable[[], bytes],
        *,
        address: Address,
        session: Session | None = None,
        with_next: bool = False,
    ) -> None:
        """Lets one message out; `with_next` in one call with the one after it.

        `make` gives its payload and is not called when the message was made before.
        """
        # What is for hospitals only must not leave in the clear, whatever its caller
        # says of it.
        is_fit = KINDS.get(header.kind) == header.seal
        if header.kind == "party":
            # An order has one: a second one would need another name.
            the_one = (Address(self.order_id, "party"), EVERYONE)
            is_fit = is_fit and (address, header.recipient) == the_one
        if not is_fit:
            raise Refused(
                f"A message of kind {header.kind} may not leave like this.",
                remedy="Update the agent.",
                code="release",
            )

        def seal() -> bytes:
            payload = make()
            # Before there are bytes to send: a crash after it leaves a line of what
            # never left, and never a message without its line.
            self._note(header.kind, address, header.recipient, payload)
            return write_envelope(self.identity, header, payload, session=session)

        outbox_name = _outbox_name(address, header.recipient)
        envelope = self.vault.once(outbox_name, seal)
        if with_next:
            # It is in the outbox already: after a crash it is sent again.
            self.exchange.hold(address, header.recipient, envelope)
        else:
            self.exchange.put(address, header.recipient, envelope)

    def send_predictions(
        self, make: Callable[[], bytes], *, address: Address, reply_key: bytes
    ) -> None:
        """Lets predictions out, sealed to the one-time key of the request's owner.

        They go to the coordinator's memory. Refused where the policy does not let
        predictions be returned.
        """
        self.policy.check_return_predictions()
        self._reply(make, address, reply_key)

    def send_values(
        self, make: Callable[[], bytes], *, address: Address, reply_key: bytes
    ) -> None:
        """Lets an answer's values out, sealed to the one-time key of who asked.

        That is this receiver, which wants to see them at once. Every provider's policy
        has allowed it before it took part.
        """
        self._reply(make, address, reply_key)

    def send_answer(
        self, make: Callable[[], bytes], *, place: AnswerPlace, reader: str
    ) -> None:
        """Lets an answer out, signed, and sealed to the key (hex) of a reader whom this
        hospital's policy lists.

        The coordinator passes it on and cannot open it. Raises Refused (code reader).
        """
        self.policy.check_reader(reader)
        public = bytes.fromhex(reader)
        address = Address(self.order_id, TOPIC)

        def seal() -> bytes:
            payload = make()
            self._note(
                TOPIC, address, EVERYONE, payload, reader=reader_fingerprint(public)
            )
            return seal_answer(public, payload, place=place, identity=self.identity)

        sealed = self.vault.once(_outbox_name(address, COORDINATOR), seal)
        # Sealed anew after a crash: what was sent first stands.
        with contextlib.suppress(Conflict):
            self.exchange.put(address, COORDINATOR, sealed)

    def _reply(
        self, make: Callable[[], bytes], address: Address, reply_key: bytes
    ) -> None:
        def seal() -> bytes:
            payload = make()
            self._note(address.topic, address, EVERYONE, payload)
            associated = b"%s/%d" % (address.topic.encode(), address.run)
            return seal_to(reply_key, payload, associated=associated)

        reply_box = self.vault.once(_outbox_name(address, COORDINATOR), seal)
        # Sealed anew after a crash: the box that was sent first stands.
        with contextlib.suppress(Conflict):
            self.exchange.put(address, COORDINATOR, reply_box)

    def _note(
        self,
        kind: str,
        address: Address,
        recipient: int,
        payload: bytes,
        **more: str,
    ) -> None:
        """Writes into the ledger what leaves, before it is sealed; never the payload."""
        self.ledger.write(
            "left",
            order_id=self.order_id,
            kind=kind,
            fold=address.fold,
            round=address.round,
            recipient=recipient,
            n_bytes=len(payload),
            sha256=hashlib.sha256(payload).hexdigest(),
            **more,
        )


def _outbox_name(address: Address, recipient: int) -> str:
    return f"outbox/{address.topic}-{address.fold}-{address.round}-{address.attempt}-{recipient}"
