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

from analytics.training.outcome import WARNINGS
from api.pages import (
    charts,
    ending_words,
    form,
    frame,
    hospitals,
    order_list,
    order_timeline,
    order_view,
    pooled,
    protection,
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
from protocol.study import STUDY
from protocol.training_request import parse_training_request

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
    )
    yield from (text for texts in protection.WORDS.values() for text in texts)
    yield from (*protection.LEARNT.values(), *protection.WITHHELD.values())
    yield from (
        text for score in scores.SCORES.values() for text in (score.sees, score.misses)
    )
    yield from (
        *WARNINGS.values(),
        *ending_words.STOPPED_BY.values(),
        order_timeline.WAITING,
        scores.CAUTION,
        statistics.WHERE,
        serving.TOKEN,
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
    assert codes_in_table(table) == set(CHINESE_CAUSES)


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
    row = {"user_id": 2, "name": "North"}
    shown = str(hospitals._policies(visit(), [{**row, "policy": told}]))
    for sentence in (
        "From: North, 9",
        "Results to: none",
        "Methods: Mask",
        "Models: lr, cnn",
        "At least 3 hospitals in any sum",
        "At least 12 rows, unless a table sets its own",
        "A person there decides on every order",
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
    ):
        assert sentence in shown
    assert "Tells exact quantiles" not in shown
    for other in (None, {}, {**told, "inference": None}):
        assert (
            str(hospitals._policies(visit(), [{**row, "policy": other}])).count(
                "nothing told"
            )
            == 4
        )


def test_every_score_of_the_api_is_explained() -> None:
    from api.routes.scores import router

    calls = {
        route.path
        for route in router.routes
        if route.path.startswith(("/anomaly/", "/contribution/"))
    }
    assert {score.address for score in scores.SCORES.values()} == calls - {
        "/anomaly/report"
    }


def test_pooled_metrics_say_of_which_rows_they_are() -> None:
    held_out = {"n_rows": 60, "loss": 0.5, "accuracy": 0.75, "auc": None}
    training = {"n_rows": 140, "loss": 0.4, "accuracy": 0.9, "auc": 0.95}
    folds = {
        "1": {**training, "held_out": held_out},
        "0": {**training, "n_rows": 200, "held_out": None},
    }
    text = pooled.pooled_metrics(
        visit(), {**folds, "held_out": {**held_out, "n_rows": 200}}, order_id=37
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
    assert pooled.pooled_metrics(visit(), {}, order_id=37) == ""


def test_an_evaluation_shows_metrics_of_new_rows() -> None:
    told = {"model_id": 37, "n_rows": 683, "metrics": {"auc": 0.91, "brier": 0.12}}
    text = pooled.pooled_metrics(visit(), {"evaluation": told}, order_id=39)
    for shown in ("Model 37", "new rows", "683", "0.91", "report --evaluation 39"):
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


def test_the_form_starts_with_what_a_study_should_set() -> None:
    """Over the tables of the request document's order."""
    started = example_order(4, [2, 3, 4])
    document = document_order()
    for name in set(document) - {"model_params"}:
        assert started[name] == document[name]
    params = parse_training_request(started).model_params
    assert params.standardize
    for name, value in STUDY.items():
        assert getattr(params, name) == value
    parse_training_request(example_order(2, [2, 3, 4]))


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
