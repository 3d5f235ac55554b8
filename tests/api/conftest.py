"""The coordinator's application in a thread of this process, with a stand-in for
Prefect and no agents.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.connections import TimedProtocol
from api.due_times import due_after
from api.prefect_parts import StepRun
from api.prefect_runs import Deployed
from api.settings import CoordinatorSettings, load_settings
from api.store import Store
from deployments.demo.training import document_order
from deployments.server import new_token
from protocol.exchange import Address
from protocol.messages import COORDINATOR
from protocol.sealing import Identity
from protocol.versions import SPOKEN
from tests.api.real_prefect import Prefect, prefect_server

NAMES = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy", 5: "elsewhere"}


class StandInRuns:
    """`api.prefect_runs.Runs` without Prefect: runs are only noted."""

    def __init__(self) -> None:
        self.started: list[tuple[Any, ...]] = []
        self._runs: dict[tuple[Any, ...], str] = {}
        self.deployed: dict[int, tuple[dict[str, Any], bool]] = {}

    async def start(self, *asked: Any, **more: Any) -> str:
        """Asked twice for one attempt at a deployment and order, it is the same run, as
        Prefect has it.
        """
        self.started.append((*asked, *more.values()))
        deployment, order_id = asked[:2]
        key = (deployment, order_id, more.get("attempt", 0))
        return self._runs.setdefault(key, f"run-{len(self.started)}")

    async def known(self, flow_run_ids: Iterable[str]) -> set[str]:
        return set(flow_run_ids) & set(self._runs.values())

    def lose(self) -> None:
        """Prefect's database is another one."""
        self._runs.clear()

    async def status(self, flow_run_id: str) -> str:
        return "pending"

    async def parts(self, order_id: int, names: list[str]) -> list[StepRun]:
        return []

    async def cancelled(self, order_ids: list[int]) -> set[int]:
        return set()

    async def cancel_waiting(self, order_id: int) -> None:
        """None of its runs is known to wait."""

    async def deploy_schedule(
        self, schedule_id: int, timing: dict[str, Any], *, active: bool, about: str
    ) -> None:
        self.deployed[schedule_id] = (timing, active)

    async def schedules(
        self, schedule_ids: list[int], *, now: datetime
    ) -> dict[int, Deployed]:
        return {
            number: Deployed(
                f"deployment-{number}",
                active,
                due_after(timing, now, 5) if active else [],
            )
            for number, (timing, active) in self.deployed.items()
            if number in schedule_ids
        }

    async def delete_schedule(self, schedule_id: int) -> None:
        self.deployed.pop(schedule_id, None)

    async def is_ready(self, deployments: list[str]) -> bool:
        return True


class Coordinator:
    """The running application, its store, and a client for each token."""

    def __init__(
        self, app: FastAPI, client: httpx.Client, tokens: dict[str, str]
    ) -> None:
        self.app, self.client, self.tokens = app, client, tokens
        self.store: Store = app.state.store
        self.runs = app.state.runs = StandInRuns()

    def give_places(self) -> None:
        """To all orders, as if their hospitals' agents were there."""
        self.store.places.admit(NAMES)

    def call(
        self, method: str, path: str, who: str | None = "user-4", **options: Any
    ) -> Any:
        headers = dict(options.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {self.tokens.get(who, who)}"
        return self.client.request(method, path, headers=headers, **options)


def discard(coordinator: Coordinator, *addresses: Address) -> httpx.Response:
    """The coordinator's flow drops what was for it at addresses of one order."""
    used = []
    for address in addresses:
        one = {
            "topic": address.topic,
            "fold": address.fold,
            "round": address.round,
            "attempt": address.attempt,
            "recipient": COORDINATOR,
        }
        used.append(one)
    path = f"/exchange/{addresses[0].run}/discard"
    answer: httpx.Response = coordinator.call(
        "POST", path, "coordinator", json={"used": used}
    )
    return answer


@contextlib.contextmanager
def serve(
    settings: CoordinatorSettings,
    tokens: dict[str, str] | None = None,
    *,
    prefect_auth: str | None = None,
    page_key: bytes | None = None,
) -> Iterator[Coordinator]:
    """The application with hospitals 2 to 5, of which 5 has never connected; `tokens`
    of an earlier process. With a `page_key` the pages too, once in a process.
    """
    app = create_app(settings, prefect_auth=prefect_auth)
    if page_key is not None:
        # NiceGUI takes a second, which no other test has to wait for.
        from api.pages.serving import add_pages

        add_pages(app, page_key)
    # asyncio switches Nagle's delay of 40 ms off only where the protocol is named
    with socket.socket(
        socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    ) as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=TimedProtocol,
                log_level="critical",
                timeout_graceful_shutdown=1,
            )
        )
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the application did not start"
                time.sleep(0.01)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
                yield Coordinator(app, client, tokens or _populate(app.state.store))
        finally:
            server.should_exit = True
            thread.join()


def _populate(store: Store) -> dict[str, str]:
    tokens = {
        "operator": new_token(store, "operator"),
        "coordinator": new_token(store, "coordinator"),
    }
    for user, name in NAMES.items():
        store.hospitals.add(user, name)
        tokens[f"user-{user}"] = new_token(store, "hospital", user)
        tokens[f"agent-{user}"] = new_token(store, "agent", user)
        if user != 5:
            store.hospitals.enrol(
                user,
                Identity.generate().public.encode(),
                "1",
                max_orders=1000,
                speaks=SPOKEN,
            )
    return tokens


def settings_in(home: Path, **changes: Any) -> CoordinatorSettings:
    (home / "coordinator").mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIUM_HOME", str(home))
        return replace(
            load_settings(),
            **{"accept_seconds": 0.05, "statistics_seconds": 0.05, **changes},
        )


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with serve(settings_in(tmp_path_factory.mktemp("home"))) as running:
        yield running


@pytest.fixture(scope="module")
def coordinator_with_order(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Coordinator, int]]:
    """An order of hospital 4 with 2 and 3 that nobody works on."""
    with serve(settings_in(tmp_path_factory.mktemp("home"))) as running:
        answer = running.call("POST", "/model/train", json=document_order())
        assert answer.status_code == 200, answer.text
        yield running, answer.json()["data"]["order_id"]


@dataclass
class Behind:
    """The coordinator's application with a real Prefect behind its gateway."""

    coordinator: Coordinator
    prefect: Prefect
    passed_on: list[httpx.Request]  # every call that the gateway made at Prefect

    @property
    def url(self) -> str:
        return f"{self.coordinator.client.base_url}/prefect/api"

    def token(self, hospital: int) -> str:
        return self.coordinator.tokens[f"agent-{hospital}"]

    def ask(self, method: str, path: str, who: str = "agent-2", **sent: Any) -> Any:
        """An answer of the gateway, to hospital 2's agent unless told."""
        return self.coordinator.call(method, f"/prefect/api{path}", who, **sent)


@pytest.fixture(scope="session")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with prefect_server(tmp_path_factory.mktemp("prefect") / "home") as prefect:
        home = tmp_path_factory.mktemp("home")
        settings = settings_in(home, prefect_url=prefect.url)
        with serve(settings, prefect_auth=prefect.auth) as running:
            passed_on: list[httpx.Request] = []

            async def note(request: httpx.Request) -> None:
                passed_on.append(request)

            relay = running.app.state.gateway.relay
            relay.client.event_hooks = {"request": [note]}
            yield Behind(running, prefect, passed_on)
