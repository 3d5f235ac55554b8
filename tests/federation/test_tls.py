"""TLS as it stands in production: the documented nginx with a certificate of a private
authority, agents that reach it directly, through a proxy, and through one that opens
TLS, and the page in a browser behind it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.demo.training import document_order, pooled_weights
from tests.browser.conftest import Browser, addresses, chromium
from tests.conftest import ROOT
from tests.encrypted_federation import (
    COMES_FROM,
    DIRECT,
    NAMES,
    OPENED,
    PROXIED,
    Encrypted,
    Hospitals,
    Site,
    agents_environment,
    encrypted_hospitals,
)
from tests.faults.processes import wait_until
from tests.nginx import NAME

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(600)]

EVENTS = "/prefect/api/events/in"
"""Where Prefect's client opens its socket."""


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    with encrypted_hospitals(tmp_path_factory.mktemp("tls")) as made:
        yield made


@pytest.fixture(scope="module")
def connected(hospitals: Hospitals) -> Hospitals:
    """With the agents of all hospitals."""
    for user in NAMES:
        hospitals.start(user)
    return hospitals


@pytest.fixture(scope="module")
def order_id(connected: Hospitals) -> int:
    """The request document's order, under Paillier, when it has ended."""
    federation = connected.federation
    submitted = federation.submit(document_order(method="Paillier"))
    order = federation.wait_for(submitted)
    assert order["state"] == "success", order["refusal"]
    return submitted


# Agents


@pytest.mark.parametrize("authority", ["none", "of another"])
def test_an_agent_that_does_not_trust_the_coordinator_calls_it_nothing(
    authority: str, hospitals: Hospitals
) -> None:
    """It says which setting to write, and waits: its token does not leave."""
    site = hospitals.sites[DIRECT]
    told = dict(hospitals.settings[DIRECT])
    told["ca_file"] = hospitals.settings[OPENED]["ca_file"]
    if authority == "none":
        del told["ca_file"]
    site.write(**told)
    found = [one for one in site.check() if one["check"] in ("coordinator", "prefect")]
    assert [one["state"] for one in found] == ["wrong", "wrong"]
    assert all("ca_file in settings.toml" in one["remedy"] for one in found)
    before = site.log.read_text() if site.log.exists() else ""
    site.start()
    try:
        line = wait_until(
            lambda: said_since(site.log, before, "ca_file in settings.toml"),
            "the agent's word on the certificate",
            seconds=120,
        )
        assert "not trusted here" in line
        assert site.process is not None
        assert site.process.poll() is None
    finally:
        site.end()
    assert hospitals.federation.calls_of(site) == []
    assert "Traceback" not in site.log.read_text()


def said_since(log: Path, before: str, words: str) -> str:
    """The first line with these words since then, or nothing."""
    new = log.read_text().removeprefix(before)
    return next((line for line in new.splitlines() if words in line), "")


def test_an_order_under_paillier_over_tls(order_id: int, connected: Hospitals) -> None:
    """Joint equals pooled, at every hospital."""
    for name in NAMES.values():
        exported = connected.federation.agent(name, "export", "--model", str(order_id))
        np.testing.assert_allclose(
            json.loads(exported.stdout)["dense"],
            pooled_weights(document_order()),
            rtol=0,
            atol=1e-9,
        )


@pytest.mark.parametrize("user", NAMES)
def test_every_call_of_an_agent_takes_its_hospitals_way(
    user: int, order_id: int, connected: Hospitals
) -> None:
    """Its own, its flow processes' and those of Prefect's client, by REST and on the
    socket: all come from the address of its hospital's proxy.
    """
    federation, site = connected.federation, connected.sites[user]
    sockets = wait_until(
        lambda: [call for call in federation.calls_of(site) if call.path == EVENTS],
        "a socket that is over",
    )
    assert {(call.upgrade, call.status) for call in sockets} == {("websocket", 101)}
    calls = federation.calls_of(site)
    assert {call.address for call in calls} == {COMES_FROM[user]}
    paths = {call.path for call in calls}
    assert "/exchange/inbox" in paths
    assert f"/prefect/api/work_pools/hospital-{user}" in paths
    assert any(path.startswith(f"/exchange/{order_id}/") for path in paths), paths


@pytest.mark.parametrize("user", NAMES)
def test_its_steps_came_to_prefect_by_the_socket(
    user: int, order_id: int, connected: Hospitals
) -> None:
    wanted = {
        "flow_runs": {"name": {"any_": [f"order-{order_id}-hospital-{user}"]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    with connected.federation.prefect() as prefect:
        wait_until(
            lambda: prefect.post("/task_runs/count", json=wanted).json(),
            "steps that have ended",
            seconds=60,
        )


def test_a_hospital_may_show_the_steps_of_a_round(
    order_id: int, connected: Hospitals
) -> None:
    """The one with `round_steps`; the others show their rounds."""
    parts = f"/orders/{order_id}/timeline?round=1"

    def shown() -> set[tuple[str, int]] | None:
        with connected.federation.client(DIRECT) as client:
            found = client.get(parts).json()["data"]["parts"]
        of_hospitals = {(one["what"], one["user_id"]) for one in found}
        of_hospitals.discard(("aggregation", None))
        return of_hospitals if len(of_hospitals) == 5 else None

    assert wait_until(shown, "the parts of a round", seconds=60) == {
        ("local gradient", OPENED),
        ("scoring", OPENED),
        ("encryption", OPENED),
        ("local training", DIRECT),
        ("local training", PROXIED),
    }


def test_what_each_proxy_has_seen(order_id: int, connected: Hospitals) -> None:
    """The one nothing but the name, the other every call; neither a row or a gradient,
    which are sealed.
    """
    assert set(connected.forwarding.asked) == {f"CONNECT {NAME}:443 HTTP/1.1"}
    assert connected.forwarding.seen == []
    assert set(connected.opening.asked) == {f"CONNECT {NAME}:443 HTTP/1.1"}
    seen = connected.opening.seen
    assert EVENTS in seen
    assert any(path.startswith(f"/exchange/{order_id}/") for path in seen)


def test_nothing_of_an_agent_comes_by_plain_http(connected: Hospitals) -> None:
    nginx = connected.federation.nginx
    assert nginx is not None
    sent_clear = [
        call
        for call in nginx.calls()
        if call.port == nginx.clear_port and call.authorization != "-"
    ]
    assert sent_clear == []


def test_check_finds_the_coordinator_on_every_way(connected: Hospitals) -> None:
    for site in connected.sites.values():
        found = {one["check"]: one["state"] for one in site.check()}
        assert (found["coordinator"], found["token"]) == ("ok", "ok")
        assert (found["prefect"], found["pool"]) == ("ok", "ok")


def operators(hospitals: Hospitals, *words: str) -> str:
    """`./run server ...` beside the one that runs."""
    federation = hospitals.federation
    done = subprocess.run(
        [sys.executable, "-m", "deployments.server", *words],
        cwd=ROOT,
        env=federation.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hospital_joins_by_its_file(hospitals: Hospitals, tmp_path: Path) -> None:
    """From the operator's command to an agent that the coordinator has: the file alone
    says whom to call and whom to trust.
    """
    federation, user = hospitals.federation, 9
    assert federation.operator is not None
    told = operators(
        hospitals,
        *("add-hospital", "--user-id", str(user), "--name", "hangzhou"),
        *("--address", federation.origin, "--ca", str(federation.operator.pem)),
        *("--into", str(tmp_path)),
    )
    operators(hospitals, "deploy")
    state = tmp_path / "state"
    site = Site(user, tmp_path / "site", state, tmp_path / "agent.log")
    init = [sys.executable, "-m", "deployments.agent", "init", "--enrol"]
    init += [json.loads(told)["enrolment"], "--site", str(site.folder)]
    made = subprocess.run(
        [*init, "--state", str(state)],
        cwd=ROOT,
        env=agents_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "The coordinator accepts it." in made.stdout, made.stderr
    found = {one["check"]: one["state"] for one in site.check()}
    ways = ("coordinator", "clock", "version", "token", "prefect", "pool")
    assert {found[name] for name in ways} == {"ok"}
    site.start()
    try:
        wait_until(lambda: user in federation.online(), "its agent", seconds=120)
        paths = {call.path for call in federation.calls_of(site)}
        assert "/exchange/inbox" in paths or "/hospitals/me" in paths
        assert {call.address for call in federation.calls_of(site)} == {"127.0.0.1"}
    finally:
        site.end()
    assert "Traceback" not in site.log.read_text()


# The page


@pytest.fixture(scope="module")
def browsers_home(
    hospitals: Hospitals, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Whose browser trusts the operator's authority, as on a hospital's computers."""
    if shutil.which("certutil") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("certutil is missing: apt-get install libnss3-tools")
        pytest.skip("needs certutil (Debian: apt-get install libnss3-tools)")
    home = tmp_path_factory.mktemp("home")
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    assert hospitals.federation.operator is not None
    authority = str(hospitals.federation.operator.pem)
    trusts = ["-A", "-n", "operator", "-t", "C,,", "-i", authority]
    for arguments in (["-N", "--empty-password"], trusts):
        command = ["certutil", "-d", f"sql:{database}", *arguments]
        subprocess.run(command, check=True)
    return home


def resolving(federation: Encrypted) -> str:
    """The coordinator's name at both of nginx's ports."""
    assert federation.nginx is not None
    rules = (
        f"MAP {NAME}:443 127.0.0.1:{federation.nginx.port}",
        f"MAP {NAME}:80 127.0.0.1:{federation.nginx.clear_port}",
    )
    return f"--host-resolver-rules={','.join(rules)}"


@pytest.fixture(scope="module")
def browser(
    hospitals: Hospitals, browsers_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    rules = resolving(hospitals.federation)
    downloads = tmp_path_factory.mktemp("downloads")
    with chromium(downloads, rules, home=browsers_home) as running:
        yield running


@pytest.fixture
def visitor(browser: Browser, hospitals: Hospitals) -> Browser:
    """The user of hospital 4, signed in."""
    browser.sign_in(f"https://{NAME}", hospitals.federation.tokens()["4"])
    browser.complaints()
    return browser


def test_a_browser_that_does_not_know_the_authority_refuses(
    hospitals: Hospitals, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    rules = resolving(hospitals.federation)
    with chromium(tmp_path, rules, home=home) as stranger:
        stranger.driver.get(f"https://{NAME}/")
        stranger.see("NET::ERR_CERT_AUTHORITY_INVALID")
        assert stranger.all("#token") == []


def test_the_cookie_is_for_this_host_by_tls_alone(visitor: Browser) -> None:
    cookies = {one["name"]: one for one in visitor.driver.get_cookies()}
    session = cookies["__Host-consilium_session"]
    assert session["secure"] is True
    assert session["httpOnly"] is True
    assert session["path"] == "/"
    assert session["domain"] == NAME
    insecure = [name for name, cookie in cookies.items() if not cookie["secure"]]
    assert insecure == []


def test_a_browser_that_was_here_asks_by_tls_alone(
    visitor: Browser, hospitals: Hospitals
) -> None:
    """HSTS: an address of http:// is not even asked for."""
    nginx = hospitals.federation.nginx
    assert nginx is not None
    clear = [call for call in nginx.calls() if call.port == nginx.clear_port]
    visitor.driver.get(f"http://{NAME}/page/hospitals")
    visitor.wait(lambda: visitor.all("h1"), "the page")
    assert visitor.driver.current_url == f"https://{NAME}/page/hospitals"
    answers = [
        event["params"]["redirectResponse"]
        for event in visitor.network()
        if "redirectResponse" in event["params"]
    ]
    reasons = [answer["headers"].get("Non-Authoritative-Reason") for answer in answers]
    assert reasons == ["HSTS"]
    assert [call for call in nginx.calls() if call.port == nginx.clear_port] == clear


def test_the_page_follows_an_order_on_a_socket_of_tls(
    visitor: Browser, connected: Hospitals
) -> None:
    """And nothing on it comes by http:// or from elsewhere."""
    federation = connected.federation
    submitted = federation.submit(document_order(method="Mask", rounds=60))
    visitor.open(f"/page/orders/{submitted}")
    visitor.wait(lambda: visitor.all("h1"), "the order's page")
    assert "Ended:" not in visitor.text
    visitor.see("Ended: success", seconds=180)
    events = visitor.network()
    asked = addresses(events)
    assert f"https://{NAME}/page/orders/{submitted}" in asked
    assert [url for url in asked if url.startswith(f"wss://{NAME}/_nicegui_ws/")]
    assert [url for url in asked if url.startswith(("http:", "ws:"))] == []
    assert visitor.elsewhere(events) == []
    assert visitor.console() == []
    assert frames(events) > 0
    assert federation.order(submitted)["state"] == "success"


def frames(events: list[dict[str, Any]]) -> int:
    """How many messages the server sent on sockets."""
    return sum(event["method"] == "Network.webSocketFrameReceived" for event in events)


def test_a_part_of_a_page_that_is_not_encrypted_would_be_seen(visitor: Browser) -> None:
    visitor.open("/page/orders")
    visitor.wait(lambda: visitor.all("nav.top"), "the page")
    visitor.complaints()
    visitor.driver.execute_script(
        "const i = document.createElement('img');"
        "i.src = 'http://elsewhere.example/i.png'; document.body.append(i)"
    )
    visitor.wait(
        lambda: any("elsewhere.example" in one for one in visitor.complaints()),
        "the browser's word on it",
    )
