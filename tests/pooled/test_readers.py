"""Reports, predictions, statistics and evaluations, sealed to a reader whom the hospital
lists; and what a coordinator gets that puts another key into an order.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.order.party import open_party
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.training.inference import answer_request
from deployments.local.one_process import run_evaluation, run_order, run_statistics
from protocol.errors import BadRequest, Forbidden, Refused
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport
from protocol.message_plan import training_plan
from protocol.messages import COORDINATOR, HospitalSql
from protocol.readers import TOPIC
from protocol.sealing import KEY_BYTES
from protocol.training_request import parse_training_request
from tests.made_newton import open_policies
from tests.made_readers import (
    COORDINATORS_OWN,
    LIN,
    WANG,
    fingerprint,
    list_readers,
    opened,
    public,
    sealed,
)
from tests.made_sites import make_sites, order_body

USERS = (2, 3, 4)
STATISTICS = """
[statistics]
methods = ["avg"]
files = ["*"]
"""
NEWTON = {"optimizer": "newton", "eps": None, "max_iter": None, "penalty": None}


def rows(user: int) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    x = rng.normal(size=(90, 2))
    chances = 1 / (1 + np.exp(-(0.4 + x @ [0.8, -0.5])))
    return pd.DataFrame(
        {
            "id": np.arange(90),
            "x1": x[:, 0],
            "x2": x[:, 1],
            "y": (rng.random(90) < chances).astype(int),
        }
    )


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SiteSettings]:
    """Three hospitals; no policy lets predictions or numbers pass the coordinator."""
    folder = tmp_path_factory.mktemp("readers")
    tables = {user: {"rows": rows(user)} for user in USERS}
    made = make_sites(folder, tables, return_predictions=False)
    open_policies(folder)
    for user, site in made.items():
        text = site.policy.read_text()
        site.policy.write_text(text + STATISTICS)
        rows(user).to_csv(site.data_folder / "rows.csv", index=False)
    list_readers(made[2], lin=LIN)
    return made


@pytest.fixture
def transport() -> MemoryTransport:
    return MemoryTransport()


TRAINING = order_body(
    USERS, attributes=["x1", "x2"], model_params=NEWTON, scoring="none"
)


@pytest.fixture(scope="module")
def trained(
    sites: dict[int, SiteSettings],
) -> tuple[dict[str, Any], MemoryTransport]:
    """The model of order 1, and all that passed."""
    transport = MemoryTransport()
    body = {**TRAINING, "reader": public(LIN)}
    outcome = run_order(sites, body, order_id=1, transport=transport)
    return outcome.models[2], transport


def question(**changes: Any) -> dict[str, Any]:
    providers = [
        {
            "name": user,
            "data_path": "rows.csv",
            "data_type": "csv",
            "key_column": "x1",
        }
        for user in USERS
    ]
    return {
        "method": "avg",
        "data_providers": providers,
        "result_receivers": [2],
        "reader": public(LIN),
        **changes,
    }


def ledger_of(site: SiteSettings, order_id: int) -> list[dict[str, Any]]:
    entries = Ledger(site.ledger).entries()
    return [entry for entry in entries if entry.get("order_id") == order_id]


def ask_for_predictions(
    sites: dict[int, SiteSettings],
    transport: MemoryTransport,
    order_id: int,
    **to_whom: str,
) -> None:
    """By the document that a coordinator makes."""
    own = HospitalSql(
        secrets.token_bytes(KEY_BYTES), {"infer": "SELECT * FROM data.rows"}
    )
    document = {
        "kind": "infer",
        "order_id": order_id,
        "model_id": 1,
        "user_id": 2,
        "attempt": 0,
        "sql": own.commitment,
        **to_whom,
    }
    party = open_party(sites[2], order_id, transport)
    box = own.seal(2, party.identity.public.seal_key)
    answer_request(party, json.dumps(document), box)


# What a reader opens


def test_a_report_is_the_one_of_the_vault(
    trained: tuple[dict[str, Any], MemoryTransport], sites: dict[int, SiteSettings]
) -> None:
    model, transport = trained
    found = opened(transport, 1, "report")
    assert found["report"] == model["report"]
    assert found["model_id"] == 1
    left = [entry for entry in ledger_of(sites[2], 1) if entry.get("kind") == TOPIC]
    assert [entry["reader"] for entry in left] == [fingerprint(LIN)]
    # The others seal nothing to anybody.
    for user in (3, 4):
        assert not [e for e in ledger_of(sites[user], 1) if e.get("kind") == TOPIC]


def test_no_number_of_the_report_passes_in_clear(
    trained: tuple[dict[str, Any], MemoryTransport],
) -> None:
    model, transport = trained
    traffic = b"".join(transport.traffic)
    for term in model["report"]["terms"]:
        assert repr(term["se"]).encode() not in traffic
    # The search would find them where they were.
    assert (
        repr(model["report"]["terms"][0]["se"]).encode() in json.dumps(model).encode()
    )


def test_a_statistic_is_the_receivers_file(
    sites: dict[int, SiteSettings], transport: MemoryTransport
) -> None:
    run_statistics(sites, question(), initiator=2, order_id=11, transport=transport)
    found = opened(transport, 11, "statistics")
    pooled = pd.concat([rows(user) for user in USERS])
    assert found["rows"][0]["avg"] == pytest.approx(pooled["x1"].mean(), rel=1e-12)
    assert found["notes"]["method"] == "avg"
    assert repr(found["rows"][0]["avg"]).encode() not in b"".join(transport.traffic)


def test_an_evaluation_is_the_one_of_the_vault_without_counts(
    trained: tuple[dict[str, Any], MemoryTransport],
    sites: dict[int, SiteSettings],
    transport: MemoryTransport,
) -> None:
    body = {
        "user_id": 2,
        "party_id": [3, 4],
        "model_id": 1,
        "data_info": TRAINING["data_info"],
        "reader": public(LIN),
    }
    run_evaluation(sites, body, trained=TRAINING, order_id=12, transport=transport)
    found = opened(transport, 12, "evaluation")
    kept = Vault(sites[2].vault).evaluation(12)
    assert "counts" in kept
    assert found == {name: kept[name] for name in kept if name != "counts"}


def test_predictions_need_no_return_predictions(
    trained: tuple[dict[str, Any], MemoryTransport],
    sites: dict[int, SiteSettings],
    transport: MemoryTransport,
) -> None:
    ask_for_predictions(sites, transport, 13, reader=public(LIN))
    found = opened(transport, 13, "predictions")
    assert len(found) == 90
    # In clear, by a key of the coordinator's, they do not leave.
    with pytest.raises(Refused) as caught:
        ask_for_predictions(
            sites, MemoryTransport(), 14, reply_key=public(COORDINATORS_OWN)
        )
    assert caught.value.code == "return_predictions"


# A coordinator that names another reader


@pytest.mark.parametrize("private", [COORDINATORS_OWN, WANG], ids=["its own", "wang's"])
def test_a_report_is_sealed_to_nobody_who_is_not_listed(
    sites: dict[int, SiteSettings], transport: MemoryTransport, private: bytes
) -> None:
    body = {**TRAINING, "reader": public(private)}
    with pytest.raises(Refused) as caught:
        run_order(sites, body, order_id=20, transport=transport)
    assert caught.value.code == "reader"
    assert fingerprint(private) in str(caught.value)
    assert "readers add" in caught.value.remedy
    # Before anything of the rows was counted.
    assert not transport.facts.get(20)
    assert not [e for e in ledger_of(sites[2], 20) if e["event"] == "left"]


def test_a_statistic_is_sealed_to_nobody_who_is_not_listed(
    sites: dict[int, SiteSettings], transport: MemoryTransport
) -> None:
    asked = question(reader=public(COORDINATORS_OWN))
    with pytest.raises(Refused) as caught:
        run_statistics(sites, asked, initiator=2, order_id=21, transport=transport)
    assert caught.value.code == "reader"


def test_predictions_are_sealed_to_nobody_who_is_not_listed(
    trained: tuple[dict[str, Any], MemoryTransport],
    sites: dict[int, SiteSettings],
    transport: MemoryTransport,
) -> None:
    with pytest.raises(Refused) as caught:
        ask_for_predictions(sites, transport, 22, reader=public(COORDINATORS_OWN))
    assert caught.value.code == "reader"
    assert transport.traffic == []


def test_predictions_for_one_reader_go_to_no_other_one(
    trained: tuple[dict[str, Any], MemoryTransport],
    sites: dict[int, SiteSettings],
) -> None:
    """A person approves an order with its reader. Once the predictions are kept, the
    document may name another one, or a key of the coordinator's own.
    """
    ask_for_predictions(sites, MemoryTransport(), 23, reader=public(LIN))
    policy = sites[2].policy.read_text()
    try:
        # Both ways are open at this hospital.
        sites[2].policy.write_text(
            policy.replace("return_predictions = false", "return_predictions = true")
        )
        list_readers(sites[2], lin=LIN, wang=WANG)
        other = {"reader": public(WANG)}, {"reply_key": public(COORDINATORS_OWN)}
        for to_whom in other:
            again = MemoryTransport()
            with pytest.raises(Refused) as caught:
                ask_for_predictions(sites, again, 23, **to_whom)
            # The second one's SQL has another salt; what is kept is asked first.
            assert caught.value.code == "reader"
            assert again.traffic == []
    finally:
        sites[2].policy.write_text(policy)


def test_what_the_others_seal_is_their_own_affair_and_they_are_not_asked(
    sites: dict[int, SiteSettings], transport: MemoryTransport
) -> None:
    """A reader whom hospital 3 lists is nobody at hospital 2."""
    list_readers(sites[3], wang=WANG)
    with pytest.raises(Refused) as caught:
        run_statistics(
            sites,
            question(reader=public(WANG)),
            initiator=2,
            order_id=24,
            transport=transport,
        )
    assert caught.value.code == "reader"


def test_a_reader_who_is_taken_off_meanwhile_gets_nothing(
    sites: dict[int, SiteSettings],
    transport: MemoryTransport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The policy is read again at the moment of sealing; the hospital keeps its answer."""
    from agents.order import answers

    read = answers.load_policy

    def without_readers(path: Path) -> Any:
        return read(path).model_copy(update={"readers": {}})

    monkeypatch.setattr(answers, "load_policy", without_readers)
    run_statistics(sites, question(), initiator=2, order_id=25, transport=transport)
    address = Address(25, TOPIC)
    assert transport.gather(address, (2,), COORDINATOR, wait_seconds=0) is None
    refused = [e for e in ledger_of(sites[2], 25) if e["event"] == "refused"]
    assert [entry["rule"] for entry in refused] == ["reader"]
    assert (sites[2].results_folder / "25").exists()


def test_who_has_no_answer_seals_none(
    sites: dict[int, SiteSettings], transport: MemoryTransport
) -> None:
    """Hospital 2 asks and does not receive."""
    asked = question(result_receivers=[3])
    run_statistics(sites, asked, initiator=2, order_id=26, transport=transport)
    address = Address(26, TOPIC)
    assert transport.gather(address, (2, 3), COORDINATOR, wait_seconds=0) is None


def test_an_order_without_a_report_has_none_to_seal() -> None:
    body = order_body(USERS, attributes=["x1", "x2"], reader=public(LIN))
    with pytest.raises(BadRequest) as caught:
        parse_training_request(body)
    assert caught.value.code == "reader"


def test_a_small_answer_has_the_size_of_another_one(
    sites: dict[int, SiteSettings],
) -> None:
    sizes = set()
    for order_id, column in ((27, "x1"), (28, "x2")):
        transport = MemoryTransport()
        asked = question()
        for provider in asked["data_providers"]:
            provider["key_column"] = column
        run_statistics(
            sites, asked, initiator=2, order_id=order_id, transport=transport
        )
        sizes.add(len(sealed(transport, order_id, 2)))
    assert len(sizes) == 1


def test_an_answer_has_room_however_long_its_curves_are() -> None:
    """An evaluation's are by subgroup, as long as the hospitals have rows; an order that
    names no reader has no such message.
    """
    most = 2**26
    without = training_plan(parse_training_request(TRAINING), most_bytes=most)
    assert TOPIC not in without.kinds
    body = {**TRAINING, "reader": public(LIN)}
    plan = training_plan(parse_training_request(body), most_bytes=most)
    assert plan.room_for(Address(1, TOPIC), 2, COORDINATOR).most_bytes == most
    assert plan.held_bytes == without.held_bytes + most
    for sender in (3, 4):
        with pytest.raises(Forbidden):
            plan.room_for(Address(1, TOPIC), sender, COORDINATOR)
