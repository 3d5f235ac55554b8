"""The hospital's page: who gets in, what is shown and escaped, what forms may do; over
HTTP to a real process.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from agents.gate.round_budget import RoundBudget
from agents.order.approval import MOST_REASON, Approvals, person
from agents.page import forest, pages, result, tables
from agents.page.door import Door
from agents.page.pages import N_DAYS
from agents.page.picture import BAR_HEIGHT, draw, height_of, size_of
from agents.page.server import serve
from agents.page.words import (
    _WORDS,
    LANGUAGES,
    figure_word,
    preferred,
    say,
    word_of,
)
from agents.site.coordinator_told import CoordinatorTold, kept_in
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings, load_settings
from agents.site.vault import Vault
from agents.statistics.results import write_result
from agents.training.report_text import written, written_evaluation
from analytics.training.outcome import WARNINGS
from protocol.errors import BadRequest
from protocol.messages import KINDS
from protocol.policy import CohortRules
from protocol.versions import SPOKEN, Window
from tests.made_sites import policy_text

ROOT = Path(__file__).parents[2]
HOSTILE = "\"><script>alert(1)</script>' {{ 7 * 7 }} &amp; \u202e"
FORMULA = "=HYPERLINK(1)"
DIGEST = "ab" * 32
TERMS: dict[str, Any] = {
    "kind": "training",
    "initiator": 3,
    "parties": [2, 3],
    "receivers": [2, 3],
    "purpose": HOSTILE,
    "data": {"train": "SELECT *\nFROM data.t -- </pre><script>"},
    "columns": ["id", "<b>y</b>"],
    "method": "Mask",
    "scoring": "none",
    "details": {"model_type": "lr", "<i>": {"a": "</dd>"}},
    "names": {"2": "North", "3": "<East>"},
}
MODEL = {
    "model_id": 5, "model_type": "lr", "attributes": ["x1", "<u>"], "unique_id": "id", "label_name": "y",
    "fit_intercept": True, "classes": [], "layers": {"dense": [0.1, 1 / 3, 0.7]}, "standardize": None, "n_rounds": 3,
    "losses": [0.7], "initiator": 2,
}  # fmt: skip

EVALUATION: dict[str, Any] = {
    "evaluation_id": 39,
    "model_id": 4,
    "model_type": "lr",
    "label_name": "<i>",
    "counts": [4711, 4712],
    "report": {
        "n": 40,
        "n_left_out": 0,
        "metrics": {"auc": 0.8125},
        "group_by": "sex",
        "groups": [
            {"level": "<b>F", "n": 25, "metrics": {"auc": 0.6875}, "roc": [{"x": 5822}]}
        ],
        "roc": [{"threshold": 0.5, "sensitivity": 0.75, "specificity": 0.75}],
        "calibration": [
            {
                "low": 0.0,
                "high": 1.0,
                "n": 40,
                "events": 20,
                "predicted": 0.5,
                "observed": 0.5,
            }
        ],
    },
}


def of_ratio(term: str, low: float, ratio: float, high: float) -> dict[str, Any]:
    found: dict[str, Any] = {"term": term, "se": 0.1, "statistic": 1.0, "p": 0.3}
    for name, value in (("low", low), ("estimate", ratio), ("high", high)):
        found[name] = math.log(value)
    return {
        **found,
        "odds_ratio": ratio,
        "odds_ratio_low": low,
        "odds_ratio_high": high,
    }


REPORT = {
    "terms": [
        {"term": "(Intercept)", "estimate": 0.7, "se": 0.1, "statistic": 7.0, "p": 0.0, "low": 0.5, "high": 0.9},
        of_ratio("x1", 0.8, 1.6, 3.2),
        of_ratio("<u>", 0.25, 0.5, 1.0),
    ],
    "n": 300,
    "deviance": 41.25,
    "aic": None,
    "converged": True,
    "concordance": {"index": 0.625, "tied": 3},
    "inflation": [{"term": "x1", "gvif": 1.25}],
    "notes": ["<i>few</i>"],
}  # fmt: skip


def fill(settings: SiteSettings) -> None:
    """A vault, a ledger and a results folder with something of everything, texts of
    other hospitals among it.
    """
    vault, ledger, approvals = (
        Vault(settings.vault),
        Ledger(settings.ledger),
        Approvals(settings),
    )
    vault.identity()
    vault.save_model(5, MODEL)
    vault.save_model(4, {**MODEL, "model_id": 4, "report": REPORT})
    vault.save_evaluation(39, EVALUATION)
    ledger.write("answered", order_id=5, initiator=3, purpose=HOSTILE)
    ledger.write("answered", order_id=6, initiator=3, purpose=FORMULA)
    for recipient in (0, 1, 3):
        ledger.write(
            "left",
            order_id=5,
            kind="gradient",
            fold=0,
            round=1,
            recipient=recipient,
            n_bytes=5310,
            sha256="e" * 64,
        )
    ledger.write("refused", order_id=8, rule="min_rows", sentence=f"Too few. {HOSTILE}")
    write_result(
        settings.results_folder,
        12,
        alias="km",
        type="csv",
        columns=["arm", "kind", "time", "survival", "low", "high", "at_risk"],
        rows=[[HOSTILE, "kaplan_meier", 10, 0.8, 0.7, 0.9, 40]],
        notes={"method": "kaplan_meier"},
    )
    write_result(
        settings.results_folder,
        13,
        alias="t1",
        type="csv",
        columns=["column", "level", "quantity", "t1", "withheld"],
        rows=[[HOSTILE, None, "mean", 61.25, None], [HOSTILE, None, "sd", 2, None]],
        notes={"method": "describe"},
    )
    notes = {"method": "sum", "withheld": [["<b>", "min_rows"]]}
    rows = [[HOSTILE, 1.5], [FORMULA, None], *([str(k), k] for k in range(600))]
    write_result(
        settings.results_folder,
        9,
        alias="总 和",
        type="csv",
        columns=["<h>", "x"],
        rows=rows,
        notes=notes,
    )
    write_result(
        settings.results_folder,
        10,
        alias="j",
        type="json",
        columns=["x"],
        rows=[[HOSTILE]],
        notes=notes,
    )
    for number in (11, 12, 13):
        approvals.ask(number, DIGEST, TERMS)


@dataclass
class Shown:
    """`./run agent show` as a process, and a browser that opened its link."""

    settings: SiteSettings
    link: str
    client: httpx.Client
    process: subprocess.Popen[str]

    @property
    def origin(self) -> str:
        return self.link.split("/open")[0].rpartition("/")[0]

    @property
    def base(self) -> str:
        return self.link.split("/open")[0]

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(f"{self.base}{path}", **options)

    def post(self, path: str, form: Any, **options: Any) -> httpx.Response:
        return self.client.post(f"{self.base}{path}", data=form, **options)

    def token(self) -> str:
        found = re.search(r'name="token" value="([^"]+)"', self.get("/models").text)
        assert found
        return found[1]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("site")
    partner = '[[partners]]\nuser_id = 3\nname = "<East>"\nfingerprint = "ab"\n'
    (folder / "settings.toml").write_text(
        f'user_id = 2\nname = "协和 <b>"\nstate = "{folder / "state"}"\n{partner}',
        "utf-8",
    )
    settings = load_settings(folder)
    fill(settings)
    command = [sys.executable, "-m", "deployments.agent", "show", "--site", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        with httpx.Client(trust_env=False, timeout=20) as client:
            assert (
                client.get(f"{link[:-3]}xyz").status_code == 403
            )  # a wrong key spends nothing
            assert client.get(link).status_code == 303
            yield Shown(settings, link, client, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) in (0, 130)
        assert process.stderr is not None
        told = process.stderr.read()
    assert "Traceback" not in told
    assert "key=" not in told


# Who gets in


def test_it_listens_on_loopback_only(shown: Shown) -> None:
    assert shown.link.startswith("http://127.0.0.1:")
    with socket.socket() as probe:
        probe.settimeout(2)
        elsewhere = (
            "127.0.0.2",
            int(shown.origin.rpartition(":")[2]),
        )  # this machine too, by another address
        assert probe.connect_ex(elsewhere) != 0


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/asked",
        "/models",
        "/models/4/report",
        "/nothing",
        "/approvals/11",
        "/left.csv",
        "/results/9/file",
    ],
)
def test_without_the_session_nothing_is_shown(shown: Shown, path: str) -> None:
    for cookies in ({}, {"consilium-session": ""}, {"consilium-session": "x" * 43}):
        for address in (f"{shown.base}{path}", f"{shown.origin}{path}"):
            header = {"cookie": "; ".join(f"{k}={v}" for k, v in cookies.items())}
            answer = httpx.get(address, headers=header, trust_env=False)
            assert answer.status_code == 401
            assert "协和" not in answer.text
            assert shown.base.rpartition("/")[2] not in answer.text


def test_without_the_session_nothing_is_done(shown: Shown) -> None:
    form = {
        "token": shown.token(),
        "decision": "approve",
        "digest": DIGEST,
        "format": "json",
    }
    for path in ("/approvals/11", "/models/5"):
        assert (
            httpx.post(f"{shown.base}{path}", data=form, trust_env=False).status_code
            == 401
        )
    assert 11 in [question.order_id for question in Approvals(shown.settings).waiting()]


def test_the_link_works_once(shown: Shown) -> None:
    again = httpx.get(shown.link, trust_env=False)
    assert again.status_code == 403
    assert "set-cookie" not in again.headers
    assert (
        shown.client.get(shown.link).status_code == 303
    )  # the browser that is in only comes back


def test_the_cookie_is_for_these_pages_alone(shown: Shown) -> None:
    said = shown.client.get(shown.link).headers["set-cookie"].lower()
    folder = shown.base.rpartition("/")[2]
    assert f"path=/{folder}" in said
    assert "httponly" in said
    assert "samesite=strict" in said


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", "", "[::1]"],
)
def test_another_host_is_refused(shown: Shown, host: str) -> None:
    answer = shown.get("/", headers={"host": host})
    assert answer.status_code in (400, 421)
    assert "协和" not in answer.text


def test_localhost_is_this_address_too(shown: Shown) -> None:
    port = shown.origin.rpartition(":")[2]
    assert shown.get("/", headers={"host": f"localhost:{port}"}).status_code == 200


def test_a_taken_port_is_told(shown: Shown) -> None:
    port = int(shown.origin.rpartition(":")[2])
    for wrong in (port, 70_000, -1):
        with pytest.raises(BadRequest) as caught:
            serve(shown.settings, wrong, lambda link: None)
        assert caught.value.code == "port"


def test_a_door_opens_once_whoever_comes_first() -> None:
    door = Door()
    assert not door.open("")
    assert not door.open("é\udc80")
    assert [door.open(door.key), door.open(door.key)] == [True, False]
    assert not door.is_in(None)
    assert not door.is_in(door.key)
    assert door.is_in(door.session)
    assert len({door.key, door.session, door.form}) == 3
    assert door.key not in repr(door)


# Headers and markup

PAGES = [
    "/",
    "/asked",
    "/refused",
    "/left",
    "/models",
    "/models/4/report",
    "/results",
    "/results/9",
    "/results/10",
    "/approvals/11",
]


@pytest.mark.parametrize(
    "path", [*PAGES, "/style.css", "/asked.csv", "/nothing", "/results/77"]
)
def test_every_answer_is_locked_down(shown: Shown, path: str) -> None:
    headers = shown.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith(
        "default-src 'none'; style-src 'self'; form-action 'self';"
    )
    assert "unsafe" not in policy
    assert "script" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


class Marks(HTMLParser):
    """Which elements and attributes a page has, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("language", list(LANGUAGES))
@pytest.mark.parametrize("path", PAGES)
def test_texts_of_others_are_text(shown: Shown, path: str, language: str) -> None:
    answer = shown.get(f"{path}?language={language}")
    page = Marks(answer.text)
    assert answer.status_code == 200
    assert not {"script", "b", "i", "u", "style", "iframe", "img"} & set(page.tags)
    assert not any(
        name.startswith("on") or name == "style" for name, _ in page.attributes
    )
    assert not any(
        (value or "").lower().startswith(("http", "//", "javascript"))
        for _, value in page.attributes
    )
    assert ("lang", "zh-CN" if language == "zh" else "en") in page.attributes
    if path in ("/", "/asked", "/refused", "/results/9", "/approvals/11"):
        assert HOSTILE in page.text


def test_pages_can_be_used_by_keyboard_and_by_ear(shown: Shown) -> None:
    for path in PAGES:
        page = Marks(shown.get(path).text)
        assert page.tags.count("h1") == 1
        assert page.tags.count("main") == page.tags.count("nav") == 1
        assert ("href", "#content") in page.attributes
        assert page.tags.count("input") <= page.tags.count("label") + sum(
            v == "hidden" for _, v in page.attributes
        )
        ids = [value for name, value in page.attributes if name == "id"]
        assert len(ids) == len(set(ids))


def test_the_language_is_the_browser_s_or_the_one_that_was_chosen(shown: Shown) -> None:
    shown.client.cookies.delete(
        "consilium-language"
    ) if "consilium-language" in shown.client.cookies else None
    assert (
        "离开的内容"
        in shown.get("/", headers={"accept-language": "zh-CN,zh;q=0.9,en;q=0.5"}).text
    )
    assert "What left" in shown.get("/", headers={"accept-language": "fr"}).text
    assert "离开的内容" in shown.get("/?language=zh").text
    assert "离开的内容" in shown.get("/asked").text
    assert "What left" in shown.get("/?language=en").text
    assert shown.get("/?language=tlh").status_code == 200


# What is shown


def test_the_overview_tells_what_waits_what_left_and_whether_the_record_is_whole(
    shown: Shown,
) -> None:
    page = Marks(shown.get("/?language=en").text)
    assert "Order 13: training" in page.text
    assert (
        f"The ledger's chain is whole. Its head is {Ledger(shown.settings.ledger).head()}"
        in page.text
    )
    assert {"svg", "rect"} <= set(page.tags)


@pytest.mark.parametrize("has_room", [True, False])
def test_the_overview_says_that_the_disk_is_full(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    monkeypatch.setattr(pages, "has_free_bytes", lambda folder: has_room)
    page = pages.Page(shown.settings, Door())
    for language, sentence in (
        ("en", "The disk is full. Make room below"),
        ("zh", "磁盘已满"),
    ):
        scope = {
            "type": "http",
            "path": "/",
            "headers": [],
            "query_string": f"language={language}".encode(),
        }
        text = bytes(page.overview(Request(scope)).body).decode()
        assert (sentence in text) is not has_room


NEWEST = SPOKEN.newest


@pytest.mark.parametrize(
    ("told", "english", "chinese"),
    [
        (None, "", ""),
        (SPOKEN, "", ""),
        (Window(NEWEST, NEWEST + 1), "orders run, in the older one", "任务照常运行"),
        (
            Window(NEWEST + 1, NEWEST + 2),
            "every order is refused",
            "所有任务都会被拒绝",
        ),
        (
            Window(NEWEST - 1, NEWEST - 1),
            "its operator upgrades it",
            "请协调方管理员升级",
        ),
        (Window(1, 1), "refused until its operator", "在协调方管理员升级之前"),
    ],
)
def test_the_overview_says_who_lags(
    shown: Shown, told: Window | None, english: str, chinese: str
) -> None:
    state = shown.settings.state
    if told is not None:
        CoordinatorTold("9.0.0", told).keep(state)
    page = pages.Page(shown.settings, Door())
    try:
        for language, sentence in (("en", english), ("zh", chinese)):
            scope = {
                "type": "http",
                "path": "/",
                "headers": [],
                "query_string": f"language={language}".encode(),
            }
            text = bytes(page.overview(Request(scope)).body).decode()
            assert sentence in text
            assert ('role="status"' in text) is bool(sentence)
            if "older one" in english:
                assert "consilium-agent-9.0.0-py3.NN.tar" in text
    finally:
        (state / "coordinator.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"version": 5}', '{"protocol": 3, "oldest_protocol": 2}'],
)
def test_what_the_coordinator_has_told_may_be_damaged(shown: Shown, text: str) -> None:
    path = shown.settings.state / "coordinator.json"
    path.write_text(text)
    assert kept_in(shown.settings.state) is None
    path.unlink()


def test_one_order_by_itself(shown: Shown) -> None:
    page = shown.get("/asked?order=6&language=en").text
    assert FORMULA in page
    assert "3 &lt;East&gt;" in page
    assert "alert" not in page
    for wrong in ("x", "-1", "1e3", "9" * 30, "٣"):
        assert shown.get("/asked", params={"order": wrong}).status_code == 400


def test_rounds_of_training_are_shown_with_what_is_left(shown: Shown) -> None:
    policy = policy_text((2, 3), ["rows"])
    shown.settings.policy.write_text(policy)
    RoundBudget(shown.settings.vault / "cohorts").commit(
        41,
        receivers=["3", "coordinator"],
        populations=["data.rows"],
        n_rounds=1200,
        rules=CohortRules(),
        now=datetime.now(UTC),
    )
    page = shown.get("/rounds").text
    assert "1200" in page
    assert "18800" in page
    answer = shown.get("/rounds.csv").content.decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(answer)))
    assert rows[0] == ["to", "table", "n_rounds", "n_left"]
    assert [row[1:] for row in rows[1:]] == [["data.rows", "1200", "18800"]] * 2


def test_tables_are_csv_that_a_spreadsheet_does_not_compute(shown: Shown) -> None:
    for name in ("asked", "refused", "left", "traffic", "models", "results"):
        answer = shown.get(f"/{name}.csv")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.reader(io.StringIO(answer.content.decode("utf-8-sig"))))
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1
        assert not any(
            cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row
        )
    asked = shown.get("/asked.csv").content.decode("utf-8-sig")
    assert f"'{FORMULA}" in asked
    assert shown.get("/secrets.csv").status_code == 404


def test_every_cell_says_of_what_it_is_on_a_narrow_screen(shown: Shown) -> None:
    """There the heads of a table are hidden, and empty cells too."""
    text = shown.get("/models?language=en").text
    assert 'data-label="Type"' in text
    assert re.search(r'<td data-label="Warnings" class=" none">', text)


def test_a_results_notes_are_sentences_and_no_json() -> None:
    few = {"rule": "min_rows", "threshold": "10", "reason": "Fewer than 10 <rows>."}
    notes = {
        "order_id": 9,
        "method": "avg",
        "expression": None,
        "providers": [2, 3],
        "rows": {"2": 20, "3": 22},
        "withheld": [
            {"group": ["old", None], **few},
            {"group": None, **few},
            {"group": None, **few},
        ],
        "opened": ["n of age", "sum of age"],
        "notes": [],
    }
    assert result.lines_of(notes) == {
        "method": ["avg"],
        "providers": ["2, 3"],
        "rows": ["2: 20", "3: 22"],
        "withheld": ["old, null: Fewer than 10 <rows>.", "2 × Fewer than 10 <rows>."],
        "opened": ["n of age", "sum of age"],
    }
    # A file of an earlier version, or one that somebody has written.
    odd = {"withheld": ["x"], "rows": 3, "other": [{"a": 1}, 2]}
    assert result.lines_of(odd)["other"] == ['{"a": 1}, 2']
    assert result.lines_of({"withheld": 3}) == {"withheld": ["3"]}


def test_a_result_is_shown_and_downloaded_as_it_is(shown: Shown) -> None:
    page = Marks(shown.get("/results/9?language=en").text)
    assert "The first 500 of 602 rows." in page.text
    answer = shown.get("/results/9/file")
    assert (
        answer.content
        == (shown.settings.results_folder / "9" / "总 和.csv").read_bytes()
    )
    assert (
        answer.headers["content-disposition"]
        == "attachment; filename*=UTF-8''%E6%80%BB%20%E5%92%8C.csv"
    )
    assert (
        shown.get("/results/10/file").headers["content-type"]
        == "application/json; charset=utf-8"
    )
    for path in (
        "/results/77",
        "/results/77/file",
        "/results/0",
        f"/results/{'9' * 400}",
        "/results/../9",
        "/results/9x",
    ):
        assert shown.get(path).status_code == 404


# Forms


@pytest.mark.parametrize("file_format", ["json", "sklearn"])
def test_a_model_is_exported_and_the_ledger_says_so(
    shown: Shown, file_format: str
) -> None:
    answer = shown.post("/models/5", {"token": shown.token(), "format": file_format})
    assert answer.status_code == 200
    assert answer.json()["model_id"] == 5
    assert f"model-5-{file_format}.json" in answer.headers["content-disposition"]
    last = list(Ledger(shown.settings.ledger).entries())[-1]
    assert (last["event"], last["model_id"], last["format"]) == (
        "exported",
        5,
        file_format,
    )


@pytest.mark.parametrize("file_format", ["csv", "json", "latex"])
def test_a_report_is_a_file_and_the_ledger_says_so(
    shown: Shown, file_format: str
) -> None:
    form = {"token": shown.token(), "format": file_format}
    answer = shown.post("/models/4/report", form)
    assert answer.status_code == 200
    kept = Vault(shown.settings.vault).model(4)["report"]
    assert answer.text == written(kept, file_format)
    last = list(Ledger(shown.settings.ledger).entries())[-1]
    assert (last["model_id"], last["format"]) == (4, f"report {file_format}")


def test_a_form_that_this_page_did_not_make_does_nothing(shown: Shown) -> None:
    before = Ledger(shown.settings.ledger).head()
    for token in ("", "x", shown.token()[:-1], shown.token().swapcase()):
        form = {
            "token": token,
            "format": "json",
            "decision": "approve",
            "digest": DIGEST,
        }
        assert shown.post("/models/5", form).status_code == 403
        assert shown.post("/models/4/report", form).status_code == 403
        assert shown.post("/approvals/11", form).status_code == 403
    assert shown.post("/models/5", {"format": "json"}).status_code == 403
    assert shown.get("/models/5").status_code == 405
    assert Ledger(shown.settings.ledger).head() == before


def test_bad_input_does_nothing(shown: Shown) -> None:
    before, token = Ledger(shown.settings.ledger).head(), shown.token()
    form = {"token": token, "decision": "approve", "digest": DIGEST}
    bodies: list[tuple[str, Any, int]] = [
        ("/models/5", {"token": token, "format": "pickle"}, 400),
        ("/models/5", {"token": token}, 400),
        ("/models/77", {"token": token, "format": "json"}, 404),
        ("/models/4/report", {"token": token, "format": "pickle"}, 400),
        ("/models/5/report", {"token": token, "format": "json"}, 404),
        ("/approvals/11", {**form, "decision": "maybe"}, 400),
        ("/approvals/11", {**form, "digest": "cd" * 32}, 409),
        ("/approvals/11", {"token": token, "decision": "approve"}, 409),
        ("/approvals/77", form, 404),
        ("/approvals/11", {**form, "reason": "x" * (MOST_REASON + 1)}, 400),
        ("/approvals/11", {**form, "reason": "two\nlines"}, 400),
        ("/approvals/11", {**form, "reason": "x" * 20_000}, 413),
    ]
    for path, body, status in bodies:
        assert shown.post(path, body).status_code == status, (path, body)
    for content in (
        b"",
        b"\xff\xfe",
        b"token",
        b"token=%ff",
        f"token={token}&token={token}".encode(),
        b"{}",
    ):
        answer = shown.client.post(f"{shown.base}/models/5", content=content)
        assert answer.status_code in (400, 403), content
        assert "Traceback" not in answer.text
    assert Ledger(shown.settings.ledger).head() == before


def test_the_approval_says_everything_and_its_buttons_decide(shown: Shown) -> None:
    page = Marks(shown.get("/approvals/12?language=en").text)
    for text in (
        HOSTILE,
        TERMS["data"]["train"],
        "id, <b>y</b>",
        "Mask",
        "3 <East>",
        "2 North, 3 <East>",
        person(),
    ):
        assert text in page.text
    form = {
        "token": shown.token(),
        "digest": DIGEST,
        "decision": "refuse",
        "reason": " 没有批准 ",
    }
    answer = shown.post("/approvals/12", form)
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"/{shown.base.rpartition('/')[2]}/asked",
    )
    made = Approvals(shown.settings).decision(12, DIGEST)
    assert made is not None
    assert (made.decision, made.reason, made.person) == (
        "refused",
        "没有批准",
        person(),
    )
    again = shown.post("/approvals/12", {**form, "decision": "approve"})
    assert again.status_code == 409
    assert "refused by" in again.text
    assert shown.get("/approvals/12").status_code == 409
    assert (
        shown.post(
            "/approvals/13", {**form, "decision": "approve", "reason": ""}
        ).status_code
        == 303
    )
    assert [question.order_id for question in Approvals(shown.settings).waiting()] == [
        11
    ]


def test_a_damaged_vault_is_told_in_a_sentence(shown: Shown) -> None:
    path = shown.settings.vault / "approvals" / "99.json"
    path.write_text("{")
    answer = shown.get("/")
    path.unlink()
    assert answer.status_code == 409
    assert "Restore it from the backup" in answer.text


def test_a_fault_of_ours_shows_no_text_of_it(shown: Shown) -> None:
    """The process's stderr is searched for a traceback when it has ended."""
    path = shown.settings.vault / "models" / "98.json"
    path.write_text(json.dumps({"model_type": "canary-447"}))
    answer = shown.get("/models?language=en")
    path.unlink()
    assert answer.status_code == 500
    assert "An unplanned error." in answer.text
    assert "canary" not in answer.text
    assert answer.headers["content-security-policy"]


# A report


def test_a_report_is_a_picture_and_a_table(shown: Shown) -> None:
    assert "/models/4/report" in shown.get("/models").text
    assert "/models/5/report" not in shown.get("/models").text
    page = Marks(shown.get("/models/4/report?language=en").text)
    assert {"svg", "circle"} <= set(page.tags)
    assert page.tags.count("circle") == 2  # the intercept is not drawn
    for text in (
        "(Intercept)",
        "<u>",
        "<i>few</i>",
        "1.6 (0.8 to 3.2)",
        "41.25",
        "concordance.index",
        "0.625",
        "gvif",
        "1.25",
    ):
        assert text in page.text, text
    assert "has not converged" not in page.text
    assert shown.get("/models/5/report").status_code == 404


def test_a_chinese_report_says_what_its_numbers_are() -> None:
    assert figure_word("zh", "odds_ratio_low") == "比值比下限 odds_ratio_low"
    assert figure_word("zh", "metrics.brier") == "Brier 评分 brier"
    # What has no word keeps its name, and English has the names of the files.
    assert figure_word("zh", "gvif") == "gvif"
    assert figure_word("en", "metrics.brier") == "metrics.brier"


def test_the_pages_of_reports_have_these_words(shown: Shown) -> None:
    report = shown.get("/models/4/report?language=zh").text
    evaluation = shown.get("/evaluations/39?language=zh").text
    for text, words in (
        (report, ("估计值 estimate", "比值比 odds ratio", "偏差 deviance")),
        (evaluation, ("灵敏度 sensitivity", "预测 predicted", "校准 calibration")),
    ):
        for word in words:
            assert word in text, word


def test_an_evaluation_is_curves_and_tables_without_counts(shown: Shown) -> None:
    assert "/evaluations/39" in shown.get("/models").text
    page = Marks(shown.get("/evaluations/39?language=en").text)
    assert page.tags.count("svg") == 2
    for text in ("Evaluation 39 of model 4", "ROC curve", "<b>F", "0.8125", "0.6875"):
        assert text in page.text, text
    assert "4711" not in page.text
    assert "5822" not in page.text
    assert shown.get("/evaluations/4").status_code == 404


@pytest.mark.parametrize("file_format", ["csv", "json", "latex"])
def test_an_evaluation_is_a_file_and_the_ledger_says_so(
    shown: Shown, file_format: str
) -> None:
    form = {"token": shown.token(), "format": file_format}
    answer = shown.post("/evaluations/39", form)
    assert answer.status_code == 200
    kept = Vault(shown.settings.vault).evaluation(39)
    assert answer.text == written_evaluation(kept, file_format)
    assert "4711" not in answer.text
    last = list(Ledger(shown.settings.ledger).entries())[-1]
    assert (last["evaluation_id"], last["format"]) == (39, f"report {file_format}")
    assert shown.post("/evaluations/39", {**form, "token": "x"}).status_code == 403
    assert shown.post("/evaluations/39", {**form, "format": "x"}).status_code == 400


def test_a_survival_result_has_a_picture_with_its_risk_table(shown: Shown) -> None:
    text = shown.get("/results/12?language=en").text
    page = Marks(text)
    assert page.tags.count("svg") == 1
    assert "At risk" in page.text
    assert "script" not in page.tags
    assert "svg" not in Marks(shown.get("/results/9").text).tags


def test_a_description_is_a_papers_first_table_too(shown: Shown) -> None:
    page = Marks(shown.get("/results/13?language=en").text)
    assert "As a paper's first table" in page.text
    assert f"{HOSTILE}, mean (SD)" in page.text
    assert "script" not in page.tags
    table = shown.get("/results/13/table.csv")
    (_, row) = csv.reader(io.StringIO(table.text))
    assert row == [f"{HOSTILE}, mean (SD)", "61.25 (2)"]
    assert shown.get("/results/13/table.tex").text.startswith(r"\begin{tabular}{lr}")
    for address in ("/results/13/table.html", "/results/12/table.csv"):
        assert shown.get(address).status_code == 404


def test_ratios_stand_on_an_axis_of_logarithms() -> None:
    picture = forest.draw(REPORT)
    assert picture is not None
    assert picture.quantity == "odds_ratio"
    first, second = picture.rows
    assert first.x - first.low == pytest.approx(first.high - first.x, abs=0.2)
    assert second.high == picture.nothing
    assert {"0.5", "1", "2"} <= {tick.text for tick in picture.ticks}
    inside = [forest.LABEL_WIDTH, forest.LABEL_WIDTH + forest.PLOT_WIDTH]
    for row in picture.rows:
        assert inside[0] <= row.low <= row.x <= row.high <= inside[1]


def test_differences_stand_on_a_plain_axis_and_wide_ratios_end_at_its_edge() -> None:
    term = {"term": "x", "estimate": -3.0, "low": -5.0, "high": -1.0}
    picture = forest.draw({"terms": [term]})
    assert picture is not None
    assert picture.quantity == "estimate"
    assert [tick.text for tick in picture.ticks] == ["-5", "-4", "-3", "-2", "-1", "0"]
    wide = {**of_ratio("x", 1e-9, 1.0, 10.0), "high": 900.0, "odds_ratio_high": None}
    picture = forest.draw({"terms": [wide]})
    assert picture is not None
    assert picture.rows[0].numbers == "1 (1e-09 to ∞)"
    assert picture.rows[0].high <= forest.LABEL_WIDTH + forest.PLOT_WIDTH
    assert forest.draw({"terms": [{**term, "low": None, "high": None}]}) is None


# Tables, picture and words


def test_long_numbers_have_room_in_the_picture() -> None:
    """Digits are 6.5 units wide, and the box ends behind them."""
    long = of_ratio("x", 9.4705e-06, 0.0002993, 0.0094586)
    picture = forest.draw({"terms": [long]})
    assert picture is not None
    (row,) = picture.rows
    assert len(row.numbers) > 28
    right = forest.LABEL_WIDTH + forest.PLOT_WIDTH + forest.TOP
    assert picture.width >= right + 6.5 * len(row.numbers)


def left(at: str, kind: str, n_bytes: int) -> dict[str, Any]:
    return {"event": "left", "at": at, "kind": kind, "n_bytes": n_bytes}


def test_traffic_is_by_day_and_kind() -> None:
    entries = [
        left("2025-03-01T23:59:59.000+00:00", "gradient", 10),
        left("2025-03-01T00:00:00.000+00:00", "gradient", 5),
        left("2025-03-03T00:00:00.000+00:00", "done", 0),
        {**left("2025-03-03", "done", 7), "event": "refused"},
        left("no day", "done", 7),
        {"event": "unreadable"},
    ]
    found = tables.traffic(entries)
    assert found.days == [date(2025, 3, 1), date(2025, 3, 2), date(2025, 3, 3)]
    assert found.table().rows == [
        ("2025-03-03", "done", "1", "0"),
        ("2025-03-01", "gradient", "2", "15"),
    ]
    assert tables.traffic(entries, n_days=1).table().rows == [
        ("2025-03-03", "done", "1", "0")
    ]
    assert tables.traffic([]).table().rows == []


def test_the_page_lists_the_totals_of_an_order() -> None:
    totals = ["n and sum of age over 854 people of 4 hospitals", "n of sex"]
    line = {"event": "opens", "order_id": 9, "totals": totals, "receivers": ["2"]}
    (row,) = tables.asked([line], {}).rows
    assert row[2] == "opens"
    assert row[-1] == f"{totals[0]}; {totals[1]}"
    (altered,) = tables.asked([{"event": "opens", "totals": 3}], {}).rows
    assert altered[-1] == ""
    assert word_of("en", "event", "opens") == "totals that will be opened"


def test_lines_that_are_damaged_or_of_another_version_are_shown_as_far_as_they_go() -> (
    None
):
    odd = [
        {"event": "refused"},
        {"event": "asked", "initiator": "x"},
        {"event": "left", "order_id": [1], "n_bytes": "x"},
    ]
    assert tables.refused(odd).rows == [("", "", "", "")]
    assert tables.asked(odd, {}).rows[0][2] == "asked"
    assert tables.left(odd, {}).rows[0][1] == "[1]"
    assert tables.traffic(odd).days == []


def test_bars_grow_with_bytes_and_stay_in_their_rows() -> None:
    heights = [height_of(n) for n in (0, 1, 10, 10**6, 10**9, 10**15)]
    assert heights == sorted(heights)
    assert (heights[0], heights[-2], heights[-1]) == (2, BAR_HEIGHT, BAR_HEIGHT)
    days = [
        left(f"2025-03-{day:02}", kind, 10**day)
        for day in range(1, 29)
        for kind in ("a", "b")
    ]
    picture = draw(tables.traffic(days, n_days=N_DAYS))
    bars = [bar for _, _, row in picture.rows for bar in row]
    assert len(bars) == 56
    assert all(0 <= bar.x <= picture.width - 14 and bar.y > 0 for bar in bars)
    assert draw(tables.traffic([])).rows == []


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (5_310_000, "5.3 MB"),
        (10**13, "10000.0 GB"),
    ],
)
def test_sizes_are_readable(n_bytes: int, text: str) -> None:
    assert size_of(n_bytes) == text


def test_every_word_is_there_in_every_language() -> None:
    assert all(len(words) == len(LANGUAGES) and all(words) for words in _WORDS.values())
    for english, chinese in _WORDS.values():
        assert sorted(re.findall(r"{\w+}", english)) == sorted(
            re.findall(r"{\w+}", chinese)
        )
    for kind in (*KINDS, "predictions", "values"):
        assert all(word_of(language, "kind", kind) != kind for language in LANGUAGES)
    columns = {column for make in (tables.asked([], {}), tables.refused([]), tables.left([], {}), tables.models([]),
               tables.results([]), tables.traffic([]).table()) for column in make.columns}  # fmt: skip
    assert all(say("en", f"column.{column}") for column in columns)


def test_a_model_s_row_says_how_its_training_ended() -> None:
    sentences = [WARNINGS["max_iter"], WARNINGS["constant"]]
    ended = {**MODEL, "stopped_by": "max_iter", "warnings": sentences}
    rows = tables.models([MODEL, ended]).rows
    assert [row[-2:] for row in rows] == [
        ("max_iter", "\n".join(sentences)),
        ("", ""),
    ]
    for sentence in WARNINGS.values():
        assert word_of("en", "warning", sentence) == sentence
        assert word_of("zh", "warning", sentence).endswith("。")


def test_the_browser_s_languages_are_read_in_order() -> None:
    assert [
        preferred(text) for text in ("", "zh", "fr, zh-TW;q=0.3", "en-GB,zh", ";;,")
    ] == [
        "en",
        "zh",
        "zh",
        "en",
        "en",
    ]
