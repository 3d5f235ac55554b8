"""Providers of a joint computation as threads of one process, with the coordinator's
dealing beside them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analytics.statistics.circuit import Plan
from analytics.statistics.rowwise import Column
from protocol.shares.shared_expression import JoinedResult, evaluate, reveal
from tasks.coordinator.dealing import Dealt, deal

Tamper = Callable[[Dealt], bytes]


@dataclass(frozen=True)
class MadeKeys:
    """Of a session, what sharing needs; the keys follow from a text."""

    me: int
    context: str = "order"

    def pair_key(self, peer: int, info: bytes) -> bytes:
        return self._key(repr(sorted((self.me, peer))), info)

    def group_key(self, info: bytes) -> bytes:
        return self._key("group", info)

    def _key(self, who: str, info: bytes) -> bytes:
        return hashlib.sha256(f"{self.context}/{who}/".encode() + info).digest()


class Stopped(Exception):
    """Another provider stopped the order."""


@dataclass
class Hall:
    """Where providers' openings meet. `sent` keeps them all, by number and provider."""

    providers: tuple[int, ...]
    dealt: dict[tuple[int, int], bytes]
    sent: dict[int, dict[int, bytes]] = field(default_factory=dict)
    n_bytes: dict[int, int] = field(default_factory=dict)
    keep: bool = True
    stopped: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def channel(self, me: int) -> MadeChannel:
        return MadeChannel(self, me)


@dataclass
class MadeChannel:
    hall: Hall
    me: int

    def open(self, number: int, data: bytes) -> Mapping[int, bytes]:
        hall = self.hall
        with hall.changed:
            here = hall.sent.setdefault(number, {})
            assert here.setdefault(self.me, data) == data, "other bytes under one name"
            hall.n_bytes[self.me] = hall.n_bytes.get(self.me, 0) + len(data)
            hall.changed.notify_all()
            hall.changed.wait_for(
                lambda: len(here) == len(hall.providers) or hall.stopped, timeout=120
            )
            if len(here) < len(hall.providers):
                raise Stopped
            if not hall.keep:
                hall.sent.pop(number - 2, None)
            return dict(here)

    def dealt(self, number: int) -> bytes:
        return self.hall.dealt[number, self.me]


def seeds_of(providers: tuple[int, ...], context: str = "order") -> dict[int, bytes]:
    return {
        p: hashlib.sha256(f"seed/{context}/{p}".encode()).digest() for p in providers
    }


def hall_of(
    plan: Plan, n_rows: int, *, tamper: Tamper | None = None, context: str = "order"
) -> Hall:
    dealt = deal(plan, n_rows=n_rows, seeds=seeds_of(plan.providers, context))
    return Hall(
        plan.providers,
        {(d.number, d.provider): tamper(d) if tamper else d.data for d in dealt},
    )


def shares_of(
    plan: Plan,
    columns: Mapping[int, Mapping[str, Column]],
    n_rows: int,
    hall: Hall,
    *,
    context: str = "order",
) -> dict[int, bytes]:
    """Every provider's share; the first error that is not another's echo is raised."""

    def run(me: int) -> bytes:
        try:
            return evaluate(
                plan,
                columns.get(me, {}),
                keys=MadeKeys(me, context),
                channel=hall.channel(me),
                n_rows=n_rows,
            )
        except BaseException:
            with hall.changed:
                hall.stopped = True
                hall.changed.notify_all()
            raise

    with ThreadPoolExecutor(len(plan.providers)) as pool:
        running = {me: pool.submit(run, me) for me in plan.providers}
    errors = [
        error
        for future in running.values()
        if (error := future.exception()) is not None
    ]
    for error in sorted(errors, key=lambda e: isinstance(e, Stopped)):
        raise error
    return {me: future.result() for me, future in running.items()}


def compute_jointly(
    plan: Plan,
    columns: Mapping[int, Mapping[str, Column]],
    n_rows: int,
    *,
    tamper: Tamper | None = None,
) -> JoinedResult:
    hall = hall_of(plan, n_rows, tamper=tamper)
    return reveal(plan, shares_of(plan, columns, n_rows, hall))


def column(values: list[int | None]) -> Column:
    """Integers at the column's scale; None where one is missing."""
    filled: Any = [0 if value is None else value for value in values]
    return Column(
        np.array([*filled, None], dtype=object)[:-1],
        np.array([v is not None for v in values], dtype=bool),
    )
