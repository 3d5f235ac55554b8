"""The pages' parts that need no server: words, tables, forms, addresses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI

from agents.gate import withheld_groups
from analytics.training.outcome import WARNINGS
from api.pages import (
    charts,
    column_rows,
    ending_words,
    form,
    frame,
    hospitals,
    order_estimates,
    order_form,
    order_kinds,
    order_list,
    order_parties,
    order_result,
    order_timeline,
    order_view,
    pooled,
    protection,
    question_words,
    score_words,
    scores,
    serving,
    statistics,
)
from api.pages.error_words import CHINESE_CAUSES, CHINESE_ERRORS
from api.pages.order_form import example_order
from api.pages.visit import (
    CODES_BY_STATUS,
    Visit,
    VisitorDoor,
    _told,
    local,
    session_digest,
)
from api.pages.words import CHINESE
from api.routes import timeline
from api.store.hospitals import Caller
from deployments.demo.training import document_order
from protocol.errors import Refused, Unauthenticated
from protocol.evaluation_request import parse_evaluate_request
from protocol.statistics_request import JOINED, POOLED
from protocol.study import STUDY
from protocol.training_request import parse_training_request
from protocol.versions import SPOKEN
from tests.made_readers import LIN, fingerprint, public

PAGES = Path(serving.__file__).parent
DOCS = Path(__file__).resolve().parents[2] / "docs"


def visit(language: str = "en") -> Visit:
    return Visit(
        FastAPI(),
        "a-token",
        Caller("hospital", 4),
        language,
        "light",
        "http://127.0.0.1:5000",
        "/",
    )


def said_directly() -> Iterator[str]:
    """Every text that a page hands to its translation where it is written."""
    for path in PAGES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = (
                getattr(node.func, "attr", getattr(node.func, "id", ""))
                if isinstance(node, ast.Call)
                else ""
            )
            if name == "t" and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value


def said_by_tables() -> Iterator[str]:
    yield from (*timeline.ORDER_PARTS, *timeline.ROUND_PARTS)
    yield from (
        *frame.VIEWS.values(),
        *hospitals.SCORING.values(),
        *hospitals.MORE.values(),
        *hospitals.CELLS.values(),
        hospitals.HINT,
        *order_list.KINDS.values(),
        *order_list.MODELS.values(),
        *order_kinds.GROUPS.values(),
        *column_rows.KINDS.values(),
        order_form.NOTHING_FORESEEN,
        *order_estimates.ERRORS.values(),
        *order_estimates.BASELINES.values(),
        *order_estimates.POOLINGS.values(),
        *order_estimates.SITE_EFFECTS.values(),
        order_estimates.JOINT,
        order_estimates.OF_SITES,
        order_estimates.CLUSTERED,
        order_estimates.COMPARED,
        order_estimates.NONE_EARLIER,
        order_result.REPORT,
        order_result.MODEL,
        order_result.CURVES,
        order_result.VALUES,
        order_result.SEALED,
        order_result.TOLD,
        order_result.NO_METRICS,
    )
    for kind in order_kinds.KINDS.values():
        yield from (kind.name, kind.about)
    yield from (text for texts in protection.WORDS.values() for text in texts)
    yield from (*protection.LEARNT.values(), *protection.WITHHELD.values())
    yield from (
        text
        for score in scores.SCORES.values()
        for text in (score.title, score.sees, score.misses)
    )
    yield from (
        text for named in score_words.ARGUMENTS.values() for text in named.values()
    )
    yield from question_words.METHODS.values()
    yield from (
        *WARNINGS.values(),
        *ending_words.STOPPED_BY.values(),
        order_timeline.WAITING,
        scores.CAUTION,
        scores.NONE_YET,
        scores.NONE_HERE,
        scores.OWN_SCALES,
        statistics.WHERE,
        statistics.NOTHING_YET,
        statistics.NO_SCHEDULE,
        *statistics.WEEKDAYS,
        serving.TOKEN,
        serving.WHO_GIVES,
        serving.NO_SUCH_PAGE,
        *serving.REASONS.values(),
    )


def test_every_text_is_there_in_chinese_with_the_same_values() -> None:
    texts = {*said_directly(), *said_by_tables()}
    assert len(texts) > 150
    assert [text for text in sorted(texts) if text not in CHINESE] == []
    for text, chinese in CHINESE.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", chinese)), (
            text
        )


# Errors, which a reader of Chinese gets in both languages


def codes_in_table(text: str) -> set[str]:
    """The backticked words in the first cell of each row."""
    first_cells = (
        line.split("|")[1] for line in text.splitlines() if line.startswith("| `")
    )
    return {code for cell in first_cells for code in re.findall(r"`([^`]+)`", cell)}


def test_every_error_code_has_a_chinese_sentence() -> None:
    """docs/errors.md has every code of the source, as test_documents.py holds."""
    documented = codes_in_table(
        (DOCS / "errors.md").read_text("utf-8").split("## The order as it was sent")[1]
    )
    assert len(documented) > 150
    assert sorted(documented - set(CHINESE_ERRORS)) == []
    assert sorted(set(CHINESE_ERRORS) - documented) == []
    assert [
        code for code, text in CHINESE_ERRORS.items() if not text.endswith("。")
    ] == []
    assert set(CODES_BY_STATUS.values()) <= documented


def test_every_cause_of_waiting_has_a_chinese_sentence() -> None:
    table = (
        (DOCS / "api.md")
        .read_text("utf-8")
        .split("| `cause` | meaning |")[1]
        .split("\n\n")[0]
    )
    # No order waits for an upgrade: it is a trouble of the hospital's alone.
    assert codes_in_table(table) | {"version", "protocol"} == set(CHINESE_CAUSES)


def test_a_reader_of_chinese_sees_both_sentences() -> None:
    error = Refused(
        "The table data.visits is not open.", remedy="Name another one.", code="tables"
    )
    assert (
        visit("en").error(error)
        == "The table data.visits is not open. Name another one."
    )
    assert visit("zh").error(error) == (
        "医院的策略没有开放此表。（The table data.visits is not open. Name another one.）"
    )
    of_a_later_version = Refused("No.", remedy="", code="of_a_later_version")
    assert visit("zh").error(of_a_later_version) == "No."
    assert visit("zh").waiting({"cause": "disk", "message": "The disk is full."}) == (
        "磁盘已满，腾出空间后会自动继续。（The disk is full.）"
    )


def test_an_answer_of_joint_statistics_gets_its_code_from_the_status() -> None:
    answer = httpx.Response(
        409,
        json={"status": 409, "result": None, "msg": "It stands with other content."},
    )
    error = _told(answer)
    assert (error.code, str(error)) == ("conflict", "It stands with other content.")


def test_a_hospitals_troubles_stand_beside_its_state() -> None:
    visit: Any = SimpleNamespace(
        t=lambda text: text, waiting=lambda one: one["message"]
    )
    row = {
        "online": True,
        "last_seen": None,
        "troubles": [{"cause": "disk", "message": "The disk of <x> is full."}],
    }
    cell = hospitals._state(visit, row)
    assert "online" in cell
    assert "The disk of &lt;x&gt; is full." in cell


@pytest.mark.parametrize(
    ("protocol", "shown"),
    [
        (None, "-"),
        (SPOKEN.newest, str(SPOKEN.newest)),
        (SPOKEN.newest + 1, str(SPOKEN.newest + 1)),
        (SPOKEN.oldest, f"{SPOKEN.oldest} of {SPOKEN}"),
    ],
)
def test_a_hospital_shows_what_its_agent_speaks(
    protocol: int | None, shown: str
) -> None:
    visit: Any = SimpleNamespace(t=lambda text, **values: text.format(**values))
    assert hospitals._protocol(visit, {"protocol": protocol}) == shown


def test_a_policy_stands_there_as_sentences_and_one_of_another_form_as_none() -> None:
    told = {
        "orders": {
            "initiators": [2, 9],
            "receivers": [],
            "methods": ["Mask"],
            "model_types": ["lr", "cnn"],
            "min_hospitals": 3,
            "min_rows": 12,
            "regroup": True,
            "max_rounds": 700,
            "budget_days": 14,
            "scoring": "round",
            "min_scored_coefficients": 6,
            "score_readers": "operator",
            "approval": "manual",
            "hospital_sums": True,
        },
        "inference": {"allowed": True, "return_predictions": False},
        "statistics": {
            "methods": ["sum"],
            "min_providers": 4,
            "own_totals": True,
            "min_rows": 11,
            "cells": "pooled",
            "regroup": False,
            "extremes": True,
            "exact_quantiles": False,
            "disclose": False,
            "row_expressions": False,
            "threshold_days": 31,
        },
    }
    told["cohorts"] = [{"name": "diabetes_v1", "description": "Adults <18"}]
    row = {"user_id": 2, "name": "North"}
    shown = str(hospitals._policies(visit(), [{**row, "policy": told}]))
    # In the form the hospital says so beside the field that takes it.
    fields = form.Fields(visit(), form.Draft({}))
    party = order_parties.PartyFields(fields, {**row, "policy": told}, {})
    assert "cohort:diabetes_v1: Adults &lt;18" in party._allowed()
    for sentence in (
        "From: North, 9",
        "Results to: none",
        "Methods: Mask",
        "Models: lr, cnn",
        "At least 3 hospitals in any sum",
        "At least 12 rows, unless a table sets its own",
        "A person there decides on every order",
        "May tell the hospitals of an order what its rows alone give",
        "Read by the operator only",
        "Only at the hospital",
        "At most 700 rounds in 14 days",
        "Layers of at least 6 coefficients",
        "May be asked again with other hospitals over the same rows",
        "At least 4 hospitals in any answer",
        "At least 11 rows, in a group those of all hospitals together",
        "The same people compared once in 31 days",
        "Opens sums of its rows alone",
        "Tells smallest and largest values",
        "cohort:diabetes_v1: Adults &lt;18",
    ):
        assert sentence in shown
    assert "Tells exact quantiles" not in shown
    for other in (None, {}, {**told, "inference": None}):
        assert (
            str(hospitals._policies(visit(), [{**row, "policy": other}])).count(
                "nothing told"
            )
            == 5
        )


def test_every_reason_for_withholding_has_words() -> None:
    assert set(protection.WITHHELD) == set(withheld_groups.REASONS)


def test_every_method_of_joint_statistics_has_words() -> None:
    assert set(question_words.METHODS) == {*POOLED, *JOINED}


def test_every_score_of_the_api_is_explained() -> None:
    from api.routes import anomaly_scores, contribution_scores

    routes = [*anomaly_scores.router.routes, *contribution_scores.router.routes]
    calls = {route.path for route in routes}
    explained = {score.address for score in scores.SCORES.values()}
    assert explained == calls - {"/anomaly/report"}


def test_pooled_metrics_say_of_which_rows_they_are() -> None:
    held_out = {"n_rows": 60, "loss": 0.5, "accuracy": 0.75, "auc": None}
    training = {"n_rows": 140, "loss": 0.4, "accuracy": 0.9, "auc": 0.95}
    folds = {
        "1": {**training, "held_out": held_out},
        "0": {**training, "n_rows": 200, "held_out": None},
    }
    text = pooled.pooled_metrics(
        visit(), {**folds, "held_out": {**held_out, "n_rows": 200}}
    )
    rows = re.findall(r"<tr>(.*?)</tr>", text)[1:]
    cells = [re.findall(r"<span>(.*?)</span>", row) for row in rows]
    assert cells == [
        ["Final model", "training rows", "200", "0.4", "0.9", "0.95"],
        ["Fold 1", "training rows", "140", "0.4", "0.9", "0.95"],
        ["Fold 1", "held-out rows", "60", "0.5", "0.75", frame.number(None)],
        ["All folds", "held-out rows", "200", "0.5", "0.75", frame.number(None)],
    ]
    assert "nan" not in text.lower()


def test_an_order_under_way_has_no_pooled_metrics() -> None:
    assert pooled.pooled_metrics(visit(), {}) == ""


def test_an_evaluation_shows_metrics_of_new_rows() -> None:
    told = {"model_id": 37, "n_rows": 683, "metrics": {"auc": 0.91, "brier": 0.12}}
    text = pooled.pooled_metrics(visit(), {"evaluation": told})
    for shown in ("Model 37", "new rows", "683", "0.91"):
        assert shown in text
    assert "loss" not in text


def test_what_is_not_ours_is_escaped_in_tables() -> None:
    text = frame.table(
        ["<a>"], [["<script>"], [frame.link("/page/orders/1", "<b>")]], caption="&"
    )
    assert "<script>" not in text
    assert '<a href="/page/orders/1">&lt;b&gt;</a>' in text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert frame._cell(text) == f"'{text}"


def test_a_number_stays_one() -> None:
    assert frame._cell(-1.5) == -1.5


@pytest.mark.parametrize(
    "address",
    ["http://elsewhere", "//elsewhere", "/\\elsewhere", "javascript:x", "", None],
)
def test_nobody_is_led_elsewhere_after_signing_in(address: str | None) -> None:
    assert local(address) == "/"


def test_one_is_led_back_where_one_wanted_to_go() -> None:
    assert (
        local("/page/scores?order_id=3&score=krum")
        == "/page/scores?order_id=3&score=krum"
    )


def test_a_cookie_opens_with_its_own_key_only() -> None:
    door, other = (VisitorDoor(FastAPI(), Fernet.generate_key()) for _ in range(2))
    cookie = door.seal("a-token", "a-secret")
    assert "a-token" not in cookie
    assert door._open(cookie) == ("a-token", session_digest("a-secret"))
    of_an_earlier_version = door._box.encrypt(b"a-token").decode()
    for wrong in (
        other.seal("a-token", "a-secret"),
        cookie[:-2],
        "x",
        of_an_earlier_version,
    ):
        with pytest.raises(Unauthenticated):
            door._open(wrong)


def test_the_form_starts_with_a_study_over_the_documents_tables() -> None:
    started = example_order(4, [2, 3, 4])
    document = document_order()
    for name in set(document) - {"model_params"}:
        assert started[name] == document[name]
    assert parse_training_request(started).is_newton
    parse_training_request(example_order(2, [2, 3, 4]))


def test_a_training_in_the_form_starts_with_what_it_should_set() -> None:
    body = order_kinds.with_kind(example_order(4, [2, 3, 4]), "lr", {})
    params = parse_training_request(body).model_params
    for name, value in STUDY.items():
        assert getattr(params, name) == value


@pytest.mark.parametrize("name", order_kinds.KINDS)
def test_every_kind_of_the_form_is_an_order_that_may_be_sent(name: str) -> None:
    started = example_order(4, [2, 3, 4])
    started["attributes"] = [f"x{n}" for n in range(64)]
    started["model_params"]["encrypt_param"] = {"method": "Mask"}
    body = order_kinds.with_kind(started, name, {})
    assert order_kinds.kind_of(body) == name
    if name == "evaluate":
        assert parse_evaluate_request({**body, "model_id": 37}).party_id == [2, 3]
        body = order_kinds.with_kind(body, "cox", started)
        assert body["attributes"] == started["attributes"]
    asked = parse_training_request(body)
    assert asked.model_params.encrypt_param.method == "Mask"
    assert asked.hospitals == [2, 3, 4]


def test_a_study_of_each_kind_becomes_any_other() -> None:
    body: dict[str, Any] = example_order(4, [2, 3, 4])
    body["derive"] = {"old": "x1 >= 65"}
    body["attributes"] = ["x2", "old"]
    for name in ("cox", "glm", "cox", "logistic", "mlp", "least_squares"):
        body = order_kinds.with_kind(body, name, body)
        asked = parse_training_request(body)
        assert (asked.event_name is not None) == (name == "cox")
        assert asked.label_name == ("time" if name == "cox" else "y")
        assert set(asked.derive) == {"old"}


def test_a_reader_stays_with_what_has_an_answer_to_seal() -> None:
    body = {**example_order(4, [2, 3, 4]), "reader": public(LIN)}
    for name in ("cox", "evaluate"):
        body = order_kinds.with_kind(body, name, body)
        assert body["reader"] == public(LIN)
    assert "reader" not in order_kinds.with_kind(body, "mlp", body)


def test_lines_of_columns_are_the_three_fields_of_the_body() -> None:
    body = {
        "attributes": ["age", "sex", "log_chol"],
        "categorical": {"sex": {"reference": "F"}},
        "derive": {"log_chol": "ln(chol_mg)", "chol_mg": "chol * 38.67"},
    }
    rows = column_rows.rows_of(body)
    assert [row.kind for row in rows] == ["number", "category", "derived", "step"]
    assert column_rows.fields_of(rows) == body


@pytest.mark.parametrize(
    "body",
    [{}, {"attributes": 3}, {"attributes": [1], "categorical": [], "derive": "x"}],
)
def test_a_body_of_any_form_has_lines(body: dict[str, Any]) -> None:
    column_rows.rows_of(body)
    order_kinds.kind_of({**body, "model_type": [], "model_params": 3})


def test_a_draft_tells_who_watches_and_leaves_empty_parts_out() -> None:
    draft, told = form.Draft({"a": {"b": 1}}), []
    draft.watch(lambda: told.append(draft.get(("a", "b"))))
    draft.put(("a", "b"), 2)
    draft.put(("c", "d"), 3)
    draft.put(("a", "b"), None)
    assert told == [2, 2, None]
    assert draft.body == {"a": {}, "c": {"d": 3}}


def test_the_curl_holds_what_a_shell_would_take_apart() -> None:
    text = form.curl_of(visit(), "/model/train", {"sql": "SELECT 'a'; $(x)"})
    assert "$TOKEN" in text
    assert "a-token" not in text
    assert text.endswith("""'{\n  "sql": "SELECT '"'"'a'"'"'; $(x)"\n}'""")


def test_a_heat_map_leaves_empty_what_has_no_score() -> None:
    options = charts.heat_map([0, 1], ["a"], [[None, 0.5]], x_name="", is_dark=True)
    assert options["series"][0]["data"] == [[1, 0, 0.5]]
    assert (
        charts.heat_map([], [], [], x_name="", is_dark=False)["visualMap"]["max"] == 1.0
    )


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("page", "is_here"),
    [
        ("http://127.0.0.1:4200", True),
        ("http://localhost:4200", True),
        ("http://[::1]:4200", True),
        ("https://prefect.example.org", False),
    ],
)
def test_a_link_that_opens_through_a_tunnel_only_says_so(
    page: str, is_here: bool, language: str
) -> None:
    address = f"{page}/runs/flow-run/1"
    found = str(order_view.prefect_run(visit(language), address))
    assert f'href="{address}"' in found
    assert ("ssh" in found) == is_here


# One order's page


def ended_order(**changes: Any) -> dict[str, Any]:
    return {
        "order_id": 37,
        "kind": "train",
        "state": "success",
        "rounds": [],
        "stage": None,
        "summary": {},
        "progress": {"done": 10, "of": 25},
        **changes,
    }


NEWTONS_ROUND = {
    "hospitals": {
        "2": {
            "train": {"auc": None},
            "withheld": {"train": {"rule": "newton", "threshold": 0}},
        }
    }
}


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"rounds": [NEWTONS_ROUND]}, "agent report --model 37"),
        (
            {"rounds": [{"hospitals": {"2": {"train": {"auc": 0.5}}}}]},
            "agent export --model 37",
        ),
        ({"kind": "evaluate"}, "agent report --evaluation 37"),
        ({"state": "failed"}, ""),
        ({"kind": "infer"}, ""),
    ],
)
def test_an_orders_page_says_where_its_numbers_are(
    changes: dict[str, Any], command: str
) -> None:
    text = str(order_result.where_numbers_are(visit(), ended_order(**changes)))
    assert command in text
    assert bool(text) == bool(command)


def test_a_sealed_answers_order_says_whose_client_opens_it() -> None:
    sealed = ended_order(reader=fingerprint(LIN))
    text = str(order_result.sealed_to(visit(), sealed))
    assert fingerprint(LIN) in text
    assert "federation.order(37)" in text
    for other in (ended_order(reader=None), {**sealed, "state": "failed"}):
        assert order_result.sealed_to(visit(), other) == ""


def test_each_hospitals_reason_has_a_line_of_its_own() -> None:
    one = Refused("two: No column <b>.", remedy="Correct it.", code="missing_column")
    alone = order_result.refused(visit(), one.to_json())
    assert "<li>" not in alone
    assert "No column &lt;b&gt;. Correct it." in alone
    told = {
        **one.to_json(),
        "sentence": "two: No column <b>. three: No column. four: No such table.",
        "detail": {
            "user_id": 2,
            "also": [
                {"user_id": 3, "sentence": "three: No column."},
                {"user_id": 4, "sentence": "four: No such table."},
            ],
        },
    }
    lines = re.findall("<li>(.*?)</li>", order_result.refused(visit(), told))
    assert lines == [
        "two: No column &lt;b&gt;.",
        "three: No column.",
        "four: No such table.",
    ]
    chinese = order_result.refused(visit("zh"), told)
    assert CHINESE_ERRORS["missing_column"] in chinese
    assert chinese.endswith("</ul>Correct it.</div>")


def test_who_has_no_order_yet_is_led_to_a_new_one() -> None:
    empty = {"orders": [], "next": None}
    text = str(order_list._page(visit(), empty, {}, None))
    assert 'href="/page/orders/new"' in text


def test_a_chinese_page_says_in_chinese_how_an_order_is_protected() -> None:
    statement = {"method": "Mask", "who_could_decrypt": "Only sums can be opened."}
    order = ended_order(user_id=4, protection=statement)
    chinese = protection.protection_words(visit("zh"), order, {})
    assert "Only sums" not in chinese
    assert "Mask" in chinese
    assert "Only sums" in protection.protection_words(visit(), order, {})
    asked = {
        "method": "additive masks",
        "receivers": [4, 77],
        "who_could_decrypt": "Whatever the API says in its own words.",
    }
    order = ended_order(user_id=4, kind="statistics", protection=asked)
    chinese = protection.protection_words(visit("zh"), order, {4: "陕西西北"})
    assert "陕西西北, 医院 77" in chinese
    english = protection.protection_words(visit(), order, {4: "shanxi"})
    assert "shanxi, Hospital 77" in english
    info = {
        "model_type": "Generalised Linear Model",
        "model_params": {"label_name": "y", "attributes": ["x1"]},
    }
    assert "广义线性模型" in order_result.asked_of(visit("zh"), info)


def test_what_was_asked_is_escaped_and_cut() -> None:
    info = {
        "model_type": "Logistic Regression",
        "model_params": {
            "label_name": "<b>",
            "attributes": [f"x{n}" for n in range(20)],
        },
    }
    text = str(order_result.asked_of(visit(), info))
    assert "&lt;b&gt;" in text
    assert "x11 and 8 more" in text
    assert order_result.asked_of(visit(), None) == ""


def test_joint_statistics_say_what_was_opened_and_where_the_values_are() -> None:
    told = {"path": "37/g.csv", "opened": ["n and sum of glucose"], "suppressed": []}
    found = ended_order(kind="statistics", summary={"statistics": told})
    text = str(order_result.statistics_notes(visit(), found))
    assert text.index("Opened: n and sum of glucose.") < text.index("37/g.csv")
    under_way = ended_order(
        kind="statistics", state="running", stage={"what": "sums", "done": 1, "of": 3}
    )
    assert "1 / 3" in order_result.statistics_notes(visit(), under_way)


ASKED = {
    "order_id": 7,
    "user_id": 4,
    "method": "avg",
    "opened": ["n and sum of <x>"],
    "state": "success",
    "progress": {"done": 1, "of": 1},
    "started": None,
    "schedule_id": None,
    "rows_used": {"2": 20, "4": 22},
    "path": "7/mean.csv",
    "repeats": 5,
    "sentence": None,
}


def test_a_question_stands_beside_where_its_answer_is() -> None:
    names = {4: "North"}
    row = " ".join(map(str, statistics.run_row(visit(), ASKED, names)))
    for words in (
        "Mean",
        "&lt;x&gt;",
        "North",
        " 42 ",
        "7/mean.csv",
        "Repeats order 5",
    ):
        assert words in row
    assert "progressbar" not in row
    under_way = {
        **ASKED,
        "state": "running",
        "opened": None,
        "progress": {"done": 3, "of": 12},
        "sentence": "Waiting for South.",
    }
    row = " ".join(map(str, statistics.run_row(visit(), under_way, names)))
    assert 'aria-valuenow="25"' in row
    assert "Waiting for South." in row
    empty = dict.fromkeys(ASKED)
    skipped = {**empty, "state": "skipped", "sentence": "The one before goes on."}
    row = " ".join(map(str, statistics.run_row(visit(), skipped, names)))
    assert "The one before goes on." in row


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 6 * * 1", "Mondays at 06:00, 0 6 * * 1"),
        ("30 18 * * 1-5", "Mondays - Fridays at 18:30, 30 18 * * 1-5"),
        ("5 0 * * *", "each day at 00:05, 5 0 * * *"),
        ("0 6 * * 7", "Sundays at 06:00, 0 6 * * 7"),
        ("0 6 1 1 *", "0 6 1 1 *"),
        ("*/5 * * * *", "*/5 * * * *"),
    ],
)
def test_times_are_said_in_words(cron: str, words: str) -> None:
    assert statistics.cron_words(visit(), cron) == words


def test_who_is_the_most_unlike_is_so_alone() -> None:
    ranks = {
        "2": {"krum": 1, "pca": 1, "zeno": 2, "foolsgold_weight": 1},
        "3": {"krum": 2, "pca": 1, "zeno": 1, "foolsgold_weight": 2},
        "4": {"krum": 3, "pca": 3, "zeno": None, "foolsgold_weight": 3},
    }
    data = {}
    for client, own in ranks.items():
        data[client] = {kind: {"rank": rank} for kind, rank in own.items()}
    # Nobody is alone first by pca, and foolsgold_weight is of who is alike.
    assert scores.most_unlike(data) == (3, {"2": 1, "3": 1})
    assert scores.most_unlike({}) == (0, {})


def test_a_score_that_is_rounding_beside_others_is_nought() -> None:
    values = [scores._short(value, 0.07) for value in (7.3e-17, 0.0691195, None)]
    assert values == ["0", "0.0691", "-"]
    assert scores._short(0.0, 0.0) == "0"


def test_rounds_that_were_not_needed_are_not_left_to_do() -> None:
    assert "10 of at most 25" in order_list.progress(visit(), ended_order())
    running = ended_order(state="running")
    assert "10 / 25" in order_list.progress(visit(), running)
