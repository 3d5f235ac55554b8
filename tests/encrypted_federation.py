"""A coordinator behind nginx with a private authority, and three hospitals that reach it
by TLS: one directly, one through a proxy with a password, one through a proxy that opens
TLS.

Each comes to nginx from an address of its own, so that nginx's log says whether a call
has gone past its hospital's proxy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import load_settings
from deployments.local.sites import NAMED, prepare, sites_folder
from deployments.processes import TIED
from tests.certificates import Authority
from tests.conftest import ROOT, RunningFederation
from tests.faults.processes import wait_until
from tests.forward_proxy import ForwardProxy, Opens, running_proxy
from tests.nginx import NAME, Call, Nginx, run_nginx

NAMES = dict(zip((2, 3, 4), NAMED, strict=True))
DIRECT, PROXIED, OPENED = NAMES
COMES_FROM = {DIRECT: "127.0.0.1", PROXIED: "127.0.0.3", OPENED: "127.0.0.4"}

MISLEADING = {
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true",
    "PREFECT_API_SSL_CERT_FILE": "/nowhere.pem",
    # Where nobody listens; and that none is to be taken at all.
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "*",
}
"""In the environment of every agent: settings.toml alone says what is so."""


@dataclass
class Site:
    """A hospital's folder, and its agent where it runs."""

    user: int
    folder: Path
    state: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def write(self, **settings: Any) -> None:
        """settings.toml: what the operator gave and what is special about the network."""
        keys = {"name": NAMES[self.user], "state": str(self.state), **settings}
        lines = [f"user_id = {self.user}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        (self.folder / "settings.toml").write_text("\n".join(lines))

    @property
    def token(self) -> str:
        return (self.state / "token").read_text().strip()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*TIED, str(os.getpid()), *self._command("start")],
                cwd=ROOT,
                env=agents_environment(),
                stdout=log,
                stderr=log,
            )

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=60)
            self.process = None

    def check(self) -> list[dict[str, Any]]:
        """`./run agent check --json`."""
        run = subprocess.run(
            [*self._command("check"), "--json"],
            cwd=ROOT,
            env=agents_environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        findings: list[dict[str, Any]] = json.loads(run.stdout)
        is_wrong = any(finding["state"] == "wrong" for finding in findings)
        assert run.returncode == int(is_wrong), run.stderr
        return findings

    def _command(self, name: str) -> list[str]:
        program = [sys.executable, "-m", "deployments.agent", name]
        return [*program, "--site", str(self.folder)]


def agents_environment() -> dict[str, str]:
    """Of a hospital's machine: nothing of the coordinator's, whose folder and ports an
    agent must not need.
    """
    own = {}
    for name, value in os.environ.items():
        is_ours = name.startswith(("CONSILIUM_", "PREFECT_"))
        if not is_ours and name != "SSL_CERT_FILE":
            own[name] = value
    return {**own, **MISLEADING, "PYTHONPATH": str(ROOT)}


@dataclass
class Encrypted(RunningFederation):
    """`./run server` behind nginx; users and agents come by TLS."""

    program: tuple[str, ...] = ("deployments.server",)
    nginx: Nginx | None = None
    operator: Authority | None = None

    @property
    def origin(self) -> str:
        assert self.nginx is not None
        return f"https://localhost:{self.nginx.port}"

    def client(self, who: str | int | None = 4) -> httpx.Client:
        assert self.operator is not None
        return httpx.Client(
            base_url=self.origin,
            headers={"Authorization": f"Bearer {self.tokens()[str(who)]}"},
            timeout=200,
            verify=self.operator.client_context(),
            trust_env=False,
        )

    def online(self) -> set[int]:
        with self.client("operator") as client:
            rows = client.get("/hospitals").json()["data"]["hospitals"]
        return {row["user_id"] for row in rows if row["online"]}

    def calls_of(self, site: Site) -> list[Call]:
        """What nginx has had with a hospital's agent's token."""
        assert self.nginx is not None
        wanted = f"Bearer {site.token}"
        return [call for call in self.nginx.calls() if call.authorization == wanted]


@dataclass(frozen=True)
class Hospitals:
    """All that stands at hospitals."""

    federation: Encrypted
    sites: dict[int, Site]
    # What each one's settings say of the network.
    settings: dict[int, dict[str, Any]]
    forwarding: ForwardProxy
    opening: ForwardProxy

    def start(self, user: int) -> None:
        """Its agent, until the coordinator has it."""
        site = self.sites[user]
        site.write(**self.settings[user])
        site.start()
        wait_until(
            lambda: user in self.federation.online(), f"agent {user}", seconds=120
        )


@contextlib.contextmanager
def encrypted_hospitals(folder: Path) -> Iterator[Hospitals]:
    """All of it, running."""
    federation = Encrypted(
        folder / "home", environment={"CONSILIUM_SITES": str(folder / "sites")}
    )
    sites = _make_sites(federation, folder)
    operator, hospital = Authority(folder, "operator"), Authority(folder, "hospital")
    federation.operator = operator
    with contextlib.ExitStack() as running:
        federation.start()
        running.callback(_end, federation)
        web = folder / "nginx"
        web.mkdir()
        issued = operator.issue(NAME, "localhost")
        nginx = running.enter_context(run_nginx(web, federation.api_port, issued))
        federation.nginx = nginx
        # As a hospital's proxy resolves the name, which its agents need not.
        targets = {f"{NAME}:443": ("127.0.0.1", nginx.port)}
        forwarding = ForwardProxy(targets, COMES_FROM[PROXIED], login="agent:secret")
        opens = Opens(hospital.issue(NAME).server_context(), operator.client_context())
        opening = ForwardProxy(targets, COMES_FROM[OPENED], opens=opens)
        for proxy in (forwarding, opening):
            running.enter_context(running_proxy(proxy))
        url = {"coordinator_url": f"https://{NAME}"}
        settings = {
            DIRECT: {
                "coordinator_url": federation.origin,
                "ca_file": str(operator.pem),
            },
            PROXIED: {**url, "ca_file": str(operator.pem), "proxy": forwarding.url},
            OPENED: {
                **url,
                "ca_file": str(hospital.pem),
                "proxy": opening.url,
                "round_steps": True,
            },
        }
        for site in sites.values():
            running.callback(site.end)
        yield Hospitals(federation, sites, settings, forwarding, opening)


def _make_sites(federation: Encrypted, folder: Path) -> dict[int, Site]:
    """Databases, tokens and pins as `./run up` makes them; the folders are each
    hospital's own afterwards.
    """
    for name in NAMED:
        shutil.copytree(sites_folder() / name, federation.sites / name)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in federation.env.items():
            if name.startswith("CONSILIUM_"):
                patch.setenv(name, value)
        prepare(load_settings())
    sites = {}
    for user, name in NAMES.items():
        state = federation.home / "sites" / name
        sites[user] = Site(user, federation.sites / name, state, state / "agent.log")
    return sites


def _end(federation: Encrypted) -> None:
    assert federation.stop() == 0, federation.logs()[-3000:]
