"""An evaluation at a hospital that did not train the model: it is sealed to it, where each
of those who trained it lists it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

from agents.order import party as orders
from agents.site.vault import Vault
from agents.training import sealed_model
from protocol.errors import BadRequest, ConsiliumError, Refused
from protocol.training_request import parse_training_request
from tests.made_sites import order_body
from tests.pairwise import quick
from tests.pooled.test_evaluations import ATTRIBUTES, Study, params, report_at_all

N_OF = {2: 120, 3: 110, 4: 130, 5: 90}
TRAINED_BY = (2, 3, 4)


def external_study(tmp_path: Path, *, method: str = "Mask", **order: Any) -> Study:
    """Hospital 5 has a site and new rows, and takes no part in training."""
    unsaid = {"attributes": ATTRIBUTES, "model_params": params(method)}
    body = order_body(TRAINED_BY, **{**unsaid, **order})
    return Study(tmp_path, N_OF, order=body)


@pytest.mark.parametrize("method", quick(["Mask", "Paillier", "None"], 1))
def test_a_hospital_that_did_not_train_judges_the_model(
    tmp_path: Path, method: str
) -> None:
    order = {
        "attributes": ["age", "dose", "sex"],
        "categorical": {"sex": {"reference": "m"}},
        "missing": "mean",
    }
    study = external_study(tmp_path, method=method, **order)
    assert 1 not in Vault(study.sites[5].vault).models()
    outcome = study.evaluate(calibration_slope=True)
    assert sorted(outcome.evaluations) == [2, 3, 4, 5]
    report = report_at_all(outcome)
    rows = study.pooled
    columns = [rows["age"], rows["dose"], rows["sex"] == "f"]
    mean, deviation = study.model["standardize"]
    X = np.column_stack(columns).astype(float)
    X = (X - np.asarray(mean)) / np.asarray(deviation)
    *slopes, intercept = study.model["layers"]["dense"]
    score = 1 / (1 + np.exp(-(X @ np.array(slopes) + intercept)))
    assert report["n"] == sum(N_OF.values())
    assert report["metrics"]["log_loss"] == pytest.approx(
        log_loss(rows["y"], score), rel=1e-12
    )
    # It is kept for that order alone, and the coordinator has not seen it.
    assert 1 not in Vault(study.sites[5].vault).models()
    weights = [repr(value) for value in study.model["layers"]["dense"]]
    for seen in outcome.traffic:
        assert not any(text.encode() in seen for text in weights)
    ledger = study.sites[2].ledger.read_text()
    assert ledger.count('"kept_model"') == 1


def test_who_trained_decides_whether_the_model_leaves(tmp_path: Path) -> None:
    """A policy that does not list the other hospital: nothing is sent, whoever's it is."""
    study = external_study(tmp_path)
    path = tmp_path / "hospital-3" / "policy.toml"
    text = path.read_text()
    path.write_text(text.replace("[orders]\n", "[orders]\nreceivers = [2, 3, 4]\n", 1))
    with pytest.raises(Refused, match="receive") as refused:
        study.evaluate()
    assert refused.value.code == "receivers"
    assert "kept_model" not in study.sites[2].ledger.read_text()


def test_who_trained_has_to_be_there(tmp_path: Path) -> None:
    study = external_study(tmp_path)
    sql = {str(user): "SELECT * FROM data.later" for user in (2, 3, 5)}
    with pytest.raises(BadRequest, match="Add all hospitals") as refused:
        study.evaluate(party_id=[3, 5], data_info=sql)
    assert refused.value.code == "model"
    # Nor does it help to order it where it is not held.
    sql["4"] = sql["5"]
    with pytest.raises(BadRequest, match="hospital that took part"):
        study.evaluate(user_id=5, party_id=[2, 3, 4], data_info=sql)


def test_agents_ask_who_trained_it_themselves(tmp_path: Path) -> None:
    """The coordinator makes the document, and could leave somebody out."""
    study = external_study(tmp_path)
    parse_training_request(study.trained)
    # As it would be if hospital 4 had not trained.
    study.trained["party_id"] = [3]
    study.trained["data_info"].pop("4")
    sql = {str(user): "SELECT * FROM data.later" for user in (2, 3, 5)}
    with pytest.raises(Refused, match="trained it") as refused:
        study.evaluate(party_id=[3, 5], data_info=sql)
    assert refused.value.code == "model"


def changed(stored: dict[str, Any], name: str) -> dict[str, Any]:
    found = json.loads(json.dumps(stored))
    match name:
        case "weights":
            found["layers"]["dense"][0] += 1e-9
        case "scale":
            found["standardize"][1][0] *= 2
        case "length":
            found["layers"]["dense"].append(0.0)
        case "infinite":
            found["layers"]["dense"][0] = 1e400
        case "more":
            found["report"] = {}
    return dict(found)


@pytest.mark.parametrize(
    ("name", "code"),
    quick(
        [
            ("scale", "weights_differ"),
            ("length", "bad_message"),
            ("weights", "weights_differ"),
            ("infinite", "bad_message"),
            ("more", "bad_message"),
        ],
        1,
    ),
)
def test_another_model_than_the_others_hold_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str
) -> None:
    """An initiator that aims a model at one hospital's rows."""
    study = external_study(tmp_path)
    send = orders.send

    def send_another(order: Any, kind: str, make: Any, **where: Any) -> None:
        if kind == sealed_model.KIND:
            text = json.dumps(changed(json.loads(make()), name))
            send(order, kind, lambda: text.encode(), **where)
            return
        send(order, kind, make, **where)

    monkeypatch.setattr(sealed_model, "send", send_another)
    with pytest.raises(ConsiliumError) as refused:
        study.evaluate()
    assert refused.value.code == code
