"""What the fields of requests may hold, and the error that says which one does not.

`training_request`, `statistics_request` and the coordinator's own bodies are made of
these.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from protocol.errors import ConsiliumError, InvalidInput
from protocol.messages import COORDINATOR
from protocol.readers import check_reader_key

_DIGITS = re.compile("[0-9]{1,10}")


def _user_id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("must be a user id: a whole number, or the same as a string")
    if isinstance(value, str) and not _DIGITS.fullmatch(value.strip()):
        raise ValueError("must be a user id: a whole number of at most ten digits")
    number = int(value)
    # 0 is everyone, 1 the coordinator; the store keeps 32 bits.
    if not 2 <= number < 2**31:
        raise ValueError(
            f"must be a hospital's user id (2 or more; {COORDINATOR} is the coordinator)"
        )
    return number


def finite(value: float) -> float:
    """JSON has no other numbers, and sums hold none."""
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def any_case(literal: Any) -> BeforeValidator:
    """Accepts the words of a Literal in any case: "l2" is "L2"."""
    by_lower_case = {word.lower(): word for word in get_args(literal)}

    def match(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return by_lower_case.get(value.lower(), value)

    return BeforeValidator(match)


def printable(text: str) -> str:
    """A control character in a name has no meaning, and PostgreSQL cannot keep a NUL."""
    for letter in text:
        code = ord(letter)
        if code < 32 or 127 <= code < 160:
            raise ValueError("must not hold a control character")
    return text


def _each_once(value: Any) -> Any:
    """Refuses keys that are one user id in two spellings.

    Nobody could say which of the two SQL texts was meant.
    """
    if isinstance(value, Mapping):
        spelled_alike = {str(key).strip().lstrip("0") for key in value}
        if len(spelled_alike) < len(value):
            raise ValueError("names a hospital twice; give each its SQL once")
    return value


UserId = Annotated[int, BeforeValidator(_user_id)]
ReaderKey = Annotated[str, AfterValidator(check_reader_key)]
"""To whose own key an answer is sealed."""
Number = Annotated[float, BeforeValidator(_number), AfterValidator(finite)]
Whole = Annotated[int, BeforeValidator(_number)]
Column = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)]
Sql = Annotated[str, Field(min_length=1, max_length=20_000)]
SqlByHospital = Annotated[dict[UserId, Sql], BeforeValidator(_each_once)]


class Strict(BaseModel):
    """A model that has no other fields than its own, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Asked(Strict):
    """What users write.

    null stands for a field's default, but in the fields of `null_is_said`, where it is
    a value of its own. Messages are no such model: read strictly, a list of JSON would
    be no tuple behind these validators.
    """

    null_is_said: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _default_for_null(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        said_fields = {}
        for name, field_value in value.items():
            field = cls.model_fields.get(name)
            has_default = field is not None and not field.is_required()
            if field_value is None and has_default and name not in cls.null_is_said:
                continue
            said_fields[name] = field_value
        return said_fields

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_known(
        cls, value: Any, handler: ModelWrapValidatorHandler[Self]
    ) -> Self:
        """Says of an unknown field which ones there are: only the model knows."""
        try:
            return handler(value)
        except ValidationError as error:
            details = []
            # Once, however many there are none of.
            known_fields = f" There are {', '.join(cls.model_fields)}"
            for mistake in error.errors(include_url=False, include_context=False):
                problem = mistake["msg"]
                field_place = mistake["loc"]
                if mistake["type"] == "extra_forbidden" and len(field_place) == 1:
                    problem = _unknown_field(str(field_place[0]), cls) + known_fields
                    known_fields = ""
                detail = InitErrorDetails(
                    type=PydanticCustomError(
                        "mistake", "{problem}", {"problem": problem}
                    ),
                    loc=field_place,
                    input=None,
                )
                details.append(detail)
            raise ValidationError.from_exception_data(cls.__name__, details) from None


_NAMES_ELSEWHERE = {
    "c": "the penalty is alpha here: scikit-learn's C is 1 / (alpha * rows)",
    "l2": "the penalty is penalty and alpha here",
    "lambda": "the penalty is alpha here",
    "reg_lambda": "the penalty is alpha here",
    "weight_decay": "the penalty is alpha here",
    "solver": "it is optimizer here",
    "epochs": "it is max_iter here: rounds over all rows, or over batch_size of them",
    "n_iter": "it is max_iter here",
    "num_epochs": "it is max_iter here",
    "n_epochs": "it is max_iter here",
    "lr": "it is learning_rate here",
    "eta": "it is learning_rate here",
    "eta0": "it is learning_rate here",
    "learning_rate_init": "it is learning_rate here",
    "step_size": "it is learning_rate here",
    "seed": "it is random_seed here, in init_param and in cv_param",
    "random_state": "it is random_seed here, in init_param and in cv_param",
    "cv": "it is cv_param here, with need_cv and n_splits",
    "n_folds": "it is n_splits here, in cv_param",
    "folds": "it is n_splits here, in cv_param",
    "test_size": "it is validation_fraction here",
    "early_stopping": "it is converge_func here, with eps",
    "hidden_layer_sizes": "it is hidden here",
    "normalize": "it is standardize here",
    "scale": "it is standardize here",
    "features": "it is attributes here",
    "target": "it is label_name here",
    "label": "it is label_name here",
    "y": "it is label_name here",
    "id": "it is unique_id here",
    "parties": "it is party_id here",
    "hospitals": "they are party_id here",
    "momentum": "it is optimizer here: nesterov_momentum_sgd",
    "regularization": "the penalty is penalty and alpha here",
    "sql": "it is data_info here, by hospital",
    "where": "it stands in the SQL of data_info here",
    "dropna": "it is complete_on here: the columns that must have a value",
    "func": "it is method here",
    "aggfunc": "it is method here",
    "by": "it is group_by here",
    "groupby": "it is group_by here",
}
"""What the names of other libraries are called here, in lower case."""

_OF_PROVIDERS = {
    "hospitals": "they are data_providers and result_receivers here",
    "sql": "it is data_path here, in data_providers, with data_type sql",
    "where": "it stands in the SQL of data_providers here, with data_type sql",
    "statistic": "it is method here",
}
"""The same, of a body that has data_providers."""


def _unknown_field(name: str, model: type[BaseModel]) -> str:
    """What is said of a field that there is none of: what it may have meant."""
    lowered = name.lower()
    alike = difflib.get_close_matches(lowered, list(model.model_fields), n=1)
    owner = _owner_of(name, model)
    if owner is not None:
        return f"stands in {owner}."
    names_elsewhere = _NAMES_ELSEWHERE
    if "data_providers" in model.model_fields:
        names_elsewhere = {**names_elsewhere, **_OF_PROVIDERS}
    if lowered in names_elsewhere:
        return f"is no field here: {names_elsewhere[lowered]}."
    if alike:
        return f"is no field here. Did you mean {alike[0]}?"
    return "is no field here."


def _owner_of(name: str, model: type[BaseModel]) -> str | None:
    """The field of a model that has a field of this name inside."""
    for field_name, field in model.model_fields.items():
        inner = field.annotation
        if not isinstance(inner, type) or not issubclass(inner, BaseModel):
            continue
        if name in inner.model_fields:
            return field_name
    return None


_MOST_TOLD = 20


def describe(error: ValidationError) -> ConsiliumError:
    """Sentences that name each field and its problem, up to 20.

    What was sent is not echoed.
    """
    problems = []
    field_names = []
    mistakes = error.errors(
        include_input=False, include_url=False, include_context=False
    )
    for mistake in mistakes[:_MOST_TOLD]:
        field_name = _place(mistake["loc"])
        # Once for each model that passed the sentence on.
        problem = mistake["msg"].replace("Value error, ", "")
        field_names.append(field_name)
        problems.append(f"{field_name}: {problem}")
    n_more = len(mistakes) - len(problems)
    if n_more:
        problems.append(f"and {n_more} more")
    return InvalidInput(
        "; ".join(problems).removesuffix(".") + ".",
        remedy="See /docs for every field and its range.",
        fields=field_names,
    )


def _place(place: tuple[int | str, ...]) -> str:
    """A field's name with those that it stands in: "model_params.alpha"."""
    # A wrong key is named by its dict: the key itself is what was sent, and may be
    # anything.
    if place[-1:] == ("[key]",):
        place = place[:-2]
    # pydantic's own steps are no fields.
    names = [_shown(step) for step in place if not str(step).startswith("function-")]
    return ".".join(names) or "body"


def _shown(field_name: int | str) -> str:
    """A field's name as an answer and a log may hold it.

    What was sent in its place may be long or unprintable.
    """
    letters = []
    for letter in str(field_name):
        is_plain = letter.isprintable() and letter != "\ufffd"
        letters.append(letter if is_plain else "?")
    shown_text = "".join(letters)
    if len(shown_text) <= 60:
        return shown_text
    return f"{shown_text[:60]}..."
