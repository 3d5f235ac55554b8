"""An agent of protocol N-1 as a process of its own among agents of N: this tree with one
line changed, so that it speaks the older number only.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.versions import PROTOCOL, SPOKEN
from tests.conftest import ROOT
from tests.faults.processes import wait_until
from tests.strict_federation import Strict, make_strict, order, patients, question

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(600)]

OLDER = 3
"""The hospital whose agent is of the release before."""


@pytest.fixture(scope="module")
def older_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.rstrip("\0").split("\0"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, target)
    path = folder / "protocol" / "versions.py"
    text = path.read_text("utf-8")
    now = f"\nPROTOCOL = {PROTOCOL}\n"
    assert text.count(now) == 1
    path.write_text(text.replace(now, f"\nPROTOCOL = {PROTOCOL - 1}\n"), "utf-8")
    return folder


@pytest.fixture(scope="module")
def federation(
    tmp_path_factory: pytest.TempPathFactory, older_tree: Path
) -> Iterator[Strict]:
    strict = make_strict(
        tmp_path_factory.mktemp("strict"), ["data.visits", "data.others"]
    )
    strict.start()
    try:
        with strict.agent_of(OLDER, older_tree):
            yield strict
    finally:
        strict.stop()


def hospital(federation: Strict, user: int) -> dict[str, Any]:
    with federation.client("operator") as client:
        rows = client.get("/hospitals").json()["data"]["hospitals"]
    (found,) = [row for row in rows if row["user_id"] == user]
    return dict(found)


def document_of(federation: Strict, user: int, order_id: int) -> dict[str, Any]:
    path = federation.state(user) / "vault" / "ended" / f"{order_id}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def model(federation: Strict, user: int, order_id: int) -> Any:
    path = federation.state(user) / "vault" / "models" / f"{order_id}.json"
    return np.ravel(json.loads(path.read_text())["content"]["layers"]["dense"])


def test_it_is_shown_who_lags_and_by_how_much(federation: Strict) -> None:
    row = wait_until(
        lambda: hospital(federation, OLDER)["troubles"] and hospital(federation, OLDER),
        "the notice",
        seconds=60,
    )
    assert isinstance(row, dict)
    assert (row["protocol"], row["online"]) == (PROTOCOL - 1, True)
    (trouble,) = row["troubles"]
    assert trouble["cause"] == "version"
    assert f"speaks protocol {PROTOCOL - 1} of {SPOKEN}" in trouble["message"]
    others = hospital(federation, 2)
    assert (others["protocol"], others["troubles"]) == (PROTOCOL, [])
    site = str(federation.policy(2).parent)
    told = subprocess.run(
        [sys.executable, "-m", "deployments.agent", "check", "--json", "--site", site],
        cwd=ROOT,
        env=federation.env,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [one for one in json.loads(told.stdout) if one["check"] == "protocol"]
    assert [one["state"] for one in found] == ["ok", "warn"]
    assert f"hospital {OLDER} speaks protocol {PROTOCOL - 1}" in found[1]["sentence"]


@pytest.mark.parametrize("method", ["Mask", "Paillier"])
def test_orders_of_both_give_one_model_at_all(federation: Strict, method: str) -> None:
    params = {"encrypt_param": {"method": method}}
    outcome = federation.train(order("data.visits", params=params))
    outcome.assert_answered()
    assert outcome.order["state"] == "success"
    models = [model(federation, user, outcome.order_id) for user in (2, 3, 4)]
    assert np.array_equal(models[0], models[1])
    assert np.array_equal(models[0], models[2])


def test_a_question_to_both_is_answered(federation: Strict) -> None:
    outcome = federation.ask(question("avg", "data.visits"), who=4)
    ages = np.concatenate([patients(user).age for user in (2, 3, 4)])
    assert outcome.number(4) == pytest.approx(ages.mean())


def test_an_order_without_it_is_of_the_newer_number(federation: Strict) -> None:
    """The others have not lost anything by one that lags."""
    outcome = federation.train(order("data.others", users=(2, 4, 5)))
    outcome.assert_answered()
    assert outcome.order["state"] == "success"


def test_a_policy_that_takes_the_newer_one_only_refuses_it(federation: Strict) -> None:
    with federation.allowing("orders", f"oldest_protocol = {PROTOCOL}", users=(2,)):
        wait_until(
            lambda: hospital(federation, 2)["oldest_protocol"] == PROTOCOL,
            "the policy is told",
            seconds=90,
        )
        with federation.client(4) as client:
            answer = client.post("/model/train", json=order("data.visits"))
    assert answer.status_code == 409
    error = answer.json()["data"]["error"]
    assert (error["code"], error["detail"]["hospitals"]) == ("protocol", [OLDER])
    assert "upgrade --site FOLDER" in error["remedy"]
