"""`./run demo --study`: a study as a paper has it, at four hospitals, read through a
reader's own key.

Table 1 by outcome, a logistic and a linear model, survival curves, a log-rank test, a
Cox model, and the logistic model judged on rows of all four hospitals, of which one has
not trained it. The demonstration owns every hospital's tables, so it can put beside each
number what one table of all rows gives (`study_beside`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from agents.site.readers_file import add_reader
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from api.client import Federation
from api.settings import CoordinatorSettings
from deployments.demo import study_beside
from deployments.demo.screen import make_table, say_request
from deployments.demo.study_data import kind_of, schema_of, study_tables
from deployments.demo.study_figures import draw_forest, draw_survival
from deployments.demo.study_sites import INITIATOR, READER
from deployments.state import tokens_path

TRAINED = (2, 3, 4)
MASK = {"encrypt_param": {"method": "Mask"}}
COVARIATES = ["age", "sex", "bmi", "bp"]
TIMES = [120, 240, 365, 540]
SIGNIFICANT = 6

Pairs = list[tuple[float, float]]


class Study:
    """The orders of the study, one after another, as a notebook would send them."""

    def __init__(
        self,
        console: Console,
        settings: CoordinatorSettings,
        sites: list[SiteSettings],
        figures: Path | None = None,
    ) -> None:
        self._console = console
        # Where pictures go; None: none are drawn.
        self._figures = figures
        self._sites = {site.user_id: site for site in sites}
        self._url = f"http://{settings.host}:{settings.port}"
        own_site = self._sites[INITIATOR]
        self.federation = Federation(
            self._url,
            token_file=tokens_path(settings),
            user=INITIATOR,
            sealed=True,
            # An answer is opened only where this hospital has signed it.
            hospital=Vault(own_site.vault).identity().public.fingerprint,
            key_folder=settings.home / "reader",
        )
        add_reader(own_site.site / "policy.toml", READER, self.federation.reader)
        tables = study_tables()
        self._patients = {user_id: tables[user_id]["patients"] for user_id in tables}
        self._followup = {user_id: tables[user_id]["followup"] for user_id in tables}
        # Joint and pooled, of every number that was compared.
        self.compared: Pairs = []

    def run(self) -> None:
        for user_id, site in self._sites.items():
            kind = kind_of(site.data_url)
            n_patients, n_followed = (
                len(self._patients[user_id]),
                len(self._followup[user_id]),
            )
            self._console.print(
                f"  {site.name} ({user_id}): {n_patients} patients and {n_followed} followed up, in {kind}"
            )
        self._console.print(
            f"\nReader [bold]{self.federation.reader}[/], listed in the policy of {self._sites[INITIATOR].name}: "
            "what follows is sealed to this key, and opened here.\n"
        )
        self._table_1()
        logistic = self._model("lr", "high", study_beside.logistic)
        if self._figures is not None:
            draw_forest(self._figures, logistic.report())
        self._model("linear", "progression", study_beside.linear)
        self._curves()
        self._log_rank()
        self._cox()
        self._evaluation(logistic)
        self._say_difference()

    # What is sent

    def _sql(self, table: str, hospitals: Sequence[int]) -> dict[int | str, str]:
        sql_texts: dict[int | str, str] = {}
        for user_id in hospitals:
            schema = schema_of(self._sites[user_id].data_url)
            sql_texts[str(user_id)] = f"SELECT * FROM {schema}.{table}"  # noqa: S608
        return sql_texts

    def _providers(self, table: str, key: str) -> list[dict[str, str]]:
        providers = []
        for site in self._sites.values():
            data_path = f"{schema_of(site.data_url)}.{table}"
            providers.append(
                {
                    "name": site.name,
                    "data_path": data_path,
                    "data_type": "table",
                    "key_column": key,
                }
            )
        return providers

    def _asked(self, table: str, key: str, **fields: Any) -> Any:
        return self.federation.statistics(
            data_providers=self._providers(table, key),
            result_receivers=[self._sites[INITIATOR].name],
            progress=False,
            **fields,
        )

    def _trained(self, table: str, **fields: Any) -> Any:
        others = [user_id for user_id in TRAINED if user_id != INITIATOR]
        order = self.federation.submit(
            party_id=others,
            data_info=self._sql(table, TRAINED),
            unique_id="id",
            **fields,
        )
        return order.wait(progress=False)

    # The parts of the paper

    def _table_1(self) -> None:
        answer = self._begun(
            "describe, by outcome",
            "/runModelTrainTask",
            lambda: self._asked(
                "patients",
                "age",
                method="describe",
                missing="drop",
                columns=["age", "bmi", "bp", "sex"],
                group_by=["high"],
                result_alias="table_1",
            ),
        )
        frame = answer.frame()
        everyone = pd.concat(self._patients.values())
        table = make_table(f"Table 1, {len(everyone)} patients of four hospitals")
        for heading in ("", "all", "high = 0", "high = 1", "SMD"):
            table.add_column(heading, justify="right" if heading else "left")
        for line in study_beside.table_1(frame, everyone, self.compared):
            table.add_row(*line)
        self._console.print(table)

    def _model(self, kind: str, label: str, beside: Callable[..., Any]) -> Any:
        order = self._begun(
            f"{kind} of {label}",
            "/model/train",
            lambda: self._trained(
                "patients",
                model_type=kind,
                model_params={"optimizer": "newton", "penalty": None, **MASK},
                attributes=COVARIATES,
                categorical={"sex": {"reference": "F"}},
                label_name=label,
                missing="drop",
            ),
        )
        rows = pd.concat(self._patients[user_id] for user_id in TRAINED)
        rows = rows.dropna(subset=COVARIATES)
        X = rows[COVARIATES].assign(sex=(rows["sex"] == "M").astype(float))
        term_names = ["(Intercept)", "age", "sex[M]", "bmi", "bp"]
        estimates = beside(X.to_numpy(float), rows[label].to_numpy(float))
        self._terms(
            order.report(),
            dict(zip(term_names, estimates, strict=True)),
            f"{kind} of {label}",
        )
        return order

    def _cox(self) -> None:
        order = self._begun(
            "cox",
            "/model/train",
            lambda: self._trained(
                "followup",
                model_type="cox",
                model_params=MASK,
                attributes=["age", "arm"],
                categorical={"arm": {"reference": "a"}},
                label_name="days",
                event_name="died",
            ),
        )
        frames = [self._followup[user_id] for user_id in TRAINED]
        estimates = study_beside.cox(frames)
        beside = dict(zip(["age", "arm[b]"], estimates, strict=True))
        self._terms(order.report(), beside, "cox, a baseline for each hospital")

    def _terms(
        self,
        report: pd.DataFrame,
        beside: dict[str, study_beside.Estimate],
        title: str,
    ) -> None:
        n_rows = report.attrs["n"]
        table = make_table(f"{title}: {n_rows} rows, {report.attrs['rounds']} rounds")
        table.add_column("")
        for heading in (
            "estimate",
            "95 % interval",
            "ratio",
            "p",
            "one table's",
            "its SE",
        ):
            table.add_column(heading, justify="right")
        ratios = [name for name in ("odds_ratio", "hazard_ratio") if name in report]
        for term, report_row in report.iterrows():
            pooled = beside[str(term)]
            self.compared += [
                (report_row["estimate"], pooled.value),
                (report_row["se"], pooled.error),
            ]
            ratio = report_row[ratios[0]] if ratios else None
            table.add_row(
                escape(str(term)),  # sex[M] is no markup
                f"[bold]{report_row['estimate']:.{SIGNIFICANT}g}[/]",
                f"{report_row['low']:.4g} to {report_row['high']:.4g}",
                "" if ratio is None or pd.isna(ratio) else f"{ratio:.3g}",
                f"{report_row['p']:.2g}",
                f"{pooled.value:.{SIGNIFICANT}g}",
                f"{pooled.error:.4g}",
            )
        self._console.print(table)

    def _curves(self) -> None:
        answer = self._begun(
            "kaplan_meier, by arm",
            "/runModelTrainTask",
            lambda: self._asked(
                "followup",
                "days",
                method="kaplan_meier",
                event_name="died",
                group_by=["arm"],
                bins=TIMES,
                result_alias="curves",
            ),
        )
        if self._figures is not None:
            draw_survival(self._figures, answer.frame())
        everyone = pd.concat(self._followup.values())
        table = make_table("Survival, counted between given times")
        for heading in ("arm", "days", "survival", "at risk", "one table's"):
            table.add_column(heading, justify="right")
        for line in study_beside.curves(answer.frame(), everyone, self.compared):
            table.add_row(*line)
        self._console.print(table)

    def _log_rank(self) -> None:
        answer = self._begun(
            "logrank, by arm",
            "/runModelTrainTask",
            lambda: self._asked(
                "followup",
                "days",
                method="logrank",
                event_name="died",
                group_by=["arm"],
                result_alias="log_rank",
            ),
        )
        joint = float(study_beside.of_quantity(answer.frame(), "chi2"))
        pooled = study_beside.log_rank(list(self._followup.values()))
        self.compared.append((joint, pooled))
        self._console.print(
            f"\nLog-rank, stratified by hospital: chi2 [bold]{joint:.{SIGNIFICANT}f}[/], "
            f"one table's {pooled:.{SIGNIFICANT}f}\n"
        )

    def _evaluation(self, trained: Any) -> None:
        order = self._begun(
            f"model {trained.order_id} on rows of all four",
            "/model/evaluate",
            lambda: self.federation.evaluate(
                trained.order_id, self._sql("patients", list(self._sites))
            ).wait(progress=False),
        )
        metrics = order.answer()["report"]["metrics"]
        terms = trained.report()["estimate"]
        pooled = study_beside.judged(terms, pd.concat(self._patients.values()))
        table = make_table("Evaluation; one of the four has not trained the model")
        for name in ("", "joint", "one table's"):
            table.add_column(name, justify="right" if name else "left")
        for name, pooled_value in pooled.items():
            self.compared.append((metrics[name], pooled_value))
            table.add_row(
                name,
                f"[bold]{metrics[name]:.{SIGNIFICANT}f}[/]",
                f"{pooled_value:.{SIGNIFICANT}f}",
            )
        self._console.print(table)

    def _begun(self, description: str, path: str, send: Callable[[], Any]) -> Any:
        began = time.monotonic()
        with self._console.status(f"{description} ..."):
            answer = send()
        seconds = time.monotonic() - began
        say_request(self._console, f"POST {path}", f"{description}: {seconds:.1f} s")
        return answer

    def _say_difference(self) -> None:
        largest = 0.0
        for joint, pooled in self.compared:
            # Two zeros differ by nothing, and are not divided by zero.
            size = max(abs(pooled), 1e-300)
            largest = max(largest, abs(joint - pooled) / size)
        libraries = ", ".join(study_beside.libraries()) or "plain NumPy"
        self._console.print(
            f"\nLargest relative difference of {len(self.compared)} numbers from one table of all rows ({libraries}): "
            f"[bold green]{largest:.1e}[/]\n"
        )


def show(
    console: Console,
    settings: CoordinatorSettings,
    sites: list[SiteSettings],
    figures: Path | None = None,
) -> None:
    """Sends the study's orders to a running federation, and prints what came of them.

    figures: a folder for its forest plot and survival curves, else none are drawn.
    """
    study = Study(console, settings, sites, figures)
    with study.federation:
        study.run()
