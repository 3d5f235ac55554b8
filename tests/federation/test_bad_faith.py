"""A coordinator, a Prefect server or a partner that cheats gets no order secret, and
runs nothing at a hospital.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.site.settings import SiteSettings
from agents.site.vault import Vault, read_checked
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.local import one_process
from deployments.local.one_process import run_order
from protocol.errors import ConsiliumError
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport
from protocol.messages import (
    EVERYONE,
    Acceptance,
    Header,
    HospitalSql,
    SignedOrder,
    read_envelope,
    write_envelope,
)
from protocol.sealing import Identity, exchange_public
from tests.conftest import ROOT, RunningFederation
from tests.federation.test_refusals import SITES, open_runs, order
from tests.made_sites import make_sites, order_body

HOSPITALS = (2, 3, 4)
INITIATOR = 2
ATTACKER = Identity.generate()

Swap = Callable[[Address, int, int, bytes], bytes]


class CheatingTransport(MemoryTransport):
    """A coordinator that shows other bytes than were sent: `swap(address, sender,
    reader, body)`.

    `reader` is who asks, also for what is addressed to everyone: each hospital may be
    shown something else.
    """

    def __init__(self, swap: Swap, *, reader: int = 0) -> None:
        super().__init__()
        self._swap, self._reader = swap, reader

    def seen_by(self, reader: int) -> CheatingTransport:
        """The same exchange, as one hospital sees it."""
        view = CheatingTransport(self._swap, reader=reader)
        view.__dict__.update({**self.__dict__, "_reader": reader})
        return view

    def gather(
        self, address: Address, *args: Any, **kwargs: Any
    ) -> dict[int, bytes] | None:
        found = super().gather(address, *args, **kwargs)
        return self._swapped(address, found)

    def gather_some(
        self, address: Address, *args: Any, **kwargs: Any
    ) -> dict[int, bytes] | None:
        found = super().gather_some(address, *args, **kwargs)
        return self._swapped(address, found)

    def _swapped(
        self, address: Address, found: dict[int, bytes] | None
    ) -> dict[int, bytes] | None:
        if found is None:
            return None
        return {
            sender: self._swap(address, sender, self._reader, body)
            for sender, body in found.items()
        }


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SiteSettings]:
    tables = breast_cancer_tables()
    rows = {
        user: {"rows": tables["guest" if user == 4 else "host"]} for user in HOSPITALS
    }
    return make_sites(tmp_path_factory.mktemp("sites"), rows)


def cheated(
    sites: dict[int, SiteSettings],
    swap: Swap,
    monkeypatch: pytest.MonkeyPatch,
    *,
    body: dict[str, Any] | None = None,
) -> tuple[ConsiliumError, CheatingTransport, int]:
    """The error with which an order under a cheating coordinator ends."""
    transport, order_id = CheatingTransport(swap), secrets.randbelow(2**31)
    open_party = one_process.open_party
    monkeypatch.setattr(
        one_process,
        "open_party",
        lambda site, number, t, **more: open_party(
            site, number, t.seen_by(site.user_id), **more
        ),
    )
    with pytest.raises(ConsiliumError) as caught:
        run_order(
            sites, body or order_body(HOSPITALS), order_id=order_id, transport=transport
        )
    assert caught.value.remedy
    return caught.value, transport, order_id


def assert_no_secret(
    sites: dict[int, SiteSettings], order_id: int, transport: CheatingTransport
) -> None:
    """No model and no step; and either no order secret was made, or it did not travel
    in clear.
    """
    for site in sites.values():
        folder = site.vault / "orders" / str(order_id)
        assert not (folder / "checkpoint-0.npz").exists()
        assert order_id not in Vault(site.vault).models()
        if (folder / "order_secret").exists():
            secret, everything = (
                (folder / "order_secret").read_bytes(),
                b"".join(transport.traffic),
            )
            assert secret not in everything
            assert secret.hex().encode() not in everything


def on(
    topic: str,
    change: Callable[[int, bytes], bytes],
    *,
    sender: int | None = None,
    reader: int = 3,
) -> Swap:
    """Changes what one hospital reads of a topic."""

    def swap(address: Address, who: int, asks: int, body: bytes) -> bytes:
        meant = address.topic == topic and asks == reader and sender in (None, who)
        return change(address.run, body) if meant else body

    return swap


def flip(_run: int, body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def other_document(_run: int, body: bytes) -> bytes:
    document = json.loads(body)
    document["request"]["model_params"]["max_iter"] = 7
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def opened(body: bytes, kind: str, sender: int, context: bytes = bytes(32)) -> bytes:
    return read_envelope(body, Header(kind, sender, EVERYONE, context=context), None)


def signed_by_attacker(_run: int, body: bytes) -> bytes:
    """The attacker's own keys in the place of the initiator's, as at an enrolment."""
    order_ = replace(
        SignedOrder.decode(opened(body, "order", INITIATOR)), identity=ATTACKER.public
    )
    return write_envelope(
        ATTACKER, Header("order", INITIATOR, EVERYONE), order_.encode()
    )


def signed_in_its_name(_run: int, body: bytes) -> bytes:
    """The initiator's public keys, and the attacker's signature."""
    order_ = SignedOrder.decode(opened(body, "order", INITIATOR))
    return write_envelope(
        ATTACKER, Header("order", INITIATOR, EVERYONE), order_.encode()
    )


class AcceptanceSwap:
    """Hospital 3's acceptance as the initiator reads it: the attacker's key for the
    run, under some identity.
    """

    def __init__(self, *, own_identity: bool) -> None:
        self.own_identity, self.context = own_identity, b""
        self.private = secrets.token_bytes(32)

    def __call__(
        self, address: Address, sender: int, reader: int, body: bytes
    ) -> bytes:
        if address.topic == "order":
            self.context = SignedOrder.decode(opened(body, "order", INITIATOR)).digest
        if address.topic != "acceptance" or sender != 3 or reader != INITIATOR:
            return body
        told = Acceptance.decode(opened(body, "acceptance", 3, self.context))
        told = replace(told, ephemeral=exchange_public(self.private))
        if self.own_identity:
            told = replace(told, identity=ATTACKER.public)
        return write_envelope(
            ATTACKER,
            Header("acceptance", 3, EVERYONE, context=self.context),
            told.encode(),
        )


ATTACKS: dict[str, tuple[Swap, str]] = {
    "another document": (on("document", other_document), "order_altered"),
    "a document cut short": (on("document", lambda run, body: body[:-9]), "document"),
    "an order under the coordinator's keys": (on("order", signed_by_attacker), "pin_mismatch"),
    "an order in the initiator's name": (on("order", signed_in_its_name), "bad_signature"),
    "an order with another signature": (on("order", flip), "bad_signature"),
    "an order with another nonce": (
        on("order", lambda run, body: body.replace(b'"nonce":"', b'"nonce":"0', 1)), "bad_message",
    ),
    "the coordinator's key at an acceptance": (AcceptanceSwap(own_identity=True), "pin_mismatch"),
    "the coordinator's key in a hospital's name": (AcceptanceSwap(own_identity=False), "bad_signature"),
    "an acceptance with another signature": (on("acceptance", flip, sender=4), "bad_signature"),
    "an own acceptance that comes back altered": (on("acceptance", flip, sender=3), "bad_signature"),
    "sealed SQL that was altered": (on("sql", flip), "cannot_unseal"),
}  # fmt: skip


# What a hospital finds wrong when it has accepted already: the initiator may have made
# and sealed its secret by then.
AFTER_ACCEPTING = (
    "an acceptance with another signature",
    "an own acceptance that comes back altered",
)


@pytest.mark.parametrize("what", ATTACKS)
def test_a_cheating_coordinator_gets_no_order_secret(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    swap, code = ATTACKS[what]
    error, transport, order_id = cheated(sites, swap, monkeypatch)
    assert error.code == code, error
    made = (sites[INITIATOR].vault / "orders" / str(order_id) / "order_secret").exists()
    assert not made or what in AFTER_ACCEPTING
    assert_no_secret(sites, order_id, transport)


def test_other_sql_than_was_ordered(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed to the right hospital by a coordinator that wrote it itself."""
    seal_key = Vault(sites[3].vault).identity().public.seal_key
    own = HospitalSql(
        secrets.token_bytes(32), {"train": "SELECT * FROM data.rows WHERE x1 > 0"}
    )
    swap = on("sql", lambda run, body: own.seal(3, seal_key))
    error, transport, order_id = cheated(sites, swap, monkeypatch)
    assert error.code == "sql_commitment"
    assert_no_secret(sites, order_id, transport)


def test_keys_of_the_coordinator_at_enrolment(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQL that is sealed to the coordinator's own key instead of a hospital's: that
    hospital takes no part.
    """

    def sealed_to_attacker(
        transport: Any, request: Any, known: Any, order_id: int, **more: Any
    ) -> None:
        identity = Vault.identity

        def presented(vault: Vault) -> Identity:
            return ATTACKER if vault.folder == sites[3].vault else identity(vault)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Vault, "identity", presented)
            submit(transport, request, known, order_id, **more)

    submit = one_process.submit
    monkeypatch.setattr(one_process, "submit", sealed_to_attacker)
    error, transport, order_id = cheated(
        sites, lambda address, sender, reader, body: body, monkeypatch
    )
    assert error.code == "cannot_unseal"
    assert_no_secret(sites, order_id, transport)


@pytest.mark.parametrize("method", ["Paillier", "Mask"])
def test_the_order_secret_travels_sealed(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """And a set-up message that is moved to another hospital, or altered, is not used."""
    kept: dict[str, bytes] = {}

    def replay(address: Address, sender: int, reader: int, body: bytes) -> bytes:
        if address.topic == "setup":
            kept.setdefault("setup", body)
            return (
                flip(0, body)
                if reader == 4 and kept["setup"] is body
                else kept["setup"]
            )
        return body

    body = order_body(HOSPITALS, model_params={"encrypt_param": {"method": method}})
    error, transport, order_id = cheated(sites, replay, monkeypatch, body=body)
    assert error.code in ("bad_message", "bad_signature")
    folder = sites[INITIATOR].vault / "orders" / str(order_id)
    secret = read_checked(folder / "order_secret")
    assert len(secret) == 32
    everything = b"".join(transport.traffic)
    assert secret not in everything
    assert secret.hex().encode() not in everything
    if method == "Paillier":
        assert (folder / "paillier").read_bytes() not in everything
    assert not list(folder.glob("outbox/gradient*"))


@pytest.mark.parametrize("method", ["Paillier", "Mask"])
def test_a_single_contribution_as_the_sum_is_not_opened(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The initiator, who could decrypt, is handed one hospital's contribution with the
    header of a sum.
    """
    kept: dict[int, bytes] = {}

    def alone(address: Address, sender: int, reader: int, body: bytes) -> bytes:
        if address.topic == "gradient" and sender == 3:
            kept[address.round] = body
        if address.topic != "total-gradient" or address.round not in kept:
            return body
        contribution = kept[address.round][:-64]
        return body[:12] + contribution[-(len(body) - 12) :]

    body = order_body(HOSPITALS, model_params={"encrypt_param": {"method": method}})
    error, _, order_id = cheated(sites, alone, monkeypatch, body=body)
    assert error.code in ("sum_mismatch", "payload"), error
    assert not (
        sites[INITIATOR].vault / "orders" / str(order_id) / "checkpoint-0.npz"
    ).exists()
    assert order_id not in Vault(sites[INITIATOR].vault).models()


def test_an_agent_that_may_not_sign(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sign = false`: whatever a coordinator invents in this hospital's name, no
    partner takes part in it.
    """
    path = sites[INITIATOR].policy
    before = path.read_text()
    path.write_text(before.replace("sign = true", "sign = false"))
    try:
        error, transport, order_id = cheated(
            sites, lambda address, sender, reader, body: body, monkeypatch
        )
    finally:
        path.write_text(before)
    assert error.code == "sign"
    assert_no_secret(sites, order_id, transport)


# --- over a real federation ----------------------------------------------------------------------------------------


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    try:
        yield
    finally:
        path.write_text(before)


@pytest.mark.slow
def test_a_pin_that_does_not_match(federation: RunningFederation) -> None:
    """The hospital refuses, says how to pin, and no order secret is made."""
    path = federation.home / "sites" / SITES[3] / "partners.toml"
    fingerprint = (
        Vault(federation.home / "sites" / SITES[4] / "vault")
        .identity()
        .public.fingerprint
    )
    for old, new, code in (
        (fingerprint, "0000-" * 7 + "0000", "pin_mismatch"),
        ("user_id = 4", "user_id = 44", "pin_missing"),
    ):
        with changed(path, old, new), federation.client(4) as client:
            answer = client.post("/model/train", json=order())
        assert answer.status_code == 403, answer.text
        told = answer.json()
        assert told["data"]["error"]["code"] == code
        assert "telephone" in told["message"]
        assert "settings.toml" in told["message"]
        order_id = told["data"]["order_id"]
        assert federation.order(order_id)["refusal"]["code"] == code
        ledger = (
            (federation.home / "sites" / SITES[3] / "ledger.jsonl")
            .read_text()
            .splitlines()
        )
        assert [
            json.loads(line)["rule"]
            for line in ledger
            if f'"order_id": {order_id}' in line
        ] == [code]
        assert open_runs(federation, [order_id], seconds=60) == []
        for site in SITES.values():
            assert not (
                federation.home / "sites" / site / "vault" / "orders" / str(order_id)
            ).exists()


@pytest.mark.slow
def test_a_coordinator_that_enrols_its_own_keys(federation: RunningFederation) -> None:
    """Whoever presents other keys in a hospital's name is refused. A coordinator that
    writes its own into its store seals the SQL to itself: the hospital cannot read it
    and takes no part.
    """
    name = "UPDATE hospitals SET identity = ? WHERE user_id = 3"
    true = Vault(federation.home / "sites" / SITES[3] / "vault").identity().public
    with federation.agent_client(SITES[3]) as agent, federation.client(4) as client:
        shown = {
            row["user_id"]: row
            for row in client.get("/hospitals").json()["data"]["hospitals"]
        }
        assert shown[3]["fingerprint"] == true.fingerprint
        answer = agent.put(
            "/hospitals/me", json={"identity": ATTACKER.public.encode(), "version": "1"}
        )
        assert answer.status_code == 409, answer.text
        with sqlite3.connect(
            federation.home / "coordinator" / "store.sqlite", timeout=20
        ) as store:
            store.execute(name, (ATTACKER.public.encode(),))
        try:
            answer = client.post("/model/train", json=order())
        finally:
            with sqlite3.connect(
                federation.home / "coordinator" / "store.sqlite", timeout=20
            ) as store:
                store.execute(name, (true.encode(),))
        assert (answer.status_code, answer.json()["data"]["error"]["code"]) == (
            409,
            "cannot_unseal",
        )
    assert federation.wait_for(federation.submit(order()))["state"] == "success"


def deployment(client: httpx.Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/deployments/name/{name}").json()
    return found


@pytest.mark.slow
def test_an_altered_deployment_runs_nothing_of_it(
    federation: RunningFederation, tmp_path: Path
) -> None:
    """Entrypoint, pull steps, command, environment, image and the pool's job template:
    the agent reads none of them.
    """
    marker, evil = tmp_path / "ran", tmp_path / "evil.py"
    evil.write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nfrom prefect import flow\n"
        "@flow(name='hospital-train')\ndef train_at_hospital(order_id: int): ...\n"
    )
    variables = {
        "command": f"touch {marker}",
        "image": "evil:latest",
        "env": {"PYTHONSTARTUP": str(evil)},
    }
    steps = [
        {"prefect.deployments.steps.run_shell_script": {"script": f"touch {marker}"}}
    ]
    changes = {
        "entrypoint": f"{evil}:train_at_hospital",
        "path": str(tmp_path),
        "pull_steps": steps,
        "job_variables": variables,
    }
    template = {
        "job_configuration": {"command": f"touch {marker}", "env": variables["env"]},
        "variables": {},
    }
    with federation.prefect() as client:
        names = ["hospital-train/hospital-2", "train-order/train-order"]
        for name in names:
            altered = deployment(client, name)
            kept = {
                key: altered[key]
                for key in (
                    "name",
                    "flow_id",
                    "work_pool_name",
                    "parameter_openapi_schema",
                )
            }
            answer = client.post("/deployments/", json={**kept, **changes})
            assert answer.status_code in (200, 201), answer.text
            assert deployment(client, name)["entrypoint"] == changes["entrypoint"]
            assert deployment(client, name)["pull_steps"] == steps
        answer = client.patch(
            "/work_pools/hospital-2", json={"base_job_template": template}
        )
        assert answer.status_code in (204, 422), answer.text
        order_id = federation.submit(order())
        assert federation.wait_for(order_id)["state"] == "success"
        assert not marker.exists()
    redeploy(federation)


def redeploy(federation: RunningFederation) -> None:
    """Makes the deployments anew, as they should be."""
    command = [sys.executable, "-m", "deployments.server", "deploy"]
    subprocess.run(
        command,
        cwd=ROOT,
        env=federation.env,
        check=True,
        capture_output=True,
        timeout=120,
    )


FLOW_RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "no parameter": ("hospital-train", {}),
    "another parameter": (
        "hospital-train",
        {"order_id": 1, "command": "touch /tmp/ran"},
    ),
    "another name": ("hospital-train", {"order": 1}),
    "a text": ("hospital-train", {"order_id": "1"}),
    "a negative number": ("hospital-train", {"order_id": -1}),
    "true": ("hospital-train", {"order_id": True}),
    "an unknown flow": ("evil-flow", {"order_id": 1}),
    "the coordinator's flow": ("train-order", {"order_id": 1}),
}


@pytest.mark.slow
def test_a_flow_run_that_is_none_of_the_installed_ones(
    federation: RunningFederation,
) -> None:
    """Made straight on the Prefect server, for a hospital's pool: each fails, and
    nothing of it is run.
    """
    with federation.prefect() as client:
        made = {
            what: flow_run(client, name, parameters)
            for what, (name, parameters) in FLOW_RUNS.items()
        }
        federation.submit(order())  # the agent looks at Prefect when it hears of one
        deadline = time.monotonic() + 120  # by itself it looks every 30 seconds
        states: dict[str, Any] = {}
        while len(states) < len(made) and time.monotonic() < deadline:
            for what, run_id in made.items():
                state = client.get(f"/flow_runs/{run_id}").json()["state"]
                if state["type"] not in ("SCHEDULED", "PENDING", "RUNNING"):
                    states[what] = state
            time.sleep(0.3)
        tasks = client.post(
            "/task_runs/filter",
            json={"flow_runs": {"id": {"any_": list(made.values())}}},
        ).json()
    assert {what: state["type"] for what, state in states.items()} == dict.fromkeys(
        FLOW_RUNS, "FAILED"
    )
    assert {state["message"] for state in states.values()} == {"stray"}
    assert tasks == []


def flow_run(client: httpx.Client, flow: str, parameters: dict[str, Any]) -> str:
    """A run on hospital 2's pool by a deployment made for it, without a schema that
    could refuse it.
    """
    flow_id = client.post("/flows/", json={"name": flow}).json()["id"]
    made = {
        "name": f"made-{secrets.token_hex(4)}",
        "flow_id": flow_id,
        "work_pool_name": "hospital-2",
        "enforce_parameter_schema": False,
    }
    deployment_id = client.post("/deployments/", json=made).json()["id"]
    answer = client.post(
        f"/deployments/{deployment_id}/create_flow_run", json={"parameters": parameters}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
