"""Sealed answers of orders, fetched and opened by the reader's own key, as frames.

Decision 108.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from api.client.connection import Connection, Json
from api.client.reader import Opened, Reader, own_reader
from protocol.errors import BadRequest, Conflict
from protocol.readers import SealedAnswer

LONGEST_WAIT_SECONDS = 60


class Answers:
    """Opens what hospitals have sealed to this user.

    folder: where the key is, else `reader.config_folder()`; hospital: the fingerprint of
    the hospital that must have signed; is_sealed: whether orders ask for sealed answers
    unless they say so themselves.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        folder: Path | None = None,
        hospital: str | None = None,
        is_sealed: bool = False,
    ) -> None:
        self._connection = connection
        self._folder = folder
        self._hospital = hospital
        self.is_sealed = is_sealed

    @cached_property
    def reader(self) -> Reader:
        """This user's key, made at the first use."""
        return own_reader(self._folder)

    def asked(self, body: Json) -> Json:
        """A request that asks for a sealed answer, where orders of this user do."""
        if self.is_sealed and "reader" not in body:
            return {**body, "reader": self.reader.public}
        return body

    def of_order(self, order_id: int, kind: str | None = None) -> Opened:
        """An order's answer, which is waited for.

        Raises what ended the order, and as `Reader.open`.
        """
        while True:
            try:
                answer = self._connection.get(
                    f"/orders/{order_id}/answer", wait=LONGEST_WAIT_SECONDS
                )
            except Conflict as conflict:
                # A call waits a minute at most, and is made again; no other conflict
                # goes away.
                if conflict.code != "no_answer":
                    raise
            else:
                return self.open(answer.data, order_id, kind)

    def open(self, record: Json, order_id: int, kind: str | None = None) -> Opened:
        """A record that the coordinator has given for this order."""
        return self.reader.open(
            SealedAnswer.from_json(record),
            order_id=order_id,
            kind=kind,
            hospital=self._hospital,
        )


def has_report(body: Mapping[str, Any]) -> bool:
    """Whether a training order ends with a report, which can be sealed."""
    if str(body.get("model_type", "")).lower() in ("glm", "cox"):
        return True
    params = body.get("model_params") or {}
    return str(params.get("optimizer", "")).lower() == "newton"


def noted(frame: pd.DataFrame, opened: Opened) -> pd.DataFrame:
    """The frame with where its numbers are from."""
    frame.attrs["order_id"] = opened.place.order_id
    frame.attrs["hospital"] = opened.hospital
    if opened.note:
        frame.attrs["note"] = opened.note
    return frame


def report_frame(answer: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each term; what the report says of all of them is in `attrs`.

    >>> term = {"term": "age", "estimate": 0.5, "se": 0.1, "p": 6e-7, "low": 0.3, "high": 0.7}
    >>> frame = report_frame({"report": {"terms": [term], "n": 684}})
    >>> float(frame.loc["age", "high"]), frame.attrs["n"]
    (0.7, 684)
    """
    report = dict(answer["report"])
    frame = pd.DataFrame(report.pop("terms")).set_index("term")
    frame.attrs.update(report)
    return frame


def table_frame(answer: Mapping[str, Any], name: str) -> pd.DataFrame:
    """A table of an evaluation, such as roc or calibration.

    BadRequest (code no_table) where it has none.
    """
    table_lines = answer["report"].get(name)
    if not table_lines:
        raise BadRequest(
            f"This evaluation has no table {name}.",
            remedy="Only models of type lr and binomial glm have one, on enough rows of each class.",
            code="no_table",
        )
    return pd.DataFrame(table_lines)
