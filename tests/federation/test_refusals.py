"""Orders that hospitals refuse, over a real federation: what the sender hears, what
stays visible, what is left.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from agents.site.settings import SiteSettings
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.demo.training import document_order
from deployments.local.one_process import run_order
from protocol.errors import ConsiliumError
from tests import bad_tables
from tests.conftest import RunningFederation
from tests.made_sites import make_sites
from tests.pairwise import quick

SITES = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy"}
CONSTANT = "447.0625"  # a constant of an SQL text, which no answer may repeat
PLAIN = "SELECT * FROM data.rows"


def order(*, sql: dict[int, str] | None = None, **changes: Any) -> dict[str, Any]:
    """An order of hospital 4 over data.rows; `sql` replaces a hospital's own, `params`
    model parameters.
    """
    params = changes.pop("params", {})
    made = {**document_order(method="Mask"), **changes}
    texts = dict.fromkeys(map(str, [made["user_id"], *made["party_id"]]), PLAIN)
    made["data_info"] = {
        **texts,
        **{str(user): text for user, text in (sql or {}).items()},
    }
    return {**made, "model_params": {**made["model_params"], "max_iter": 2, **params}}


def table(name: str, **changes: Any) -> dict[str, Any]:
    """Hospital 2 is asked for a table of `tests.bad_tables`."""
    return order(sql={2: f"SELECT * FROM data.{name}"}, **changes)


def sql(text: str) -> dict[str, Any]:
    return order(sql={2: text})


ALL_FOLDED = dict.fromkeys((2, 3, 4), "SELECT * FROM data.folded")
ALL_ONES = dict.fromkeys((2, 3, 4), "SELECT * FROM data.ones")

# What is sent, who refuses (None: whoever is first), status, code, and what the
# sentence says.
CASES: dict[str, tuple[dict[str, Any], int | None, int, str, str]] = {
    "CASE on an id": (
        sql(f"SELECT id, y, CASE WHEN id = {CONSTANT} THEN x1 ELSE 0 END AS x1, x2, x3, x4 FROM data.rows"),
        2, 403, "select_list", "CASE",
    ),
    "all but one row by NOT": (
        sql(f"SELECT * FROM data.rows WHERE NOT (id = {CONSTANT} AND y = 1)"), 2, 403, "filter_columns", "WHERE",
    ),
    "a filter on the label": (sql("SELECT * FROM data.rows WHERE y = 1"), 2, 403, "filter_columns", "label"),
    "UNION": (sql(f"{PLAIN} UNION SELECT * FROM data.rows WHERE x1 > {CONSTANT}"), 2, 403, "statement", "SELECT"),
    "a comment": (sql(f"{PLAIN} -- {CONSTANT}"), 2, 403, "comment", "comment"),
    "two statements": (sql(f"{PLAIN}; DELETE FROM data.rows WHERE x1 > {CONSTANT}"), 2, 403, "statement", "2 stat"),
    "a file": (sql("SELECT * FROM read_csv('/etc/passwd')"), 2, 403, "tables", "table"),
    "a file by its name": (sql("SELECT * FROM '/etc/passwd'"), 2, 403, "tables", "/etc/passwd"),
    "a write": (sql("DROP TABLE data.rows"), 2, 403, "statement", "SELECT"),
    "a write to a file": (sql("COPY data.rows TO '/tmp/rows.csv'"), 2, 403, "statement", "SELECT"),
    "a subquery": (sql("SELECT * FROM data.rows WHERE x1 IN (SELECT x1 FROM data.few)"), 2, 403, "where", "WHERE"),
    "LIMIT": (sql("SELECT * FROM data.rows LIMIT 20"), 2, 403, "clause", "limit"),
    "a closed table": (table("closed"), 2, 403, "tables", "data.closed"),
    "the catalogue": (sql("SELECT * FROM information_schema.tables"), 2, 403, "tables", "open"),
    "no SQL": (sql(f"SELEKT {CONSTANT}"), 2, 400, "sql", "read"),
    "a table that is not there": (
        order(sql={4: "SELECT * FROM data.nowhere"}), 4, 403, "tables", "data.nowhere",
    ),
    "the own user's file function": (
        order(sql={4: f"SELECT * FROM read_text('/etc/passwd') WHERE x1 > {CONSTANT}"}), 4, 403, "tables", "table",
    ),
    "missing columns": (table("narrow"), 2, 400, "missing_column", "x3, x4"),
    "the own user's missing columns": (order(sql={4: "SELECT * FROM data.narrow"}), 4, 400, "missing_column", "x3"),
    "labels other than 0 and 1": (table("labels"), 2, 400, "label", "0 and 1"),
    "NULL in a row": (table("one_null"), 2, 400, "null", "Fewer than 10 rows"),
    "NULLs": (table("many_nulls"), 2, 400, "null", "20 rows"),
    "text in a feature": (table("texts"), 2, 400, "not_numeric", "x1"),
    "a doubled unique id": (table("doubled"), 2, 400, "duplicate_unique_id", "id"),
    "too few rows": (table("few"), 2, 403, "min_rows", "10"),
    "more parameters than a third of the rows": (
        table("enough"), 2, 403, "max_parameter_share", "1/3",
    ),
    "a feature that few rows have": (table("rare"), 2, 403, "min_varying", "x1"),
    "one class over all hospitals": (order(sql=ALL_ONES), None, 400, "one_class", "same label"),
    "fewer than three hospitals": (order(party_id=[2]), None, 403, "min_hospitals", "3"),
    "a unique id of another column": (order(unique_id="x9"), None, 403, "unique_id", "x9"),
    "folds of a few rows": (
        order(sql=ALL_FOLDED, params={"cv_param": {"need_cv": True, "n_splits": 50}}), None, 403, "min_rows", "10",
    ),
    "a bound beyond the fixed point": (order(params={"bound": 2.0**39}), None, 400, "headroom", "fraction bits"),
}  # fmt: skip


# These go over the real federation; all of them, these too, through the parties
# themselves in one process.
FIRST_SENT = (
    "a file",
    "missing columns",
    "text in a feature",
    "one class over all hospitals",
    "fewer than three hospitals",
    "a bound beyond the fixed point",
)
# Found where one of the first is found.
FURTHER_SENT = (
    "CASE on an id",
    "no SQL",
    "too few rows",
    "all but one row by NOT",
    "UNION",
    "a comment",
    "two statements",
    "a write",
    "labels other than 0 and 1",
    "NULL in a row",
    "a doubled unique id",
)
SENT = [
    *FIRST_SENT,
    *(pytest.param(name, marks=pytest.mark.thorough) for name in FURTHER_SENT),
]


@pytest.fixture(scope="module")
def answer_to(federation: RunningFederation) -> Callable[[str], httpx.Response]:
    """Each case is sent once.

    Prefect on SQLite may hold its database locked for a minute; the answer then is that
    the order waits, rightly, and what comes of it shows later. Such an order is sent
    again when it has ended.
    """

    @functools.cache
    def send(name: str) -> httpx.Response:
        with federation.client(4) as client:
            answer = client.post("/model/train", json=CASES[name][0])
            is_waiting = "waits for it" in (answer.json()["message"] or "")
            if answer.status_code == 200 and is_waiting:
                federation.wait_for(order_id_of(answer))
                answer = client.post("/model/train", json=CASES[name][0])
        return answer

    return send


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SiteSettings]:
    """Hospitals with the same tables and policies, without servers."""
    parts = breast_cancer_tables()
    tables = {
        user: bad_tables.tables(parts["guest" if user == 4 else "host"])
        for user in SITES
    }
    opened = [name for name in bad_tables.TABLES if name not in bad_tables.CLOSED]
    return {
        user: replace(site, name=SITES[user])
        for user, site in make_sites(
            tmp_path_factory.mktemp("sites"),
            tables,
            opened=opened,
            filter_columns=[f"x{i}" for i in range(30)],
        ).items()
    }


@pytest.mark.parametrize("name", CASES)
def test_every_refusal_has_its_rule_and_remedy(
    sites: dict[int, SiteSettings], name: str
) -> None:
    body, _, status, code, words = CASES[name]
    with pytest.raises(ConsiliumError) as caught:
        run_order(sites, body, order_id=1 + list(CASES).index(name))
    error = caught.value
    assert (error.status, error.code) == (status, code), error
    assert words in error.sentence
    assert error.remedy
    assert_silent(json.dumps(error.to_json()))


def order_id_of(answer: httpx.Response) -> int:
    return int(answer.json()["data"]["order_id"])


def assert_silent(text: str) -> None:
    """No constant of an SQL text and no value of a row."""
    secrets = (
        CONSTANT,
        bad_tables.SECRET_TEXT,
        f"{bad_tables.SECRET_NUMBER}"[:8],
        str(bad_tables.SECRET_ID),
    )
    assert [secret for secret in secrets if secret in text] == []


def ledger(federation: RunningFederation, user_id: int) -> list[dict[str, Any]]:
    path = federation.home / "sites" / SITES[user_id] / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", SENT)
def test_the_sender_hears_why(
    answer_to: Callable[[str], httpx.Response], name: str
) -> None:
    _, user_id, status, code, words = CASES[name]
    answer = answer_to(name)
    told = answer.json()
    assert (answer.status_code, told["code"]) == (status, status), told
    assert set(told) == {"code", "data", "message"}
    error = told["data"]["error"]
    assert error["code"] == code, told
    assert words in error["sentence"]
    assert error["remedy"] in told["message"]
    assert user_id is None or error["sentence"].startswith(f"{SITES[user_id]}: ")
    assert_silent(answer.text)


@pytest.mark.slow
@pytest.mark.parametrize("name", SENT)
def test_the_refusal_stays_visible(
    federation: RunningFederation,
    answer_to: Callable[[str], httpx.Response],
    name: str,
) -> None:
    """At GET /orders/{id} for every party, and in the ledger of the hospital that
    refused.
    """
    _, user_id, _, code, words = CASES[name]
    order_id = order_id_of(answer_to(name))
    with federation.client(3 if name != "fewer than three hospitals" else 2) as client:
        shown = client.get(f"/orders/{order_id}")
        status = client.get("/model/train_status", params={"order_id": order_id}).json()
    data = shown.json()["data"]
    assert data["state"] == status["data"]["train_status"] == "failed"
    assert data["refusal"]["code"] == code
    assert words in data["refusal"]["sentence"]
    assert data["refusal"]["remedy"]
    assert_silent(shown.text)
    refuser = int(data["refusal"]["detail"]["user_id"])
    assert user_id in (None, refuser)
    entries = [
        entry
        for entry in ledger(federation, refuser)
        if entry.get("order_id") == order_id
    ]
    refusals = [entry for entry in entries if entry["event"] == "refused"]
    assert [entry["rule"] for entry in refusals] == [code]
    assert words in refusals[0]["sentence"]
    assert_silent(json.dumps(entries, ensure_ascii=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [FIRST_SENT, pytest.param(FURTHER_SENT, marks=pytest.mark.thorough)],
    ids=["first", "further"],
)
def test_nothing_is_left(
    federation: RunningFederation,
    answer_to: Callable[[str], httpx.Response],
    names: tuple[str, ...],
) -> None:
    """No run, process, message, snapshot, key or model."""
    orders = [order_id_of(answer_to(name)) for name in names]
    assert open_runs(federation, orders, seconds=60) == []
    assert messages_of(federation, orders) == 0
    for site in SITES.values():
        vault = federation.home / "sites" / site / "vault"
        wait_until(
            lambda vault=vault: (
                not [o for o in orders if (vault / "orders" / str(o)).exists()]
            )
        )  # type: ignore[misc]
        assert not [o for o in orders if (vault / "models" / f"{o}.json").exists()]
    assert not (federation.home / "tmp" / "rows.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("max_iter", quick([1, 3], 1))
def test_a_round_of_a_model_too_steep_ends_the_order_with_nothing_kept(
    federation: RunningFederation, max_iter: int
) -> None:
    """The first step makes it so: where it is the last one, nothing is told of it
    either.
    """
    steep = {"learning_rate": 1000.0, "max_iter": max_iter}
    order_id = federation.submit(order(params=steep))
    ended = federation.wait_for(order_id)
    assert ended["state"] == "failed"
    assert ended["refusal"]["code"] == "linear_predictor"
    assert "separate the classes" in ended["refusal"]["remedy"]
    assert "penalty L2" in ended["refusal"]["remedy"]
    assert (ended["converged"], ended["stopped_by"]) == (None, None)
    assert [row["round"] for row in ended["rounds"]] == [0]
    with federation.client(2) as client:
        told = client.get("/model/train_status", params={"order_id": order_id}).json()
    assert told["data"]["train_status"] == "failed"
    assert told["data"]["refusal"]["code"] == "linear_predictor"
    assert told["data"]["warnings"] == []
    assert open_runs(federation, [order_id], seconds=60) == []
    assert messages_of(federation, [order_id]) == 0
    for site in SITES.values():
        vault = federation.home / "sites" / site / "vault"
        wait_until(lambda vault=vault: not (vault / "orders" / str(order_id)).exists())  # type: ignore[misc]
        assert not (vault / "models" / f"{order_id}.json").exists()


def wait_until(true: Any, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def open_runs(
    federation: RunningFederation, orders: list[int], *, seconds: float
) -> list[str]:
    """Flow runs of these orders that are not final after so many seconds."""
    deadline = time.monotonic() + seconds
    wanted = {
        "flow_runs": {"tags": {"any_": [f"order-{order_id}" for order_id in orders]}},
        "limit": 200,
    }
    with federation.prefect() as client:
        while True:
            found = client.post("/flow_runs/filter", json=wanted).json()
            final = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
            left = [
                f"{run['name']} {run['state_type']}"
                for run in found
                if run["state_type"] not in final
            ]
            if not left or time.monotonic() > deadline:
                assert found
                return left
            time.sleep(0.3)


def messages_of(federation: RunningFederation, orders: list[int]) -> int:
    with sqlite3.connect(
        f"file:{federation.home / 'coordinator' / 'store.sqlite'}?mode=ro", uri=True
    ) as store:
        marks = ",".join("?" * len(orders))
        return int(
            store.execute(
                f"SELECT COUNT(*) FROM messages WHERE run IN ({marks})", orders
            ).fetchone()[0]
        )


@pytest.mark.slow
def test_a_refusal_is_a_line_in_a_log_and_no_traceback(
    federation: RunningFederation,
) -> None:
    """One line in each log, of the hospital that refuses and of whoever hears of it; a
    traceback is for what nobody planned.
    """
    # No other order of this federation asks for it.
    with federation.client(4) as client:
        refused = client.post("/model/train", json=table("unheard_of"))
    assert refused.status_code == 403
    sentence = "The table data.unheard_of is not open to orders at this hospital."

    def lines(wanted: str) -> dict[str, list[str]]:
        """By log the lines that hold this."""
        found = {}
        for path in sorted(federation.home.rglob("*.log")):
            text = path.read_text("utf-8", "replace")
            found[str(path)] = [line for line in text.splitlines() if wanted in line]
        return found

    # The process ends after its answer.
    wait_until(lambda: "Finished in state Failed" in str(lines(sentence)))
    assert all(len(found) <= 1 for found in lines(sentence).values()), lines(sentence)
    assert not any(lines("Traceback").values()), lines("Traceback")


# --- a cohort that comes too near to an earlier one ----------------------------------------------------------------


def values_of_x7() -> list[float]:
    return sorted(breast_cancer_tables()["host"].x7.tolist())


@pytest.mark.slow
@pytest.mark.thorough
def test_a_cohort_one_row_away_from_an_earlier_one(
    federation: RunningFederation,
) -> None:
    """The same rows again are fine, ten rows fewer too; one row fewer is not, nor is
    one row fewer of these.
    """
    ordered = values_of_x7()

    def below(limit: float) -> str:
        return f"SELECT * FROM data.breast_homo_host WHERE x7 <= {limit:.6f}"

    with federation.client(4) as client:

        def send(text: str) -> httpx.Response:
            return client.post("/model/train", json=order(sql={2: text}))

        whole = send("SELECT * FROM data.breast_homo_host")
        assert whole.status_code == 200, whole.text
        assert send("SELECT * FROM data.breast_homo_host").status_code == 200
        one_fewer = send(below(ordered[-2]))
        ten_fewer = send(below(ordered[-11]))
        eleven_fewer = send(below(ordered[-12]))
    assert ten_fewer.status_code == 200, ten_fewer.text
    for answer in (one_fewer, eleven_fewer):
        assert answer.status_code == 403
        assert answer.json()["data"]["error"]["code"] == "earlier_cohort"
        assert f"{ordered[-2]:.6f}" not in answer.text
    for answer in (whole, ten_fewer):
        assert federation.wait_for(order_id_of(answer))["state"] == "success"


@pytest.mark.slow
@pytest.mark.thorough
def test_four_cohorts_of_which_each_two_differ_by_many(
    federation: RunningFederation,
) -> None:
    """All, without the twenty lowest, without the twenty highest, without both and one
    more: that one's row would follow from the four models' gradients.
    """
    ordered = values_of_x7()
    low, high, patient = ordered[20], ordered[-21], ordered[-22]
    assert ordered[19] < low
    assert patient < high < ordered[-20]

    def between(lowest: float, highest: float) -> str:
        table = "data.breast_homo_host"
        return f"SELECT * FROM {table} WHERE x7 >= {lowest:.6f} AND x7 <= {highest:.6f}"

    with federation.client(4) as client:

        def send(text: str) -> httpx.Response:
            return client.post("/model/train", json=order(sql={2: text}))

        texts = [
            "SELECT * FROM data.breast_homo_host",
            between(low, ordered[-1] + 1),
            between(ordered[0] - 1, high),
        ]
        for text in texts:
            answer = send(text)
            assert answer.status_code == 200, answer.text
            assert federation.wait_for(order_id_of(answer))["state"] == "success"
        told = send(between(low, patient))
        assert told.status_code == 403
        assert told.json()["data"]["error"]["code"] == "earlier_cohort"
        # Without the one more it is the first three again, in other words.
        both = send(between(low, high))
        assert both.status_code == 200, both.text
    assert federation.wait_for(order_id_of(both))["state"] == "success"


# --- inference ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(federation: RunningFederation) -> int:
    order_id = federation.submit(order())
    assert federation.wait_for(order_id)["state"] == "success"
    return order_id


def infer(
    federation: RunningFederation, model_id: int, text: str, *, user_id: int = 4
) -> httpx.Response:
    body = {"model_id": model_id, "input_data": {"user_id": user_id, "data_sql": text}}
    with federation.client(user_id) as client:
        return client.post("/model/infer", json=body)


@pytest.mark.slow
@pytest.mark.thorough
def test_rows_without_a_value_have_a_reason_and_the_others_a_prediction(
    federation: RunningFederation, model: int
) -> None:
    answer = infer(federation, model, "SELECT * FROM data.many_nulls")
    assert answer.status_code == 200, answer.text
    result = answer.json()["data"]["result"]
    reasons = [one["reason"] for one in result if one["label"] is None]
    assert len(reasons) == 20
    assert all("no value in x" in reason for reason in reasons)
    assert all(0 < one["label"] < 1 for one in result if one["label"] is not None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "status", "code", "words"),
    [
        ("SELECT * FROM data.narrow", 400, "missing_column", "x3, x4"),
        pytest.param(
            f"SELECT * FROM data.rows WHERE x1 > {CONSTANT}",
            *(400, "no_rows", "no rows"),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "SELECT * FROM data.closed",
            *(403, "tables", "data.closed"),
            marks=pytest.mark.thorough,
        ),
        ("SELECT * FROM read_csv('/etc/passwd')", 403, "tables", "table"),
    ],
)
def test_an_inference_that_the_hospital_refuses(
    federation: RunningFederation,
    model: int,
    text: str,
    status: int,
    code: str,
    words: str,
) -> None:
    answer = infer(federation, model, text)
    told = answer.json()
    assert (answer.status_code, told["code"], told["data"]["error"]["code"]) == (
        status,
        status,
        code,
    ), told
    assert words in told["message"]
    assert told["data"]["infer_status"] == "failed"
    assert_silent(answer.text)
    order_id = int(told["data"]["order_id"])
    with federation.client(4) as client:
        again = client.get("/model/infer_status", params={"order_id": order_id})
        shown = client.get(f"/orders/{order_id}").json()["data"]
    assert again.json() == told
    assert shown["refusal"]["code"] == code
    assert [
        e["rule"]
        for e in ledger(federation, 4)
        if e.get("order_id") == order_id and e["event"] == "refused"
    ] == [code]


@pytest.mark.slow
def test_few_rows_and_no_label_are_fine_for_ones_own_patients(
    federation: RunningFederation, model: int
) -> None:
    told = infer(federation, model, "SELECT id, x4, x3, x2, x1 FROM data.few").json()
    assert told["data"]["infer_status"] == "success"
    assert len(told["data"]["result"]) == 9


@contextmanager
def policy(
    federation: RunningFederation, site: str, old: str, new: str
) -> Iterator[None]:
    """A hospital changes its policy; agents read it anew for each order."""
    path = federation.sites / site / "policy.toml"
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    try:
        yield
    finally:
        path.write_text(before)


def told(federation: RunningFederation, user: int) -> Any:
    with federation.client(4) as client:
        rows = client.get("/hospitals").json()["data"]["hospitals"]
    return next(row["policy"] for row in rows if row["user_id"] == user)


def wait_until_told(
    federation: RunningFederation, is_so: Callable[[Any], bool]
) -> None:
    deadline = time.monotonic() + 60
    while not is_so(told(federation, 3)):
        assert time.monotonic() < deadline, told(federation, 3)
        time.sleep(0.05)


def test_others_see_what_a_policy_lets_them_do_and_that_it_changes(
    federation: RunningFederation,
) -> None:
    """Before they order; a policy that cannot be read says nothing."""
    before = told(federation, 3)
    assert before["orders"]["methods"] == ["Paillier", "Mask", "None"]
    assert "breast" not in json.dumps(before)
    with policy(
        federation,
        SITES[3],
        'methods = ["Paillier", "Mask", "None"]',
        'methods = ["Mask"]',
    ):
        wait_until_told(federation, lambda now: now["orders"]["methods"] == ["Mask"])
    wait_until_told(federation, lambda now: now == before)
    with policy(federation, SITES[3], "[orders]", "[ordres]"):
        wait_until_told(federation, lambda now: now is None)
    wait_until_told(federation, lambda now: now == before)


@pytest.mark.slow
def test_predictions_that_may_not_leave(
    federation: RunningFederation, model: int
) -> None:
    with policy(
        federation, SITES[4], "return_predictions = true", "return_predictions = false"
    ):
        answer = infer(federation, model, "SELECT * FROM data.few")
    assert answer.status_code == 403
    assert answer.json()["data"]["error"]["code"] == "return_predictions"
    assert "agent infer" in answer.json()["message"]
    with policy(federation, SITES[4], "allowed = true", "allowed = false"):
        answer = infer(federation, model, "SELECT * FROM data.few")
    assert answer.json()["data"]["error"]["code"] == "inference"


@pytest.mark.slow
@pytest.mark.thorough
def test_an_order_under_another_policy(federation: RunningFederation) -> None:
    before = told(federation, 3)
    allowed = 'methods = ["Paillier", "Mask", "None"]'
    with (
        policy(federation, SITES[3], allowed, 'methods = ["Mask"]'),
        federation.client(4) as client,
    ):
        answer = client.post(
            "/model/train", json=order(params={"encrypt_param": {"method": "None"}})
        )
    assert answer.status_code == 403
    assert answer.json()["data"]["error"]["code"] == "methods"
    with (
        policy(federation, SITES[3], "initiators = [2, 3, 4]", "initiators = [2, 3]"),
        federation.client(4) as client,
    ):
        answer = client.post("/model/train", json=order())
    assert answer.json()["data"]["error"]["code"] == "initiators"
    with (
        policy(federation, SITES[3], "[orders]", "[ordres]"),
        federation.client(4) as client,
    ):
        answer = client.post("/model/train", json=order())
    assert answer.status_code == 403
    assert answer.json()["data"]["error"]["code"] == "policy"
    # The next order would be one of a hospital that says nothing of itself.
    wait_until_told(federation, lambda now: now == before)
