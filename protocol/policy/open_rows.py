"""The sections of policy.toml that open rows to orders: a table, and a cohort that the
hospital's own people have defined.

Decisions 19 and 119.
"""

from __future__ import annotations

from pydantic import PrivateAttr, model_validator

from protocol.policy.keys import (
    COHORT,
    ColumnNames,
    Description,
    Flag,
    OpenColumns,
    PeopleName,
    Sha256,
    SqlFile,
    Text,
    Times,
    Zone,
    cross_check,
)
from protocol.policy.order_rules import GateNumbers


class OpenRows(GateNumbers):
    """What holds for rows that are open to orders, whether they are a table's or a
    cohort's.

    Numbers that it does not set are those of [cohort].
    """

    columns: OpenColumns = ()
    """The columns that other hospitals may use; ["*"] opens all of them, and without
    any it is this hospital's own users' alone.
    """

    unique_id: Text = "id"
    """The column that identifies each patient.

    Other hospitals' orders must use it (decision 19).
    """

    same_people_as: PeopleName | None = None
    """The table whose people these are, for a view of it or a cohort from it: what was
    told of one counts for the other.
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
    def _check_open_columns(self) -> OpenRows:
        if "*" in self.columns and not self.all_columns:
            raise cross_check(
                "{section}.columns in {file} mixes * with names.",
                'Write ["*"] or the names.',
            )
        return self


class TableRules(OpenRows):
    """A table or view that is open to orders."""

    filter_columns: ColumnNames = ()
    """The columns that other hospitals may use in WHERE. Never the unique id."""

    @model_validator(mode="after")
    def _check_columns(self) -> TableRules:
        if "*" in self.filter_columns:
            raise cross_check(
                "{section}.filter_columns in {file} holds *.",
                "Name each column that may be filtered on.",
            )
        filtered = [column.lower() for column in self.filter_columns]
        if self.unique_id.lower() in filtered:
            raise cross_check(
                "{section}.filter_columns in {file} holds the unique id: single patients could be picked.",
                "Remove it there.",
            )
        return self


class NamedCohort(OpenRows):
    """A cohort that this hospital's own people have defined by SQL and approved: orders
    name it and never see the SQL (decision 119).
    """

    sql: SqlFile
    """The file of its SELECT, as seen from policy.toml."""

    sha256: Sha256
    """The digest of the file that was approved; another file is refused."""

    refresh: Times = None
    """When its rows are made anew, as cron has it. Without it only on command."""

    timezone: Zone = "UTC"
    """Whose time `refresh` is in."""

    description: Description = ""
    """In words, what it is."""

    told: Flag = False
    """Whether its name and description are told to the coordinator, which shows them."""

    @property
    def short_name(self) -> str:
        """Its name without `cohort:`, by which orders name it."""
        return self._name.removeprefix(COHORT)
