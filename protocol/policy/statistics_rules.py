"""The section of policy.toml about joint statistics, [statistics]."""

from __future__ import annotations

from fractions import Fraction

from pydantic import Field, model_validator

from protocol.policy.keys import (
    Cells,
    ColumnNames,
    Count,
    FilePatterns,
    Flag,
    JointNames,
    SameValues,
    Share,
    StatisticsMethods,
    UniqueIds,
    cross_check,
)
from protocol.policy.order_rules import Rules


class StatisticsRules(Rules):
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

    sparse_masks: Flag = False
    """As in [orders], for sums over more than 64 providers."""

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
                raise cross_check(
                    "{section}.{key} in {file} holds {pattern}, which no path below the data folder fits.",
                    'Write patterns as seen from that folder, such as "2025/*.csv".',
                    key=key,
                    pattern=repr(pattern),
                )
        if "*" in self.row_level:
            raise cross_check(
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
