"""The gate before two orders at one moment, and before an order that dies there:
checked and remembered in one act.

Two orders whose rows differ by one patient are read by a process each, as at a
hospital. A barrier stands where a process has compared its rows and is about to write
them down: processes that meet there have both passed, and neither has seen the other.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.gate.memory import Memory
from agents.gate.memory_transaction import Transaction
from agents.order.party import open_party
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from agents.statistics import party as statistics_parties
from agents.statistics.party import VerifiedStatistics
from agents.statistics.pooled import read_rows
from agents.training import cohorts, row_gate
from agents.training import party as training_parties
from agents.training.cohorts import extract_data
from agents.training.party import VerifiedTraining
from agents.training.row_sets import split
from deployments.demo.breast_cancer import make_database
from deployments.local.one_process import submit, submit_statistics
from protocol.errors import Refused
from protocol.memory_transport import MemoryTransport
from protocol.statistics_request import parse_statistics_request, resolve
from protocol.training_request import parse_training_request
from tests.made_sites import make_sites, order_body
from tests.pairwise import quick

INITIATOR, HOSPITAL = 4, 2
ASKED = (INITIATOR, HOSPITAL)
MARKS = ("one", "fold", "fold_but_one", "few", "g")
N_ROWS = 60
SECONDS_TO_START = 60.0
SECONDS_TO_MEET = 3.0

ALL, ALL_BUT_ONE = "SELECT * FROM data.rows", "SELECT * FROM data.rows WHERE one = 0"
ALL_BUT_TWELVE = "SELECT * FROM data.rows WHERE few = 0"
FOLD_BUT_ONE = "SELECT * FROM data.rows WHERE fold_but_one = 1"
FOLDS = {
    "cv_param": {"need_cv": True, "n_splits": 3, "shuffle": True, "random_seed": 5}
}

Sites = dict[int, SiteSettings]


def table() -> pd.DataFrame:
    """Marks: one patient; and twelve, of whom one alone is of group b."""
    rng, number = np.random.default_rng(7), np.arange(N_ROWS)
    features = {f"x{i}": rng.normal(size=N_ROWS).round(3) for i in range(1, 5)}
    groups = np.where((number < 30) & (number > 0), "a", "b")
    marks = {"one": number == 0, "few": number < 12, "fold": 0, "fold_but_one": 0}
    whole = {name: np.asarray(mark).astype(int) for name, mark in marks.items()}
    return pd.DataFrame(
        {"id": number, "y": number % 2, **features, **whole, "g": groups}
    )


def write_rows(site: SiteSettings, rows: pd.DataFrame) -> None:
    path = site.state / "hospital.duckdb"
    path.unlink(missing_ok=True)
    make_database(path, {"rows": rows})


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    """Each hospital has marked whose rows train the first fold's model, with and
    without one patient.
    """
    rows = {"rows": table()}
    made = make_sites(
        tmp_path, dict.fromkeys(ASKED, rows), min_hospitals=2, filter_columns=MARKS
    )
    for site in made.values():
        with site.policy.open("a") as policy:
            policy.write(
                '[statistics]\nmethods = ["avg"]\nmin_providers = 1\nown_totals = true\n'
            )
        write_rows(site, with_folds_marked(site, table()))
    return made


def with_folds_marked(site: SiteSettings, rows: pd.DataFrame) -> pd.DataFrame:
    request = parse_training_request(order_body(ASKED, model_params=FOLDS))
    held_out = split(request, N_ROWS, 1, Memory(Vault(site.vault).cohorts).key)
    kept = np.setdiff1d(np.arange(N_ROWS), held_out)
    return rows.assign(
        fold=rows["id"].isin(kept).astype(int),
        fold_but_one=rows["id"].isin(kept[1:]).astype(int),
    )


def training(train: str, *, test: str | None = None, **params: Any) -> dict[str, Any]:
    """An order of hospital 4 for these rows of hospital 2."""
    tested = (
        {}
        if test is None
        else {"test_data_info": {str(INITIATOR): ALL, str(HOSPITAL): test}}
    )
    return order_body(
        ASKED,
        model_params=params,
        data_info={str(INITIATOR): ALL, str(HOSPITAL): train},
        **tested,
    )


def statistics(sql: str, *, column: str = "x1", **fields: Any) -> dict[str, Any]:
    asked = {
        "name": HOSPITAL,
        "data_path": sql,
        "data_type": "sql",
        "key_column": column,
    }
    return {
        "method": "avg",
        "data_providers": [asked],
        "result_receivers": [INITIATOR],
        **fields,
    }


# An order at the hospital, up to where its rows have been let through


def training_order(
    sites: Sites, order_id: int, body: dict[str, Any]
) -> VerifiedTraining:
    transport = MemoryTransport()
    submit(transport, parse_training_request(body), sites, order_id)
    for user in ASKED:
        order = training_parties.verify_order(
            open_party(sites[user], order_id, transport)
        )
    return order


def statistics_order(
    sites: Sites, order_id: int, body: dict[str, Any]
) -> VerifiedStatistics:
    names, transport = (
        {user: site.name for user, site in sites.items()},
        MemoryTransport(),
    )
    request = resolve(parse_statistics_request(body), names, initiator=INITIATOR)
    submit_statistics(transport, request, sites, order_id)
    for user in ASKED:
        order = statistics_parties.verify_order(
            open_party(sites[user], order_id, transport)
        )
    return order


def let_through(read: Callable[[], Any]) -> str:
    """The rule by which the hospital refused, or "" where rows have passed."""
    try:
        read()
    except Refused as refusal:
        return refusal.code
    return ""


# Two processes


@dataclass
class Meeting:
    """Where the two processes of a test wait for each other."""

    started: Any
    writing: Any
    met: Any

    def make_ready(self) -> None:
        """For two further orders: a barrier that one has left alone is broken."""
        self.started.reset()
        self.writing.reset()
        self.met.clear()


meeting: Meeting
"""In an order's process, given to it when it starts."""


def be_one_of_two(own: Meeting) -> None:
    """Whoever is about to write waits a while for the other one."""
    global meeting
    meeting = own
    Transaction.keep = _meeting_before(Transaction.keep)  # type: ignore[method-assign]


def _meeting_before(write: Callable[..., None]) -> Any:
    @functools.wraps(write)
    def met_first(*args: Any, **named: Any) -> None:
        try:
            meeting.writing.wait(SECONDS_TO_MEET)
            meeting.met.set()
        except BrokenBarrierError:
            pass  # the other one has not come
        write(*args, **named)

    return met_first


def train_in_its_process(sites: Sites, order_id: int, body: dict[str, Any]) -> str:
    party = training_order(sites, order_id, body)
    meeting.started.wait(SECONDS_TO_START)
    return let_through(lambda: extract_data(party))


def answer_in_its_process(
    sites: Sites, order_id: int, body: dict[str, Any]
) -> str | dict[str, Any]:
    party = statistics_order(sites, order_id, body)
    meeting.started.wait(SECONDS_TO_START)
    found: list[Any] = []
    return let_through(lambda: found.append(read_rows(party).withheld)) or found[0]


@dataclass(frozen=True)
class TwoProcesses:
    """At the same hospital; what they import takes longer than any of these tests."""

    pool: ProcessPoolExecutor
    meeting: Meeting

    def at_one_moment(
        self,
        deed: Callable[..., Any],
        sites: Sites,
        bodies: tuple[dict[str, Any], dict[str, Any]],
    ) -> list[Any]:
        """What the two came to.

        They must not have met between their check and their write.
        """
        self.meeting.make_ready()
        running = [
            self.pool.submit(deed, sites, order_id, body)
            for order_id, body in enumerate(bodies, start=1)
        ]
        came_to = [future.result() for future in running]
        assert not self.meeting.met.is_set(), (
            f"both had passed before either was written down: {came_to}"
        )
        return came_to


@pytest.fixture(scope="module")
def two() -> Iterator[TwoProcesses]:
    context = multiprocessing.get_context("spawn")
    own = Meeting(context.Barrier(2), context.Barrier(2), context.Event())
    with ProcessPoolExecutor(
        2, mp_context=context, initializer=be_one_of_two, initargs=(own,)
    ) as pool:
        yield TwoProcesses(pool, own)


@pytest.mark.parametrize(
    "bodies",
    quick(
        [
            ((training(ALL), training(ALL_BUT_ONE)),),
            ((training(ALL, test=ALL), training(ALL, test=ALL_BUT_ONE)),),
            ((training(ALL, **FOLDS), training(FOLD_BUT_ONE)),),
        ],
        1,
    ),
    ids=["training rows", "test rows", "rows of a fold"],
)
def test_two_training_orders_at_one_moment(
    two: TwoProcesses, sites: Sites, bodies: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    assert sorted(two.at_one_moment(train_in_its_process, sites, bodies)) == [
        "",
        "earlier_cohort",
    ]


def test_two_orders_of_statistics_at_one_moment(
    two: TwoProcesses, sites: Sites
) -> None:
    bodies = (statistics(f"{ALL}"), statistics(ALL_BUT_ONE))
    came_to = two.at_one_moment(answer_in_its_process, sites, bodies)
    assert sorted(came_to, key=str) == ["earlier_cohort", {}]


def test_two_orders_by_groups_at_one_moment(two: TwoProcesses, sites: Sites) -> None:
    """The rows as a whole differ by twelve; group b, by one."""
    bodies = (
        statistics(ALL, group_by=["g"]),
        statistics(ALL_BUT_TWELVE, group_by=["g"]),
    )
    whole, near = sorted(
        two.at_one_moment(answer_in_its_process, sites, bodies), key=len
    )
    assert whole == {}
    assert near.get('["b"]') == ("earlier_cohort", "10")


# All or nothing


def remembered(site: SiteSettings) -> list[tuple[int, str]]:
    listed = Memory(Vault(site.vault).cohorts).list_opened()
    return sorted({(one.order_id, one.name) for one in listed})


def test_a_refused_order_leaves_nothing_behind(sites: Sites) -> None:
    """Its training rows would have passed, its test rows do not; the right order is one
    patient away from both.
    """
    too_near = training_order(sites, 1, training(ALL, test=ALL_BUT_ONE))
    assert let_through(lambda: extract_data(too_near)) == "earlier_cohort"
    assert remembered(sites[HOSPITAL]) == []
    right = training_order(sites, 2, training(ALL_BUT_ONE, test=ALL_BUT_ONE))
    assert let_through(lambda: extract_data(right)) == ""
    assert remembered(sites[HOSPITAL]) == [(2, "test"), (2, "train")]


# A process that dies


class Killed(BaseException):
    """kill -9: nothing that handles errors sees it."""


@pytest.mark.parametrize("is_written", [False, True])
def test_an_order_that_dies_at_the_gate_goes_on_with_the_rows_it_had(
    sites: Sites, is_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows were read once; a patient more in the table by then does not make the order
    its own neighbour.
    """
    body: dict[str, Any] = training(ALL, test=ALL, **FOLDS)
    write = row_gate.reserve

    def die(*args: Any, **named: Any) -> None:
        if is_written:
            write(*args, **named)
        raise Killed

    first = training_order(sites, 1, body)
    with monkeypatch.context() as patch:
        patch.setattr(row_gate, "reserve", die)
        with pytest.raises(Killed):
            extract_data(first)
    write_rows(sites[HOSPITAL], table()[:-1])
    again = training_parties.verify_order(
        open_party(sites[HOSPITAL], 1, first.exchange.transport)
    )
    assert extract_data(again).train.n_rows == N_ROWS
    assert len(remembered(sites[HOSPITAL])) == 8


def test_an_order_that_another_hospital_refused_is_in_nobodys_way(
    sites: Sites,
) -> None:
    """Its rows have passed here and were told to nobody; the right order is one patient
    away.
    """
    wrong = training_order(sites, 1, training(ALL))
    assert let_through(lambda: extract_data(wrong)) == ""
    too_soon = training_order(sites, 2, training(ALL_BUT_ONE))
    with pytest.raises(Refused) as caught:
        extract_data(too_soon)
    assert caught.value.detail["order_under_way"] == 1

    Vault(sites[HOSPITAL].vault).end_order(1, "failed")
    right = training_order(sites, 3, training(ALL_BUT_ONE))
    assert let_through(lambda: extract_data(right)) == ""
    assert remembered(sites[HOSPITAL]) == [(3, "train")]


def test_a_model_and_a_mean_are_held_against_each_other(sites: Sites) -> None:
    """A gradient over all but one patient, beside the sum over all of a column that it
    is trained on.
    """
    trained = training_order(sites, 1, training(ALL_BUT_ONE))
    assert let_through(lambda: extract_data(trained)) == ""
    cohorts.commit(trained)
    asked = statistics_order(sites, 2, statistics(ALL))
    assert let_through(lambda: read_rows(asked)) == "earlier_cohort"
    other_column = statistics_order(sites, 3, statistics(ALL, column="few"))
    assert let_through(lambda: read_rows(other_column)) == ""
