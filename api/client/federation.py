"""The coordinator and all its hospitals, as one token sees them: where a notebook
starts.

What comes back is an `Order` (`orders`), a `Schedule` (`schedules`), or a frame or
record of `results`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pandas as pd

from api.client import results, schedules
from api.client.answers import Answers, has_report
from api.client.connection import Connection, Json
from api.client.orders import Order
from api.client.results import StatisticsResult
from api.client.schedules import ModelSchedule, Schedule
from protocol.errors import ConsiliumError, Unauthenticated

# The columns of an empty frame.
ORDERS = (
    "kind",
    "name",
    "state",
    "user_id",
    "hospitals",
    "model_type",
    "method",
    "converged",
    "stopped_by",
    "warnings",
    "created",
    "updated",
)
HOSPITALS = (
    "name",
    "online",
    "last_seen",
    "agent_version",
    "protocol",
    "scoring",
    "policy",
    "fingerprint",
)
SCHEDULES = (
    "name",
    "user_id",
    "method",
    "schedule",
    "active",
    "next_run",
    "last_state",
)


class Federation:
    """A coordinator at `url`, for one token.

    The token is a text, or read from `token_file`: alone there, or one of several in
    JSON ({"4": ..., "operator":
    ...}), of which `user` names one. `user` is also the hospital that sends a request
    which names none. `timeout_seconds` is the longest that one call may take;
    `patience_seconds` for how long a coordinator that is away is tried again while an
    order is waited for. With `sealed` reports, evaluations, predictions and statistics
    are sealed to this user's own key, whose fingerprint is `reader`, and opened here;
    `hospital` is the fingerprint of the one that must have signed them, `key_folder`
    where the key is in place of ~/.config/consilium.

    >>> from api.client.stand_in import stand_in
    >>> federation = stand_in()  # elsewhere: Federation("https://consilium.example", token_file="token", user=4)
    >>> federation.hospitals()[["name", "online"]]  # doctest: +NORMALIZE_WHITESPACE
                      name  online
    user_id
    2        suzhou-szslyy    True
    4          shanxi-xbfy    True
    >>> federation.orders()["state"]
    order_id
    41    success
    37    success
    Name: state, dtype: str
    >>> federation.order(99).info()
    Traceback (most recent call last):
    protocol.errors.NotFound: There is no order 99. GET /orders lists them.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        token_file: str | Path | None = None,
        user: int | str | None = None,
        timeout_seconds: float = 300,
        patience_seconds: float = 300,
        sealed: bool = False,
        hospital: str | None = None,
        key_folder: str | Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if token_file is not None:
            token = read_token(Path(token_file), user)
        self._connection = Connection(
            url, token, timeout_seconds=timeout_seconds, transport=transport
        )
        # Users without a number are no hospitals: the operator, say.
        is_hospital = user is not None and str(user).isdecimal()
        self._user_id = int(str(user)) if is_hospital else None
        self._patience_seconds = patience_seconds
        self._url = url
        self._answers = Answers(
            self._connection,
            folder=None if key_folder is None else Path(key_folder),
            hospital=hospital,
            is_sealed=sealed,
        )

    def __repr__(self) -> str:
        reader = f" as hospital {self._user_id}" if self._user_id else ""
        return f"<Federation {self._url}{reader}>"

    def __enter__(self) -> Federation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections; orders go on."""
        self._connection.close()

    @property
    def reader(self) -> str:
        """The fingerprint of this user's own key, which is made at the first use. The
        hospital lists it (`./run agent readers add`) before anything is sealed to it.
        """
        return self._answers.reader.fingerprint

    # Training

    def submit(self, request: Mapping[str, Any] | None = None, **fields: Any) -> Order:
        """A training order, of a request's fields as a dict, as keywords, or both; the
        hospitals have counted its rows.

        Raises a hospital's reason to refuse it. Fields: POST /model/train in
        docs/api.md.
        """
        body = self._request(request, fields)
        if has_report(body):
            body = self._answers.asked(body)
        answer = self._connection.make("/model/train", body)
        return self._order(answer.data["order_id"], answer.body["message"])

    def evaluate(
        self,
        model_id: int,
        data_info: Mapping[int | str, str],
        *,
        threshold: float | None = None,
        **fields: Any,
    ) -> Order:
        """An order that judges a model on new rows of all hospitals together: by
        hospital, the SQL that selects them. `Order.evaluation()` has what came of it.

        The other hospitals are those of data_info. Raises a hospital's reason to refuse
        it. More fields: POST /model/evaluate in docs/api.md.
        """
        request = {"model_id": model_id, "threshold": threshold, **fields}
        body = self._request(request, {})
        texts = {str(user): sql_text for user, sql_text in data_info.items()}
        body["data_info"] = texts
        initiator = str(body.get("user_id"))
        body.setdefault("party_id", [int(user) for user in texts if user != initiator])
        answer = self._connection.make("/model/evaluate", self._answers.asked(body))
        return self._order(answer.data["order_id"], answer.body["message"])

    def order(self, order_id: int) -> Order:
        """An order that exists, by its number."""
        return self._order(order_id)

    def orders(self, limit: int = 100) -> pd.DataFrame:
        """The newest orders of one's hospital; for the operator, of all hospitals."""
        rows = self._connection.pages("/orders", "orders", limit=limit)
        return results.table(rows, "order_id", ORDERS)

    def open_external(self, name: str = "") -> Order:
        """An order into which `record` puts the rounds of any training loop."""
        answer = self._connection.make("/orders", {"kind": "external", "name": name})
        return self._order(answer.body["order_id"])

    def hospitals(self) -> pd.DataFrame:
        """Who takes part, who is online, and what each one's policy lets others do."""
        answer = self._connection.get("/hospitals").data
        return results.table(answer["hospitals"], "user_id", HOSPITALS)

    # Joint statistics

    def statistics(
        self,
        request: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float | None = None,
        progress: bool = True,
        **fields: Any,
    ) -> StatisticsResult:
        """The answer to a question of joint statistics, with a line of progress until
        the receivers have it.

        Raises a hospital's refusal; TimeoutError after `timeout_seconds`, while the
        order goes on. Fields: POST /runModelTrainTask in docs/api.md.

        >>> from api.client.stand_in import stand_in
        >>> stand_in().statistics(method="avg", result_alias="mean_cost").path  # and who has the data
        '41/mean_cost.csv'
        """
        # The coordinator waits one second only; for the rest of the time events show
        # how far the order is.
        body = {
            **self._answers.asked(self._request(request, fields)),
            "timeout_seconds": 1,
        }
        try:
            answer = self._connection.make("/runModelTrainTask", body)
        except ConsiliumError as error:
            # An order was made and failed within this second: its record has the whole
            # reason.
            if "order_id" in error.detail:
                failed = self._order(error.detail["order_id"])
                raise failed.cause() from None
            raise
        if answer.status == 200:
            statistics_result = StatisticsResult.of(answer.body["result"])
            return self._order(statistics_result.order_id).with_rows(statistics_result)
        assert answer.order_id is not None
        order = self._order(answer.order_id)
        return order.result(timeout_seconds=timeout_seconds, progress=progress)

    def schedule_statistics(
        self,
        request: Mapping[str, Any] | None = None,
        *,
        cron: str | None = None,
        interval_seconds: int | None = None,
        timezone: str = "UTC",
        missed: str = "make_up",
        name: str = "",
        **fields: Any,
    ) -> Schedule:
        """The same question again and again: at the times of `cron`, or every
        `interval_seconds`.
        """
        timing = schedules.timing(cron, interval_seconds, timezone, missed)
        body = {**self._request(request, fields), "schedule": timing, "name": name}
        entry = self._connection.make(
            "/statistics/schedules", self._answers.asked(body)
        ).data
        return self._schedule(entry["schedule_id"], entry)

    def schedule(self, schedule_id: int) -> Schedule:
        """A schedule that exists, by its number."""
        return self._schedule(schedule_id)

    def schedule_order(
        self,
        order_id: int,
        *,
        cron: str | None = None,
        interval_seconds: int | None = None,
        timezone: str = "UTC",
        missed: str = "make_up",
        name: str = "",
    ) -> ModelSchedule:
        """An order of training, or an evaluation, that has succeeded, again and again: at
        the times of `cron`, or every `interval_seconds`.
        """
        timing = schedules.timing(cron, interval_seconds, timezone, missed)
        body = {"order_id": order_id, "schedule": timing, "name": name}
        entry = self._connection.make("/model/schedules", body).data
        return ModelSchedule(
            self._connection, entry["schedule_id"], entry, answers=self._answers
        )

    def model_schedule(self, schedule_id: int) -> ModelSchedule:
        """A schedule of `schedule_order` that exists, by its number."""
        return ModelSchedule(self._connection, schedule_id, answers=self._answers)

    def model_schedules(self, limit: int = 100) -> pd.DataFrame:
        """The schedules of `schedule_order` of one's hospital, newest first."""
        entries = self._connection.pages("/model/schedules", "schedules", limit=limit)
        rows = [_schedule_row(entry) for entry in entries]
        return results.table(rows, "schedule_id", SCHEDULES)

    def schedules(self, limit: int = 100) -> pd.DataFrame:
        """The schedules of one's hospital, newest first."""
        entries = self._connection.pages(
            "/statistics/schedules", "schedules", limit=limit
        )
        rows = [_schedule_row(entry) for entry in entries]
        return results.table(rows, "schedule_id", SCHEDULES)

    def history(self, limit: int = 100) -> pd.DataFrame:
        """What became of every statistics order of one's hospital, newest first."""
        return schedules.history(self._connection, None, limit)

    def _request(
        self, request: Mapping[str, Any] | None, fields: Mapping[str, Any]
    ) -> Json:
        """Keywords before the dict, the dict before one's own number."""
        body: Json = {}
        if self._user_id is not None:
            body["user_id"] = self._user_id
        body.update(request or {})
        body.update(fields)
        return body

    def _schedule(self, schedule_id: int, entry: Json | None = None) -> Schedule:
        return Schedule(self._connection, schedule_id, entry, answers=self._answers)

    def _order(self, order_id: int, message: str | None = None) -> Order:
        return Order(
            self._connection,
            order_id,
            user_id=self._user_id,
            patience_seconds=self._patience_seconds,
            message=message,
            answers=self._answers,
        )


def read_token(path: Path, user: int | str | None) -> str:
    """The token in a file, or the user's of several in a JSON file.

    Unauthenticated for a file that is empty or cut short, or has none for the user.
    """
    file_text = path.read_text("utf-8").strip()
    if file_text and not file_text.startswith("{"):
        return file_text
    try:
        tokens: dict[str, str] = json.loads(file_text)
    except ValueError:
        raise Unauthenticated(
            f"{path} is empty or damaged.",
            remedy="Put the token there that the operator gave you.",
        ) from None
    if str(user) not in tokens:
        known_users = ", ".join(sorted(tokens))
        raise Unauthenticated(
            f"{path} has no token of user {user}.",
            remedy=f"Give user as one of {known_users}.",
        )
    return tokens[str(user)]


def _schedule_row(entry: Json) -> Json:
    copied = (
        "schedule_id",
        "name",
        "user_id",
        "schedule",
        "active",
        "created",
        "updated",
    )
    row = {field_name: entry[field_name] for field_name in copied}
    # Of an order that is run again, its kind.
    request = entry["request"]
    row["method"] = request.get("method") or request.get("kind")
    row["next_run"] = None
    if entry["next_runs"]:
        row["next_run"] = pd.Timestamp(entry["next_runs"][0])
    row["last_state"] = None
    if entry["last_run"]:
        row["last_state"] = entry["last_run"]["state"]
    return row
