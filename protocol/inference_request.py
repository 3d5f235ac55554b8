"""A request for predictions: every field that a user may send."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from protocol.fields import (
    Asked,
    Column,
    ReaderKey,
    Sql,
    UserId,
    describe,
    finite,
    printable,
)
from protocol.messages import MOST_TYPED_ROWS, canonical

MOST_LETTERS = 1_000


def _value(value: Any) -> Any:
    """A value of a row, as JSON has them."""
    if isinstance(value, str):
        if len(value) > MOST_LETTERS:
            raise ValueError(f"must have at most {MOST_LETTERS} letters")
        return printable(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return finite(value)
    raise ValueError("must be a text, a number, true, false or null")


Value = Annotated[Any, AfterValidator(_value)]


class InputData(Asked):
    """Whose model, and of which rows: by SQL, or as values."""

    user_id: UserId
    data_sql: Sql | None = None
    # Each row's values by the model's columns.
    rows: (
        Annotated[
            list[dict[Column, Value]],
            Field(min_length=1, max_length=MOST_TYPED_ROWS),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _one_of_them(self) -> InputData:
        if (self.data_sql is None) == (self.rows is None):
            raise ValueError(
                "holds neither data_sql nor rows, or both; give one of them"
            )
        return self

    @property
    def asked(self) -> dict[str, str]:
        """What is sealed to the hospital."""
        if self.data_sql is not None:
            return {"infer": self.data_sql}
        return {"rows": canonical(self.rows)}


class InferRequest(Asked):
    """The body of POST /model/infer."""

    model_id: Annotated[int, Field(ge=1, lt=2**31)]
    input_data: InputData
    # To whose own key the hospital seals the predictions.
    reader: ReaderKey | None = None


def parse_infer_request(body: Any) -> InferRequest:
    """A checked request. InvalidInput names each field and its problem."""
    try:
        return InferRequest.model_validate(body)
    except ValidationError as error:
        raise describe(error) from None
