"""The notebook's client against the coordinator's real application: errors, broken
connections, frames, schedules.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from api.client import Federation, Order
from api.client.events import Event
from api.client.progress import Progress
from api.client.stand_in import EVENTS
from protocol.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    OrderStopped,
    Refused,
    Unauthenticated,
    Unavailable,
)
from tests.api.conftest import Coordinator
from tests.api.test_statistics import question
from tests.conftest import NO_AUTHORITY, ROOT

ORDER = {
    "model_type": "lr",
    "party_id": [2, 3],
    "data_info": dict.fromkeys(("2", "3", "4"), "SELECT * FROM data.visits"),
    "unique_id": "id",
    "attributes": ["x1"],
    "label_name": "y",
}


def federation_of(
    coordinator: Coordinator, who: str = "user-4", **options: Any
) -> Federation:
    transport = options.pop("transport", None) or httpx.HTTPTransport(
        verify=NO_AUTHORITY, trust_env=False
    )
    return Federation(
        str(coordinator.client.base_url),
        coordinator.tokens.get(who, who),
        transport=transport,
        **options,
    )


@pytest.fixture
def federation(coordinator: Coordinator) -> Iterator[Federation]:
    with federation_of(coordinator, user=4) as opened:
        yield opened


def report(coordinator: Coordinator, order: Order, **facts: Any) -> None:
    answer = coordinator.call(
        "POST", f"/orders/{order.order_id}/progress", "coordinator", json=facts
    )
    assert answer.status_code == 200, answer.text


def refuse(coordinator: Coordinator, order_id: int) -> None:
    error = Refused(
        "Too few rows.", remedy="Ask for more.", code="min_rows", threshold=10
    )
    answer = coordinator.call(
        "POST", f"/orders/{order_id}/refuse", "agent-3", json=error.to_json()
    )
    assert answer.status_code == 200, answer.text


def round_of(number: int) -> dict[str, Any]:
    own = {"n_rows": 100, "train": {"loss": 0.5, "accuracy": 0.75}}
    hospitals = dict.fromkeys(("2", "3", "4"), own)
    return {
        "fold": 0,
        "round": number,
        "loss": 0.5,
        "final": number == 1,
        "hospitals": hospitals,
        "left_out": {},
    }


# What it needs


def test_it_needs_no_server_s_library_and_no_pictures_until_one_is_asked_for() -> None:
    heavy = "{'fastapi', 'prefect', 'sqlalchemy', 'pydantic', 'matplotlib'}"
    code = f"import sys, api.client; sys.exit(bool({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("text", "user"), [("secret\n", None), ('{"4": "secret", "operator": "other"}', 4)]
)
def test_a_token_file_holds_one_token_or_several(
    tmp_path: Path, text: str, user: int | None
) -> None:
    (tmp_path / "tokens.json").write_text(text)
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["Authorization"])
        return httpx.Response(200, json={"data": {"hospitals": []}})

    federation = Federation(
        "http://x",
        token_file=tmp_path / "tokens.json",
        user=user,
        transport=httpx.MockTransport(answer),
    )
    assert federation.hospitals().empty
    assert sent == ["Bearer secret"]


def test_a_token_file_without_the_user_names_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text('{"4": "secret"}')
    with pytest.raises(Unauthenticated, match="one of 4"):
        Federation("http://x", token_file=tmp_path / "tokens.json", user=7)


@pytest.mark.parametrize("text", ["", "\n", '{"4": "sec'])
def test_a_token_file_cut_short_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(Unauthenticated, match="empty or damaged"):
        Federation("http://x", token_file=tmp_path / "tokens.json", user=4)


# Errors are those of REST


def test_errors_have_the_api_s_class_sentence_and_remedy(
    coordinator: Coordinator, federation: Federation
) -> None:
    with pytest.raises(NotFound) as caught:
        federation.order(10_000).info()
    said = coordinator.call("GET", "/orders/10000").json()
    assert str(caught.value) == said["message"]
    assert caught.value.to_json() == said["data"]["error"]
    with pytest.raises(InvalidInput, match="model_type"):
        federation.submit(ORDER, model_type="tree")
    with pytest.raises(Forbidden, match="another hospital"):
        federation.submit(ORDER, user_id=2, party_id=[3, 4])
    with (
        federation_of(coordinator, "wrong") as nobody,
        pytest.raises(Forbidden, match="not known"),
    ):
        nobody.orders()
    with pytest.raises(BadRequest, match=r"method") as malformed:
        federation.statistics(question(method="mode"))
    assert malformed.value.remedy


def test_a_hospital_s_refusal_of_a_question_is_told_whole(
    coordinator: Coordinator, federation: Federation
) -> None:
    order_id = coordinator.call("POST", "/runModelTrainTask", json=question()).headers[
        "X-Order-Id"
    ]
    waiting = threading.Timer(0.3, refuse, (coordinator, int(order_id) + 1))
    waiting.start()
    with pytest.raises(Refused) as caught:
        federation.statistics(question(), progress=False)
    waiting.join()
    assert (caught.value.code, caught.value.remedy) == ("min_rows", "Ask for more.")
    assert caught.value.detail["threshold"] == 10


def test_no_connection_is_unavailable_and_names_the_address() -> None:
    with (
        Federation(
            "http://127.0.0.1:1",
            "token",
            transport=httpx.HTTPTransport(trust_env=False),
        ) as federation,
        pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1 does not answer"),
    ):
        federation.orders()


@pytest.mark.parametrize(
    "response",
    [httpx.Response(502, text="Bad gateway"), httpx.Response(200, text="<html>")],
)
def test_words_of_somebody_else_are_unavailable(response: httpx.Response) -> None:
    federation = Federation(
        "http://x", "token", transport=httpx.MockTransport(lambda _: response)
    )
    with pytest.raises(Unavailable, match="not in Consilium's words"):
        federation.orders()


def test_a_call_that_breaks_is_made_again_and_makes_one_order(
    coordinator: Coordinator,
) -> None:
    class BreaksOnce(httpx.HTTPTransport):
        n_calls = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            self.n_calls += 1
            if self.n_calls == 1:
                response.read()
                raise httpx.RemoteProtocolError("The connection broke.")
            return response

    transport = BreaksOnce(verify=NO_AUTHORITY, trust_env=False)
    with federation_of(coordinator, user=4, transport=transport) as federation:
        before = len(
            coordinator.store.orders.newest(hospital=4, limit=500, before=None)
        )
        order = federation.submit(ORDER)
        assert (
            len(coordinator.store.orders.newest(hospital=4, limit=500, before=None))
            == before + 1
        )
    assert transport.n_calls == 2
    assert order.message is not None
    assert "the order waits for its places" in order.message


# Waiting


def test_wait_tells_progress_until_success(
    coordinator: Coordinator, federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    order = federation.submit(ORDER, model_params={"max_iter": 1})
    report(coordinator, order, state="running", round=round_of(0))
    threading.Timer(
        0.2, report, (coordinator, order), {"round": round_of(1), "end": "success"}
    ).start()
    assert repr(order.wait(timeout_seconds=30)) == f"<Order {order.order_id}: success>"
    assert "round 1 of 1, loss 0.5, success" in capsys.readouterr().err
    metrics = order.metrics()
    assert list(metrics["round"]) == [0] * 3 + [1] * 3
    assert list(metrics["hospital"]) == [2, 3, 4] * 2
    assert set(metrics["train_accuracy"]) == {0.75}


def test_a_model_is_evaluated_and_what_came_of_it_is_a_series(
    coordinator: Coordinator, federation: Federation
) -> None:
    model = federation.submit(ORDER)
    sql = dict.fromkeys((2, 3, 4), "SELECT * FROM data.visits WHERE year = 2026")
    with pytest.raises(Conflict, match="Wait for success"):
        federation.evaluate(model.order_id, sql)
    report(coordinator, model, state="running")
    report(coordinator, model, end="success", summary={})
    order = federation.evaluate(model.order_id, sql, threshold=0.2, purpose="2026")
    asked = order.info()
    assert (asked["kind"], asked["hospitals"]) == ("evaluate", [2, 3, 4])
    assert order.evaluation().empty
    told = {"model_id": model.order_id, "n_rows": 300, "withheld": None}
    metrics = {"auc": 0.9, "tp": 12, "ppv": None}
    report(coordinator, order, state="running")
    summary = {"evaluation": {**told, "metrics": metrics}}
    report(coordinator, order, end="success", summary=summary)
    found = order.wait(progress=False).evaluation()
    assert found["n_rows"] == 300
    assert found["auc"] == 0.9
    assert list(found.index) == ["n_rows", "auc", "tp", "ppv"]


def test_pooled_metrics_tell_training_rows_from_held_out_ones(
    coordinator: Coordinator, federation: Federation
) -> None:
    """As the API gives them, and none before the end."""
    order = federation.submit(ORDER, model_params={"max_iter": 1})
    assert list(order.pooled_metrics().columns) == ["fold", "rows", "n_rows", "loss"]
    held_out = {"n_rows": 60, "loss": 0.5, "accuracy": 0.75, "auc": None, "ks": None}
    training = {"n_rows": 140, "loss": 0.4, "accuracy": 0.9, "auc": 0.95, "ks": 0.8}
    summary = {
        "1": {**training, "held_out": held_out},
        "0": {**training, "held_out": None},
        "held_out": held_out,
    }
    report(coordinator, order, state="running", round=round_of(0))
    report(coordinator, order, end="success", summary=summary)
    assert order.info()["summary"] == summary
    found = order.pooled_metrics()
    assert found[["fold", "rows", "n_rows"]].to_numpy().tolist() == [
        ["0", "training", 140],
        ["1", "training", 140],
        ["1", "held_out", 60],
        ["all", "held_out", 60],
    ]
    assert found["accuracy"].tolist() == [0.9, 0.9, 0.75, 0.75]
    assert found["auc"].isna().tolist() == [False, False, True, True]


def test_a_terminal_s_line_is_drawn_anew_and_covers_what_was_there() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Progress("Order 5", stream=(screen := Terminal()))
    shown.tell(Event("stage", {"what": "searching pivots", "done": 1, "of": None}))
    shown.tell(Event("stage", {"what": "sums", "done": 3, "of": 4}))
    shown.close()
    first, second = screen.getvalue().removesuffix("\n").split("\r")[1:]
    assert first == "Order 5 searching pivots, pending, 0 s"
    assert second.rstrip() == "Order 5 [##################      ] sums, pending, 0 s"
    assert len(second) >= len(first)


def test_wait_raises_what_ended_the_order(
    coordinator: Coordinator, federation: Federation
) -> None:
    refused, cancelled = federation.submit(ORDER), federation.submit(ORDER)
    refuse(coordinator, refused.order_id)
    with pytest.raises(Refused, match="Too few rows"):
        refused.wait(progress=False)
    assert repr(cancelled.cancel()).endswith("cancelled>")
    with pytest.raises(OrderStopped, match="cancelled"):
        cancelled.wait(progress=False)
    with pytest.raises(Conflict):
        refused.cancel()
    assert refused.rerun().order_id > cancelled.order_id


def test_wait_gives_up_in_time_and_the_order_goes_on(federation: Federation) -> None:
    order = federation.submit(ORDER)
    with pytest.raises(TimeoutError, match="it goes on"):
        order.wait(timeout_seconds=0.2, progress=False)
    assert order.status() == "pending"
    with pytest.raises(TimeoutError):
        federation.statistics(question(), timeout_seconds=0.1, progress=False)


def broken_streams(*texts: str) -> httpx.MockTransport:
    """Streams that break after each text but the last."""
    left = list(texts)

    def stream(text: str, *, breaks: bool) -> Iterator[bytes]:
        yield text.encode()
        if breaks:
            raise httpx.ReadError("The connection broke.")

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=stream(left.pop(0), breaks=bool(left)))

    return httpx.MockTransport(answer)


def test_a_broken_stream_is_opened_again_and_nothing_is_told_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.client.events.RECONNECT_SECONDS", 0.01)
    half = EVENTS[: EVENTS.index('"round": 1')]
    order = Federation(
        "http://x", "token", transport=broken_streams(half, "", half, EVENTS)
    ).order(37)
    told = [
        json.loads(line[5:]) for line in EVENTS.splitlines() if line.startswith("data:")
    ]
    assert [event.data for event in order.events()] == told


def test_a_coordinator_that_stays_away_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.client.events.RECONNECT_SECONDS", 0.01)
    gone = httpx.MockTransport(lambda _: httpx.Response(503))
    federation = Federation("http://x", "token", transport=gone, patience_seconds=0.05)
    with pytest.raises(Unavailable):
        list(federation.order(37).events())


# Frames


def test_orders_and_hospitals_are_frames(
    coordinator: Coordinator, federation: Federation
) -> None:
    submitted = [federation.submit(ORDER).order_id for _ in range(3)]
    assert list(federation.orders(limit=2).index) == submitted[:0:-1]
    assert isinstance(federation.orders()["created"].dtype, pd.DatetimeTZDtype)
    assert list(federation.hospitals().index) == [2, 3, 4, 5]
    with federation_of(coordinator, "user-5") as elsewhere:
        assert elsewhere.orders().empty


def test_an_external_order_s_scores(federation: Federation) -> None:
    order = federation.open_external("three clients")
    rng = np.random.default_rng(1)
    vectors = {
        client: {"conv1": rng.normal(size=4), "dense": rng.normal(size=3)}
        for client in (2, 10, 3)
    }
    for number in (0, 1):
        order.record(number, vectors, sizes={"2": 10, "3": 20, "10": 30})
    scores = order.scores(k=1, layers=["conv1", "dense"])
    assert (scores.round, scores.parameters["k"]) == (1, 1)
    assert list(scores.anomaly.index) == [2, 3, 10]
    assert list(scores.contribution) == ["grad_diff_eu", "grad_diff_cos"]
    assert {"zeno", "perf_diff_loss"} <= set(scores.unavailable)
    found = order.gradients()
    np.testing.assert_array_equal(found[10]["dense"], vectors[10]["dense"])
    average = order.average_gradient(0, layers="dense")["dense"]
    rows = [vectors[client]["dense"] for client in (2, 3, 10)]
    np.testing.assert_allclose(average, np.average(rows, axis=0, weights=[10, 20, 30]))


# Schedules


def test_a_schedule_is_made_paused_changed_and_deleted(federation: Federation) -> None:
    schedule = federation.schedule_statistics(
        question(), cron="0 6 * * *", timezone="Asia/Shanghai", name="mornings"
    )
    assert repr(schedule) == f"<Schedule {schedule.schedule_id}: active>"
    row = federation.schedules().loc[schedule.schedule_id]
    assert (row["name"], row["method"], row["active"]) == ("mornings", "sum", True)
    assert row["next_run"].hour == 22
    assert repr(schedule.pause()).endswith("paused>")
    assert (
        schedule.resume().retime(interval_seconds=3600).rename("hourly").info()["name"]
        == "hourly"
    )
    assert schedule.info()["schedule"]["interval_seconds"] == 3600
    assert schedule.history().empty
    schedule.delete()
    assert schedule.schedule_id not in federation.schedules().index
    with pytest.raises(NotFound):
        schedule.info()


def test_history_has_each_statistics_order(federation: Federation) -> None:
    with pytest.raises(TimeoutError):
        federation.statistics(question(), timeout_seconds=0.1, progress=False)
    newest = federation.history(limit=1)
    assert newest["state"].item() == "waiting"
    assert newest.index[0] == federation.orders(limit=1).index[0]
