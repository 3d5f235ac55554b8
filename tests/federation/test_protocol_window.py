"""Agents of protocol N and N-1 in one order: it is written in N-1 and gives what it gives
in N; and nobody lowers or mixes the number of an order whose hospitals all speak N.

tests/federation/test_older_agent.py has an agent of N-1 as a process of its own.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from analytics.training.descent import train
from analytics.training.models import Model
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.local import one_process
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import Conflict, ConsiliumError, ProtocolViolation, Refused
from protocol.messages import (
    EVERYONE,
    KINDS,
    Acceptance,
    Header,
    SignedOrder,
    peek_envelope,
    read_envelope,
    write_envelope,
)
from protocol.sealing import PublicIdentity
from protocol.versions import PROTOCOL, SPOKEN, Window, is_marked
from tests.federation.test_bad_faith import (
    CheatingTransport,
    Swap,
    assert_no_secret,
    cheated,
    on,
)
from tests.made_sites import make_sites, order_body
from tests.made_statistics import Hospitals, make_hospitals
from tests.pooled.test_federated_orders import dense

HOSPITALS = (2, 3, 4)
INITIATOR = 2
BEFORE = Window(PROTOCOL - 1, PROTOCOL - 1)
"""What an agent of the release before speaks, which knows of one number only."""

MIXED = {
    "a hospital lags": {3: BEFORE},
    "the initiator lags": {INITIATOR: BEFORE},
    "all but the initiator lag": {3: BEFORE, 4: BEFORE},
    "all lag": dict.fromkeys(HOSPITALS, BEFORE),
}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SiteSettings]:
    tables = breast_cancer_tables()
    rows = {
        user: {"rows": tables["guest" if user == 4 else "host"]} for user in HOSPITALS
    }
    return make_sites(tmp_path_factory.mktemp("sites"), rows)


def protocols_in(traffic: list[bytes]) -> dict[int, set[str]]:
    """By number, the kinds of the envelopes that are written in it."""
    found: dict[int, set[str]] = {}
    for body in traffic:
        if body.startswith(b"CNSL"):
            header = Header.decode(body)
            found.setdefault(header.protocol, set()).add(header.kind)
    return found


def ordered(
    sites: dict[int, SiteSettings], method: str, **options: Any
) -> OrderOutcome:
    params = {"encrypt_param": {"method": method, "key_length": 2048}, "max_iter": 3}
    body = order_body(HOSPITALS, model_params=params)
    return run_order(sites, body, order_id=secrets.randbelow(2**31), **options)


# An order of both


@pytest.mark.parametrize(
    "who",
    [
        pytest.param(who, marks=() if place < 1 else (pytest.mark.thorough,))
        for place, who in enumerate(MIXED)
    ],
)
@pytest.mark.parametrize(
    "method", ["Mask", pytest.param("Paillier", marks=pytest.mark.thorough)]
)
def test_an_order_with_an_older_agent_gives_the_same_model(
    sites: dict[int, SiteSettings], method: str, who: str
) -> None:
    """To the last bit, and all of it is written in the older number."""
    newest = ordered(sites, method)
    assert set(protocols_in(newest.traffic)) == {PROTOCOL}
    mixed = ordered(sites, method, releases=MIXED[who])
    assert set(protocols_in(mixed.traffic)) == {PROTOCOL - 1}
    assert protocols_in(mixed.traffic)[PROTOCOL - 1] <= set(KINDS)
    weights = [*dense(newest), *dense(mixed)]
    for one in weights:
        assert np.array_equal(one, weights[0])
    np.testing.assert_allclose(weights[0], pooled_weights(), rtol=0, atol=1e-9)


def pooled_weights() -> Any:
    """Of one table of all rows."""
    tables = breast_cancer_tables()
    rows = pd.concat([tables["host"], tables["host"], tables["guest"]])
    x = rows[["x1", "x2", "x3", "x4"]].to_numpy()
    trained = train(
        Model("lr", 4),
        [(x, rows.y.to_numpy(dtype=float))],
        penalty=None,
        learning_rate=0.15,
        max_iter=3,
        eps=0,
    )
    return trained.weights


PATHS = dict.fromkeys(HOSPITALS, "data.pooled")


VALUES = {
    user: np.random.default_rng(user).integers(0, 50, 30).astype(float)
    for user in HOSPITALS
}


@pytest.fixture(scope="module")
def providers(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    tables = {
        user: pd.DataFrame({"id": range(30), "x": values})
        for user, values in VALUES.items()
    }
    return make_hospitals(
        tmp_path_factory.mktemp("providers"), HOSPITALS, pooled=tables
    )


def test_a_question_with_an_older_agent_has_the_same_answer(
    providers: Hospitals,
) -> None:
    mixed = providers.ask("avg", PATHS, releases={3: BEFORE})
    assert mixed.number == pytest.approx(np.mean(np.concatenate(list(VALUES.values()))))


def test_a_question_on_shares_with_an_older_agent(providers: Hospitals) -> None:
    """Rows of the same person, which travel as tags and shares."""
    for user, column in ((2, "price"), (3, "units")):
        frame = pd.DataFrame({"id_col": range(30), column: np.arange(30.0) + user})
        providers.write(user, f"{column}.csv", frame)
    answer = providers.ask(
        "custom",
        {2: "price.csv", 3: "units.csv"},
        key="id_col",
        expression="sum(df1.price + df2.units)",
        releases={3: BEFORE},
    )
    numbers = np.arange(30.0)
    assert answer.number == np.sum((numbers + 2) + (numbers + 3))


def test_an_acceptance_says_what_its_agent_speaks_in_the_form_of_its_order(
    sites: dict[int, SiteSettings],
) -> None:
    """In the older form within the key, where its readers do not look."""
    told = acceptances(ordered(sites, "Mask", releases={3: BEFORE}).traffic)
    assert {user: one.protocol for user, one in told.items()} == dict.fromkeys(
        HOSPITALS
    )
    assert {user for user, one in told.items() if is_marked(one.ephemeral)} == {2, 4}
    told = acceptances(ordered(sites, "Mask").traffic)
    assert {one.protocol for one in told.values()} == {PROTOCOL}
    assert not any(is_marked(one.ephemeral) for one in told.values())


def acceptances(traffic: list[bytes]) -> dict[int, Acceptance]:
    found = {}
    for body in traffic:
        if body.startswith(b"CNSL") and Header.decode(body).kind == "acceptance":
            sender = Header.decode(body).sender
            content = peek_envelope(body, kind="acceptance", sender=sender)
            found[sender] = Acceptance.decode(content)
    return found


# Whoever lowers, raises or mixes


def rewritten(version: int) -> Swap:
    """The coordinator's document as it lies about what its hospitals speak: all of them
    are shown the same, and the initiator signs it.
    """

    def swap(address: Any, _sender: int, _reader: int, body: bytes) -> bytes:
        if address.topic != "document":
            return body
        document = json.loads(body)
        document["version"] = version
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    return swap


def test_a_coordinator_that_lowers_an_order_is_found_out(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that an agent lags, which none does: by then no key has been sent."""
    error, transport, order_id = cheated(sites, rewritten(1), monkeypatch)
    assert (type(error), error.code) == (Refused, "protocol_lowered")
    assert set(protocols_in(transport.traffic)) == {PROTOCOL - 1}
    assert "setup" not in protocols_in(transport.traffic)[PROTOCOL - 1]
    assert_no_secret(sites, order_id, transport)


@pytest.mark.parametrize("version", [0, 2, PROTOCOL + 1, True, "3", None, 1.0])
def test_a_number_that_nobody_speaks_is_refused_at_once(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch, version: Any
) -> None:
    error, transport, _ = cheated(sites, rewritten(version), monkeypatch)
    assert (type(error), error.code) == (ProtocolViolation, "protocol")
    assert protocols_in(transport.traffic) == {}


def test_a_coordinator_that_raises_an_order_finds_an_agent_that_refuses(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that an agent is new, which is not: that agent does not take it."""
    transport = CheatingTransport(rewritten(PROTOCOL))
    with pytest.raises(ConsiliumError) as caught:
        seen_by_all(sites, transport, monkeypatch, releases={3: BEFORE})
    assert caught.value.code == "protocol"
    assert f"takes {PROTOCOL - 1}" in caught.value.sentence
    assert "upgrade --site FOLDER" in caught.value.remedy


def seen_by_all(
    sites: dict[int, SiteSettings],
    transport: CheatingTransport,
    monkeypatch: pytest.MonkeyPatch,
    **options: Any,
) -> OrderOutcome:
    opened = one_process.open_party
    monkeypatch.setattr(
        one_process,
        "open_party",
        lambda site, number, t, **more: opened(
            site, number, t.seen_by(site.user_id), **more
        ),
    )
    return ordered(sites, "Mask", transport=transport, **options)


def test_a_document_that_is_lowered_for_one_hospital_is_altered(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the initiator has signed says another number, in an envelope of another."""
    lower = rewritten(1)

    def for_one(address: Any, sender: int, reader: int, body: bytes) -> bytes:
        return lower(address, sender, reader, body) if reader == 3 else body

    error, transport, order_id = cheated(sites, for_one, monkeypatch)
    assert (type(error), error.code) == (ProtocolViolation, "bad_message")
    assert "its order in 2" in error.sentence
    assert_no_secret(sites, order_id, transport)


class Accepting:
    """Hospital 3's acceptance as another hospital reads it, altered on its way; signed
    anew by hospital 3 itself where it is the one that cheats.
    """

    def __init__(self, site: SiteSettings, *, signs: bool, **changes: Any) -> None:
        self.identity = Vault(site.vault).identity()
        self.signs, self.changes = signs, changes

    def __call__(self, address: Any, sender: int, reader: int, body: bytes) -> bytes:
        if address.topic == "order":
            header = Header("order", INITIATOR, EVERYONE)
            self.digest = SignedOrder.decode(read_envelope(body, header, None)).digest
        if address.topic != "acceptance" or (sender, reader) != (3, INITIATOR):
            return body
        header = Header("acceptance", 3, EVERYONE, context=self.digest)
        told = vars(Acceptance.decode(read_envelope(body, header, None)))
        told = Acceptance(**{**told, **self.changes})
        altered = write_envelope(self.identity, header, told.encode())
        return altered if self.signs else altered[:-64] + body[-64:]


@pytest.mark.parametrize(
    ("signs", "spoken", "code"),
    [
        (False, PROTOCOL + 1, "bad_signature"),
        (False, None, "bad_signature"),
        # Its own words, in the form of another number.
        (True, None, "bad_message"),
    ],
)
def test_what_an_acceptance_says_it_speaks_is_signed(
    sites: dict[int, SiteSettings],
    monkeypatch: pytest.MonkeyPatch,
    signs: bool,
    spoken: int | None,
    code: str,
) -> None:
    swap = Accepting(sites[3], signs=signs, protocol=spoken)
    error, transport, order_id = cheated(sites, swap, monkeypatch)
    assert error.code == code, error
    assert_no_secret(sites, order_id, transport)


def test_a_mark_that_is_taken_off_an_older_acceptance_breaks_its_signature(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that lowers an order, and takes the word back that finds it out."""
    lower = rewritten(1)

    def swap(address: Any, sender: int, reader: int, body: bytes) -> bytes:
        body = lower(address, sender, reader, body)
        if address.topic != "acceptance" or sender != 3:
            return body
        content = peek_envelope(body, kind="acceptance", sender=3)
        told = json.loads(content)
        key = bytes.fromhex(told["ephemeral"])
        assert is_marked(key)
        bare = key[:-1] + bytes([key[-1] & 0x7F])
        return body.replace(key.hex().encode(), bare.hex().encode())

    error, transport, order_id = cheated(sites, swap, monkeypatch)
    assert error.code == "bad_signature"
    assert_no_secret(sites, order_id, transport)


@pytest.mark.parametrize("topic", ["order", "acceptance", "setup", "gradient"])
def test_one_message_in_another_number_is_taken_by_nobody(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    """By its header; it is signed, and the associated data of what is sealed."""

    def mix(_run: int, body: bytes) -> bytes:
        return body[:4] + bytes([PROTOCOL - 1]) + body[5:]

    def swap(address: Any, sender: int, reader: int, body: bytes) -> bytes:
        is_meant = address.topic == topic and body.startswith(b"CNSL")
        return mix(address.run, body) if is_meant else body

    error, _, _ = cheated(sites, swap, monkeypatch)
    assert error.code == "bad_message"
    assert f"protocol {PROTOCOL - 1}, and its order in {PROTOCOL}" in error.sentence


def test_a_party_that_mixes_numbers_in_one_order_ends_it(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rightly signed by itself, and well-made: only the number is another."""
    identity: PublicIdentity = Vault(sites[3].vault).identity().public

    def swap(_run: int, body: bytes) -> bytes:
        header = Header.decode(body)
        content = read_envelope(body, header, identity)
        older = Header(**{**vars(header), "protocol": PROTOCOL - 1})
        return write_envelope(Vault(sites[3].vault).identity(), older, content)

    error, transport, order_id = cheated(
        sites, on("acceptance", swap, sender=3, reader=INITIATOR), monkeypatch
    )
    assert error.code == "bad_message"
    assert_no_secret(sites, order_id, transport)


# A hospital asks for the newer one


def test_a_policy_closes_the_window_of_its_hospital(tmp_path: Path) -> None:
    rows = breast_cancer_tables()["host"]
    known = make_sites(tmp_path, {user: {"rows": rows} for user in HOSPITALS})
    path = known[3].policy
    path.write_text(
        path.read_text().replace("[orders]", f"[orders]\noldest_protocol = {PROTOCOL}")
    )
    assert set(protocols_in(ordered(known, "Mask").traffic)) == {PROTOCOL}
    with pytest.raises(Conflict) as caught:
        ordered(known, "Mask", releases={4: BEFORE})
    assert caught.value.code == "protocol"
    assert caught.value.detail["hospitals"] == [4]


def test_a_policy_that_asks_for_the_newer_one_refuses_an_order_in_the_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the coordinator says of who lags: it is the hospital that refuses."""
    rows = breast_cancer_tables()["host"]
    known = make_sites(tmp_path, {user: {"rows": rows} for user in HOSPITALS})
    path = known[3].policy
    path.write_text(
        path.read_text().replace("[orders]", f"[orders]\noldest_protocol = {PROTOCOL}")
    )
    error, transport, order_id = cheated(known, rewritten(1), monkeypatch)
    assert error.code == "protocol"
    assert "orders.oldest_protocol" in error.remedy
    own = known[3].vault / "orders" / str(order_id)
    assert not (own / "ephemeral").exists()
    assert_no_secret(known, order_id, transport)
    assert SPOKEN.oldest < PROTOCOL
