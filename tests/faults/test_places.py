"""Orders and their places while parts are away or killed: none keeps others from
working, none is lost or doubled.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import pytest

from api.store import Store
from deployments.demo.training import document_order
from deployments.local.sites import NAMED, sites_folder
from tests.faults import processes
from tests.faults.conftest import Faulty, running
from tests.faults.processes import kill
from tests.faults.test_away import agent_command, started_again

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(600)]


LONG = 60
"""Rounds of an order that is still under way when its hospital dies."""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """Four hospitals that take one order each; parts that die stay dead, and a place is
    kept for three seconds.
    """
    folder = tmp_path_factory.mktemp("narrow")
    for name in NAMED:
        site = folder / "sites" / name
        shutil.copytree(sites_folder() / name, site)
        (site / "settings.toml").write_text(
            (site / "settings.toml").read_text() + "\nmax_orders = 1\n"
        )
    environment = {
        "CONSILIUM_SITES": str(folder / "sites"),
        "CONSILIUM_GRACE_SECONDS": "3",
    }
    options = ("--hospitals", "4", "--no-restart")
    yield from running(
        Faulty(folder / "home", options=options, environment=environment)
    )


def rounds_of(hospitals: tuple[int, ...], rounds: int) -> dict[str, object]:
    body = document_order(hospitals, rounds=rounds, method="Mask")
    body["model_params"]["eps"] = 0
    return body


def n_runs(federation: Faulty, order_id: int) -> int:
    return len(federation.run_details(order_id))


def taken(federation: Faulty) -> dict[int, int]:
    store = Store(f"sqlite:///{federation.home / 'coordinator' / 'store.sqlite'}")
    found = store.places.taken()
    store.close()
    return found


def site_of(federation: Faulty, user_id: int) -> list[str]:
    command = agent_command(user_id)
    return [*command[:-1], str(federation.home / "site-folders" / NAMED[user_id - 2])]


def test_an_order_whose_agent_stays_away_lets_others_work_and_goes_on_where_it_was(
    narrow: Faulty,
) -> None:
    first = narrow.submit(rounds_of((2, 3, 4), LONG))
    narrow.until_round(first, 5)
    second = narrow.submit(rounds_of((3, 4, 5), 5))
    waiting = narrow.order(second)["waiting_for"]
    assert [(one["user_id"], one["cause"]) for one in waiting] == [
        (3, "full"),
        (4, "full"),
    ]
    kill(narrow.pid(2))
    assert narrow.wait_for(second, seconds=120)["state"] == "success"
    half = narrow.order(first)
    assert half["state"] == "pending"
    assert half["round"] < LONG
    assert {one["user_id"]: one["cause"] for one in half["waiting_for"]} == {2: "away"}
    assert taken(narrow) == {}
    for name in ("worker", 3, 4):
        narrow.assert_no_flow(name)
    with started_again(narrow, site_of(narrow, 2), "agent-2"):
        ended = narrow.wait_for(first, seconds=240)
        assert ended["state"] == "success", ended["refusal"]
        assert [row["round"] for row in ended["rounds"]] == list(range(LONG + 1))
        undisturbed = narrow.submit(rounds_of((2, 3, 4), LONG))
        assert narrow.wait_for(undisturbed, seconds=240)["state"] == "success"
        assert narrow.weights(first) == narrow.weights(undisturbed)
        narrow.until_runs_are("COMPLETED", first)


def test_a_site_that_is_not_ready_lets_others_work_and_its_order_goes_on_when_it_is(
    narrow: Faulty,
) -> None:
    """Its settings cannot be read: a person there has to put that right, while its
    agent is connected.
    """
    settings = narrow.home / "site-folders" / NAMED[1] / "settings.toml"
    readable = settings.read_text()
    with started_again_if_gone(narrow, 2):
        settings.write_text("user_id = ")
        try:
            first = narrow.submit(rounds_of((2, 3, 4), 5))
            second = narrow.submit(rounds_of((2, 4, 5), 5))
            assert narrow.wait_for(second, seconds=120)["state"] == "success"
            assert [
                (one["user_id"], one["cause"])
                for one in narrow.order(first)["waiting_for"]
            ] == [(3, "site")]
            assert taken(narrow) == {}
        finally:
            settings.write_text(readable)
        assert narrow.wait_for(first, seconds=120)["state"] == "success"


@contextlib.contextmanager
def started_again_if_gone(federation: Faulty, user_id: int) -> Iterator[None]:
    if processes.part(federation.up, user_id) is not None:
        yield
        return
    with started_again(federation, site_of(federation, user_id), f"agent-{user_id}"):
        yield


def test_a_coordinator_killed_between_places_and_start_or_end_and_record_loses_and_doubles_none(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """All of it is killed: when the order has its places and its worker is gone, and as
    soon as the order has ended.
    """
    federation = Faulty(
        tmp_path_factory.mktemp("killed") / "home", options=("--no-restart",)
    )
    for _ in running(federation):
        kill(federation.pid("worker"))
        order_id = federation.submit(rounds_of((2, 3, 4), 3))
        assert taken(federation) == {2: 1, 3: 1, 4: 1}
        assert federation.order(order_id)["state"] == "pending"
        _kill_and_start(federation)
        assert federation.wait_for(order_id)["state"] == "success"
        _kill_and_start(federation)
        federation.until_runs_are("COMPLETED", order_id)
        assert taken(federation) == {}
        following = federation.submit(rounds_of((2, 3, 4), 3))
        assert federation.wait_for(following)["state"] == "success"
        assert (n_runs(federation, order_id), n_runs(federation, following)) == (4, 4)


def _kill_and_start(federation: Faulty) -> None:
    below = processes.descendants(federation.up)
    kill(federation.up)
    federation.process.wait()  # type: ignore[union-attr]
    processes.wait_until_gone(below)
    federation.start()
