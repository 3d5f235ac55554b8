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

    def __init__(
        self,
        console: Console,
        sites: Mapping[int, SiteSettings],
    ) -> None:
        self._console = console
        self._sites = sites
        self._receiver = max(sites)
        self._found: list[float] = []

    def show(
        self,
        answers: Sequence[dict[str, Any]],
        runs: Sequence[dict[str, Any]],
    ) -> None:
        """The answers to the demonstration's questions in their order, and the
        schedule's.
        """
        products, mean, variance, groups, reached = answers
        say_answer(
            self._console,
            products["status"],
            products["result"],
            wrap=True,
        )
        has_prices = min(self._sites)
        self._products(self._result(products, has_prices))
        self._numbers(
            self._result(mean),
            self._result(variance),
            runs,
        )
        self._groups(self._result(groups))
        self._reached(self._result(reached))
        self._console.print(f"\n{WHO_SEES_WHAT}\n")

    def search(self, folders: Sequence[Path]) -> None:
        """Looks for the answers with many digits in everything that the coordinator has
        written.
        """
        n_files, n_bytes, matches = search_disk(folders, self._found)
        held = "[bold green]no answer[/]"
        if matches:
            found_places = ", ".join(matches)
            held = f"[bold red]answers[/] ({found_places})"
        mebibytes = n_bytes / 2**20
        self._console.print(
            f"The coordinator's disk ({n_files} files, {mebibytes:.1f} MiB) was searched for average and "
            f"variance, as 8-byte floats and as text: it holds {held}.\n"
        )

    def _result(
        self,
        answer: Mapping[str, Any],
        receiver: int | None = None,
    ) -> Result:
        extra = json.loads(answer["result"]["extra"])
        site = self._sites[receiver or self._receiver]
        return read_result(site.results_folder, extra["order_id"])

    def _title(self, result: Result) -> str:
        receiver_ids = result.notes["receivers"]
        receivers = " and ".join(self._sites[user_id].name for user_id in receiver_ids)
        return f"{result.relative_path} at {receivers}"

    def _frame(
        self,
        user_id: int,
        file: str,
        **options: Any,
    ) -> pd.DataFrame:
        file_path = self._sites[user_id].data_folder / file
        frame: pd.DataFrame
        if file_path.suffix == ".parquet":
            frame = duckdb.read_parquet(str(file_path)).df()
        else:
            frame = pd.read_csv(file_path, **options)
        return frame

    def _pooled(self, **options: Any) -> list[pd.DataFrame]:
        frames = []
        for user_id, file in LAB_VALUES.items():
            frames.append(self._frame(user_id, file, **options))
        return frames

    # One table for each kind of question

    def _products(self, result: Result) -> None:
        first, second = list(self._sites)[:2]
        # As text: pandas would make doubles of decimals, which prove no exact product.
        prices = self._frame(first, PRICES, dtype=str)
        units_given = self._frame(second, UNITS, dtype=str)
        merged = prices.merge(units_given, on="id_col")
        joined = merged.set_index("id_col")
        rows = result.rows()
        table = make_table(self._title(result))
        for column in ("id_col", "unit_price", "units", "total_value", "pandas"):
            table.add_column(column, justify="right")
        for result_row in rows[:N_SHOWN]:
            price, units = joined.loc[result_row["id_col"]]
            by_pandas = repr(float(price) * int(units))
            table.add_row(
                result_row["id_col"],
                price,
                units,
                f"[bold]{result_row['total_value']}[/]",
                by_pandas,
            )
        self._console.print(table)
        n_exact = 0
        for result_row in rows:
            price, units = joined.loc[result_row["id_col"]]
            product = Fraction(price) * int(units)
            if Fraction(result_row["total_value"]) == product:
                n_exact += 1
        n_rows = len(rows)
        self._console.print(
            f"{n_rows} patients; {n_exact} are the exact products of the decimals in the two files. Price and units "
            "stand here only because this demonstration owns both files."
        )

    def _numbers(
        self,
        mean: Result,
        variance: Result,
        runs: Sequence[dict[str, Any]],
    ) -> None:
        """Single numbers over all rows, and the schedule's, whose exact value is the
        same each time.
        """
        pooled = pd.concat(self._pooled())
        exact_ldl = self._exact("ldl")
        n_rows = len(exact_ldl)
        mean_ldl = sum(exact_ldl, Fraction(0)) / n_rows
        deviations = [(ldl - mean_ldl) ** 2 for ldl in exact_ldl]
        squares = sum(deviations, Fraction(0))
        variance_ldl = squares / (n_rows - 1)
        total_glucose = sum(self._exact("glucose"), Fraction(0))
        receiver = self._sites[self._receiver]
        table = make_table(f"At {receiver.name}: {n_rows} rows of three hospitals")
        for column in ("", "result"):
            table.add_column(column, justify="left")
        for column in ("joint answer", "pandas", "exact, rounded"):
            table.add_column(column, justify="right")
        self._add(
            table,
            "avg of ldl",
            mean,
            float(pooled["ldl"].mean()),
            mean_ldl,
        )
        self._add(
            table,
            "var of ldl",
            variance,
            float(pooled["ldl"].var()),
            variance_ldl,
        )
        results_folder = mean.path.parents[1]
        for run in runs:
            time_of_day = run["scheduled"][11:19]
            run_result = read_result(results_folder, run["order_id"])
            self._add(
                table,
                f"sum, {time_of_day}",
                run_result,
                float(pooled["glucose"].sum()),
                total_glucose,
            )
        self._console.print(table)

    def _exact(self, column: str) -> list[Fraction]:
        """Every value as its file has it: decimals in text, doubles in parquet."""
        exact = []
        for frame in self._pooled(dtype=str):
            for cell_value in frame[column]:
                if not isinstance(cell_value, str):
                    cell_value = float(cell_value)
                exact.append(Fraction(cell_value))
        return exact

    def _add(
        self,
        table: Any,
        name: str,
        result: Result,
        pandas: float,
        exact: Fraction,
    ) -> None:
        first_row = result.rows()[0]
        joint_number = float(first_row[result.alias])
        if len(repr(joint_number)) > MOST_DIGITS_BY_CHANCE:
            self._found.append(joint_number)
        table.add_row(
            name,
            result.relative_path,
            f"[bold]{joint_number!r}[/]",
            repr(pandas),
            repr(float(exact)),
        )

    def _groups(self, result: Result) -> None:
        pooled = pd.concat(self._pooled())
        by_pandas = pooled.groupby("age_group")["glucose"].mean()
        title = self._title(result)
        table = make_table(f"{title}, by age")
        table.add_column("age_group", justify="left")
        table.add_column("joint answer", justify="right")
        table.add_column("pandas", justify="right")
        table.add_column("withheld", justify="left")
        for result_row in result.rows():
            age_group = result_row["age_group"]
            joint_mean = result_row[result.alias] or ""
            pandas = ""
            if joint_mean:
                pandas = repr(float(by_pandas[age_group]))
            table.add_row(
                age_group,
                f"[bold]{joint_mean}[/]",
                pandas,
                result_row.get("withheld") or "",
            )
        self._console.print(table)
        sentences = list(result.notes["notes"])
        for withheld in result.notes["withheld"]:
            if withheld["group"]:
                groups = ", ".join(withheld["group"])
                sentences.append(f"{groups}: {withheld['reason']}")
        self._console.print(" ".join(sentences))

    def _reached(self, result: Result) -> None:
        units = []
        for user_id in self._sites:
            by_patient = self._frame(user_id, UNITS).set_index("id_col")
            units.append(by_patient["units"])
        side_by_side = pd.concat(
            units,
            axis=1,
            join="inner",
        )
        sums = side_by_side.sum(axis=1)
        reached: list[dict[str, Any]] = []
        not_reached: list[dict[str, Any]] = []
        n_agreed = 0
        for result_row in result.rows():
            patient = int(result_row["id_col"])
            reaches = result_row[result.alias] == "true"
            if reaches:
                reached.append(result_row)
            else:
                not_reached.append(result_row)
            if reaches == (sums[patient] >= DOSE_LIMIT):
                n_agreed += 1
        rows = [*reached, *not_reached]
        table = make_table(self._title(result))
        for column in ("id_col", result.alias, "pandas: units at all three"):
            table.add_column(column, justify="right")
        n_rows = len(rows)
        # Some of each kind, from the first to the last.
        row_step = math.ceil(n_rows / N_SHOWN)
        for result_row in rows[::row_step]:
            patient = int(result_row["id_col"])
            table.add_row(
                result_row["id_col"],
                f"[bold]{result_row[result.alias]}[/]",
                str(sums[patient]),
            )
        self._console.print(table)
        self._console.print(
            f"{n_rows} patients were at all three, {len(reached)} reach {DOSE_LIMIT} units; pandas says the"
            f" same of {n_agreed}. Nobody learned the sums."
        )
