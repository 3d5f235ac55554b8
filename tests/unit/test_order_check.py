"""`./run agent check --order FILE`: what can be in a file, what is printed, and that a
hospital is as it was before.

That what is said is what happens is `tests/pooled/test_checked_orders.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.site.coordinator_told import CoordinatorTold
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from deployments.agent import main
from protocol.versions import Window
from tests.made_sites import contents, make_site, order_body, policy_text

CANARY = "canary-447"
N_ROWS = 30
STATISTICS = '[statistics]\nmethods = ["avg", "frequency"]\nmin_providers = 2\nown_totals = true\n'
PINS = "".join(
    f'[[partners]]\nuser_id = {user}\nname = "North {user}"\nfingerprint = "{user}"\n'
    for user in (3, 4)
)
MODEL = {
    "model_id": 1,
    "model_type": "lr",
    "attributes": ["x1", "x2"],
    "unique_id": "id",
    "label_name": "y",
    "fit_intercept": True,
    "classes": [],
    "layers": {"dense": [0.1, 0.2, 0.3]},
    "standardize": None,
    "n_rounds": 3,
    "losses": [0.7],
    "initiator": 2,
}


def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = pd.DataFrame({"id": range(N_ROWS), "y": np.arange(N_ROWS) % 2})
    for name in ("x1", "x2"):
        rows[name] = rng.normal(size=N_ROWS).round(3)
    rows["ward"] = [CANARY, CANARY, *["east", "west"] * 14]
    return rows


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    """Hospital 2, which no agent has run at so far: without a vault."""
    policy = policy_text((2, 3, 4), ["rows"]) + STATISTICS
    made = make_site(tmp_path, 2, {"rows": table()}, policy)
    settings = made.site / "settings.toml"
    settings.write_text(settings.read_text() + PINS)
    return made


def training(**changes: Any) -> dict[str, Any]:
    return order_body((2, 3, 4), **{"attributes": ["x1", "x2"], **changes})


def statistics(method: str = "avg", **changes: Any) -> dict[str, Any]:
    providers = []
    for name in (2, "North 3", "North 4"):
        providers.append(
            {
                "name": name,
                "data_path": "data.rows",
                "data_type": "table",
                "key_column": changes.get("key", "x1"),
            }
        )
    return {
        "method": method,
        "data_providers": providers,
        "result_receivers": ["North 3"],
        "user_id": 3,
    }


def predictions(**data: Any) -> dict[str, Any]:
    return {"model_id": 1, "input_data": {"user_id": 2, **data}}


@pytest.fixture
def check(
    site: SiteSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Any:
    """The command on a body; the hospital is byte by byte as before."""

    def run(body: Any, *options: str) -> tuple[int, str, str]:
        path = tmp_path / "order.json"
        path.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
        before = contents(site.site)
        code = main(["check", "--site", str(site.site), "--order", str(path), *options])
        assert contents(site.site) == before
        out, err = capsys.readouterr()
        assert CANARY not in out + err
        assert "Traceback" not in err
        return code, out, err

    return run


def states(out: str) -> dict[str, str]:
    """By rule its word; of several lines the last."""
    found = {}
    for line in out.splitlines():
        word, rule, *_ = line.split()
        found[rule] = word
    return found


# What is said


def test_an_order_that_would_be_accepted(check: Any, site: SiteSettings) -> None:
    code, out, err = check(training())
    assert (code, err) == (0, "")
    assert set(states(out).values()) == {"ok", "joint"}
    assert f"The train SQL selects {N_ROWS} rows; 0 are left out." in out
    assert f"over the people of 3 hospitals, {N_ROWS} of them here" in out
    assert "These are opened by hospital 2, hospital 3, hospital 4." in out
    assert out.splitlines()[-1].startswith("ok     verdict")
    # No agent has run here, and none seems to have.
    assert not site.vault.exists()
    assert not site.ledger.exists()


def test_every_reason_is_said_at_once(check: Any, site: SiteSettings) -> None:
    text = site.policy.read_text()
    closed = text.replace('"lr", ', "").replace(
        "[cohort]", '[cohort]\nmin_rows = 31\nmax_parameter_share = "1/100"'
    )
    site.policy.write_text(closed.replace("min_hospitals = 3", "min_hospitals = 4"))
    code, out, _ = check(
        training(
            party_id=[3, 5], data_info=dict.fromkeys("235", "SELECT * FROM data.rows")
        )
    )
    assert code == 1
    wrong = {rule for rule, word in states(out).items() if word == "WRONG"}
    assert wrong == {
        "model_types",
        "min_hospitals",
        "receivers",
        "pin_missing",
        "min_rows",
        "max_parameter_share",
        "verdict",
    }
    last = out.splitlines()[-1]
    for rule in wrong - {"verdict"}:
        assert rule in last


def test_as_json(check: Any) -> None:
    code, out, _ = check(training(attributes=["x1", "z"]), "--json")
    assert code == 1
    found = json.loads(out)
    assert {"check", "state", "sentence", "remedy"} == set(found[0])
    assert found[-1]["check"] == "verdict"
    (one,) = [one for one in found if one["check"] == "missing_column"]
    assert (one["state"], bool(one["remedy"])) == ("wrong", True)


def test_groups_are_counted_and_not_named(check: Any) -> None:
    code, out, _ = check(statistics("frequency", key="ward"))
    assert code == 0
    assert "3 groups here, of which this hospital's own rules withhold" in out
    assert "east" not in out
    assert states(out)["groups"] == "joint"


def test_who_only_receives_is_asked_for_no_rows(check: Any) -> None:
    body = statistics()
    body["data_providers"] = body["data_providers"][1:]
    body["result_receivers"] = [2]
    code, out, _ = check(body)
    assert code == 0
    assert "This hospital only receives" in out


def test_a_yes_or_no_for_each_person_is_no_total(
    check: Any, site: SiteSettings
) -> None:
    text = site.policy.read_text()
    opened = '["avg", "is_investor_accredited"]\nrow_level = ["id", "x1"]'
    site.policy.write_text(text.replace('["avg", "frequency"]', opened))
    body = statistics("is_investor_accredited", key="id")
    for provider in body["data_providers"]:
        provider["value_column"] = "x1"
    code, out, _ = check(body)
    assert code == 0
    assert "A value for each person whom all providers have." in out
    assert states(out)["earlier_cohort"] == "joint"


def test_a_person_who_decides_is_named(check: Any, site: SiteSettings) -> None:
    text = site.policy.read_text()
    site.policy.write_text(text.replace("[cohort]", 'approval = "manual"\n[cohort]'))
    code, out, _ = check(training())
    assert (code, states(out)["approval"]) == (0, "joint")


def test_a_policy_that_cannot_be_read_refuses_all(
    check: Any, site: SiteSettings
) -> None:
    site.policy.unlink()
    code, out, _ = check(training())
    assert code == 1
    assert states(out) == {"policy": "WRONG", "verdict": "WRONG"}


SQL = "SELECT * FROM data.rows"


def test_predictions(check: Any, site: SiteSettings) -> None:
    code, out, _ = check(predictions(data_sql=SQL))
    assert (code, states(out)["no_model"]) == (1, "WRONG")
    Vault(site.vault).save_model(1, MODEL)
    code, out, _ = check(predictions(data_sql=SQL))
    assert code == 0
    assert f"{N_ROWS} rows; the model can be applied to {N_ROWS} of them." in out
    code, out, _ = check(predictions(rows=[{"x1": 1, "x2": 2}]))
    assert (code, states(out)["rows"]) == (1, "WRONG")
    text = site.policy.read_text()
    site.policy.write_text(
        text.replace("return_predictions = true", "return_predictions = false")
    )
    code, out, _ = check(
        predictions(data_sql="SELECT x1 + 1 AS x1, x2, id FROM data.rows")
    )
    assert code == 1
    assert states(out)["return_predictions"] == "WRONG"
    assert states(out)["expressions"] == "WRONG"


def test_a_model_of_an_earlier_version_is_read_and_not_mended(
    check: Any, site: SiteSettings
) -> None:
    Vault(site.vault).save_model(1, MODEL)
    path = site.vault / "models" / "1.json"
    path.write_text(json.dumps(MODEL))
    code, _, _ = check(predictions(data_sql=SQL))
    assert code == 0
    assert path.read_text() == json.dumps(MODEL)


# What can be in a file


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON: line 1, column 1."),
        (b"{", "is no JSON: line 1, column 2."),
        (b'{"method": "avg",}', "is no JSON: line 1, column 18."),
        (b"[orders]\ninitiators = [2]\n", "is no JSON"),
        (b"[1, 2]", "holds no JSON object"),
        (b'"SELECT 1"', "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b"{}", "has no field of an order"),
        (f'{{"{CANARY}": "{CANARY}"}}'.encode(), "has no field of an order"),
        ('{"purpose": "随访"}'.encode("gbk"), "is not UTF-8"),
        (b'{"purpose": "\xff"}', "is not UTF-8"),
        (b'{"model_type": ' + b"[" * 100_000, "is no JSON"),
        (b'{"model_type": ' + b"1" * 5_000 + b"}", "is no JSON that can be read"),
        (b" " * 10_000_000, "has more than 4194304 bytes"),
    ],
    ids=range(14),
)
def test_a_file_that_is_no_order(check: Any, content: bytes, words: str) -> None:
    code, out, err = check(content)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err) < 400
    (line,) = err.splitlines()
    assert line.count(".") >= 2  # what is wrong, and what to do


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (training(attribute=["x1"]), "attribute: is no field here"),
        (training(model_type="tree"), "model_type"),
        (training(user_id="two"), "user_id"),
        (training(model_params={"max_iter": 0, "alpha": -1}), "model_params.alpha"),
        (training(data_info={"2": "SELECT 1"}), "no SQL for hospital 3, 4"),
        (statistics("mean"), "method"),
        ({**statistics(), "by": "ward"}, "it is group_by here"),
        (predictions(), "give one of them"),
        ({"model_id": 1}, "input_data"),
        ({"data_providers": 3}, "data_providers"),
    ],
    ids=range(10),
)
def test_a_field_that_is_wrong_is_named(
    check: Any, body: dict[str, Any], words: str
) -> None:
    code, out, err = check(body)
    assert (code, out) == (2, "")
    assert words in err


def others(body: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(body).replace("2", "5")
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(
    ("body", "options", "words"),
    [
        (order_body((3, 4, 5)), [], "for hospitals 3, 4, 5, and this is hospital 2"),
        (others(predictions(data_sql=SQL)), [], "for hospitals 5"),
        (training(), ["--user", "3"], "asked for by hospital 2, and --user is 3"),
        (statistics(), ["--user", "4"], "asked for by hospital 3, and --user is 4"),
        ({**statistics(), "user_id": None}, [], "does not say who asks"),
        (
            {**statistics(), "result_receivers": ["South"]},
            [],
            "There is no hospital South.",
        ),
        ({**statistics(), "user_id": 9}, [], "Who asks is neither"),
    ],
    ids=range(7),
)
def test_an_order_that_is_not_for_this_hospital(
    check: Any, body: dict[str, Any], options: list[str], words: str
) -> None:
    code, out, err = check(body, *options)
    assert (code, out) == (2, "")
    assert words in err


def test_who_asks_may_be_said_beside_the_file(check: Any) -> None:
    body = {**statistics(), "user_id": None}
    assert check(body, "--user", "3")[0] == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_of_another_editor(check: Any, encoding: str) -> None:
    text = json.dumps(training(purpose="随访"), ensure_ascii=False)
    assert check(text.encode(encoding))[0] == 0


def test_a_file_that_is_not_there(
    site: SiteSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        assert main(["check", "--site", str(site.site), "--order", str(path)]) == 2
        assert "cannot be read" in capsys.readouterr().err
    assert main(["check", "--order", "a.json"]) == 2
    assert "No site is given." in capsys.readouterr().err
    assert main(["check", "--order", "a.json", "--policy", "b.toml"]) == 2
    assert "Both an order and a policy" in capsys.readouterr().err
    assert main(["check", "--site", str(site.site), "--user", "3"]) == 2
    assert "no order is given" in capsys.readouterr().err


# The protocol


@pytest.mark.parametrize(
    ("policy", "window", "told", "word", "words"),
    [
        ("", {}, None, "joint", "its protocol, 2 to 3"),
        ("", {}, 2, "ok", "It is written in protocol 2"),
        ("", {"start_within_seconds": 60, "at_least": 3}, None, "ok", "in protocol 3"),
        ("oldest_protocol = 3", {}, None, "ok", "It is written in protocol 3"),
        ("oldest_protocol = 3", {}, 2, "warn", "needs protocol 3"),
    ],
)
def test_the_protocol_of_agent_and_order_is_said(
    policy: str,
    window: dict[str, Any],
    told: int | None,
    word: str,
    words: str,
    check: Any,
    site: SiteSettings,
) -> None:
    """As far as a hospital knows it: what all others speak it does not."""
    text = site.policy.read_text()
    site.policy.write_text(text.replace("[orders]", f"[orders]\n{policy}"))
    if told is not None:
        CoordinatorTold("0.9.0", Window(2, told)).keep(site.state)
    code, out, _ = check(training(**window))
    (line,) = [line for line in out.splitlines() if line[7:].startswith("protocol ")]
    assert (code, line.split()[0]) == (0, word)
    assert words in line
    assert f"This agent takes {'3' if policy else '2 to 3'}" in line


def test_predictions_say_it_too(check: Any, site: SiteSettings) -> None:
    _, out, _ = check(predictions(data_sql=SQL))
    assert states(out)["protocol"] == "joint"
