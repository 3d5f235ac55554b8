"""A federation of installed packages: server, three agents and a client, each in an
environment of its own, none of which knows of the tree.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.demo.breast_cancer import breast_cancer_tables, make_database
from deployments.demo.training import document_order, pooled_weights
from protocol import VERSION
from tests.conftest import free_port
from tests.faults.processes import wait_until
from tests.installed_parts import (
    ROOT,
    Environment,
    add_client,
    build_wheels,
    clean_environment,
    install,
)

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(1200)]

NAMES = {2: "suzhou-szslyy", 3: "zhejiang-zdey", 4: "shanxi-xbfy"}
BY_CLIENT = """
import json, sys
from consilium_client import Federation

order = Federation(sys.argv[1], token_file=sys.argv[2]).submit(**json.loads(sys.argv[3]))
order.wait()
print(json.dumps({"state": order.status(), "rounds": len(order.metrics())}))
"""


@dataclass
class InstalledFederation:
    """Where everything is, and what has been started."""

    url: str
    server: Environment
    client: Environment
    agents: dict[int, Environment]
    sites: dict[int, Path]
    tokens: dict[int, str]
    enrolments: dict[int, str] = field(default_factory=dict)
    pins: dict[int, list[str]] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, of: Environment, *command: str, variables: dict[str, str] | None = None
    ) -> None:
        log = of.here / "output.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [of.program(command[0]), *command[1:]],
                cwd=of.here,
                env=clean_environment(**(variables or {})),
                stdout=output,
                stderr=output,
            )
        self.running.append(process)

    def pin(self) -> None:
        """What people compare by telephone."""
        for user, site in self.sites.items():
            others = [self.pins[other] for other in NAMES if other != user]
            lines = [line for pin in others for line in pin]
            with (site / "settings.toml").open("a") as settings:
                settings.write("\n" + "\n".join(lines) + "\n")

    def hospitals(self) -> list[dict[str, Any]]:
        token = Path(self.tokens[4]).read_text()
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{self.url}/hospitals", headers=headers, trust_env=False)
        rows: list[dict[str, Any]] = answer.json()["data"]["hospitals"]
        return rows

    def is_online(self) -> bool:
        """Every hospital has shown its keys."""
        shown = [row for row in self.hospitals() if row["fingerprint"]]
        return len(shown) == len(NAMES)

    def end(self) -> None:
        for process in reversed(self.running):
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InstalledFederation]:
    folder = tmp_path_factory.mktemp("installed")
    wheels = build_wheels(folder / "wheels")
    server = install("server", folder / "server", wheels)
    client = install("client", folder / "client", wheels)
    port = str(free_port())
    variables = {
        "CONSILIUM_HOME": str(folder / "home"),
        "CONSILIUM_API_PORT": port,
        "CONSILIUM_PREFECT_PORT": str(free_port()),
    }
    url = f"http://127.0.0.1:{port}"
    federation = InstalledFederation(url, server, client, {}, {}, {})
    for user, name in NAMES.items():
        told = server.run(
            "consilium-server",
            *("add-hospital", "--user-id", str(user), "--name", name),
            *("--address", url, "--into", str(folder)),
            variables=variables,
        )
        answered = json.loads(told.stdout)
        private(folder / f"user-{user}", answered["tokens"]["user"])
        federation.enrolments[user] = answered["enrolment"]
        federation.tokens[user] = str(folder / f"user-{user}")
        federation.sites[user] = folder / f"site-{user}"
        federation.agents[user] = install("agent", folder / f"agent-{user}", wheels)
    try:
        federation.start(server, "consilium-server", variables=variables)
        wait_until(lambda: is_ready(url), "a coordinator that is ready", seconds=180)
        for user in NAMES:
            enrol(federation, user, folder / f"state-{user}")
        federation.pin()
        for user, agent in federation.agents.items():
            site = str(federation.sites[user])
            federation.start(agent, "consilium-agent", "start", "--site", site)
        wait_until(federation.is_online, "every agent's first call", seconds=240)
        yield federation
    finally:
        federation.end()


def enrol(federation: InstalledFederation, user: int, state: Path) -> None:
    """As its IT does: `init`, then the policy; its database is there already."""
    tables = breast_cancer_tables()
    part = "guest" if user == 4 else "host"
    make_database(
        state / "hospital.duckdb",
        {f"breast_homo_{part}": tables[part], "breast_homo_test": tables["test"]},
    )
    site, agent = federation.sites[user], federation.agents[user]
    told = agent.run(
        "consilium-agent",
        *("init", "--enrol", federation.enrolments[user]),
        *("--site", str(site), "--state", str(state)),
        check=False,
    )
    # Its example policy names tables that this hospital has not.
    assert told.returncode in (0, 1), told.stderr
    assert "Traceback" not in told.stderr
    policy = ROOT / "deployments" / "sites" / NAMES[user] / "policy.toml"
    (site / "policy.toml").write_text(policy.read_text())
    federation.pins[user] = re.findall(
        r"(?m)^(?:\[\[partners\]\]|user_id = .*|name = .*|fingerprint = .*)$",
        told.stdout,
    )


def private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_an_order_from_an_installed_client_gives_the_pooled_model(
    installed: InstalledFederation,
) -> None:
    body = document_order(method="Paillier", rounds=3)
    done = installed.client.run(
        "python",
        *("-c", BY_CLIENT, installed.url, installed.tokens[4], json.dumps(body)),
    )
    assert json.loads(done.stdout)["state"] == "success", done.stdout
    for user, agent in installed.agents.items():
        site = str(installed.sites[user])
        told = agent.run("consilium-agent", "export", "--site", site, "--model", "1")
        np.testing.assert_allclose(
            json.loads(told.stdout)["dense"], pooled_weights(body), rtol=0, atol=1e-9
        )


def test_no_environment_has_code_of_another_part(
    installed: InstalledFederation,
) -> None:
    one = installed.agents[2].packages
    assert not (one / "api").exists()
    assert not (one / "tasks" / "coordinator").exists()
    assert not (installed.server.packages / "agents").exists()
    assert not (installed.client.packages / "agents").exists()
    assert not (installed.client.packages / "api" / "routes").exists()
    for environment in (*installed.agents.values(), installed.server):
        assert not list(environment.packages.rglob("*.pth")) or not any(
            str(ROOT) in path.read_text() for path in environment.packages.glob("*.pth")
        )


def test_check_finds_nothing_wrong(installed: InstalledFederation) -> None:
    site = str(installed.sites[2])
    found = installed.agents[2].run(
        "consilium-agent", "check", "--json", "--site", site, check=False
    )
    findings = json.loads(found.stdout)
    assert [one for one in findings if one["state"] == "wrong"] == []
    assert "environment" in [one["check"] for one in findings]


def test_a_client_installed_beside_an_agent_works(
    installed: InstalledFederation,
) -> None:
    """Nothing of one is written over by the other."""
    agent = installed.agents[3]
    told = agent.run("python", "-c", "import consilium_client", check=False)
    assert told.returncode == 1
    wheels = installed.server.folder.parent / "wheels"
    add_client(agent, wheels)
    agent.run("python", "-c", "from consilium_client import Federation; import agents")
    site = str(installed.sites[3])
    agent.run("consilium-agent", "models", "--site", site)


OLDER = "0.0.1"


def older_tree(folder: Path) -> Path:
    """This tree as an earlier version might have been: another number, and a kind of
    message that it does not know.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.rstrip("\0").split("\0"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, target)
    changes = {
        "protocol/__init__.py": (f'VERSION = "{VERSION}"', f'VERSION = "{OLDER}"'),
        "protocol/messages/kinds.py": ('    "compared": CLEAR,\n', ""),
    }
    for name, (now, then) in changes.items():
        text = (folder / name).read_text("utf-8")
        assert text.count(now) == 1, name
        (folder / name).write_text(text.replace(now, then), "utf-8")
    return folder


@pytest.fixture
def lagging(
    installed: InstalledFederation, tmp_path: Path
) -> Iterator[InstalledFederation]:
    """Hospital 3 has not been upgraded: the same site, and the agent of an earlier
    version.
    """
    wheels = tmp_path / "wheels"
    build_wheels(wheels, tree=older_tree(tmp_path / "tree"), parts=("core", "agent"))
    now = installed.agents[3]
    order = [*NAMES].index(3) + 1  # behind the server
    installed.running[order].terminate()
    installed.running[order].wait(60)
    older = install("agent", tmp_path / "agent", wheels)
    installed.agents[3] = older
    site = str(installed.sites[3])
    installed.start(older, "consilium-agent", "start", "--site", site)
    yield installed
    installed.agents[3] = now


def test_an_agent_that_lags_is_told_everywhere_what_to_do(
    lagging: InstalledFederation,
) -> None:
    """By its own log and `check`, by those of its partners, and by GET /hospitals."""
    command = "consilium-agent upgrade --site FOLDER --bundle consilium-agent-"
    older, site = lagging.agents[3], str(lagging.sites[3])
    log = older.here / "output.log"
    said = f"This agent is {OLDER}, the coordinator {VERSION}."
    wait_until(lambda: said in log.read_text(), "the agent's word", seconds=120)
    (line,) = [line for line in log.read_text().splitlines() if said in line]
    assert f"{command}{VERSION}-py3." in line

    found = older.run("consilium-agent", "check", "--json", "--site", site, check=False)
    # Its own comes first, then those of its partners.
    finding, *_ = [one for one in json.loads(found.stdout) if one["check"] == "version"]
    assert finding["state"] == "warn"
    assert f"This is {OLDER}, the coordinator runs {VERSION}." in finding["sentence"]
    assert f"{command}{VERSION}-py3." in finding["remedy"]

    (row,) = [row for row in lagging.hospitals() if row["user_id"] == 3]
    assert (row["online"], row["agent_version"]) == (True, OLDER)
    (trouble,) = row["troubles"]
    assert trouble["cause"] == "version"
    assert f"is {OLDER}, the coordinator {VERSION}." in trouble["message"]
    assert f"{command}{VERSION}-py3." in trouble["message"]

    others = lagging.agents[2].run(
        "consilium-agent",
        *("check", "--json", "--site", str(lagging.sites[2])),
        check=False,
    )
    versions = [one for one in json.loads(others.stdout) if one["check"] == "version"]
    assert f"hospital 3 was {OLDER}" in versions[1]["sentence"]
    assert f"{command}{VERSION}-py3." in versions[1]["remedy"]


def test_an_agent_beside_a_server_is_refused_in_words(
    installed: InstalledFederation,
) -> None:
    """At its start, and by `check`; as if somebody had installed the second package
    too.
    """
    agent, site = installed.agents[2], str(installed.sites[2])
    entry = agent.packages / "consilium_server-1.0.0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: consilium-server\nVersion: 1.0.0\n"
    )
    try:
        started = agent.run("consilium-agent", "start", "--site", site, check=False)
        assert started.returncode == 78
        assert "consilium-agent and consilium-server are installed" in started.stderr
        assert "Traceback" not in started.stderr
        found = agent.run(
            "consilium-agent", "check", "--json", "--site", site, check=False
        )
        assert found.returncode == 1
        wrong = [
            one["check"] for one in json.loads(found.stdout) if one["state"] == "wrong"
        ]
        assert "environment" in wrong
    finally:
        (entry / "METADATA").unlink()
        entry.rmdir()
