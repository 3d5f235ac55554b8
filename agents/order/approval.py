"""A person's decision on an order, where the policy says `approval = "manual"`.

It is made before any row is read.

    approvals/<order_id>.json            what is asked, written when the order has been verified
    approvals/<order_id>.decision.json   approved or refused, by whom, when and why, signed; written once, for good

An order that waits holds a pipe of its own (a FIFO in its vault folder) open, and
sleeps until something is written there; whoever decides writes the decision first, then
into the pipe. So nothing is looked at again and again, and a decision that was made
while no process waited is found by the next one (decision 46).

`await_decision` is the order's side, `Approvals` the person's: the command line and
`agents.page` call it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pwd
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from agents.order.party import Party
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from agents.site.vault import OrderVault, Vault, damaged, encode_kept, read_kept
from protocol.errors import BadRequest, Conflict, ConsiliumError, NotFound, Refused
from protocol.exchange import Address, Exchange
from protocol.machine.disk import locked, write_durably
from protocol.messages import EVERYONE, canonical
from protocol.sealing import Identity

log = logging.getLogger("consilium.approval")

APPROVED = "approved"
REFUSED = "refused"
MOST_REASON = 500
_SIGN_DOMAIN = b"consilium/v1/decision"
_BELL = "decided"
"""The name of an order's pipe."""
_NO_LOGIN = 2**32 - 1
"""What the kernel writes for a process that nobody has logged in for."""


@dataclass(frozen=True)
class ApprovalQuestion:
    """What a person decides on."""

    order_id: int
    digest: str  # of the verified order, hex: the decision is on this one and no other
    asked_at: str
    terms: dict[str, Any]  # what the order says, see `VerifiedOrder.terms`

    def lines(self) -> Iterator[tuple[str, str]]:
        """All of it, a name and a text each, as a person reads it."""
        for name, value in self.terms.items():
            if name in ("initiator", "parties", "receivers"):
                yield name, self._with_names(value)
            elif name not in ("names", "data", "details"):
                yield name, _as_text(value)
        for name, text in self.terms["data"].items():
            yield f"data: {name}", str(text)
        for name, value in self.terms["details"].items():
            if name in ("providers", "openers"):
                yield name, self._with_names(value)
            else:
                yield name, _as_text(value)

    def _with_names(self, users: int | list[int]) -> str:
        hospital_names = self.terms["names"]
        if isinstance(users, int):
            users = [users]
        labels = []
        for user_id in users:
            hospital_name = hospital_names.get(str(user_id), "")
            labels.append(f"{user_id} {hospital_name}".rstrip())
        return ", ".join(labels)


@dataclass(frozen=True)
class Decision:
    """A hospital's decision on one order."""

    order_id: int
    user_id: int  # the hospital's
    digest: str  # of the question
    decision: str  # APPROVED or REFUSED
    person: str  # an operating-system user
    at: str
    reason: str = ""

    @property
    def is_approved(self) -> bool:
        return self.decision == APPROVED

    def sign(self, identity: Identity) -> str:
        """Ed25519 over a domain tag and the decision, 128 hex digits."""
        return identity.sign(self._signed_bytes()).hex()

    def verify(self, identity: Identity, signature: str) -> None:
        """ProtocolViolation (code bad_signature) unless this hospital's key signed it."""
        signed = self._signed_bytes()
        identity.public.verify(signed, bytes.fromhex(signature))

    def _signed_bytes(self) -> bytes:
        return _SIGN_DOMAIN + canonical(asdict(self)).encode()


def person() -> str:
    """Who sits here: the login that the kernel remembers through sudo and su.

    Without a login, the owner of this process.
    """
    try:
        login = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        login = _NO_LOGIN
    uid = os.getuid() if login == _NO_LOGIN else login
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


# An order waits


def is_needed(party: Party) -> bool:
    """Whether a person decides.

    The policy says so now, or said so when this order was first asked about.
    """
    if party.policy.orders.approval == "manual":
        return True
    return Approvals(party.settings).has_asked(party.order_id)


def await_decision(
    party: Party,
    digest: bytes,
    terms: Mapping[str, Any],
) -> None:
    """Returns when a person at this hospital has approved the order.

    At once where one has, or where nobody is asked. To be called when document,
    signature and policy have been verified, and before any row is read. `digest` is of
    what was verified (32 bytes). Meanwhile the coordinator shows that this hospital is
    waited for, because nothing of it is there yet. Raises Refused (code approval) when
    a person has refused, OrderStopped when the order ends first, and OrderWaits where
    the order had places, which it gives back.

    Disclosure: that a person refused, who may add a reason, to the order's parties and
    the coordinator.
    """
    if not is_needed(party):
        return
    approvals = Approvals(party.settings)
    hospital_names = {str(party.me): party.settings.name}
    for user_id, partner in party.settings.partners.items():
        hospital_names[str(user_id)] = partner.name
    approvals.ask(
        party.order_id,
        digest.hex(),
        {**terms, "names": hospital_names},
    )

    def find_decision() -> Decision | None:
        return approvals.decision(party.order_id, digest.hex())

    if find_decision() is None:
        # A person may take days: the order must not keep others from working meanwhile
        # (decision 53).
        party.exchange.ask_first(party.order_id)
    decision = _heard(party, find_decision)
    if not decision.is_approved:
        reason = f": {decision.reason}" if decision.reason else "."
        raise Refused(
            f"A person at this hospital refused the order{reason}",
            remedy="Talk to the hospital; an order that it agrees with is sent as a new one.",
            code="approval",
        )


def _heard(
    party: Party,
    find_decision: Callable[[], Decision | None],
) -> Decision:
    """Sleeps until the decision stands in the vault, or the order has ended."""
    with _listening(party.store) as bell, _watch(party) as watch:
        while True:
            # Looked for when the pipe is open already: whoever decided before found
            # nobody to wake, and whoever decides from here on leaves a byte in it.
            decision = find_decision()
            if decision is not None:
                return decision
            if watch.ended:
                raise watch.ended[0]
            log.warning(
                "Order %s waits for a person: ./run agent approvals", party.order_id
            )
            readable, _, _ = select.select(
                [bell, watch.over],
                [],
                [],
            )
            # A byte that came without a decision is read away. One that came with it
            # stays: another process of this order may sleep on the same pipe.
            if bell in readable and find_decision() is None:
                os.read(bell, 4096)


@contextlib.contextmanager
def _listening(store: OrderVault) -> Iterator[int]:
    """The reading end of this order's pipe.

    Opened for reading and writing: so opening does not wait for a writer, and the pipe
    has no end while one is away.
    """
    pipe_path = store.folder / _BELL
    with contextlib.suppress(FileExistsError):
        os.mkfifo(pipe_path, 0o600)
    bell = os.open(pipe_path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield bell
    finally:
        os.close(bell)


def _ring(store_folder: Path) -> None:
    """Wakes the process that waits for this order; none does while the agent is not
    running.
    """
    with contextlib.suppress(OSError):
        bell = os.open(store_folder / _BELL, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(bell, b"!")
        finally:
            os.close(bell)


class _Watch(NamedTuple):
    """Whether an order has ended while it waited."""

    # A descriptor that can be read from when the watching thread is done.
    over: int
    # What the exchange said of the end; empty while there is none.
    ended: list[ConsiliumError]


@contextlib.contextmanager
def _watch(party: Party) -> Iterator[_Watch]:
    """Beside the waiting: the exchange says at once when the order has ended.

    It is asked for this hospital's own acceptance, which comes when the waiting is over
    and lets the thread end.
    """
    read_end, write_end = os.pipe()
    ended: list[ConsiliumError] = []
    own_acceptance = Address(party.order_id, "acceptance")
    # One of its own: its waiting would count in the report of where the order's time
    # went.
    exchange = Exchange(party.exchange.transport, party.me)

    def listen() -> None:
        try:
            exchange.gather(own_acceptance, (party.me,), EVERYONE)
        except ConsiliumError as error:
            ended.append(error)
        finally:
            os.close(write_end)

    listening = threading.Thread(
        target=listen,
        name=f"order-{party.order_id}",
        daemon=True,
    )
    listening.start()
    try:
        yield _Watch(read_end, ended)
    finally:
        os.close(read_end)


# A person decides


class Approvals:
    """The questions and decisions of one hospital."""

    def __init__(
        self,
        settings: SiteSettings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._now = now
        self._vault = Vault(settings.vault)
        self._ledger = Ledger(settings.ledger)

    def ask(
        self,
        order_id: int,
        digest: str,
        terms: Mapping[str, Any],
    ) -> None:
        """Writes down what is asked; the second time nothing.

        Refused if the number has been another order's.
        """
        with locked(self._vault.approvals):
            earlier = self._question(order_id)
            if earlier is None:
                question = ApprovalQuestion(
                    order_id,
                    digest,
                    self._time(),
                    dict(terms),
                )
                # The ledger first: nobody is asked what it does not have.
                self._ledger.write(
                    "asked",
                    order_id=order_id,
                    kind=terms["kind"],
                    initiator=terms["initiator"],
                )
                write_durably(self._path(order_id), encode_kept(asdict(question)))
        if earlier is not None and earlier.digest != digest:
            raise Refused(
                f"This hospital was asked about another order with the number {order_id}.",
                remedy="The coordinator has lost its store and counts anew: restore its backup.",
                code="order_number",
            )

    def has_asked(self, order_id: int) -> bool:
        """Whether somebody was asked about this order.

        Its decision stands whatever the policy says by now.
        """
        return self._path(order_id).exists()

    def waiting(self) -> list[ApprovalQuestion]:
        """What is not decided yet, of orders that run; the lowest number first."""
        order_ids = []
        for question_path in self._vault.approvals.glob("*.json"):
            # A decision lies beside its question, and its name is not a number alone.
            if question_path.stem.isdecimal():
                order_ids.append(int(question_path.stem))
        questions = []
        for order_id in sorted(order_ids):
            if self._is_over(order_id):
                continue
            question = self._question(order_id)
            if question is not None:
                questions.append(question)
        return questions

    def question(self, order_id: int) -> ApprovalQuestion:
        """One that waits.

        NotFound (code no_approval) or, once decided, Conflict (code decided).
        """
        question = self._question(order_id)
        decision = None if question is None else self._made(order_id)
        if decision is not None:
            raise Conflict(
                f"Order {order_id} was {decision.decision} by {decision.person} at {decision.at}.",
                remedy="A decision stands. To end a running order, its initiator or the operator cancels it.",
                code="decided",
            )
        if question is None or self._is_over(order_id):
            raise NotFound(
                f"No order {order_id} waits for a decision here.",
                remedy="`./run agent approvals` lists those that do.",
                code="no_approval",
            )
        return question

    def decide(
        self,
        order_id: int,
        *,
        approve: bool,
        reason: str = "",
        person: str,
    ) -> Decision:
        """Signs a person's decision, writes it into ledger and vault, wakes the order.

        Of two people at once the first one's stands. Raises as `question`; BadRequest
        for a reason that is too long or has control characters.
        """
        _check_reason(reason)
        with locked(self._vault.approvals):
            question = self.question(order_id)
            decision = Decision(
                order_id,
                self._settings.user_id,
                question.digest,
                APPROVED if approve else REFUSED,
                person,
                self._time(),
                reason,
            )
            signature = decision.sign(self._vault.identity())
            decision_fields = asdict(decision)
            # The ledger first: no decision takes effect that it does not have.
            self._ledger.write(
                "decided",
                **decision_fields,
                signature=signature,
            )
            stored = json.dumps({"decision": decision_fields, "signature": signature})
            write_durably(self._path(order_id, ".decision"), stored.encode())
        _ring(self._vault.folder / "orders" / str(order_id))
        return decision

    def decision(self, order_id: int, digest: str) -> Decision | None:
        """The decision on this very order, verified; None while nobody has decided."""
        decision = self._made(order_id)
        if decision is None or decision.digest == digest:
            return decision
        # A decision was signed on other terms than these: it approves nothing here.
        raise damaged(self._path(order_id, ".decision"))

    def _made(self, order_id: int) -> Decision | None:
        decision_path = self._path(order_id, ".decision")
        if not decision_path.exists():
            return None
        try:
            stored = json.loads(decision_path.read_text("utf-8"))
            decision = Decision(**stored["decision"])
            signature = str(stored["signature"])
            # A file of another order or hospital is none of this one.
            if decision.order_id != order_id:
                raise ValueError
            if decision.user_id != self._settings.user_id:
                raise ValueError
            if decision.decision not in (APPROVED, REFUSED):
                raise ValueError
            decision.verify(self._vault.identity(), signature)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise damaged(decision_path) from None
        return decision

    def _question(self, order_id: int) -> ApprovalQuestion | None:
        return read_kept(
            self._path(order_id), lambda stored: ApprovalQuestion(**stored)
        )

    def _is_over(self, order_id: int) -> bool:
        if self._vault.has_ended(order_id):
            return True
        return self._path(order_id, ".decision").exists()

    def _path(self, order_id: int, suffix: str = "") -> Path:
        return self._vault.approvals / f"{order_id}{suffix}.json"

    def _time(self) -> str:
        return self._now().isoformat(timespec="milliseconds")


def _check_reason(reason: str) -> None:
    if len(reason) > MOST_REASON or not reason.isprintable():
        raise BadRequest(
            f"The reason is longer than {MOST_REASON} characters, or holds line breaks or control characters.",
            remedy="Write one short line; everybody in the order reads it.",
            code="reason",
        )


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


def digest_of(*texts: str) -> bytes:
    """SHA-256 over texts, for an order that nobody signs."""
    content = canonical(list(texts)).encode()
    return hashlib.sha256(_SIGN_DOMAIN + content).digest()
