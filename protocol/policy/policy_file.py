"""All sections of policy.toml in one model: what they inherit from each other, and what
holds between two of them.

Decisions 66, 119 and 131.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from protocol.policy.keys import COHORT, CohortName, Readers, TableName, cross_check
from protocol.policy.open_rows import NamedCohort, OpenRows, TableRules
from protocol.policy.order_rules import (
    CohortRules,
    GateNumbers,
    InferenceRules,
    OrderRules,
    Rules,
)
from protocol.policy.statistics_rules import StatisticsRules

OPENS_NOTHING = (
    "{file} opens nothing, neither under [tables] nor under [cohorts], and silence means no.",
    "Add one as in deployments/sites/policy.example.toml.",
)


def tables_apart(tables: dict[str, TableRules]) -> dict[str, TableRules]:
    if not tables:
        raise cross_check(*OPENS_NOTHING)
    lower_names = {table_name.lower() for table_name in tables}
    if len(lower_names) < len(tables):
        raise cross_check(
            "{file} names a table twice, in upper and in lower case.",
            "Keep one of them.",
        )
    return tables


class PolicyFile(Rules):
    """The sections of policy.toml, and what holds between two of them."""

    orders: OrderRules
    cohort: CohortRules = Field(default_factory=CohortRules)
    tables: Annotated[
        dict[TableName, TableRules],
        AfterValidator(tables_apart),
        Field(default_factory=dict, json_schema_extra={"minProperties": 1}),
    ]
    """One section for each table or view that is open, with its schema:
    [tables."schema.name"]. Not needed where cohorts are all that is open.
    """
    cohorts: dict[CohortName, NamedCohort] = Field(default_factory=dict)
    """One section for each cohort that orders may name: [cohorts."name"]."""
    inference: InferenceRules = Field(default_factory=InferenceRules)
    statistics: StatisticsRules | None = None
    readers: Readers = Field(default_factory=dict)
    """By name, the fingerprint of each person to whose own key answers may be sealed
    here: reports, predictions, statistics, evaluations.
    """

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
        for section in ("tables", "cohorts"):
            opened = sections.get(section)
            if isinstance(opened, dict):
                sections[section] = {
                    name: _with_numbers(rules, inherited)
                    for name, rules in opened.items()
                }
        statistics = sections.get("statistics")
        if isinstance(statistics, dict) and "min_rows" in inherited:
            sections["statistics"] = {"min_rows": inherited["min_rows"], **statistics}
        return sections

    @model_validator(mode="after")
    def _check_opens(self) -> Self:
        if not self.tables and not self.cohorts:
            raise cross_check(*OPENS_NOTHING)
        return self

    @model_validator(mode="after")
    def _name_tables(self) -> Self:
        for name, rules in self.tables.items():
            rules._name = name
        for name, cohort in self.cohorts.items():
            cohort._name = COHORT + name
        return self

    @model_validator(mode="after")
    def _check_people(self) -> Self:
        opened = self.opened
        for rules in opened.values():
            people_table = rules.same_people_as
            if people_table is None:
                continue
            if people_table.lower() not in opened:
                raise cross_check(
                    "{name}.same_people_as in {file} is {other}, which has no section.",
                    "Name the table as its own section does, or add one.",
                    name=_section_of(rules),
                    other=people_table,
                )
            if opened[people_table.lower()].same_people_as is not None:
                raise cross_check(
                    "{name}.same_people_as in {file} is {other}, which has that key itself.",
                    "Name the table that has not.",
                    name=_section_of(rules),
                    other=people_table,
                )
        for cohort in self.cohorts.values():
            if cohort.same_people_as is None and len(self._tables_beside(cohort)) > 1:
                raise cross_check(
                    "{name} in {file} has no same_people_as, and cohorts of the same unique_id name several tables.",
                    "Say in its section by same_people_as which table's people it has.",
                    name=_section_of(cohort),
                )
        return self

    def _tables_beside(self, cohort: NamedCohort) -> set[str]:
        """The tables whose people cohorts of the same unique id have."""
        table_names = set()
        for other_cohort in self.cohorts.values():
            is_same = other_cohort.unique_id.lower() == cohort.unique_id.lower()
            if is_same and other_cohort.same_people_as is not None:
                table_names.add(other_cohort.same_people_as.lower())
        return {name for name in table_names if name in self.tables_by_name}

    @property
    def tables_by_name(self) -> dict[str, TableRules]:
        """By name in lower case."""
        return {table_name.lower(): rules for table_name, rules in self.tables.items()}

    @property
    def opened(self) -> dict[str, OpenRows]:
        """All that orders may name, by its name in lower case: tables, and cohorts as
        cohort:name.
        """
        rules_by_name: dict[str, OpenRows] = {}
        for rules in (*self.tables.values(), *self.cohorts.values()):
            rules_by_name[rules.name.lower()] = rules
        return rules_by_name

    def population(self, name: str) -> str:
        """By which name the people of a table, cohort or file are remembered.

        A view's are those of its table. Cohorts of one unique id are of the same
        people, since two definitions may differ by one patient: where one names a table
        by `same_people_as`, the others that name none are of its people, too (decisions
        119 and 131).
        """
        rules = self.opened.get(name.lower())
        if rules is None:
            return name
        if rules.same_people_as is not None:
            people_rules = self.opened[rules.same_people_as.lower()]
            if people_rules is not rules:
                return self.population(people_rules.name)
        if isinstance(rules, NamedCohort):
            for table_name in self._tables_beside(rules):
                return self.population(table_name)
            return f"cohorts by {rules.unique_id.lower()}"
        return name.lower()


def _section_of(rules: OpenRows) -> str:
    if isinstance(rules, NamedCohort):
        return f'cohorts."{rules.short_name}"'
    return f'tables."{rules.name}"'


def _with_numbers(table: Any, numbers: dict[str, Any]) -> Any:
    """A table's keys beside the numbers of `[cohort]` that it does not set."""
    if not isinstance(table, dict):
        return table
    inherited = dict(numbers)
    # A min_rows of its own moves min_varying along with it.
    if "min_rows" in table:
        inherited.pop("min_varying", None)
    return {**inherited, **table}
