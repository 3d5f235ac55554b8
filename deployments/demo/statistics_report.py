"""What joint statistics left in the receivers' folders, beside plain pandas on the pooled rows.

Only a demonstration can print this: it owns the files of all hospitals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from rich.console import Console

from agents.site.settings import Settings as Site
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


class Report:
    """Tables of joint answers. `sites` by user id, in the order of the questions' providers."""

    def __init__(self, console: Console, sites: Mapping[int, Site]) -> None:
        self._console, self._sites = console, sites
        self._receiver = max(sites)
        self._found: list[float] = []

    def show(self, answers: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> None:
        """The answers to the demonstration's questions in their order, and the schedule's."""
        products, mean, variance, groups, reached = answers
        say_answer(self._console, products["status"], products["result"], wrap=True)
        self._products(self._result(products, min(self._sites)))
        self._numbers(self._result(mean), self._result(variance), runs)
        self._groups(self._result(groups))
        self._reached(self._result(reached))
        self._console.print(f"\n{WHO_SEES_WHAT}\n")

    def search(self, folders: Sequence[Path]) -> None:
        """Looks for the answers with many digits in everything that the coordinator has written."""
        n_files, n_bytes, found = search_disk(folders, self._found)
        secret = "[bold green]no answer[/]" if not found else f"[bold red]answers[/] ({', '.join(found)})"
        self._console.print(
            f"The coordinator's disk ({n_files} files, {n_bytes / 2**20:.1f} MiB) was searched for average and "
            f"variance, as 8-byte floats and as text: it holds {secret}.\n"
        )

    def _result(self, answer: Mapping[str, Any], receiver: int | None = None) -> Result:
        order_id = json.loads(answer["result"]["extra"])["order_id"]
        return read_result(self._sites[receiver or self._receiver].results_folder, order_id)

    def _title(self, result: Result) -> str:
        receivers = " and ".join(self._sites[user].name for user in result.notes["receivers"])
        return f"{result.relative_path} at {receivers}"

    def _frame(self, user_id: int, file: str, **options: Any) -> pd.DataFrame:
        path = self._sites[user_id].data_folder / file
        return (
            duckdb.read_parquet(str(path)).df() if path.suffix == ".parquet" else pd.read_csv(path, **options)
        )

    def _pooled(self, **options: Any) -> list[pd.DataFrame]:
        return [self._frame(user, file, **options) for user, file in LAB_VALUES.items()]

    # One table for each kind of question

    def _products(self, result: Result) -> None:
        first, second = list(self._sites)[:2]
        texts = [self._frame(first, PRICES, dtype=str), self._frame(second, UNITS, dtype=str)]
        joined = texts[0].merge(texts[1], on="id_col").set_index("id_col")
        rows = result.rows()
        table = make_table(self._title(result))
        for column in ("id_col", "unit_price", "units", "total_value", "pandas"):
            table.add_column(column, justify="right")
        for row in rows[:N_SHOWN]:
            price, units = joined.loc[row["id_col"]]
            table.add_row(
                row["id_col"], price, units, f"[bold]{row['total_value']}[/]", repr(float(price) * int(units))
            )
        self._console.print(table)
        same = sum(
            Fraction(row["total_value"]) == Fraction(price) * int(units)
            for row in rows
            for price, units in [joined.loc[row["id_col"]]]
        )
        self._console.print(
            f"{len(rows)} patients; {same} are the exact products of the decimals in the two files. Price and units "
            "stand here only because this demonstration owns both files."
        )

    def _numbers(self, mean: Result, variance: Result, runs: Sequence[dict[str, Any]]) -> None:
        """Single numbers over all rows, and the schedule's, whose exact value is the same each time."""
        ldl, glucose = (
            pd.concat([frame[column] for frame in self._pooled()]) for column in ("ldl", "glucose")
        )
        exact = {column: self._exact(column) for column in ("ldl", "glucose")}
        n, centre = len(exact["ldl"]), sum(exact["ldl"]) / len(exact["ldl"])
        squares = sum((value - centre) ** 2 for value in exact["ldl"]) / (n - 1)
        total = sum(exact["glucose"])
        table = make_table(f"At {self._sites[self._receiver].name}: {n} rows of three hospitals")
        for column in ("", "result", "joint answer", "pandas", "exact, rounded"):
            table.add_column(column, justify="left" if column in ("", "result") else "right")
        self._add(table, "avg of ldl", mean, float(ldl.mean()), centre)
        self._add(table, "var of ldl", variance, float(ldl.var()), squares)
        for run in runs:
            name = f"sum, {run['scheduled'][11:19]}"
            self._add(
                table, name, read_result(mean.path.parents[1], run["order_id"]), float(glucose.sum()), total
            )
        self._console.print(table)

    def _exact(self, column: str) -> list[Fraction]:
        """Every value as its file has it: decimals in text, doubles in parquet."""
        values = (value for frame in self._pooled(dtype=str) for value in frame[column])
        return [Fraction(value) if isinstance(value, str) else Fraction(float(value)) for value in values]

    def _add(self, table: Any, name: str, result: Result, pandas: float, exact: Fraction | int) -> None:
        joint = float(result.rows()[0][result.alias])
        if len(repr(joint)) > MOST_DIGITS_BY_CHANCE:
            self._found.append(joint)
        table.add_row(name, result.relative_path, f"[bold]{joint!r}[/]", repr(pandas), repr(float(exact)))

    def _groups(self, result: Result) -> None:
        pooled = pd.concat(self._pooled())
        by_pandas = pooled.groupby("age_group")["glucose"].mean()
        table = make_table(f"{self._title(result)}, by age")
        for column in ("age_group", "joint answer", "pandas", "withheld"):
            table.add_column(column, justify="left" if column in ("age_group", "withheld") else "right")
        for row in result.rows():
            name, value = row["age_group"], row[result.alias]
            pandas = repr(float(by_pandas[name])) if value else ""
            table.add_row(name, f"[bold]{value or ''}[/]", pandas, row.get("withheld") or "")
        self._console.print(table)
        told = [
            f"{', '.join(one['group'])}: {one['reason']}" for one in result.notes["withheld"] if one["group"]
        ]
        self._console.print(" ".join([*result.notes["notes"], *told]))

    def _reached(self, result: Result) -> None:
        units = [self._frame(user, UNITS).set_index("id_col")["units"] for user in self._sites]
        sums = pd.concat(units, axis=1, join="inner").sum(axis=1)
        rows = result.rows()
        same = sum((row[result.alias] == "true") == (sums[int(row["id_col"])] >= DOSE_LIMIT) for row in rows)
        table = make_table(self._title(result))
        for column in ("id_col", result.alias, "pandas: units at all three"):
            table.add_column(column, justify="right")
        for row in sorted(rows, key=lambda row: row[result.alias] == "false")[:: -(-len(rows) // N_SHOWN)]:
            table.add_row(row["id_col"], f"[bold]{row[result.alias]}[/]", str(sums[int(row["id_col"])]))
        self._console.print(table)
        n_reached = sum(row[result.alias] == "true" for row in rows)
        self._console.print(
            f"{len(rows)} patients were at all three, {n_reached} reach {DOSE_LIMIT} units; pandas says the same of "
            f"{same}. Nobody learned the sums."
        )
