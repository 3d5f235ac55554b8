"""A hospital's policy: the one strict model of `policy.toml`, the checks that follow
from it, and what of it is shown.

The agent reads its file with `Policy` (agents.site.policy makes the sentences of what
is wrong in a file). What the coordinator stores and its page shows is `PolicyTold`: the
same rules, and no name of a table, a column or a file. Silence means no: a key that has
no default must be written, and an unknown key is an error.

Decisions 15, 31 and 66.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from protocol.errors import Refused, Rule
from protocol.statistics_request import Method
from protocol.training_request import EncryptMethod, ModelType, Scoring

LARGEST_NUMBER = 2**31 - 1
MOST_USERS = 10_000
MOST_WORDS = 100
CROSS_CHECK: Final = "cross_check"
SCORING: tuple[str, ...] = get_args(Scoring)
"""From the least to the most that the coordinator may learn of single gradients."""


# What each key may hold


@dataclass(frozen=True)
class Wanted:
    """What has to be written at a key, in the words of the sentence that refuses
    anything else there.
    """

    words: str


def _cross_check(sentence: str, remedy: str, **names: str) -> PydanticCustomError:
    """The error of what no key alone has wrong, with a sentence of its own.

    `{file}` and `{section}` in the sentence stand for where the policy was read from,
    which no model knows.
    """
    return PydanticCustomError(
        CROSS_CHECK, "{sentence}", {"sentence": sentence, "remedy": remedy, **names}
    )


def _words_of(literal: Any) -> str:
    return ", ".join(get_args(literal))


def _positive(value: Any) -> Fraction:
    """Exactly the number that is written: 0.1 in the file is 1/10 here."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    try:
        number = Fraction(str(value))
    except ZeroDivisionError:
        raise ValueError("must not divide by zero") from None
    if number <= 0:
        raise ValueError("must be positive")
    return number


def _at_most_one(value: Any) -> Fraction:
    number = _positive(value)
    if number > 1:
        raise ValueError("must be at most 1")
    return number


def _table_name(name: str) -> str:
    parts = name.split(".")
    if len(parts) > 2 or "" in parts:
        raise _cross_check(
            "The table name {name} in {file} is not schema.table.",
            'Write [tables."schema.table"].',
            name=repr(name),
        )
    return name


def _tables_apart(tables: dict[str, TableRules]) -> dict[str, TableRules]:
    if not tables:
        raise _cross_check(
            "{file} opens no table, and silence means no.",
            "Add one as in deployments/sites/policy.example.toml.",
        )
    lower_names = {name.lower() for name in tables}
    if len(lower_names) < len(tables):
        raise _cross_check(
            "{file} names a table twice, in upper and in lower case.",
            "Keep one of them.",
        )
    return tables


_A_LIST = Field(strict=False)  # strict means tuples only; TOML and JSON have lists
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_FRACTION = {"type": "string", "pattern": r"^[0-9.]+(/[0-9.]+)?$"}

Flag = Annotated[bool, Wanted("true or false")]
Count = Annotated[
    int,
    Field(ge=1, le=LARGEST_NUMBER),
    Wanted(f"a whole number from 1 to {LARGEST_NUMBER}"),
]
Varying = Annotated[
    int,
    Field(ge=1, le=LARGEST_NUMBER),
    Wanted("a whole number from 1 (1 switches the rule off)"),
]
Ratio = Annotated[
    Fraction,
    PlainValidator(_positive),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [_POSITIVE, _FRACTION]}),
    Wanted('a positive number or a fraction such as "1/3"'),
]
Share = Annotated[
    Fraction,
    PlainValidator(_at_most_one),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{**_POSITIVE, "maximum": 1}, _FRACTION]}),
    Wanted('a share up to 1, such as "9/10"'),
]
Text = Annotated[str, Field(pattern=r"\S"), Wanted("a column name")]
UserId = Annotated[int, Field(ge=1, le=LARGEST_NUMBER)]
Users = Annotated[tuple[UserId, ...], _A_LIST, Field(max_length=MOST_USERS)]
Initiators = Annotated[Users, Wanted("a list of user ids such as [2, 4]")]
Receivers = Annotated[Users, Wanted("a list of user ids")]
EncryptMethods = Annotated[
    tuple[EncryptMethod, ...],
    _A_LIST,
    Field(min_length=1, max_length=MOST_WORDS),
    Wanted(f"a list out of {_words_of(EncryptMethod)}"),
]
ModelTypes = Annotated[
    tuple[ModelType, ...],
    _A_LIST,
    Field(min_length=1, max_length=MOST_WORDS),
    Wanted(f"a list out of {_words_of(ModelType)}"),
]
StatisticsMethods = Annotated[
    tuple[Method, ...],
    _A_LIST,
    Field(min_length=1, max_length=MOST_WORDS),
    Wanted(f"a list out of {_words_of(Method)}"),
]
ScoringLevel = Annotated[Scoring, Wanted(f"one of {_words_of(Scoring)}")]
ScoreReaders = Annotated[
    Literal["parties", "operator"], Wanted("one of parties, operator")
]
RareLevels = Annotated[Literal["other", "refuse"], Wanted("one of other, refuse")]
Cells = Annotated[Literal["each", "pooled"], Wanted("one of each, pooled")]
Approval = Annotated[Literal["automatic", "manual"], Wanted("one of automatic, manual")]
OpenColumns = Annotated[
    tuple[Text, ...],
    _A_LIST,
    Wanted('a list of column names or ["*"]'),
]
ColumnNames = Annotated[tuple[Text, ...], _A_LIST, Wanted("a list of column names")]
FilePatterns = Annotated[
    tuple[Text, ...],
    _A_LIST,
    Wanted('a list of patterns such as ["2025/*.csv"]'),
]
JointNames = Annotated[
    dict[Text, Text],
    Wanted('a table of columns and joint names such as { "alter" = "age" }'),
]
UniqueIds = Annotated[
    dict[Text, Text],
    Wanted('a table of patterns and columns such as { "2025/*.csv" = "patient" }'),
]
TableName = Annotated[
    str,
    AfterValidator(_table_name),
    Wanted("the name of a table with its schema"),
]
SameValues = Annotated[
    tuple[Annotated[tuple[Text, ...], _A_LIST, Field(min_length=2)], ...],
    _A_LIST,
    Wanted('a list of lists of columns such as [["age", "birth_year"]]'),
]


# The sections of the file. What is wrong is reported in the order of the fields.


class _Rules(BaseModel):
    model_config = ConfigDict(
        strict=True,  # true is not 1, and 3.0 is not 3
        # a rule that is misspelled must not be a rule that is not there
        extra="forbid",
        frozen=True,
        protected_namespaces=(),  # `model_types` is a key
        use_attribute_docstrings=True,
    )


class OrderRules(_Rules):
    """Who may order here, who may receive, and what."""

    initiators: Initiators
    """User ids that may order here; your own hospital's too, if its users may."""

    receivers: Receivers = Field(default_factory=lambda before: before["initiators"])
    """User ids that may receive aggregates and models of orders with your rows.

    Default: the initiators.
    """

    methods: EncryptMethods
    """How gradients are encrypted.

    None shows gradients and model to the coordinator.
    """

    model_types: ModelTypes
    """The models that may be trained."""

    sign: Flag
    """Whether this hospital's agent signs orders of its own users."""

    min_hospitals: Count = 3
    """The fewest hospitals in any sum. Of two, each can subtract itself."""

    scoring: ScoringLevel = "none"
    """The most that an order may have the coordinator learn of single gradients."""

    min_scored_coefficients: Count = 10
    """The fewest coefficients, intercepts counted, of a layer that is scored by itself.

    A smaller one is scored with its neighbour, a smaller model is trained unscored.
    """

    score_readers: ScoreReaders = "parties"
    """Who may read scores; one hospital with operator decides for the order."""

    approval: Approval = "automatic"
    """With manual, a person here decides on every order that the policy allows."""

    derive: Flag = False
    """Whether other hospitals' orders may compute columns from this hospital's.

    Who computes columns weighs rows: by two orders whose columns differ in one person
    it can have that person's values.
    """


class GateNumbers(_Rules):
    """What a set of rows has to pass before a model is trained or tested on it
    (agents.gate.cohort_gate).
    """

    min_rows: Count = 10
    """The fewest rows of a cohort, of a held-out part, and of the difference between
    two cohorts.
    """

    min_varying: Varying = Field(default_factory=lambda before: before["min_rows"])
    """A feature in which fewer rows than this differ from its commonest value is
    refused. Default: min_rows.
    """

    max_parameter_share: Ratio = Fraction(1, 3)
    """The most model parameters for each row: a number, or a fraction in quotes."""


class CohortRules(GateNumbers):
    """The gate's numbers for every table that does not set its own."""

    max_rows: Count = 1_000_000
    """The most rows that one SQL may read."""

    max_linear_predictor: Ratio = Fraction(30)
    """The largest linear predictor of lr and softmax that nine tenths of the rows may
    have in a round, and all rows ten times that: beyond, the order ends.
    """

    max_share: Share = Fraction(9, 10)
    """The most that two rows may make up of a round's gradient: of the sum of |p - y| of
    lr and softmax, of |residual| of linear.
    """

    max_rounds: Count = 20_000
    """The most rounds that a receiver may have of a table's people in `budget_days`."""

    budget_days: Count = 30
    """For so many days the rounds of an order count, and after an upgrade that writes
    values otherwise the sets of people of before.
    """

    regroup: Flag = False
    """Whether models over other hospitals than before, or rounds over some of an
    order's hospitals, may tell by the difference what this hospital alone has.
    """

    mini_batches: Flag = False
    """Whether an order may walk rows in mini-batches, this hospital's or another's of the
    order. They weigh hospitals and rows: models that differ in batch_size alone tell one
    hospital's gradient and single rows.
    """

    rare_levels: RareLevels = "other"
    """What becomes of rows whose level of a category no hospital has min_rows rows of:
    with other they are one level, where they are min_rows rows themselves; with refuse
    the order ends.
    """


class TableRules(GateNumbers):
    """A table or view that is open to orders.

    Numbers that it does not set are those of [cohort].
    """

    columns: OpenColumns = ()
    """The columns that other hospitals may use; ["*"] opens all of them, and without
    any it is this hospital's own users' alone.
    """

    filter_columns: ColumnNames = ()
    """The columns that other hospitals may use in WHERE. Never the unique id."""

    unique_id: Text = "id"
    """The column that identifies each patient.

    Other hospitals' orders must use it (decision 19).
    """

    same_people_as: TableName | None = None
    """The table whose people these are, for a view of it: what was told of one counts
    for the other.
    """

    _name: str = PrivateAttr(default="")

    @property
    def name(self) -> str:
        """Its name with the schema, which is the section's own name in the file and
        therefore no key in it.
        """
        return self._name

    @property
    def all_columns(self) -> bool:
        """Whether the policy opens every column (`["*"]`)."""
        return self.columns == ("*",)

    @model_validator(mode="after")
    def _check_columns(self) -> TableRules:
        if "*" in self.filter_columns:
            raise _cross_check(
                "{section}.filter_columns in {file} holds *.",
                "Name each column that may be filtered on.",
            )
        filtered = [column.lower() for column in self.filter_columns]
        if self.unique_id.lower() in filtered:
            raise _cross_check(
                "{section}.filter_columns in {file} holds the unique id: single patients could be picked.",
                "Remove it there.",
            )
        if "*" in self.columns and not self.all_columns:
            raise _cross_check(
                "{section}.columns in {file} mixes * with names.",
                'Write ["*"] or the names.',
            )
        return self


class InferenceRules(_Rules):
    """Whether models may be applied to this hospital's rows."""

    allowed: Flag = False
    """Whether its own users may have models applied to its rows."""

    return_predictions: Flag = False
    """Whether predictions may pass through the coordinator's memory."""

    expressions: Flag = False
    """Whether SQL that comes through the coordinator may hold expressions: cells could
    leave as predictions.
    """

    rows: Flag = False
    """Whether a model may be applied to values that come with the request: who asks
    often enough has the model.
    """


class StatisticsRules(_Rules):
    """Joint statistics over this hospital's rows; without the section it takes part in
    none.
    """

    methods: StatisticsMethods
    """Those that it takes part in."""

    files: FilePatterns = ()
    """Patterns of files below data/ in the state folder that may be read; * crosses
    folders.
    """

    unique_ids: UniqueIds = Field(default_factory=dict)
    """For files that fit a pattern, the column that identifies each patient; the first
    pattern counts. For other files the whole row does, and `min_rows` counts twice.
    """

    min_providers: Count = 3
    """The fewest hospitals whose rows are in an answer or in a group of it."""

    own_totals: Flag = False
    """Whether a total may be opened that holds this hospital's rows only."""

    same_as: JointNames = Field(default_factory=dict)
    """For columns of this hospital, the name by which other hospitals have the same:
    only then are they added up under it.
    """

    min_rows: Count = 10
    """The fewest rows of this hospital in an answer and in each of its groups.

    Default: that of [cohort].
    """

    max_share: Share = Fraction(9, 10)
    """A sum is withheld in which the two largest rows of this hospital make up more
    than this share of its part.
    """

    cells: Cells = "each"
    """Whose rows of a group, value or bin have to reach min_rows: each hospital's, or
    with pooled those of all hospitals together, if all policies say so.
    """

    extremes: Flag = False
    """Whether the smallest and the largest value may be shown; else quantiles of 5 %
    and 95 % stand for them.
    """

    exact_quantiles: Flag = False
    """Whether a quantile may be shown exactly; else it is shown to within min_rows
    rows.
    """

    disclose: Flag = False
    """Whether an answer's numbers may pass through the coordinator's memory; else
    receivers get files only.
    """

    row_level: ColumnNames = ()
    """Columns of which an answer may hold a value for each person."""

    row_expressions: Flag = False
    """Whether an aggregate over joined rows may do more than add its columns up."""

    regroup: Flag = False
    """Whether answers over other hospitals than before may tell by the difference what
    this hospital alone has.
    """

    same_values: SameValues = ()
    """Groups of columns that tell the same of a person: what was told of one counts for
    the others.
    """

    threshold_days: Count = 30
    """For so many days one set of people is compared once; equal questions get its result."""

    @model_validator(mode="after")
    def _check_patterns(self) -> StatisticsRules:
        for key, pattern in self._patterns():
            leads_out = pattern.startswith("/") or ".." in pattern.split("/")
            if leads_out or "\\" in pattern:
                raise _cross_check(
                    "{section}.{key} in {file} holds {pattern}, which no path below the data folder fits.",
                    'Write patterns as seen from that folder, such as "2025/*.csv".',
                    key=key,
                    pattern=repr(pattern),
                )
        if "*" in self.row_level:
            raise _cross_check(
                "{section}.row_level in {file} holds *.",
                "Name each column of which single rows may be told.",
            )
        return self

    @property
    def least_providers(self) -> int:
        """The fewest hospitals with rows in a total: of one alone it is that
        hospital's own, which `own_totals` opens.
        """
        if self.own_totals:
            return self.min_providers
        return max(2, self.min_providers)

    def _patterns(self) -> list[tuple[str, str]]:
        """The patterns of files, each with the key that holds it."""
        of_files = [("files", pattern) for pattern in self.files]
        return of_files + [("unique_ids", pattern) for pattern in self.unique_ids]


class Policy(_Rules):
    """What one hospital allows.

    Its methods are pure; each check returns silently or raises `Refused` with the rule
    as code.
    """

    orders: OrderRules
    cohort: CohortRules = Field(default_factory=CohortRules)
    tables: Annotated[
        dict[TableName, TableRules],
        AfterValidator(_tables_apart),
        Field(json_schema_extra={"minProperties": 1}),
    ]
    """One section for each table or view that is open, with its schema:
    [tables."schema.name"].
    """
    inference: InferenceRules = Field(default_factory=InferenceRules)
    statistics: StatisticsRules | None = None

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        """Writes the numbers of `[cohort]` into the tables and the statistics that do
        not set them.

        Nothing is checked here: a section that is no table, or a wrong number, is
        refused where it stands, and `[cohort]` is read before what inherits from it.
        """
        if not isinstance(values, dict):
            return values
        sections = dict(values)
        cohort = sections.get("cohort", {})
        if not isinstance(cohort, dict):
            return values

        inherited = {
            key: cohort[key] for key in GateNumbers.model_fields if key in cohort
        }
        tables = sections.get("tables")
        if isinstance(tables, dict):
            sections["tables"] = {
                name: _with_numbers(table, inherited) for name, table in tables.items()
            }
        statistics = sections.get("statistics")
        if isinstance(statistics, dict) and "min_rows" in inherited:
            sections["statistics"] = {"min_rows": inherited["min_rows"], **statistics}
        return sections

    @model_validator(mode="after")
    def _name_tables(self) -> Policy:
        for name, rules in self.tables.items():
            rules._name = name
        return self

    @model_validator(mode="after")
    def _check_people(self) -> Policy:
        lower_names = {name.lower() for name in self.tables}
        for name, rules in self.tables.items():
            other = rules.same_people_as
            if other is None:
                continue
            if other.lower() not in lower_names:
                raise _cross_check(
                    'tables."{name}".same_people_as in {file} is {other}, which has no section.',
                    "Name the table as its own section does, or add one.",
                    name=name,
                    other=other,
                )
            if self.table(other).same_people_as is not None:
                raise _cross_check(
                    'tables."{name}".same_people_as in {file} is {other}, which has that key itself.',
                    "Name the table that has not.",
                    name=name,
                    other=other,
                )
        return self

    def population(self, name: str) -> str:
        """By which name the people of a table or file are remembered; a view's are
        those of its table.
        """
        by_lower_name = {key.lower(): rules for key, rules in self.tables.items()}
        rules = by_lower_name.get(name.lower())
        if rules is None or rules.same_people_as is None:
            return name if rules is None else name.lower()
        return rules.same_people_as.lower()

    @property
    def pools_cells(self) -> bool:
        """Whether its thresholds may be on the sum of all hospitals."""
        return self.statistics is not None and self.statistics.cells == "pooled"

    def shared_column(self, column: str) -> str | None:
        """By which name it is remembered with the columns that tell the same; None
        where it tells what no other does.
        """
        groups = () if self.statistics is None else self.statistics.same_values
        for group in groups:
            names = [name.lower() for name in group]
            if column.lower() in names:
                return " = ".join(sorted(names))
        return None

    def told(self) -> PolicyTold:
        """What the coordinator may show to others: rules that a refusal would name
        (decision 50).
        """
        sections = self.model_dump(include={"orders", "inference", "statistics"})
        cohort = self.cohort
        sections["orders"] |= {
            "min_rows": cohort.min_rows,
            "regroup": cohort.regroup,
            "max_rounds": cohort.max_rounds,
            "budget_days": cohort.budget_days,
        }
        return PolicyTold.model_validate(sections)

    def order_rules(
        self,
        *,
        initiator: int,
        own_user_id: int,
        method: str,
        model_type: str,
        n_hospitals: int,
        receivers: Iterable[int] = (),
        scoring: str = "none",
        regroups: bool = False,
        derives: bool = False,
    ) -> list[Rule]:
        """What decides whether this hospital takes part in an order, before a row is
        read; each raises Refused whose code is its name.

        `n_hospitals` counts all hospitals of the order, this one and the initiator's
        included; `receivers` are the user ids that would receive aggregate and model
        (this hospital's own is always fine); `regroups` is whether rounds are summed
        over some of the hospitals only, `derives` whether columns are computed.
        """
        is_foreign = initiator != own_user_id
        return [
            *self.initiator_rules(initiator, own_user_id=own_user_id),
            Rule("methods", lambda: self.check_method(method)),
            Rule("model_types", lambda: self.check_model_type(model_type)),
            Rule("min_hospitals", lambda: self.check_hospitals(n_hospitals)),
            Rule(
                "receivers",
                lambda: self.check_receivers(receivers, own_user_id=own_user_id),
            ),
            Rule("scoring", lambda: self.check_scoring(scoring)),
            Rule("regroup", lambda: self.check_regroup(regroups)),
            Rule("derive", lambda: self.check_derive(derives and is_foreign)),
        ]

    def check_derive(self, derives: bool) -> None:
        """Refuse another hospital's order that computes columns unless `orders.derive`
        (code derive).
        """
        if derives and not self.orders.derive:
            raise Refused(
                "This hospital lets no other hospital's order compute columns from its own (derive).",
                remedy="Use columns of its tables or views, or ask the hospital to set derive = true under [orders] in"
                " its policy.toml.",
                code="derive",
            )

    def initiator_rules(self, initiator: int, *, own_user_id: int) -> list[Rule]:
        """Whether this user may order here, and whether the agent signs its own user's
        orders; as `order_rules`.
        """
        is_own = initiator == own_user_id
        return [
            Rule("initiators", lambda: self.check_initiator(initiator)),
            Rule("sign", lambda: self.check_sign(is_own)),
        ]

    def check_initiator(self, initiator: int) -> None:
        """Refuse who may not order here (code initiators)."""
        _check_listed(
            initiator, self.orders.initiators, rule="initiators", what="initiator: user"
        )

    def check_sign(self, is_own: bool) -> None:
        """Refuse an order of the hospital's own user that its agent may not sign (code
        sign).
        """
        if is_own and not self.orders.sign:
            raise Refused(
                "This hospital's agent does not sign orders of its own user.",
                remedy="Set sign = true under [orders] in its policy.toml.",
                code="sign",
            )

    def check_method(self, method: str) -> None:
        """Refuse an encryption method that is not listed (code methods)."""
        _check_listed(
            method, self.orders.methods, rule="methods", what="encryption method"
        )

    def check_model_type(self, model_type: str) -> None:
        """Refuse a model type that is not listed (code model_types)."""
        _check_listed(
            model_type, self.orders.model_types, rule="model_types", what="model type"
        )

    def check_hospitals(self, n_hospitals: int) -> None:
        """Refuse a sum over fewer hospitals than `min_hospitals`; to be asked again
        after every exclusion.
        """
        if n_hospitals < self.orders.min_hospitals:
            raise Refused(
                f"A sum over {n_hospitals} hospital(s) is below this one's minimum of {self.orders.min_hospitals}.",
                remedy="Add hospitals to party_id, or ask the hospital to lower min_hospitals under [orders] in its"
                " policy.toml.",
                code="min_hospitals",
                threshold=self.orders.min_hospitals,
            )

    def check_regroup(self, regroups: bool) -> None:
        """Refuse an order whose rounds are summed over some of its hospitals only,
        unless `cohort.regroup` (code regroup).

        Each hospital asks that of itself: who would be left alone says whether it may.
        """
        if regroups and not self.cohort.regroup:
            raise Refused(
                "This order opens sums over some of its hospitals, and two of them tell what this one alone has.",
                remedy="Order aggregation mean, with method None also scoring round, or ask the hospital to set"
                " regroup = true under [cohort] in its policy.toml.",
                code="regroup",
            )

    def check_receivers(self, receivers: Iterable[int], *, own_user_id: int) -> None:
        """Refuse who may not receive an answer to which this hospital contributes (code
        receivers).
        """
        for user_id in receivers:
            if user_id != own_user_id:
                _check_listed(
                    user_id,
                    self.orders.receivers,
                    rule="receivers",
                    what="receiver: user",
                )

    def check_scoring(self, scoring: str) -> None:
        """Refuse more scoring than `orders.scoring` allows (none < round < full; code
        scoring).
        """
        allowed = SCORING[: SCORING.index(self.orders.scoring) + 1]
        if scoring not in allowed:
            raise Refused(
                f"This hospital allows scoring {self.orders.scoring!r} at the most.",
                remedy="Order without scoring, or ask the hospital to raise scoring under [orders] in its policy.toml.",
                code="scoring",
                threshold=self.orders.scoring,
            )

    def check_inference(self) -> None:
        """Refuse inference unless `inference.allowed` (code inference)."""
        if not self.inference.allowed:
            raise Refused(
                "This hospital's policy does not allow inference.",
                remedy="Set allowed = true under [inference] in its policy.toml.",
                code="inference",
            )

    def check_return_predictions(self) -> None:
        """Refuse to hand predictions to the API unless `inference.return_predictions`
        (code return_predictions).
        """
        if not self.inference.return_predictions:
            raise Refused(
                "This hospital's predictions do not leave it.",
                remedy="Use `./run agent infer` at the hospital, or set return_predictions = true under [inference] in"
                " its policy.toml.",
                code="return_predictions",
            )

    def check_inference_rows(self) -> None:
        """Refuse values that come with a request unless `inference.rows` (code rows)."""
        if not self.inference.rows:
            raise Refused(
                "This hospital applies models to rows of its own tables only.",
                remedy="Ask by data_sql, or ask the hospital to set rows = true under [inference] in its policy.toml.",
                code="rows",
            )

    def table(self, name: str) -> TableRules:
        """The rules of the table `name`, compared without regard to case; Refused (code
        tables) if not listed.
        """
        by_lower_name = {key.lower(): rules for key, rules in self.tables.items()}
        found = by_lower_name.get(name.lower())
        if found is None:
            raise Refused(
                f"The table {name} is not open to orders at this hospital.",
                remedy="Name a table of its policy with its schema, or ask the hospital to add it under [tables] in its"
                " policy.toml.",
                code="tables",
            )
        return found


def _with_numbers(table: Any, numbers: dict[str, Any]) -> Any:
    """A table's keys beside the numbers of `[cohort]` that it does not set."""
    if not isinstance(table, dict):
        return table
    inherited = dict(numbers)
    if "min_rows" in table:
        inherited.pop(
            "min_varying", None
        )  # a min_rows of its own moves min_varying along with it
    return {**inherited, **table}


def _check_listed(
    value: object, allowed: tuple[object, ...], *, rule: str, what: str
) -> None:
    if value not in allowed:
        accepted = ", ".join(map(str, allowed)) or "none"
        raise Refused(
            f"This hospital does not accept the {what} {value}; it accepts {accepted}.",
            remedy=f"Change the order, or ask the hospital to add it to {rule} under [orders] in its policy.toml.",
            code=rule,
        )


def policy_schema() -> str:
    """The JSON schema of `policy.toml`, for editors: the text of
    deployments/sites/policy.schema.json.

    It knows keys, types and ranges. What holds between two keys, only reading the
    policy finds.
    """
    schema = Policy.model_json_schema()
    schema["properties"]["statistics"] = {
        "$ref": "#/$defs/StatisticsRules"
    }  # TOML has no null
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "policy.toml",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# What an agent reports. Each key stands here by name, so that a new key of the policy
# is not reported by itself, and none has a default: what an agent does not say is not
# shown as if it had said it.


# Its words, lists and numbers are not those of this version: hospitals do not upgrade
# on one day, and a rule such as `approval` must be known of an agent that has a method
# or a model type more.


ToldWord = Annotated[str, Field(max_length=40, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ToldWords = Annotated[tuple[ToldWord, ...], Field(max_length=100)]
ToldUsers = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=10_000)
]
ToldNumber = Annotated[int, Field(ge=0, lt=2**63)]


class _Told(BaseModel):
    model_config = ConfigDict(
        extra="ignore", frozen=True, protected_namespaces=()
    )  # `model_types` is a key


class OrdersTold(_Told):
    """Who may order there, who may receive, and what; `min_rows`, `regroup`,
    `max_rounds` and `budget_days` are those of `[cohort]`.
    """

    initiators: ToldUsers
    receivers: ToldUsers
    methods: ToldWords
    model_types: ToldWords
    min_hospitals: ToldNumber
    min_rows: ToldNumber
    regroup: bool
    max_rounds: ToldNumber
    budget_days: ToldNumber
    scoring: ScoringLevel
    min_scored_coefficients: ToldNumber
    score_readers: ToldWord
    approval: ToldWord


class InferenceTold(_Told):
    """Whether its own user may ask for predictions, and whether these may pass through
    the coordinator.
    """

    allowed: bool
    return_predictions: bool


class StatisticsTold(_Told):
    """The joint statistics in which it takes part."""

    methods: ToldWords
    min_providers: ToldNumber
    own_totals: bool
    min_rows: ToldNumber
    cells: ToldWord
    regroup: bool
    extremes: bool
    exact_quantiles: bool
    disclose: bool
    row_expressions: bool
    threshold_days: ToldNumber


class PolicyTold(_Told):
    """What an agent reports of its policy: rules, and nothing of tables, columns, files
    or rows.

    For people to look at. What is allowed is decided at the hospital, by the policy
    itself.
    """

    orders: OrdersTold
    inference: InferenceTold
    statistics: StatisticsTold | None = None
