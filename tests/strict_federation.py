"""Four hospitals on this machine whose policies leave the gate's numbers as they are, and
what somebody does there who is after one patient: with a token, or with an agent of
their own making.

The tables are of made patients. Every attack has a table or file of its own, since the
gate remembers what was told of each.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
import pandas as pd
import pytest

from api.settings import load_settings
from deployments.local.sites import NAMED, prepare, sites_folder
from deployments.processes import TIED
from tests.conftest import ROOT, RunningFederation
from tests.faults.processes import children, command_of, wait_until

NAMES = {
    2: "suzhou-szslyy",
    3: "zhejiang-zdey",
    4: "shanxi-xbfy",
    5: "hospital-5",
}
USERS = (2, 3, 4)
FOUR = (2, 3, 4, 5)
N_PATIENTS = 80
NINE = [f"x{number}" for number in range(1, 10)]

POLICY = """
[orders]
initiators = [2, 3, 4]
receivers = [2, 3, 4]
methods = ["Paillier", "Mask", "None"]
model_types = ["lr", "linear", "softmax"]
sign = true
scoring = "full"

[cohort]

[inference]
allowed = true
return_predictions = true

[statistics]
methods = [
  "sum", "avg", "var", "std", "count", "min", "max", "median", "quantile",
  "histogram", "cov", "corr", "frequency", "crosstab", "custom",
  "is_investor_accredited",
]
files = ["*"]
unique_ids = { "*" = "id" }
row_level = ["id", "x"]
"""


def patients(user: int, n_patients: int = N_PATIENTS) -> pd.DataFrame:
    """One hospital's table. `n` numbers the rows, and other hospitals may filter on it."""
    rng = np.random.default_rng(user)
    n = np.arange(n_patients)
    return pd.DataFrame(
        {
            "id": n + 1_000_000 * user,
            "n": n,
            "y": n % 2,
            "age": rng.integers(20, 80, n_patients),
            "bmi": np.round(rng.normal(26, 4, n_patients), 1),
            "crp": np.round(rng.normal(9, 2, n_patients), 1),
            "sex": np.where(n % 4 < 2, "F", "M"),
            "region": "north",
            "ward": int(user == 2),
            "other_ward": int(user == 2) * (n % 2),
            **{name: rng.normal(size=n_patients).round(3) for name in NINE},
        }
    )


@dataclass
class Strict(RunningFederation):
    """What a user asks of it, and what is known of a question afterwards."""

    agents: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def policy(self, user: int) -> Path:
        return self.home / "site-folders" / NAMES[user] / "policy.toml"

    def state(self, user: int) -> Path:
        return self.home / "sites" / NAMES[user]

    def write(self, user: int, table: str, frame: pd.DataFrame) -> None:
        """A table of the hospital's database, made anew."""
        self.write_all(user, {table: frame})

    def write_all(self, user: int, frames: Mapping[str, pd.DataFrame]) -> None:
        with self.database(user) as database:
            for table, frame in frames.items():
                database.register("frame", frame)
                made = f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM frame"
                database.execute(made)

    def database(self, user: int) -> duckdb.DuckDBPyConnection:
        """To write into: when the process of the last order has let it go."""
        path = str(self.state(user) / "hospital.duckdb")

        def connect() -> duckdb.DuckDBPyConnection | None:
            with contextlib.suppress(duckdb.IOException):
                return duckdb.connect(path)
            return None

        found = wait_until(connect, f"the database of {user}", seconds=60)
        assert isinstance(found, duckdb.DuckDBPyConnection)
        return found

    def write_file(self, user: int, name: str, frame: pd.DataFrame) -> None:
        frame.to_csv(self.state(user) / "data" / name, index=False)

    @contextlib.contextmanager
    def allowing(
        self, section: str, lines: str, users: Iterable[int] = FOUR
    ) -> Iterator[None]:
        """Policies with further lines, which agents read anew for each order."""
        before = {user: self.policy(user).read_text() for user in users}
        for user, text in before.items():
            changed = text.replace(f"[{section}]\n", f"[{section}]\n{lines}\n")
            assert changed != text
            self.policy(user).write_text(changed)
        try:
            yield
        finally:
            for user, text in before.items():
                self.policy(user).write_text(text)

    # Questions

    def train(self, body: dict[str, Any]) -> Outcome:
        """An order when it has ended."""
        with self.client(int(body["user_id"])) as client:
            answer = client.post("/model/train", json=body)
        order_id = int(answer.json()["data"]["order_id"])
        return self._outcome(answer, order_id)

    def ask(self, body: dict[str, Any], who: int) -> Outcome:
        with self.client(who) as client:
            answer = client.post("/runModelTrainTask", json=body)
        return self._outcome(answer, int(answer.headers["X-Order-Id"]))

    def _outcome(self, answer: httpx.Response, order_id: int) -> Outcome:
        return Outcome(self, answer, order_id, self.wait_for(order_id))

    def ledger(self, user: int, order_id: int, event: str) -> list[dict[str, Any]]:
        path = self.state(user) / "ledger.jsonl"
        # A hospital that has taken part in nothing yet has none.
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines]
        return [
            entry
            for entry in entries
            if (entry.get("order_id"), entry["event"]) == (order_id, event)
        ]

    # Agents

    @contextlib.contextmanager
    def changed_agent(self, user: int, change: str, folder: Path) -> Iterator[None]:
        """A hospital's agent that does not follow the protocol; `change` is Python that
        all its processes run when they start.
        """
        (folder / "sitecustomize.py").write_text(change)
        self._end_agent(user)
        self._start_agent(user, os.pathsep.join([str(folder), str(ROOT)]))
        try:
            yield
        finally:
            self._end_agent(user)
            self._start_agent(user, str(ROOT))

    @contextlib.contextmanager
    def agent_of(self, user: int, tree: Path) -> Iterator[None]:
        """A hospital's agent of another tree, as of a release before."""
        self._end_agent(user)
        self._start_agent(user, str(tree), tree=tree)
        try:
            yield
        finally:
            self._end_agent(user)
            self._start_agent(user, str(ROOT))

    def _start_agent(self, user: int, path: str, *, tree: Path = ROOT) -> None:
        site = self.policy(user).parent
        command = [sys.executable, "-m", "deployments.agent", "start"]
        with (self.state(user) / "agent.log").open("ab") as log:
            self.agents[user] = subprocess.Popen(
                [*TIED, str(os.getpid()), *command, "--site", str(site)],
                cwd=tree,
                env={**self.env, "PYTHONPATH": path},
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._is_online(user), f"agent {user}", seconds=120)

    def _end_agent(self, user: int) -> None:
        """The one that came with the federation, or the one in its place."""
        own = self.agents.pop(user, None)
        if own is not None:
            own.terminate()
            own.wait(timeout=60)
        else:
            assert self.process is not None
            for pid in children(self.process.pid):
                command = command_of(pid)
                if "deployments.agent" in command and NAMES[user] in command:
                    os.kill(pid, signal.SIGTERM)
        wait_until(
            lambda: not self._is_online(user), f"agent {user} is gone", seconds=120
        )

    def _is_online(self, user: int) -> bool:
        with self.client("operator") as client:
            rows = client.get("/hospitals").json()["data"]["hospitals"]
        return any(row["online"] for row in rows if row["user_id"] == user)

    def stop(self) -> int:
        for user in list(self.agents):
            own = self.agents.pop(user)
            own.terminate()
            own.wait(timeout=60)
        return super().stop()


@dataclass(frozen=True)
class Outcome:
    """What came of an order: the answer to who sent it, and the order as it ended."""

    federation: Strict
    answer: httpx.Response
    order_id: int
    order: dict[str, Any]

    def assert_answered(self) -> dict[str, Any]:
        """The result of a question."""
        assert self.answer.status_code == 200, self.answer.text
        assert self.order["state"] == "success", self.order
        told = self.answer.json()
        return dict(told.get("result") or told["data"])

    def assert_refused(self, rule: str, *, by: Iterable[int] = FOUR) -> None:
        """By this rule, in the words that the sender hears, at `GET /orders/{id}`, and
        in the ledger of every hospital that refused; and nobody has a result.
        """
        assert self.order["state"] == "failed", self.answer.text
        refusal = self.order["refusal"]
        assert refusal["code"] == rule, refusal
        assert refusal["remedy"]
        assert refusal["detail"]["user_id"] in set(by), refusal
        sentences = []
        for user in NAMES:
            for entry in self.federation.ledger(user, self.order_id, "refused"):
                assert (entry["rule"], user in set(by)) == (rule, True)
                sentences.append(entry["sentence"])
        # Of several hospitals the sender hears those that were first; of an order that
        # was running already, nothing at once.
        if self.answer.status_code != 200:
            assert any(sentence in self._told for sentence in sentences), self._told
        for user in NAMES:
            folder = self.federation.state(user)
            assert not (folder / "results" / str(self.order_id)).exists()
            assert not (folder / "vault" / "models" / f"{self.order_id}.json").exists()

    @property
    def _told(self) -> str:
        answer = self.answer.json()
        return str(answer.get("msg") or answer["message"])

    def table(self, user: int) -> list[dict[str, str]]:
        """What a receiver has in its file."""
        path = self.federation.state(user) / "results" / self.assert_answered()["path"]
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    @property
    def extra(self) -> dict[str, Any]:
        """What the coordinator tells of a question."""
        return dict(json.loads(self.assert_answered()["extra"]))

    def number(self, user: int) -> float:
        ((only,),) = (row.values() for row in self.table(user))
        return float(only)


# The bodies of requests


def order(
    table: str,
    *,
    users: Iterable[int] = USERS,
    sql: Mapping[int, str] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """An order of the last of these hospitals for two rounds over a table of all;
    `sql` replaces the text for some of them, `params` are model parameters.
    """
    everybody = list(users)
    texts = dict.fromkeys(everybody, f"SELECT * FROM {table}") | dict(sql or {})
    params = {
        "penalty": None,
        "eps": 0,
        "max_iter": 2,
        "standardize": True,
        "encrypt_param": {"method": "Mask"},
        **changes.pop("params", {}),
    }
    return {
        "user_id": 4,
        "party_id": [user for user in everybody if user != 4],
        "model_type": "lr",
        "model_params": params,
        "data_info": {str(user): text for user, text in texts.items()},
        "unique_id": "id",
        "attributes": ["age", "bmi"],
        "label_name": "y",
        "scoring": "none",
        **changes,
    }


def question(
    method: str,
    data: str | Mapping[int, str],
    *,
    column: str | Mapping[int, str] = "age",
    users: Iterable[int] = USERS,
    receivers: Iterable[int] = (4,),
    **fields: Any,
) -> dict[str, Any]:
    """Of a table, a SELECT or a file of each of these hospitals."""
    providers = []
    for user in users:
        path = data if isinstance(data, str) else data[user]
        named = column if isinstance(column, str) else column[user]
        provider = {"name": NAMES[user], "data_path": path, "data_type": type_of(path)}
        providers.append({**provider, "key_column": named})
    return {
        "method": method,
        "data_providers": providers,
        "result_receivers": [NAMES[user] for user in receivers],
        "timeout_seconds": 180,
        **fields,
    }


def type_of(path: str) -> str:
    if path.startswith("SELECT"):
        return "sql"
    return "csv" if path.endswith(".csv") else "table"


# The federation


def make_strict(folder: Path, tables: Iterable[str]) -> Strict:
    """Every hospital has these tables of `patients`, and opens them."""
    sites = folder / "sites"
    opened = ""
    for table in tables:
        opened += f'[tables."{table}"]\ncolumns = ["*"]\nfilter_columns = ["n"]\n'
    for name in NAMED:
        shutil.copytree(sites_folder() / name, sites / name)
        (sites / name / "policy.toml").write_text(POLICY + opened)
    strict = Strict(
        folder / "home",
        options=("--no-restart", "--hospitals", str(len(NAMES))),
        environment={"CONSILIUM_SITES": str(sites)},
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in strict.env.items():
            if name.startswith("CONSILIUM_"):
                patch.setenv(name, value)
        prepare(load_settings(), n_hospitals=len(NAMES))
    for user in NAMES:
        strict.write_all(user, dict.fromkeys(tables, patients(user)))
    return strict
