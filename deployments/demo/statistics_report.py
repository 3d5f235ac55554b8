"""What joint statistics left in the receivers' folders, beside plain pandas on the
pooled rows.

Only a demonstration can print this: it owns the files of all hospitals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from rich.console import Console

from agents.site.settings import SiteSettings
from agents.statistics.results import Result, read_result
from deployments.demo.disk_search import search_disk
from deployments.demo.joint_data import DOSE_LIMIT, LAB_VALUES, PRICES, UNITS
from deployments.demo.screen import make_table, say_answer

N_SHOWN = 4
MOST_DIGITS_BY_CHANCE = 12
"""A shorter number may stand in a log for other reasons."""

WHO_SEES_WHAT = (
    "Who sees what: each hospital its own rows; the receivers named above the tables the answers, in their folders. "
    "The coordinator learns how many rows each hospital used and has in common; it compared tags of the patients' "
    "numbers under a key that it lacks, added masked numbers and dealt random ones, and can open none of them. "
    "Products and each patient's yes or no were computed on random shares: no hospital was shown another one's price "
    "or units. But who has the units and is told unit_price * units knows the price, so a hospital's policy must name "
    "such columns."
)


class AnswerTables:
    """Tables of joint answers.

    `sites` by user id, in the order of the questions' providers.
    """

    def __init__(self, console: Console, sites: Mapping[int, SiteSettings]) -> None:
        self._console, self._sites = console, sites
        self._receiver = max(sites)
        self._found: list[float] = []

    def show(
        self, answers: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]
    ) -> None:
        """The answers to the demonstration's questions in their order, and the
        schedule's.
        """
        products, mean, variance, groups, reached = answers
        say_answer(self._console, products["status"], products["result"], wrap=True)
        self._products(self._result(products, min(self._sites)))
        self._numbers(self._result(mean), self._result(variance), runs)
        self._groups(self._result(groups))
        self._reached(self._result(reached))
        self._console.print(f"\n{WHO_SEES_WHAT}\n")

    def search(self, folders: Sequence[Path]) -> None:
        """Looks for the answers with many digits in everything that the coordinator has
        written.
        """
        n_files, n_bytes, found = search_disk(folders, self._found)
        secret = (
            "[bold green]no answer[/]"
            if not found
            else f"[bold red]answers[/] ({', '.join(found)})"
        )
        self._console.print(
            f"The coordinator's disk ({n_files} files, {n_bytes / 2**20:.1f} MiB) was searched for average and "
            f"variance, as 8-byte floats and as text: it holds {secret}.\n"
        )

    def _result(self, answer: Mapping[str, Any], receiver: int | None = None) -> Result:
        order_id = json.loads(answer["result"]["extra"])["order_id"]
        return read_result(
            self._sites[receiver or self._receiver].results_folder, order_id
        )

    def _title(self, result: Result) -> str:
        receivers = " and ".join(
            self._sites[user].name for user in result.notes["receivers"]
        )
        return f"{result.relative_path} at {receivers}"

    def _frame(self, user_id: int, file: str, **options: Any) -> pd.DataFrame:
        path = self._sites[user_id].data_folder / file
        frame: pd.DataFrame
        if path.suffix == ".parquet":
            frame = duckdb.read_parquet(str(path)).df()
        else:
            frame = pd.read_csv(path, **options)
        return frame

    def _pooled(self, **options: Any) -> list[pd.DataFrame]:
        return [self._frame(user, file, **options) for user, file in LAB_VALUES.items()]

    # One table for each kind of question

    def _products(self, result: Result) -> None:
        first, second = list(self._sites)[:2]
        prices = self._frame(first, PRICES, dtype=str)
        units_given = self._frame(second, UNITS, dtype=str)
        joined = prices.merge(units_given, on="id_col").set_index("id_col")
        rows = result.rows()
        table = make_table(self._title(result))
        for column in ("id_col", "unit_price", "units", "total_value", "pandas"):
            table.add_column(column, justify="right")
        for row in rows[:N_SHOWN]:
            price, units = joined.loc[row["id_col"]]
            by_pandas = repr(float(price) * int(units))
            table.add_row(
                row["id_col"], price, units, f"[bold]{row['total_value']}[/]", by_pandas
            )
        self._console.print(table)
        n_exact = 0
        for row in rows:
            price, units = joined.loc[row["id_col"]]
            if Fraction(row["total_value"]) == Fraction(price) * int(units):
                n_exact += 1
        self._console.print(
            f"{len(rows)} patients; {n_exact} are the exact products of the decimals in the two files. Price and units "
            "stand here only because this demonstration owns both files."
        )

    def _numbers(
        self, mean: Result, variance: Result, runs: Sequence[dict[str, Any]]
    ) -> None:
        """Single numbers over all rows, and the schedule's, whose exact value is the
        same each time.
        """
        pooled = pd.concat(self._pooled())
        exact_ldl = self._exact("ldl")
        n_rows = len(exact_ldl)
        mean_ldl = sum(exact_ldl, Fraction(0)) / n_rows
        deviations = [(value - mean_ldl) ** 2 for value in exact_ldl]
        variance_ldl = sum(deviations, Fraction(0)) / (n_rows - 1)
        total_glucose = sum(self._exact("glucose"), Fraction(0))
        table = make_table(
            f"At {self._sites[self._receiver].name}: {n_rows} rows of three hospitals"
        )
        for column in ("", "result", "joint answer", "pandas", "exact, rounded"):
            table.add_column(
                column, justify="left" if column in ("", "result") else "right"
            )
        self._add(table, "avg of ldl", mean, float(pooled["ldl"].mean()), mean_ldl)
        self._add(
            table, "var of ldl", variance, float(pooled["ldl"].var()), variance_ldl
        )
        results_folder = mean.path.parents[1]
        for run in runs:
            time_of_day = run["scheduled"][11:19]
            result = read_result(results_folder, run["order_id"])
            self._add(
                table,
                f"sum, {time_of_day}",
                result,
                float(pooled["glucose"].sum()),
                total_glucose,
            )
        self._console.print(table)

    def _exact(self, column: str) -> list[Fraction]:
        """Every value as its file has it: decimals in text, doubles in parquet."""
        exact = []
        for frame in self._pooled(dtype=str):
            for value in frame[column]:
                exact.append(
                    Fraction(value if isinstance(value, str) else float(value))
                )
        return exact

    def _add(
        self, table: Any, name: str, result: Result, pandas: float, exact: Fraction
    ) -> None:
        joint = float(result.rows()[0][result.alias])
        if len(repr(joint)) > MOST_DIGITS_BY_CHANCE:
            self._found.append(joint)
        table.add_row(
            name,
            result.relative_path,
            f"[bold]{joint!r}[/]",
            repr(pandas),
            repr(float(exact)),
        )

    def _groups(self, result: Result) -> None:
        pooled = pd.concat(self._pooled())
        by_pandas = pooled.groupby("age_group")["glucose"].mean()
        table = make_table(f"{self._title(result)}, by age")
        for column in ("age_group", "joint answer", "pandas", "withheld"):
            table.add_column(
                column,
                justify="left" if column in ("age_group", "withheld") else "right",
            )
        for row in result.rows():
            name, value = row["age_group"], row[result.alias]
            pandas = repr(float(by_pandas[name])) if value else ""
            table.add_row(
                name, f"[bold]{value or ''}[/]", pandas, row.get("withheld") or ""
            )
        self._console.print(table)
        sentences = list(result.notes["notes"])
        for withheld in result.notes["withheld"]:
            if withheld["group"]:
                sentences.append(
                    f"{', '.join(withheld['group'])}: {withheld['reason']}"
                )
        self._console.print(" ".join(sentences))

    def _reached(self, result: Result) -> None:
        units = [
            self._frame(user, UNITS).set_index("id_col")["units"]
            for user in self._sites
        ]
        sums = pd.concat(units, axis=1, join="inner").sum(axis=1)
        reached: list[dict[str, Any]] = []
        not_reached: list[dict[str, Any]] = []
        n_agreed = 0
        for row in result.rows():
            reaches = row[result.alias] == "true"
            (reached if reaches else not_reached).append(row)
            if reaches == (sums[int(row["id_col"])] >= DOSE_LIMIT):
                n_agreed += 1
        rows = [*reached, *not_reached]
        table = make_table(self._title(result))
        for column in ("id_col", result.alias, "pandas: units at all three"):
            table.add_column(column, justify="right")
        step = math.ceil(
            len(rows) / N_SHOWN
        )  # some of each kind, from the first to the last
        for row in rows[::step]:
            table.add_row(
                row["id_col"],
                f"[bold]{row[result.alias]}[/]",
                str(sums[int(row["id_col"])]),
            )
        self._console.print(table)
        self._console.print(
            f"{len(rows)} patients were at all three, {len(reached)} reach {DOSE_LIMIT} units; pandas says the"
            f" same of {n_agreed}. Nobody learned the sums."
        )
