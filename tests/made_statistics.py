"""Hospitals that take part in joint statistics, and orders of theirs in one process."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from agents.site import vault_database
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from deployments.local.one_process import ALL_OF_THIS, Releases, run_statistics
from protocol.errors import ConsiliumError
from protocol.memory_transport import MemoryTransport
from protocol.statistics_request import JOINED, POOLED
from tests.made_sites import make_sites

SOME_ROWS = pd.DataFrame({"id": range(20), "x1": [0.5, 1.5] * 10, "y": [0, 1] * 10})


@dataclass(frozen=True)
class Answered:
    """An order with a result: what the coordinator tells, and the receivers' files."""

    order_id: int
    summary: dict[str, Any]
    files: dict[int, bytes]
    notes: dict[str, Any]

    @property
    def text(self) -> str:
        """The one result of all receivers."""
        (content,) = set(self.files.values())
        return content.decode()

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.text)))

    @property
    def number(self) -> float:
        ((only,),) = (row.values() for row in self.rows)
        return float(only)

    def column(self, name: str) -> list[float]:
        return [float(row[name]) for row in self.rows]

    def by(self, *labels: str, value: str) -> dict[tuple[str, ...], str]:
        return {tuple(row[label] for label in labels): row[value] for row in self.rows}


def in_toml(value: Any) -> str:
    """A value of policy.toml."""
    if not isinstance(value, dict):
        return json.dumps(value)
    pairs = [f"{json.dumps(key)} = {json.dumps(text)}" for key, text in value.items()]
    return "{ " + ", ".join(pairs) + " }"


@dataclass
class Hospitals:
    """Sites that have pinned each other, whose policies take part in every statistic."""

    sites: dict[int, SiteSettings]
    policies: dict[int, str]
    last: int = 0

    def allow(self, users: Iterable[int] | None = None, **rules: Any) -> None:
        """Sets `[statistics]` of these hospitals, or of all; what is not named is the
        policy's default.
        """
        rules = {
            "methods": [*POOLED, *JOINED],
            "files": ["*"],
            "min_providers": 1,
            "regroup": True,
            "own_totals": True,
            **rules,
        }
        lines = "".join(f"{name} = {in_toml(value)}\n" for name, value in rules.items())
        for user in self.sites if users is None else users:
            self.sites[user].policy.write_text(
                f"{self.policies[user]}\n[statistics]\n{lines}"
            )

    def write(self, user: int, name: str, content: pd.DataFrame | bytes) -> None:
        """A file of the hospital's data folder, of the kind that its name says, or a
        table of its database.
        """
        path = self.sites[user].data_folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif name.endswith(".csv"):
            content.to_csv(path, index=False)
        elif name.endswith(".json"):
            lines = (
                {k: v for k, v in row.items() if not pd.isna(v)}
                for row in content.to_dict("records")
            )
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        elif name.endswith(".parquet"):
            with duckdb.connect() as database:
                database.register("content", content)
                database.execute(f"COPY content TO '{path}' (FORMAT parquet)")
        else:
            # The policy's unique id, which every table has.
            if "id" not in content.columns:
                content = content.assign(id=range(len(content)))
            with duckdb.connect(
                str(self.sites[user].state / "hospital.duckdb")
            ) as database:
                database.register("content", content)
                database.execute(
                    f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM content"
                )

    def ask(
        self,
        method: str,
        data: Mapping[int, str],
        *,
        key: str | Mapping[int, str] = "x",
        receivers: Iterable[int] | None = None,
        initiator: int | None = None,
        transport: MemoryTransport | None = None,
        repeats: int | None = None,
        extra: Mapping[int, Mapping[str, Any]] | None = None,
        releases: Releases = ALL_OF_THIS,
        away: Iterable[int] = (),
        absent: Iterable[int] = (),
        **fields: Any,
    ) -> Answered:
        """An order over each provider's data; the first provider asks, and all
        providers receive, unless said. away: hospitals that are not there, absent: that
        are, and without which it starts too.
        """
        self.last += 1
        order_id, told = (
            self.last,
            sorted(data) if receivers is None else list(receivers),
        )
        keys = dict.fromkeys(data, key) if isinstance(key, str) else key
        providers = [
            {
                "name": user,
                "data_path": path,
                "data_type": type_of(path),
                "key_column": keys[user],
            }
            | dict((extra or {}).get(user, {}))
            for user, path in data.items()
        ]
        body = {
            "method": method,
            "data_providers": providers,
            "result_receivers": told,
            **fields,
        }
        summary = run_statistics(
            self.sites,
            body,
            initiator=initiator or next(iter(data)),
            order_id=order_id,
            transport=transport,
            repeats=repeats,
            releases=releases,
            away=list(away),
        )
        told = [user for user in told if user not in (*away, *absent)]
        assert self.holders(order_id) == sorted(told)
        files = {
            user: (self.sites[user].results_folder / summary["path"]).read_bytes()
            for user in told
        }
        notes = (
            self._folder(told[0], order_id) / f"{Path(summary['path']).stem}.notes.json"
        ).read_text()
        return Answered(order_id, summary, files, json.loads(notes))

    def refused(
        self, method: str, data: Mapping[int, str], **fields: Any
    ) -> ConsiliumError:
        """The error of an order that must end without a result; nothing of it is in any
        results folder.
        """
        with pytest.raises(ConsiliumError) as caught:
            self.ask(method, data, **fields)
        left = [
            path
            for site in self.sites.values()
            for path in site.results_folder.rglob("*.tmp")
        ]
        assert self.holders(self.last) == left == []
        assert caught.value.code != "unplanned", caught.value
        assert caught.value.sentence
        assert caught.value.remedy
        return caught.value

    def forget(self, *users: int) -> None:
        """Nothing has been answered yet, as far as the gates know (of these hospitals,
        else of all): for tests of the numbers, whose questions together would tell
        single people.
        """
        for user in users or self.sites:
            site = self.sites[user]
            (Vault(site.vault).cohorts / "cohorts.sqlite").unlink(missing_ok=True)

    def holders(self, order_id: int) -> list[int]:
        """Who has anything of an order's result."""
        return [user for user in self.sites if self._folder(user, order_id).exists()]

    def _folder(self, user: int, order_id: int) -> Path:
        return self.sites[user].results_folder / str(order_id)

    def ledger(self, user: int, order_id: int, event: str) -> list[dict[str, Any]]:
        entries = Ledger(self.sites[user].ledger).entries()
        return [
            entry
            for entry in entries
            if (entry.get("order_id"), entry["event"]) == (order_id, event)
        ]


def type_of(path: str) -> str:
    if path.upper().startswith("SELECT"):
        return "sql"
    suffix = path.rpartition(".")[2]
    return suffix if suffix in ("csv", "json", "parquet") else "table"


def make_hospitals(
    folder: Path,
    users: Iterable[int],
    *,
    pooled: Mapping[int, pd.DataFrame] | None = None,
    **options: Any,
) -> Hospitals:
    """pooled: each hospital's table `data.pooled`, where it has one from the beginning."""
    tables: dict[int, Any] = {user: {"rows": SOME_ROWS} for user in users}
    for user, frame in (pooled or {}).items():
        tables[user] = {**tables[user], "pooled": frame}
    sites = make_sites(folder, tables, opened=("rows", "pooled"), **options)
    hospitals = Hospitals(
        sites, {user: site.policy.read_text() for user, site in sites.items()}
    )
    for site in sites.values():
        site.data_folder.mkdir(exist_ok=True)
    hospitals.allow()
    return hospitals


@contextmanager
def no_waiting_for_disks() -> Iterator[None]:
    """For tests in which nobody crashes: a file that is written need not be on disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(vault_database, "SYNCHRONOUS", "OFF")
        yield
