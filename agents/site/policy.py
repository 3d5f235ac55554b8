"""What a hospital allows: `policy.toml`, read strictly, and the checks that follow from it. Silence means no.

The file's keys are described in deployments/sites/policy.example.toml. A missing file, a missing key of those that
have no default, an unknown key and a value of another type are refusals that name the key and say what to write.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from protocol.errors import Refused
from protocol.statistics_request import JOINED, POOLED
from protocol.training_request import MODEL_NAMES

EXAMPLE = "deployments/sites/policy.example.toml"
METHODS = ("Paillier", "Mask", "None")
MODEL_TYPES = tuple(MODEL_NAMES)
MOST = 2**31 - 1
COUNT = f"a whole number from 1 to {MOST}"
SCORING = ("none", "round", "full")
SCORE_READERS = ("parties", "operator")
APPROVAL = ("automatic", "manual")
STATISTICS = (*POOLED, *JOINED)
TOLD_OF_STATISTICS = (
    "methods",
    "min_providers",
    "min_rows",
    "extremes",
    "exact_quantiles",
    "disclose",
    "row_expressions",
)


@dataclass(frozen=True)
class OrderRules:
    """`[orders]`: who may order here, who may receive, and what. Without the key, receivers are those who may order.

    approval: with manual a person here decides on every order that the policy lets through (agents.order.approval).
    """

    initiators: tuple[int, ...]
    receivers: tuple[int, ...]
    methods: tuple[str, ...]
    model_types: tuple[str, ...]
    sign: bool
    min_hospitals: int = 3
    scoring: str = "none"
    score_readers: str = "parties"
    approval: str = "automatic"


@dataclass(frozen=True)
class CohortRules:
    """`[cohort]`: the numbers of the cohort gate, for every table that does not set its own."""

    min_rows: int = 10
    min_varying: int = 10
    max_parameter_share: Fraction = Fraction(1, 3)
    max_rows: int = 1_000_000


@dataclass(frozen=True)
class TableRules:
    """One `[tables."schema.name"]`, with the numbers of `[cohort]` filled in."""

    name: str
    columns: tuple[str, ...]
    filter_columns: tuple[str, ...] = ()
    unique_id: str = "id"
    min_rows: int = 10
    min_varying: int = 10
    max_parameter_share: Fraction = Fraction(1, 3)

    @property
    def all_columns(self) -> bool:
        """Whether the policy opens every column (`["*"]`)."""
        return self.columns == ("*",)


@dataclass(frozen=True)
class InferenceRules:
    """`[inference]`: all default to no. `expressions` is for SQL that comes through the coordinator."""

    allowed: bool = False
    return_predictions: bool = False
    expressions: bool = False


@dataclass(frozen=True)
class StatisticsRules:
    """`[statistics]`: joint statistics over this hospital's rows; without the section there are none.

    methods: those it takes part in; files: patterns of paths below the data folder; min_providers: hospitals in any
    answer; max_share: of a provider's part of a sum, what its two largest rows may make; row_level: columns of which
    an answer may hold a row per person; row_expressions: whether an aggregate may do more than add columns up;
    threshold_days: for so long a set of people is compared with one threshold.
    """

    methods: tuple[str, ...]
    files: tuple[str, ...] = ()
    min_providers: int = 3
    min_rows: int = 10
    max_share: Fraction = Fraction(9, 10)
    extremes: bool = False
    exact_quantiles: bool = False
    disclose: bool = False
    row_level: tuple[str, ...] = ()
    row_expressions: bool = False
    threshold_days: int = 30


@dataclass(frozen=True)
class Policy:
    """One hospital's policy. Its methods are pure; each returns silently or raises `Refused` with the rule as code."""

    orders: OrderRules
    cohort: CohortRules
    tables: dict[str, TableRules]
    inference: InferenceRules = field(default_factory=InferenceRules)
    statistics: StatisticsRules | None = None

    def told(self) -> dict[str, Any]:
        """What the coordinator may show to others: rules that a refusal would name, and no table, column or file."""
        orders = {name: value for name, value in asdict(self.orders).items() if name != "sign"}
        inference = {
            "allowed": self.inference.allowed,
            "return_predictions": self.inference.return_predictions,
        }
        statistics = None
        if self.statistics is not None:
            own = asdict(self.statistics)
            statistics = {name: own[name] for name in TOLD_OF_STATISTICS}
        return {
            "orders": {**orders, "min_rows": self.cohort.min_rows},
            "inference": inference,
            "statistics": statistics,
        }

    def check_order(
        self,
        *,
        initiator: int,
        own_user_id: int,
        method: str,
        model_type: str,
        n_hospitals: int,
        receivers: Iterable[int] = (),
        scoring: str = "none",
    ) -> None:
        """Refuse an order that this hospital does not take part in.

        `n_hospitals` counts all hospitals of the order, this one and the initiator's included; `receivers` are the
        user ids that would receive aggregate and model (this hospital's own is always fine).

        Raises Refused with code initiators, sign, methods, model_types, min_hospitals, receivers or scoring.
        """
        self.check_initiator(initiator, own_user_id=own_user_id)
        self.check_method(method)
        _check_listed(model_type, self.orders.model_types, rule="model_types", what="model type")
        self.check_hospitals(n_hospitals)
        self.check_receivers(receivers, own_user_id=own_user_id)
        self.check_scoring(scoring)

    def check_method(self, method: str) -> None:
        """Refuse an encryption method that is not listed (code methods)."""
        _check_listed(method, self.orders.methods, rule="methods", what="encryption method")

    def check_hospitals(self, n_hospitals: int) -> None:
        """Refuse a sum over fewer hospitals than `min_hospitals`; to be asked again after every exclusion."""
        if n_hospitals < self.orders.min_hospitals:
            raise Refused(
                f"A sum over {n_hospitals} hospital(s) is below this one's minimum of {self.orders.min_hospitals}.",
                remedy="Add hospitals to party_id, or agree with this hospital on a lower orders.min_hospitals.",
                code="min_hospitals",
            )

    def check_scoring(self, scoring: str) -> None:
        """Refuse more scoring than `orders.scoring` allows (none < round < full; code scoring)."""
        if scoring not in SCORING or SCORING.index(scoring) > SCORING.index(self.orders.scoring):
            raise Refused(
                f"This hospital allows scoring {self.orders.scoring!r} at the most.",
                remedy="Order without scoring, or ask the hospital to raise orders.scoring.",
                code="scoring",
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
        """Refuse to hand predictions to the API unless `inference.return_predictions` (code return_predictions)."""
        if not self.inference.return_predictions:
            raise Refused(
                "This hospital's predictions do not leave it.",
                remedy="Use `./run agent infer` at the hospital, or set inference.return_predictions = true there.",
                code="return_predictions",
            )

    def table(self, name: str) -> TableRules:
        """The rules of the table `name`, compared without regard to case; Refused (code tables) if not listed."""
        found = {key.lower(): rules for key, rules in self.tables.items()}.get(name.lower())
        if found is None:
            raise Refused(
                f"The table {name} is not open to orders at this hospital.",
                remedy="Name a table of its policy with its schema, or ask the hospital to add it under [tables].",
                code="tables",
            )
        return found

    def check_initiator(self, initiator: int, *, own_user_id: int) -> None:
        """Refuse who may not order here, and an own order that the agent may not sign (codes initiators, sign)."""
        _check_listed(initiator, self.orders.initiators, rule="initiators", what="initiator: user")
        if initiator == own_user_id and not self.orders.sign:
            raise Refused(
                "This hospital's agent does not sign orders of its own user.",
                remedy="Set sign = true under [orders] in its policy.toml.",
                code="sign",
            )

    def check_receivers(self, receivers: Iterable[int], *, own_user_id: int) -> None:
        """Refuse who may not receive an answer to which this hospital contributes (code receivers)."""
        for user_id in receivers:
            if user_id != own_user_id:
                _check_listed(user_id, self.orders.receivers, rule="receivers", what="receiver: user")


def _check_listed(value: object, allowed: tuple[object, ...], *, rule: str, what: str) -> None:
    if value not in allowed:
        raise Refused(
            f"This hospital does not accept the {what} {value}; it accepts {', '.join(map(str, allowed)) or 'none'}.",
            remedy=f"Change the order, or ask the hospital to add it to orders.{rule} in its policy.toml.",
            code=rule,
        )


def load_policy(path: Path) -> Policy:
    """Read and check a hospital's `policy.toml`.

    Raises Refused (code policy) when the file is missing or unreadable, is not TOML, lacks a key that has no
    default, holds an unknown key or a value of a wrong type or range. The sentence names the file and the key.
    """
    try:
        return parse_policy(path.read_text("utf-8"), name=str(path))
    except FileNotFoundError:
        raise _bad(
            f"There is no policy at {path}, and silence means no.", f"Copy {EXAMPLE} and edit it."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(
            f"The policy {path} cannot be read ({type(error).__name__}).", "Make it a readable UTF-8 file."
        ) from None


def parse_policy(text: str, *, name: str = "policy.toml") -> Policy:
    """The policy in a TOML text; errors as `load_policy`, which name the file as `name`."""
    try:
        root = _Section(tomllib.loads(text), name=name, path="")
    except tomllib.TOMLDecodeError as error:
        raise _bad(f"The policy {name} is not TOML: {error}.", f"Compare it with {EXAMPLE}.") from None
    orders = _orders(root.section("orders"))
    cohort = _cohort(root.section("cohort", optional=True))
    tables = _tables(root.section("tables"), cohort)
    inference = _inference(root.section("inference", optional=True))
    statistics = _statistics(root.section("statistics"), cohort) if "statistics" in root.values else None
    root.end()
    return Policy(orders=orders, cohort=cohort, tables=tables, inference=inference, statistics=statistics)


class _Section:
    """One TOML table that is taken key by key; what is left at the `end` is unknown."""

    def __init__(self, values: dict[str, Any], *, name: str, path: str) -> None:
        self.values = dict(values)
        self.name = name
        self.path = path

    def section(self, key: str, *, optional: bool = False) -> _Section:
        found = self.take(key, _is_table, "a table", {} if optional else None)
        return _Section(found, name=self.name, path=f"{self.path}{key}.")

    def take(self, key: str, is_valid: Callable[[Any], bool], what: str, default: Any = None) -> Any:
        value = self.values.pop(key, default)
        if value is None:
            raise _bad(
                f"{self.path}{key} is missing in {self.name}, and silence means no.",
                f"Write {what}; see {EXAMPLE}.",
            )
        if not is_valid(value):
            raise _bad(f"{self.path}{key} in {self.name} is not {what}.", f"Write {what}; see {EXAMPLE}.")
        return value

    def end(self) -> None:
        if self.values:
            keys = ", ".join(self.path + key for key in sorted(self.values))
            raise _bad(
                f"{self.name} has unknown keys: {keys}.", f"Remove them or spell them as in {EXAMPLE}."
            )


def _bad(sentence: str, remedy: str) -> Refused:
    return Refused(sentence, remedy=remedy, code="policy")


def _orders(section: _Section) -> OrderRules:
    initiators = tuple(section.take("initiators", _is_ids, "a list of user ids such as [2, 4]"))
    rules = OrderRules(
        initiators=initiators,
        receivers=tuple(section.take("receivers", _is_ids, "a list of user ids", list(initiators))),
        methods=tuple(section.take("methods", _is_list_of(METHODS), f"a list out of {', '.join(METHODS)}")),
        model_types=tuple(
            section.take("model_types", _is_list_of(MODEL_TYPES), f"a list out of {', '.join(MODEL_TYPES)}")
        ),
        sign=section.take("sign", _is_bool, "true or false"),
        min_hospitals=section.take("min_hospitals", _is_count, COUNT, 3),
        scoring=section.take("scoring", _is_one_of(SCORING), f"one of {', '.join(SCORING)}", "none"),
        score_readers=section.take(
            "score_readers", _is_one_of(SCORE_READERS), f"one of {', '.join(SCORE_READERS)}", "parties"
        ),
        approval=section.take("approval", _is_one_of(APPROVAL), f"one of {', '.join(APPROVAL)}", "automatic"),
    )
    section.end()
    return rules


def _cohort(section: _Section) -> CohortRules:
    min_rows, min_varying, share = _gate_numbers(section, CohortRules())
    max_rows = section.take("max_rows", _is_count, COUNT, CohortRules.max_rows)
    section.end()
    return CohortRules(
        min_rows=min_rows, min_varying=min_varying, max_parameter_share=share, max_rows=max_rows
    )


def _gate_numbers(section: _Section, default: CohortRules) -> tuple[int, int, Fraction]:
    """min_rows, min_varying and max_parameter_share; a min_rows of its own moves min_varying too."""
    has_own = "min_rows" in section.values
    min_rows = section.take("min_rows", _is_count, COUNT, default.min_rows)
    min_varying = section.take(
        "min_varying",
        _is_count,
        "a whole number from 1 (1 switches the rule off)",
        min_rows if has_own else default.min_varying,
    )
    what = 'a positive number or a fraction such as "1/3"'
    share = section.take("max_parameter_share", _is_share, what, str(default.max_parameter_share))
    return min_rows, min_varying, Fraction(str(share))


def _tables(section: _Section, cohort: CohortRules) -> dict[str, TableRules]:
    tables = {name: _table(name, section.section(name), cohort) for name in list(section.values)}
    if not tables:
        raise _bad(f"{section.name} opens no table, and silence means no.", f"Add one as in {EXAMPLE}.")
    if len({name.lower() for name in tables}) < len(tables):
        raise _bad(f"{section.name} names a table twice, in upper and in lower case.", "Keep one of them.")
    return tables


def _table(name: str, section: _Section, cohort: CohortRules) -> TableRules:
    if not all(name.split(".")) or name.count(".") > 1:
        raise _bad(
            f"The table name {name!r} in {section.name} is not schema.table.",
            'Write [tables."schema.table"].',
        )
    min_rows, min_varying, share = _gate_numbers(section, cohort)
    rules = TableRules(
        name=name,
        columns=tuple(section.take("columns", _is_texts, 'a list of column names or ["*"]')),
        filter_columns=tuple(section.take("filter_columns", _is_texts_or_none, "a list of column names", [])),
        unique_id=section.take("unique_id", _is_text, "a column name", "id"),
        min_rows=min_rows,
        min_varying=min_varying,
        max_parameter_share=share,
    )
    section.end()
    _check_filter_columns(rules, section)
    return rules


def _check_filter_columns(rules: TableRules, section: _Section) -> None:
    where = f"{section.path}filter_columns in {section.name}"
    if "*" in rules.filter_columns:
        raise _bad(f"{where} holds *.", "Name each column that may be filtered on.")
    if rules.unique_id.lower() in [column.lower() for column in rules.filter_columns]:
        raise _bad(f"{where} holds the unique id: single patients could be picked.", "Remove it there.")
    if "*" in rules.columns and not rules.all_columns:
        raise _bad(
            f"{section.path}columns in {section.name} mixes * with names.", 'Write ["*"] or the names.'
        )


def _inference(section: _Section) -> InferenceRules:
    allowed = section.take("allowed", _is_bool, "true or false", False)
    return_predictions = section.take("return_predictions", _is_bool, "true or false", False)
    expressions = section.take("expressions", _is_bool, "true or false", False)
    section.end()
    return InferenceRules(allowed=allowed, return_predictions=return_predictions, expressions=expressions)


def _statistics(section: _Section, cohort: CohortRules) -> StatisticsRules:
    default = StatisticsRules(methods=())
    share = section.take("max_share", _is_part, 'a share up to 1, such as "9/10"', str(default.max_share))
    rules = StatisticsRules(
        methods=tuple(
            section.take("methods", _is_list_of(STATISTICS), f"a list out of {', '.join(STATISTICS)}")
        ),
        files=tuple(
            section.take("files", _is_texts_or_none, 'a list of patterns such as ["2025/*.csv"]', [])
        ),
        min_providers=section.take("min_providers", _is_count, COUNT, default.min_providers),
        min_rows=section.take("min_rows", _is_count, COUNT, cohort.min_rows),
        max_share=Fraction(str(share)),
        extremes=section.take("extremes", _is_bool, "true or false", default.extremes),
        exact_quantiles=section.take("exact_quantiles", _is_bool, "true or false", default.exact_quantiles),
        disclose=section.take("disclose", _is_bool, "true or false", default.disclose),
        row_level=tuple(section.take("row_level", _is_texts_or_none, "a list of column names", [])),
        row_expressions=section.take("row_expressions", _is_bool, "true or false", default.row_expressions),
        threshold_days=section.take("threshold_days", _is_count, COUNT, default.threshold_days),
    )
    section.end()
    _check_patterns(rules, section)
    return rules


def _check_patterns(rules: StatisticsRules, section: _Section) -> None:
    for pattern in rules.files:
        if pattern.startswith("/") or "\\" in pattern or ".." in pattern.split("/"):
            raise _bad(
                f"{section.path}files in {section.name} holds {pattern!r}, which no path below the data folder fits.",
                'Write patterns as seen from that folder, such as "2025/*.csv".',
            )
    if "*" in rules.row_level:
        raise _bad(
            f"{section.path}row_level in {section.name} holds *.",
            "Name each column of which single rows may be told.",
        )


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(_is_count(entry) for entry in value)


def _is_texts_or_none(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(entry) for entry in value)


def _is_texts(value: Any) -> bool:
    return _is_texts_or_none(value) and bool(value)


def _is_share(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and Fraction(str(value)) > 0
    except (ValueError, ZeroDivisionError):
        return False


def _is_part(value: Any) -> bool:
    return _is_share(value) and Fraction(str(value)) <= 1


def _is_one_of(allowed: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in allowed


def _is_list_of(allowed: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: _is_texts(value) and all(entry in allowed for entry in value)
