"""The training order: every field a data scientist may send, checked before anything
runs.

One class serves both sides: the coordinator checks a request with it, and every
hospital checks the signed document with it again, because a hospital believes nothing
that the coordinator says.

In order: the fields, the request, what follows from it (folds, rows held out), what
fits together, the order's document. `statistics_request.py` is the same for joint
statistics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

# Under their own names, for those who make forms of a request.
from analytics.scores import Aggregation as Aggregation
from analytics.scores import most_attackers
from analytics.training import (
    Convergence,
    Dispersion,
    Family,
    InitMethod,
    Link,
    Ties,
    WeightsType,
)
from analytics.training import ModelType as ModelType
from analytics.training import Optimizer as Optimizer
from analytics.training import Penalty as Penalty
from analytics.training.families import LEAST_SQUARES, LOGISTIC, Pair
from protocol.errors import bad_request
from protocol.fields import (
    Asked,
    Column,
    Number,
    SqlByHospital,
    UserId,
    Whole,
    any_case,
    describe,
    printable,
)
from protocol.messages import canonical
from protocol.regression_request import (
    CONFIDENCE,
    COX,
    GLM,
    NEWTON,
    OF_GLM,
    check_cox,
    check_glm,
    check_newton,
    check_offset,
    check_weights,
    glm_body,
    glm_pair,
    with_newton_defaults,
    with_newton_models_defaults,
)
from protocol.study_rows import (
    Categorical,
    Derive,
    MissingWord,
    StudyRows,
    study_rows,
    written_out,
)
from protocol.sums import KEY_LENGTHS
from protocol.sums import EncryptMethod as EncryptMethod

MODEL_NAMES = {
    "lr": "Logistic Regression",
    "linear": "Linear Regression",
    "glm": "Generalised Linear Model",
    "cox": "Cox Regression",
    "softmax": "Softmax Regression",
    "mlp": "Multilayer Perceptron",
    "cnn": "Convolutional Neural Network",
}
# Units, or channels, of a network's two hidden layers unless an order says otherwise.
HIDDEN: dict[str, tuple[int, ...]] = {"mlp": (32, 16), "cnn": (8, 16)}
Scoring = Literal["none", "round", "full"]
MOST_CLASSES = 1_000
"""That a model can have."""

CHOOSING = ("multi_krum", "minimum_diameter")
"""The aggregations by which the coordinator chooses a round's members (decision 30)."""

MOST_COMPARED_BYTES = 2**27
"""Of a round's aggregates without each member, which all hospitals receive."""

DEFAULT_BOUND = 2.0**20

THRESHOLD = 0.5
"""Of scores, unless an evaluation names another one."""


def _none_word(value: Any) -> Any:
    is_word = isinstance(value, str) and value.lower() in ("none", "null", "")
    return None if is_word else value


def _method_word(value: Any) -> Any:
    return "None" if value is None else value


def _in_thousandths(value: float) -> float:
    """The calls are read off a histogram of 1,000 bins: any other threshold would be a
    sum more, and many of them would tell single scores to every digit.
    """
    whole = round(value * 1000)
    if abs(value * 1000 - whole) > 1e-9:
        raise ValueError("must be a multiple of 0.001")
    return whole / 1000


Threshold = Annotated[Number, Field(gt=0, lt=1), AfterValidator(_in_thousandths)]
"""Of scores, in thousandths."""


class InitParam(Asked):
    init_method: Annotated[InitMethod | None, any_case(InitMethod)] = None
    init_const: Number = 1.0
    random_seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 1
    fit_intercept: bool = True


class EncryptParam(Asked):
    # null is the word None: nothing is encrypted.
    null_is_said = frozenset({"method"})

    method: Annotated[
        EncryptMethod, any_case(EncryptMethod), BeforeValidator(_method_word)
    ] = "Paillier"
    key_length: Annotated[Whole, Field()] = 2048

    @model_validator(mode="after")
    def _long_enough(self) -> EncryptParam:
        if self.key_length not in KEY_LENGTHS:
            raise ValueError(
                f"key_length must be one of {', '.join(map(str, KEY_LENGTHS))} bits; fewer are not safe"
            )
        return self


class CrossValidation(Asked):
    need_cv: bool = False
    n_splits: Annotated[Whole, Field(ge=2, le=50)] = 5
    shuffle: bool = True
    random_seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 1


class ModelParams(Asked):
    """How the model is trained (docs/api.md).

    `tol` is `eps`, `early_stop` is `converge_func`.
    """

    # null is no penalty.
    null_is_said = frozenset({"penalty"})

    penalty: Annotated[
        Penalty | None, any_case(Penalty), BeforeValidator(_none_word)
    ] = "L2"
    optimizer: Annotated[Optimizer, any_case(Optimizer)] = "sgd"
    # Two names for one thing: `tolerance` reads them.
    eps: Annotated[Number, Field(ge=0)] | None = None
    tol: Annotated[Number, Field(ge=0)] | None = None
    alpha: Annotated[Number, Field(ge=0, le=1e6)] = 0.01
    max_iter: Annotated[Whole, Field(ge=1, le=10_000)] = 100
    # Two names for one thing: `convergence` reads them.
    converge_func: Annotated[Convergence, any_case(Convergence)] | None = None
    early_stop: Annotated[Convergence, any_case(Convergence)] | None = None
    # -1: all rows in each round.
    batch_size: Annotated[Whole, Field(ge=-1, le=2**31)] = -1
    learning_rate: Annotated[Number, Field(gt=0, le=1e6)] = 0.15
    decay: Annotated[Number, Field(ge=0, le=1e6)] = 0.0
    decay_sqrt: bool = True
    # Units, or channels, of the two hidden layers; None for those of HIDDEN.
    hidden: (
        Annotated[
            list[Annotated[Whole, Field(ge=1, le=1024)]],
            Field(min_length=2, max_length=2),
        ]
        | None
    ) = None
    # Of a cnn's images: height, width and perhaps channels.
    shape: (
        Annotated[
            list[Annotated[Whole, Field(ge=1, le=10_000)]],
            Field(min_length=2, max_length=3),
        ]
        | None
    ) = None
    init_param: InitParam = InitParam()
    encrypt_param: EncryptParam = EncryptParam()
    cv_param: CrossValidation = CrossValidation()
    standardize: bool = False
    # Of events at one time in a cox; None for efron.
    ties: Annotated[Ties, any_case(Ties)] | None = None
    # Of the intervals in a Newton order's report.
    confidence: Annotated[Number, Field(ge=0.5, lt=1)] = CONFIDENCE
    # Of a glm; link None is the family's canonical one, dispersion None what the family
    # has.
    family: Annotated[Family | None, any_case(Family)] = None
    link: Annotated[Link | None, any_case(Link)] = None
    dispersion: Annotated[Dispersion | None, any_case(Dispersion)] = None
    # An attribute whose coefficient is 1.
    offset: Column | None = None
    # A column of the data that says how much each row weighs, or how many rows it is.
    weights: Column | None = None
    weights_type: Annotated[WeightsType | None, any_case(WeightsType)] = None
    # A larger number in a sum stops the order: the fixed point has no room for it
    # (decision 12).
    bound: Annotated[Number, Field(ge=1, le=2.0**40)] = DEFAULT_BOUND

    @model_validator(mode="before")
    @classmethod
    def _newton(cls, body: Any) -> Any:
        return with_newton_defaults(body)

    @model_validator(mode="after")
    def _consistent(self) -> ModelParams:
        if self.batch_size == 0:
            raise ValueError("batch_size must be -1 (all rows) or at least 1")
        for name, other_name in (("eps", "tol"), ("converge_func", "early_stop")):
            value = getattr(self, name)
            other_value = getattr(self, other_name)
            are_given = value is not None and other_value is not None
            if are_given and value != other_value:
                raise ValueError(
                    f"{name} and {other_name} are two names for one thing and differ; give one of them"
                )
        return self

    @property
    def tolerance(self) -> float:
        if self.eps is not None:
            return self.eps
        return 1e-4 if self.tol is None else self.tol

    @property
    def convergence(self) -> str:
        return self.converge_func or self.early_stop or "diff"


class TrainingRequest(Asked):
    """The body of POST /model/train."""

    # Who orders; its agent signs the order and opens the sums.
    user_id: UserId
    model_type: Annotated[ModelType, any_case(ModelType)]
    model_params: ModelParams = ModelParams()
    # The other hospitals.
    party_id: Annotated[list[UserId], Field(max_length=1000)]
    # By hospital its SQL, which goes sealed to that hospital; in the order's document
    # are commitments.
    data_info: SqlByHospital
    # By hospital, for those that have rows of their own to test on; or the share of the
    # rows that tests.
    test_data_info: SqlByHospital = Field(default_factory=dict)
    validation_fraction: Annotated[Number, Field(gt=0, lt=1)] | None = None
    # None: the lowest that a policy allows (decision 31).
    scoring: Annotated[Scoring, any_case(Scoring)] | None = None
    aggregation: Annotated[Aggregation, any_case(Aggregation)] = "mean"
    # None: as many as the aggregation bears (`most_attackers`).
    n_attackers: Annotated[Whole, Field(ge=1, le=1000)] | None = None
    # What tells patients apart; the policy names it for each table, and it is no
    # attribute (decision 19).
    unique_id: Column
    attributes: Annotated[list[Column], Field(min_length=1, max_length=10_000)]
    # Of a cox the time until the event or the end of observation.
    label_name: Column
    # Of a cox: 1 where the event was, 0 where a row was censored.
    event_name: Column | None = None
    # Rows without a value in one of these columns are left out before anything is
    # counted.
    complete_on: list[Column] = Field(default_factory=list, max_length=10_000)
    # Attributes that are no plain numbers of the data: `study_rows.py`.
    categorical: Categorical = Field(default_factory=dict)
    derive: Derive = Field(default_factory=dict)
    missing: MissingWord = "refuse"
    purpose: Annotated[str, Field(max_length=500), AfterValidator(printable)] = ""

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, body: Any) -> Any:
        """How gradients are scored and combined may stand beside the other
        model_params, too.
        """
        if not isinstance(body, Mapping):
            return body
        params = with_newton_models_defaults(
            body.get("model_type"), body.get("model_params")
        )
        if not isinstance(params, Mapping):
            return body
        lifted = {}
        for name in ("scoring", "aggregation", "n_attackers"):
            if name not in params:
                continue
            lifted[name] = params[name]
            if body.get(name, params[name]) != params[name]:
                raise ValueError(
                    f"{name} stands in the order and in model_params, and differs; give one of them"
                )
        rest = {name: value for name, value in params.items() if name not in lifted}
        return {**body, "model_params": rest, **lifted}

    @property
    def evaluates(self) -> int | None:
        """Of which model the order asks how good it is on these rows; None for an order
        that trains one.
        """
        return None

    @property
    def initiator(self) -> int:
        return self.user_id

    @property
    def hospitals(self) -> list[int]:
        """Everybody who takes part, the initiator included, sorted."""
        return sorted({self.user_id, *self.party_id})

    @cached_property
    def study(self) -> StudyRows:
        """What the order asks of its rows. BadRequest where that does not fit together."""
        return study_rows(
            columns=self.attributes,
            categorical=self.categorical,
            derive=self.derive,
            missing=self.missing,
            complete_on=self.complete_on,
            roles=self.roles,
        )

    @property
    def roles(self) -> dict[str, str]:
        """By the name of a field the column that it names, which is no attribute."""
        found = {"label_name": self.label_name, "unique_id": self.unique_id}
        for name in ("event_name", "weights"):
            column = getattr(self, name)
            if column is not None:
                found[name] = column
        return found

    @property
    def ties(self) -> Ties:
        return self.model_params.ties or "efron"

    @property
    def weights(self) -> str | None:
        """The column of the rows' weights; None where all weigh the same."""
        return self.model_params.weights

    @property
    def counts_weights(self) -> bool:
        """Whether a weight is how many rows a row stands for."""
        return self.model_params.weights_type == "frequency"

    @property
    def outcome_columns(self) -> list[str]:
        """What is read beside the attributes: the label, the event of a cox, and
        weights.
        """
        columns = [self.label_name, self.event_name, self.weights]
        return [name for name in columns if name is not None]

    @property
    def is_open(self) -> bool:
        """Whether the coordinator may see every gradient: the initiator's choice, which
        every policy must allow.
        """
        return self.model_params.encrypt_param.method == "None"

    @property
    def is_scored(self) -> bool:
        return self.scoring in ("round", "full")

    @property
    def columns_with_moments(self) -> list[str]:
        """The columns of the data whose joint mean and variance each fold begins with,
        or that of what is made of them: attributes that are standardized, and behind
        them a label that is no class.
        """
        columns: list[str] = []
        if self.scales_attributes:
            columns.extend(self.study.plain)
        if self.has_number_label:
            columns.append(self.label_name)
        return columns

    @property
    def pair(self) -> Pair | None:
        """Family and link of a generalised linear model, lr and linear among them."""
        if self.model_type == GLM:
            return glm_pair(self.model_params)
        return {"lr": LOGISTIC, "linear": LEAST_SQUARES}.get(self.model_type)

    @property
    def family(self) -> str:
        """Of a glm; "" of other models."""
        return glm_pair(self.model_params).family if self.model_type == GLM else ""

    @property
    def link(self) -> str:
        """As `family`."""
        return glm_pair(self.model_params).link if self.model_type == GLM else ""

    @property
    def has_binary_label(self) -> bool:
        """Whether labels are 0 and 1, and one number answers the probability of 1."""
        return self.pair is not None and self.pair.is_binary

    @property
    def has_number_label(self) -> bool:
        """Whether the label is a number and no class."""
        return self.pair is not None and not self.pair.is_binary

    @property
    def has_class_label(self) -> bool:
        return not self.has_number_label and self.model_type != COX

    @property
    def estimates_dispersion(self) -> bool:
        """Whether a report's standard errors have a dispersion, and its tests are t's."""
        if self.pair is None:
            return False
        return self.pair.has_dispersion or self.model_params.dispersion == "estimate"

    @property
    def is_newton(self) -> bool:
        """Whether sums of squares and products are added up in place of gradients."""
        return self.model_params.optimizer == NEWTON

    @property
    def scales_attributes(self) -> bool:
        """Whether training sees attributes in joint units; newton does so always, and
        gives its model back in the columns' own unless the order standardizes.
        """
        return self.model_params.standardize or self.is_newton

    @property
    def takes_moments(self) -> bool:
        return bool(self.columns_with_moments)

    @property
    def is_penalised(self) -> bool:
        params = self.model_params
        return params.penalty is not None and params.alpha > 0

    def compares_openly(self, n_members: int, n_weights: int) -> bool:
        """Whether a round's aggregates without each member go to all hospitals, so that
        all test rows count.

        They hold every member's gradient, so only with method None, and scoring full
        that every policy must allow.
        """
        is_small = 8 * n_members * n_weights <= MOST_COMPARED_BYTES
        return self._may_compare_openly and is_small

    @property
    def _may_compare_openly(self) -> bool:
        is_tested = bool(self.test_data_info) or self.validation_fraction is not None
        return self.is_open and self.scoring == "full" and is_tested

    @property
    def regroups(self) -> bool:
        """Whether rounds open sums over some of the order's hospitals only, so that two
        of them tell what one alone has: those that a rule chooses, and with method None
        all but each one.
        """
        return self.chooses or self._may_compare_openly

    @property
    def chooses(self) -> bool:
        """Whether each round's sum is over the hospitals that the coordinator chooses
        by their rotated gradients.
        """
        return self.aggregation in CHOOSING

    @property
    def most_left_out(self) -> int:
        """How many hospitals a round's sum may be without."""
        return self.assumed_attackers if self.chooses else 0

    @property
    def assumed_attackers(self) -> int:
        """`n_attackers`, by default as many as the rule bears with so many hospitals; 0
        for the mean.
        """
        return self.n_attackers or most_attackers(self.aggregation, len(self.hospitals))

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of the hidden layers; none for a model without."""
        given = self.model_params.hidden
        return HIDDEN.get(self.model_type, ()) if given is None else tuple(given)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and perhaps channels of an image; nothing for a model of no
        images.
        """
        return tuple(self.model_params.shape or ())

    @property
    def init_method(self) -> str:
        """As ordered, or else one that this model type can train from."""
        return self.model_params.init_param.init_method or (
            "random_normal" if self.hidden else "zeros"
        )

    def sql_of(self, user_id: int) -> dict[str, str]:
        """One hospital's own SQL texts, by what they are for."""
        texts = {"train": self.data_info[user_id]}
        if user_id in self.test_data_info:
            texts["test"] = self.test_data_info[user_id]
        return texts


class EvaluationRequest(TrainingRequest):
    """A training order without rounds: rows, and a model that its hospitals hold.

    `POST /model/evaluate` makes it of what its body says and what the model's own order
    said of columns (`protocol.evaluation_request`). The train SQL selects the rows.
    """

    model_id: Annotated[Whole, Field(ge=1, lt=2**31)]
    # Who scores as much or more is called positive.
    threshold: Threshold = THRESHOLD

    @property
    def evaluates(self) -> int | None:
        return self.model_id


def rounds_done(n_recorded: int, max_iter: int) -> int:
    """The rounds whose step has been taken, of so many records: each is made before its
    round's step, and the last one of a fold, after at most `max_iter` steps, is the
    trained model's.
    """
    n_folds_begun = -(-n_recorded // (max_iter + 1))  # rounded up
    return n_recorded - n_folds_begun


def folds(request: TrainingRequest) -> list[int]:
    """1..n_splits for cross-validation, then 0: the final model on all rows."""
    cv = request.model_params.cv_param
    return [*range(1, cv.n_splits + 1), 0] if cv.need_cv else [0]


def n_held_out(request: TrainingRequest, n_rows: int, fold: int) -> int:
    """How many of a hospital's rows a fold holds out: known to all from the row count;
    which ones, to nobody else.
    """
    if fold > 0:
        # As equal as they can be: the first folds have one row more each.
        n_splits = request.model_params.cv_param.n_splits
        n_in_each, n_left = divmod(n_rows, n_splits)
        return n_in_each + 1 if fold <= n_left else n_in_each
    if request.validation_fraction is None:
        return 0
    return round(request.validation_fraction * n_rows)


def has_held_out(request: TrainingRequest, fold: int) -> bool:
    """Whether rows that did not train a fold's model test it, at any hospital: known to
    all from the document.
    """
    return (
        fold > 0
        or request.validation_fraction is not None
        or bool(request.test_data_info)
    )


def parse_training_request(body: Any) -> TrainingRequest:
    """A checked request.

    InvalidInput for a malformed field, BadRequest for a combination that cannot be
    honoured.
    """
    return _parse(TrainingRequest, body)


def _parse(form: type[TrainingRequest], body: Any) -> TrainingRequest:
    try:
        request = form.model_validate(body)
    except ValidationError as error:
        raise describe(error) from None
    check_training_request(request)
    return request


def check_training_request(request: TrainingRequest) -> None:
    """BadRequest for a combination of fields that cannot be honoured."""
    # Before anything that looks at a glm's family.
    check_glm(request)
    _check_parties(request)
    check_cox(request)
    _check_columns(request)
    _check_layers(request)
    _check_combination(request)
    _check_aggregation(request)
    check_newton(request)
    check_offset(request)
    check_weights(request)


def _check_parties(request: TrainingRequest) -> None:
    if request.user_id in request.party_id:
        raise bad_request(
            "party_id",
            f"party_id holds the initiator {request.user_id}.",
            "List only the other hospitals.",
        )
    if len(set(request.party_id)) != len(request.party_id):
        raise bad_request(
            "party_id", "party_id names a hospital twice.", "Name each hospital once."
        )
    hospitals = set(request.hospitals)
    _check_owners("data_info", set(request.data_info), hospitals, complete=True)
    _check_owners(
        "test_data_info", set(request.test_data_info), hospitals, complete=False
    )


def _check_owners(
    field: str, given: set[int], hospitals: set[int], *, complete: bool
) -> None:
    strangers = given - hospitals
    if strangers:
        sentence = f"{field} has SQL for {_listed(strangers)}, not in this order."
        raise bad_request(field, sentence, "Remove it or add the party.")
    missing = hospitals - given
    if complete and missing:
        raise bad_request(
            field,
            f"{field} has no SQL for {_listed(missing)}.",
            "Give each hospital its SQL.",
        )


def _check_columns(request: TrainingRequest) -> None:
    names = request.attributes
    if len(set(names)) != len(names):
        raise bad_request(
            "attributes", "attributes names a column twice.", "Name each column once."
        )
    if len(set(request.complete_on)) < len(request.complete_on):
        raise bad_request(
            "complete_on", "complete_on names a column twice.", "Name each column once."
        )
    # Weights have a check of their own.
    roles = {name: one for name, one in request.roles.items() if name != "weights"}
    for field, name in roles.items():
        if name in names:
            raise bad_request(
                "attributes",
                f"attributes holds the {field} column.",
                "A column has one role.",
            )
    if len(set(roles.values())) < len(roles):
        raise bad_request(
            "label_name",
            f"Two of {', '.join(roles)} are the same column.",
            "A column has one role.",
        )
    study = request.study
    if request.model_type == "cnn" and not study.is_plain:
        raise bad_request(
            "model_type",
            "categorical, derive and missing are not for the pixels of a cnn.",
            "Leave them out, or order another model_type.",
        )


def _check_layers(request: TrainingRequest) -> None:
    params = request.model_params
    is_network = request.model_type in HIDDEN
    # A field is never ignored: what means nothing for this model is refused.
    if params.hidden is not None and not is_network:
        raise bad_request(
            "hidden",
            "hidden is given for a model without hidden layers.",
            "Leave it out, or order mlp or cnn.",
        )
    if is_network and not request.init_method.startswith("random"):
        raise bad_request(
            "init_method",
            "A network whose initial weights are all equal cannot be trained: its hidden units stay equal.",
            "Use random_normal or random_uniform, or leave init_method out.",
        )
    if request.model_type == "cnn":
        _check_shape(request)
    elif params.shape is not None:
        raise bad_request(
            "shape",
            "shape is given for a model that is not for images.",
            "Leave it out, or order cnn.",
        )


def _check_shape(request: TrainingRequest) -> None:
    shape = request.shape
    n_attributes = len(request.attributes)
    n_pixel_values = math.prod(shape)
    if not shape:
        raise bad_request(
            "shape",
            "A cnn needs the shape of its images.",
            "Give [height, width], or with channels as third.",
        )
    if min(shape[:2]) < 4:
        raise bad_request(
            "shape",
            "A cnn halves its images twice.",
            "Give a height and a width of 4 or more.",
        )
    if n_pixel_values != n_attributes:
        raise bad_request(
            "shape",
            f"shape is for {n_pixel_values} pixel values, and there are {n_attributes} attributes.",
            "List the attributes pixel by pixel, row by row, the channels of each pixel together.",
        )


def _check_combination(request: TrainingRequest) -> None:
    params = request.model_params
    if request.validation_fraction is not None and request.test_data_info:
        raise bad_request(
            "validation_fraction",
            "validation_fraction and test_data_info both say which rows test the model.",
            "Give one of them.",
        )
    init, encrypt = params.init_param, params.encrypt_param
    if init.init_method != "const" and init.init_const != InitParam().init_const:
        raise bad_request(
            "init_const",
            "init_const is given, and init_method is not const.",
            "Leave it out, or choose const.",
        )
    if encrypt.method != "Paillier" and encrypt.key_length != EncryptParam().key_length:
        raise bad_request(
            "key_length",
            "key_length is given for a method without keys of a length.",
            "Leave it out.",
        )
    if params.cv_param.need_cv and request.validation_fraction is not None:
        raise bad_request(
            "validation_fraction",
            "validation_fraction and cross-validation both hold rows back.",
            "Set need_cv to false or leave validation_fraction out.",
        )
    if params.convergence == "abs" and params.tolerance == 0:
        raise bad_request(
            "eps", "converge_func abs with eps 0 can never be met.", "Give eps above 0."
        )


def _check_aggregation(request: TrainingRequest) -> None:
    rule = request.aggregation
    most = most_attackers(rule, len(request.hospitals))
    if rule == "mean":
        if request.n_attackers is not None:
            raise bad_request(
                "n_attackers",
                "n_attackers is given, and the mean bears none.",
                "Choose another aggregation.",
            )
        return
    if most < 1:
        raise bad_request(
            "aggregation",
            f"{rule} bears no attacker among so few hospitals.",
            "Add hospitals, or order mean.",
        )
    if request.assumed_attackers > most:
        raise bad_request(
            "n_attackers",
            f"{rule} bears {most} attackers among these hospitals.",
            "Give fewer n_attackers.",
        )
    if request.scoring == "none":
        raise bad_request(
            "scoring",
            f"{rule} looks at the hospitals' gradients, and scoring is none.",
            "Order scoring round.",
        )
    if not request.chooses and not request.is_open:
        raise bad_request(
            "aggregation",
            f"{rule} needs every gradient in clear, and the method hides them.",
            "Order multi_krum or minimum_diameter, or method None where all policies allow it.",
        )


def _listed(user_ids: set[int]) -> str:
    return "hospital " + ", ".join(str(user_id) for user_id in sorted(user_ids))


def order_document(
    order_id: int,
    request: TrainingRequest,
    commitments: Mapping[int, str],
    *,
    rerun_of: int | None = None,
) -> str:
    """What the initiator's agent signs and every hospital checks: the whole order, with
    commitments for the SQL.
    """
    return canonical(
        {
            "version": 1,
            "kind": "train" if request.evaluates is None else "evaluate",
            "order_id": order_id,
            "rerun_of": rerun_of,
            "request": _written_out(request),
            "tested": sorted(request.test_data_info),
            "sql": {str(user): commitments[user] for user in request.hospitals},
        }
    )


def _written_out(request: TrainingRequest) -> dict[str, Any]:
    """The request without SQL: what was left out of it as what that means, without
    fields for other model types.
    """
    body = request.model_dump(mode="json", exclude={"data_info", "test_data_info"})
    params = body["model_params"]
    params["init_param"]["init_method"] = request.init_method
    params["hidden"] = list(request.hidden)
    params["shape"] = list(request.shape)
    if request.model_params.confidence == CONFIDENCE:
        params.pop("confidence")
    if request.model_type == COX:
        params["ties"] = request.ties
    else:
        params.pop("ties")
    for name in OF_GLM:
        params.pop(name)
    if request.model_type == GLM:
        params.update(glm_body(request.model_params))
    body["model_params"] = {
        name: value for name, value in params.items() if value != []
    }
    # Left out where they say nothing, as in the documents of versions that did not have
    # these fields.
    defaults: dict[str, Any] = {
        "scoring": None,
        "aggregation": "mean",
        "n_attackers": None,
        "complete_on": [],
        "event_name": None,
    }
    written = {}
    for name, value in body.items():
        is_default = name in defaults and value == defaults[name]
        if not is_default:
            written[name] = value
    return written_out(written)


def read_order_document(
    text: str, order_id: int
) -> tuple[TrainingRequest, dict[int, str]]:
    """The request inside a document, checked again at a hospital, and each hospital's
    SQL commitment.

    The request comes back without SQL texts: a hospital sees its own only, from its
    sealed Request.
    """
    # The coordinator sends it, and may send anything.
    try:
        document = json.loads(text)
        commitments = {int(user): str(value) for user, value in document["sql"].items()}
        tested = [int(user) for user in document["tested"]]
        body = {
            **document["request"],
            # The SQL is in no document; in its place any text, so that who has some can
            # be checked.
            "data_info": dict.fromkeys(commitments, "withheld"),
            "test_data_info": dict.fromkeys(tested, "withheld"),
        }
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        raise bad_request(
            "document", "The order's document is not readable.", "Send the order again."
        ) from None
    said = (document.get("version"), document.get("order_id"))
    form = _FORMS.get(str(document.get("kind")))
    if said != (1, order_id) or form is None:
        raise bad_request(
            "document",
            "The document belongs to another order or version.",
            "Send the order again.",
        )
    return _parse(form, body), commitments


_FORMS: dict[str, type[TrainingRequest]] = {
    "train": TrainingRequest,
    "evaluate": EvaluationRequest,
}
"""By the kind of a document."""
