"""An order that is checked before it is sent: what is said of it is what happens when it
is sent, all reasons come at once, and the check leaves the hospital as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.check.findings import JOINT, WRONG, Finding
from agents.check.order.checking import check_order
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from deployments.local.one_process import run_order, run_statistics
from protocol.errors import ConsiliumError
from tests.made_sites import contents, make_sites, order_body
from tests.made_statistics import no_waiting_for_disks
from tests.pairwise import quick

ALL = (2, 3, 4)
ME = 3
N_ROWS = 40
STATISTICS = (
    '[statistics]\nmethods = ["avg", "frequency", "describe", "median", "custom", "var"]\n'
    'files = ["open.csv"]\nmin_providers = 2\n'
)
TABLE = '[tables."data.rows"]'


def table(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"id": range(N_ROWS)})
    for name in ("x1", "x2", "x3"):
        rows[name] = rng.normal(size=N_ROWS).round(3)
    rows["y"] = np.arange(N_ROWS) % 2
    rows["rare"] = (np.arange(N_ROWS) < 3).astype(int)
    rows["gaps"] = np.where(np.arange(N_ROWS) < 2, np.nan, rows["x1"])
    rows["huge"] = np.where(np.arange(N_ROWS) == 7, 1e6, 1.0)
    rows["ward"] = np.where(np.arange(N_ROWS) < 3, 9, np.arange(N_ROWS) % 2)
    return rows


@dataclass
class Sites:
    """Three hospitals whose policies one test after the other changes."""

    sites: dict[int, SiteSettings]
    policies: dict[int, str]
    last: int = 0

    def begin(self, changes: Mapping[str, str], users: tuple[int, ...]) -> None:
        """Policies with other words in some places, and nothing answered so far."""
        for user, site in self.sites.items():
            text = self.policies[user]
            for old, new in changes.items() if user in users else ():
                assert old in text, old
                text = text.replace(old, new)
            site.policy.write_text(text)
            for name in ("cohorts", "rounds", "statistics"):
                path = Vault(site.vault).cohorts / f"{name}.sqlite"
                path.unlink(missing_ok=True)

    def check(
        self, folder: Path, body: Mapping[str, Any], *, user: int | None = None
    ) -> list[Finding]:
        """At hospital ME, which is byte by byte as before."""
        site = self.sites[ME]
        path = folder / "order.json"
        path.write_text(json.dumps(body))
        before = contents(site.site) | contents(site.state)
        findings = check_order(site.site, path, user=user)
        assert contents(site.site) | contents(site.state) == before
        return findings

    def send(self, body: Mapping[str, Any]) -> str:
        """The code with which the order ends; nothing for success."""
        self.last += 1
        code = ""
        try:
            if "data_providers" in body:
                run_statistics(self.sites, body, initiator=2, order_id=self.last)
            else:
                run_order(self.sites, body, order_id=self.last)
        except ConsiliumError as error:
            code = error.code
        assert code not in ("error", "unplanned")
        return code


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    with no_waiting_for_disks():
        tables = {user: {"rows": table(user)} for user in ALL}
        folder = tmp_path_factory.mktemp("checked")
        sites = make_sites(
            folder, tables, min_hospitals=2, regroup=False, filter_columns=["ward"]
        )
        policies = {}
        for user, site in sites.items():
            policies[user] = site.policy.read_text() + STATISTICS
            pins = "".join(
                f"[[partners]]\nuser_id = {one.user_id}\nname = '{one.name}'\n"
                f"fingerprint = '{one.fingerprint}'\n"
                for one in site.partners.values()
                if one.user_id != user
            )
            (site.state / "partners.toml").write_text(pins)
            for name in ("open.csv", "closed.csv"):
                table(user).to_csv(site.data_folder / name, index=False)
        yield Sites(sites, policies)


def training(**changes: Any) -> dict[str, Any]:
    hospitals = changes.pop("hospitals", ALL)
    params = {"max_iter": 2, **changes.pop("model_params", {})}
    where = changes.pop("where", "")
    body = order_body(
        hospitals,
        **{"attributes": ["x1", "x2"], "model_params": params, **changes},
    )
    body["data_info"] = {
        user: f"{text}{where}" for user, text in body["data_info"].items()
    }
    return body


def statistics(method: str = "avg", **changes: Any) -> dict[str, Any]:
    path = changes.pop("path", "data.rows")
    kind = changes.pop("kind", "table")
    key = changes.pop("key", "x1")
    providers = []
    for user in ALL:
        providers.append(
            {"name": user, "data_path": path, "data_type": kind, "key_column": key}
        )
    return {
        "method": method,
        "data_providers": providers,
        "result_receivers": [2],
        "user_id": 2,
        **changes,
    }


FOLDS = {"cv_param": {"need_cv": True, "n_splits": 5}}
JOINED = {"expression": "sum(df1.x1 + df2.x2 + df3.x3)", "key": "id"}


@dataclass(frozen=True)
class Case:
    body: dict[str, Any]
    # With which codes the check refuses; all of them at once.
    refused: set[str] = field(default_factory=set)
    policy: dict[str, str] = field(default_factory=dict)
    # Whose policy it is.
    users: tuple[int, ...] = (ME,)
    # Sent before, with success.
    earlier: dict[str, Any] | None = None
    # What the order ends with where the check leaves it to the others.
    jointly: str = ""


CASES = {
    "accepted": Case(training()),
    "folds of few rows, and other reasons": Case(
        training(
            model_params=FOLDS,
            attributes=["x1", "rare"],
            where=" WHERE ward < 10",
        ),
        {"methods", "min_rows", "min_varying", "max_parameter_share"},
        {
            '"Paillier", "Mask", "None"': '"Paillier"',
            TABLE: f'{TABLE}\nmax_parameter_share = "1/100"',
        },
    ),
    "one patient apart from an earlier order": Case(
        training(where=" WHERE ward < 2"),
        {"earlier_cohort"},
        earlier=training(),
    ),
    "a mean": Case(statistics()),
    "a mean of few rows over the years": Case(
        statistics(path="SELECT x1, ward FROM data.rows WHERE ward < 2", kind="sql"),
        {"earlier_cohort"},
        earlier=statistics(),
    ),
}

MORE_CASES = {
    "one that starts with who is there": Case(
        training(start_within_seconds=60, at_least=2)
    ),
    "one that may start with too few": Case(
        training(start_within_seconds=60, at_least=2),
        {"min_hospitals"},
        {"min_hospitals = 2": "min_hospitals = 3"},
    ),
    "an answer that may start with too few": Case(
        statistics(start_within_seconds=60, at_least=2),
        {"min_providers"},
        {"min_providers = 2": "min_providers = 3"},
    ),
    "a linear model with standardized columns": Case(
        training(
            model_type="linear", label_name="x3", model_params={"standardize": True}
        )
    ),
    "a test set": Case(
        training(test_data_info={"3": "SELECT * FROM data.rows WHERE ward < 1"})
    ),
    "folds": Case(
        training(model_params={"cv_param": {"need_cv": True, "n_splits": 2}})
    ),
    "fewer rows than the policy asks for": Case(
        training(), {"min_rows"}, {TABLE: f"{TABLE}\nmin_rows = {N_ROWS + 1}"}
    ),
    "as many rows as the policy asks for": Case(
        training(), policy={TABLE: f"{TABLE}\nmin_rows = {N_ROWS}\nmin_varying = 1"}
    ),
    "gaps": Case(training(attributes=["x1", "gaps"]), {"null"}),
    "gaps that are left out": Case(training(attributes=["x1", "gaps"], missing="drop")),
    "no such column": Case(training(attributes=["x1", "z"]), {"missing_column"}),
    "a closed column in WHERE": Case(
        training(where=" WHERE x1 > 0"), {"filter_columns"}
    ),
    "a closed table and a closed model": Case(
        training(data_info=dict.fromkeys("234", "SELECT * FROM data.other")),
        {"tables", "model_types"},
        {'"lr", "linear"': '"linear"'},
    ),
    "rounds": Case(
        training(model_params={"max_iter": 6}),
        {"max_rounds"},
        {"regroup = false": "regroup = false\nmax_rounds = 5"},
    ),
    "a derived column of few": Case(
        training(derive={"few": "x1 * rare"}, attributes=["x2", "few"]),
        {"min_varying", "max_share"},
    ),
    "a derived column": Case(
        training(derive={"double": "x1 * x2"}, attributes=["x2", "double"])
    ),
    "a derived column that may not be": Case(
        training(derive={"double": "x1 * x2"}, attributes=["x2", "double"]),
        {"derive"},
        {"derive = true": "derive = false"},
    ),
    "categories": Case(
        training(
            categorical={"ward": {}}, attributes=["x1", "ward"], where=" WHERE ward < 2"
        )
    ),
    "a rare category": Case(
        training(categorical={"ward": {}}, attributes=["x1", "ward"]),
        jointly="rare_levels",
    ),
    "a rare column that all pool": Case(
        training(attributes=["x1", "rare"]),
        policy={"[statistics]": '[statistics]\ncells = "pooled"'},
        users=ALL,
        jointly="min_varying",
    ),
    "a hospital fewer": Case(
        training(hospitals=(2, 3)), {"earlier_hospitals"}, earlier=training()
    ),
    "a hospital more": Case(
        training(), earlier=training(hospitals=(2, 3)), jointly="earlier_hospitals"
    ),
    "the same once more": Case(training(), earlier=training()),
    "a mean beside a model": Case(statistics(), earlier=training()),
    "a frequency": Case(statistics("frequency", key="y")),
    "a frequency of rare values": Case(statistics("frequency", key="ward")),
    "a description": Case(
        statistics("describe", columns=["x1", "gaps", "ward"], group_by=["y"])
    ),
    "a description with quartiles": Case(
        statistics("describe", columns=["x1", "ward"], group_by=["y"], quartiles=True),
        policy={'"median"': '"median", "quantile"'},
        users=ALL,
    ),
    "a description whose quartiles may not be": Case(
        statistics("describe", columns=["x1"], quartiles=True), {"methods"}
    ),
    "a description of columns whose sums may not be": Case(
        statistics("describe", columns=["x1", "double"], derive={"double": "2 * x1"}),
        {"row_expressions"},
    ),
    "categories of a question": Case(statistics(group_by=["y"], categorical={"y": {}})),
    "a rare category of a question": Case(
        statistics(group_by=["ward"], categorical={"ward": {}}), jointly="rare_levels"
    ),
    "a derived column of a question": Case(
        statistics(key="double", derive={"double": "x1 + x2"})
    ),
    "a derived column of a question that may not be": Case(
        statistics(key="double", derive={"double": "x1 + x2"}),
        {"derive"},
        {"derive = true": "derive = false"},
    ),
    "mini-batches": Case(
        training(model_params={"batch_size": 20}),
        policy={"regroup = false": "regroup = false\nmini_batches = true"},
        users=ALL,
    ),
    "mini-batches that may not be": Case(
        training(model_params={"batch_size": 20}), {"mini_batches"}
    ),
    "a median": Case(statistics("median")),
    "joined rows": Case(statistics("custom", **JOINED)),
    "joined rows that are multiplied": Case(
        statistics(
            "custom", **{**JOINED, "expression": "sum(df1.x1 * df2.x2 + df3.x3)"}
        ),
        {"row_expressions"},
    ),
    "a closed method, and one row that is all": Case(
        statistics("var", key="huge"),
        {"max_share", "methods"},
        {', "var"': ""},
    ),
    "one row that is all, of rows that differ by few from earlier ones": Case(
        statistics(
            path="SELECT huge, ward FROM data.rows WHERE ward < 2",
            kind="sql",
            key="huge",
        ),
        {"max_share", "earlier_cohort"},
        earlier=statistics("median", key="huge"),
    ),
    "one row that is all": Case(statistics(key="huge"), {"max_share"}),
    "a closed file": Case(statistics(path="closed.csv", kind="csv"), {"files"}),
    "an open file": Case(statistics(path="open.csv", kind="csv")),
    "no section": Case(statistics(), {"statistics"}, {STATISTICS: ""}),
    "who asks may not": Case(
        statistics(),
        {"initiators"},
        {"initiators = [2, 3, 4]": "initiators = [3, 4]\nreceivers = [2, 3, 4]"},
    ),
}


def agrees(made: Sites, folder: Path, case: Case) -> None:
    made.begin(case.policy, case.users)
    if case.earlier is not None:
        assert made.send(case.earlier) == ""
    findings = made.check(folder, case.body)
    *lines, verdict = findings
    refused = {one.check for one in lines if one.state == WRONG}
    assert "order" not in refused, lines
    assert refused == case.refused
    assert verdict.check == "verdict"
    assert (verdict.state == WRONG) == bool(refused)
    for one in lines:
        assert one.sentence.endswith(".")
        assert one.remedy or one.state != WRONG

    code = made.send(case.body)
    if refused:
        assert code in refused
    elif case.jointly:
        assert code == case.jointly
        texts = [f"{one.check} {one.sentence}" for one in lines if one.state == JOINT]
        assert any(code in text for text in texts)
    else:
        assert code == ""


@pytest.mark.parametrize("name", quick(CASES, 2))
def test_what_is_said_of_an_order_is_what_happens(
    made: Sites, tmp_path: Path, name: str
) -> None:
    agrees(made, tmp_path, CASES[name])


@pytest.mark.thorough
@pytest.mark.parametrize("name", MORE_CASES)
def test_what_is_said_of_further_orders_is_what_happens(
    made: Sites, tmp_path: Path, name: str
) -> None:
    agrees(made, tmp_path, MORE_CASES[name])


def test_who_takes_part_is_left_to_the_others(made: Sites, tmp_path: Path) -> None:
    made.begin({}, ())
    for body in (training, statistics):
        asked = body(start_within_seconds=60, at_least=2)
        findings = made.check(tmp_path, asked)
        (one,) = [one for one in findings if one.check == "start_within_seconds"]
        assert one.state == JOINT
        assert "after 60 seconds" in one.sentence
