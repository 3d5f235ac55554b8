"""Fixtures that start the real thing: Prefect server, API, workers and agents as
processes, HTTP between them.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from deployments.processes import TIED

if TYPE_CHECKING:
    from tests.api.conftest import Coordinator

ROOT = Path(__file__).parent.parent

# How many examples a property is tried on. How long one takes depends on the machine's
# load, not on the code alone.
UNTIMED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("quick", max_examples=50, **UNTIMED)
settings.register_profile("thorough", max_examples=200, **UNTIMED)
settings.load_profile("quick")  # unless --hypothesis-profile names the other one

# Every federation here speaks plain HTTP; a client that reads the public authorities
# first takes ten times as long.
NO_AUTHORITY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

SHARING = ("tests/federation/", "tests/privacy/", "tests/browser/")
"""Where tests use the fixture `federation`. All files that do are one process's, so that
one federation is started.
"""
THOROUGH = (
    "tests/faults/test_",
    "tests/browser/",
    "tests/federation/test_hospital_databases",
)
"""Kills, browsers and databases in full: what takes long, and is not run before each
commit.
"""
BEHIND_GATEWAY = "tests/api/test_gateway"
"""Files whose fixture `behind` starts a Prefect server, once in a process."""

ATTACKS = ("tests/faults/test_gate",)
"""What every commit must withstand, wherever it stands."""


@pytest.hookimpl(
    tryfirst=True
)  # before those are left out that the command line does not ask for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with what takes longest: of several processes, none is left alone with it
    at the end. What shares a federation comes first, so that it ends with them.
    """
    for item in items:
        if item.nodeid.startswith(THOROUGH) and not item.nodeid.startswith(ATTACKS):
            item.add_marker("thorough")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not _shares(_file_of(item)), item.path not in slow))


def pytest_collection_finish() -> None:
    """What has been imported and collected stays until the end: a full collection need
    not look through all of it for each test's garbage.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """What libraries look for when they end can be found."""
    gc.unfreeze()


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@functools.cache
def _shares(file: str) -> bool:
    """Whether tests of a file, below the root, use the shared fixture `federation`, and
    not one of their own under its name. What divides the files among processes knows
    their names only.
    """
    if not file.startswith(SHARING):
        return False
    text = (ROOT / file).read_text("utf-8")
    has_own = "def federation(" in text
    return "federation: RunningFederation" in text and not has_own


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files to processes one by one, but those that share a federation to one, and
    those that share a Prefect server behind the API's gateway.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            if _shares(file):
                return "federation"
            return "gateway" if file.startswith(BEHIND_GATEWAY) else file

    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)  # after the fixtures of the item
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ends the shared federation when no file to come uses it: with nothing to do it
    still takes a tenth of a processor.
    """
    if nextitem is not None and not _shares(_file_of(nextitem)):
        end_shared()


def free_port() -> int:
    """A port below those that the kernel lends to clients: what is bound only seconds
    later, and again after a part has died, would now and then have been lent to a
    client in between.
    """
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
            except OSError:
                continue
            return int(probe.getsockname()[1])


class AskAgain(httpx.HTTPTransport):
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(60):
            response = super().handle_request(request)
            if response.status_code != 503:
                break
            response.close()
            time.sleep(2)
        return response


@functools.cache
def prefects_tables(folder: Path) -> Path:
    """Prefect's SQLite database as its first start leaves it; one for all processes of
    these tests.
    """
    folder.mkdir(exist_ok=True)
    path = folder / "prefect.db"
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not path.exists():
            home = folder / "home"
            variables = {
                **os.environ,
                "PREFECT_HOME": str(home),
                "PREFECT_LOGGING_LEVEL": "WARNING",
            }
            command = [
                sys.executable,
                "-m",
                "prefect",
                "server",
                "database",
                "upgrade",
                "--yes",
            ]
            subprocess.run(
                command, env=variables, check=True, stdout=subprocess.DEVNULL
            )
            (home / "prefect.db").rename(path)
    return path


@dataclass
class RunningFederation:
    """`./run up` as a process of its own, in a home of its own."""

    home: Path
    api_port: int = field(default_factory=free_port)
    prefect_port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    # The module that is run, and its command.
    program: tuple[str, ...] = ("deployments.local.command", "up")
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def sites(self) -> Path:
        """The hospitals' site folders: copies of this federation's own, where there are
        some.
        """
        return Path(
            self.environment.get("CONSILIUM_SITES", ROOT / "deployments" / "sites")
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}/api"

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CONSILIUM_HOME": str(self.home),
            "CONSILIUM_API_PORT": str(self.api_port),
            "CONSILIUM_PREFECT_PORT": str(self.prefect_port),
            # Prefect on SQLite may make a request wait for a minute
            "CONSILIUM_ACCEPT_SECONDS": "150",
            **self.environment,
        }

    def start(self) -> None:
        self._take_prefects_tables()
        command = [
            *TIED,
            str(os.getpid()),
            sys.executable,
            "-m",
            *self.program,
            *self.options,
        ]
        with (self.home.parent / f"{self.home.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.env, stdout=log, stderr=log
            )
        self.wait_until_ready()

    def _take_prefects_tables(self) -> None:
        """Prefect makes its tables in more than a hundred migrations, 6 seconds of a
        processor; once is enough.
        """
        own = self.home / "prefect" / "prefect.db"
        if not own.exists() and not any("PREFECT" in name for name in self.environment):
            own.parent.mkdir(parents=True, exist_ok=True)
            base = self.home.parents[1]
            shared = base.parent if base.name.startswith("popen-") else base
            shutil.copyfile(prefects_tables(shared / "prefects-tables"), own)

    def wait_until_ready(self, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if (
                    httpx.get(
                        f"{self.url}/health",
                        timeout=5,
                        verify=NO_AUTHORITY,
                        trust_env=False,
                    ).status_code
                    == 200
                ):
                    return
            except httpx.HTTPError:
                pass
            if self.process is not None and self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise AssertionError(f"the federation did not start: {self.logs()[-3000:]}")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def logs(self) -> str:
        paths = [
            self.home.parent / f"{self.home.name}.log",
            *sorted(self.home.rglob("*.log")),
        ]
        return "\n".join(
            f"== {path}\n{path.read_text(errors='replace')}"
            for path in paths
            if path.exists()
        )

    def tokens(self) -> dict[str, str]:
        tokens: dict[str, str] = json.loads((self.home / "tokens.json").read_text())
        return tokens

    def client(self, who: str | int | None = 4) -> httpx.Client:
        """HTTP as the user of a hospital, as "operator", or as nobody (None)."""
        headers = (
            {}
            if who is None
            else {"Authorization": f"Bearer {self.tokens()[str(who)]}"}
        )
        return httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=200,
            verify=NO_AUTHORITY,
            trust_env=False,
        )

    def agent_client(self, site: str) -> httpx.Client:
        token = (self.home / "sites" / site / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=200,
            verify=NO_AUTHORITY,
            trust_env=False,
        )

    def prefect(self) -> httpx.Client:
        """Prefect's API, asked again while its database is locked, as Prefect's own
        client does.
        """
        user, _, password = (
            (self.home / "coordinator" / "prefect_auth").read_text().partition(":")
        )
        transport = AskAgain(verify=NO_AUTHORITY, trust_env=False)
        return httpx.Client(
            base_url=self.prefect_url,
            auth=(user, password),
            timeout=120,
            transport=transport,
        )

    def submit(self, body: dict[str, Any], who: int | None = None) -> int:
        """Sends an order and returns its number; fails with the answer when it is
        refused.
        """
        with self.client(who or int(body["user_id"])) as client:
            answer = client.post("/model/train", json=body).json()
        assert answer["code"] == 200, answer
        return int(answer["data"]["order_id"])

    def wait_for(self, order_id: int, *, seconds: float = 240) -> dict[str, Any]:
        """The order when it has ended; its event stream says when."""
        states: list[str] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                with (
                    self.client("operator") as client,
                    client.stream("GET", f"/orders/{order_id}/events") as stream,
                ):
                    for line in stream.iter_lines():
                        if line.startswith("data:") and "state" in line:
                            states.append(json.loads(line[5:])["state"])
                        if time.monotonic() > deadline:
                            break
                if states and states[-1] in ("success", "failed", "cancelled"):
                    return self.order(order_id)
            except httpx.HTTPError:
                time.sleep(0.2)  # the coordinator is away: a test has killed it
        raise AssertionError(
            f"order {order_id} has not ended: {states} {self.logs()[-4000:]}"
        )

    def order(self, order_id: int) -> dict[str, Any]:
        with self.client("operator") as client:
            data: dict[str, Any] = client.get(f"/orders/{order_id}").json()["data"]
        return data

    def agent(self, site: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`./run agent ...` for one of the three sites."""
        command = [
            sys.executable,
            "-m",
            "deployments.agent",
            *arguments,
            "--site",
            str(self.sites / site),
        ]
        return subprocess.run(
            command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=120
        )


_shared: list[RunningFederation] = []


def end_shared() -> None:
    """Ends the shared federation, where it runs."""
    while _shared:
        running = _shared.pop()
        assert running.stop() == 0, running.logs()[-3000:]


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFederation]:
    """Three hospitals on this machine, shared by all tests that leave them as they
    found them.

    Beside the document's tables they hold those of `tests.bad_tables`, which their
    policies open.
    """
    from tests import (
        bad_tables,
    )  # brings pandas and scikit-learn, which no other test has to wait for

    folder = tmp_path_factory.mktemp("federation")
    environment = {"CONSILIUM_SITES": str(folder / "sites")}
    running = RunningFederation(
        folder / "home", options=("--no-restart",), environment=environment
    )
    bad_tables.prepare(running.env, running.sites)
    running.start()
    _shared.append(running)
    yield running
    end_shared()


@pytest.fixture(scope="session")
def with_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """The coordinator's application with its pages: one in a process, since NiceGUI has
    one application in a process.
    """
    from cryptography.fernet import Fernet

    from tests.api.conftest import serve, settings_in

    home = tmp_path_factory.mktemp("home")
    with serve(settings_in(home), page_key=Fernet.generate_key()) as running:
        yield running
