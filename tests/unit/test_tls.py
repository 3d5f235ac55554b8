"""Whom a client trusts and which proxy it takes, on real sockets: what is not accepted,
and what a person is told of it.
"""

from __future__ import annotations

import ast
import contextlib
import http.server
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from agents.check.coordinator import check_coordinator
from agents.check.findings import Finding
from agents.site.settings import SiteSettings, load_settings
from api.client import Federation
from protocol.errors import BadRequest, Unavailable
from protocol.exchange import HttpTransport
from protocol.tls import authorities
from tasks.flow_process import kind_of
from tests.certificates import DAY, Authority, Issued
from tests.conftest import ROOT
from tests.forward_proxy import ForwardProxy, Opens, running_proxy

NAME = "consilium.example.org"
NOBODY = b'{"data": {"hospitals": []}}'


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(NOBODY)))
        self.end_headers()
        self.wfile.write(NOBODY)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that does not accept the certificate ends the handshake."""


@contextlib.contextmanager
def serving(issued: Issued) -> Iterator[int]:
    """An HTTPS server with this certificate; its port."""
    server = Server(("127.0.0.1", 0), Page)
    server.socket = issued.server_context().wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("operator"), "operator")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of a hospital's own proxy."""
    return Authority(tmp_path_factory.mktemp("hospital"), "hospital")


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIUM_HOME", str(tmp_path / "home"))
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)


def site(tmp_path: Path, url: str, **keys: object) -> SiteSettings:
    lines = ["user_id = 2", 'name = "north"', f'coordinator_url = "{url}"']
    lines += [f'{key} = "{value}"' for key, value in keys.items()]
    folder = tmp_path / "north"
    folder.mkdir(exist_ok=True)
    (folder / "settings.toml").write_text("\n".join(lines))
    settings = load_settings(folder)
    token = settings.state / "token"
    token.write_text("secret")
    token.chmod(0o600)
    return settings


def fault(settings: SiteSettings) -> httpx.HTTPError:
    with settings.client() as client, pytest.raises(httpx.HTTPError) as caught:
        client.get("/health")
    return caught.value


def test_a_private_authority_is_trusted_where_it_is_named(
    operator: Authority, tmp_path: Path
) -> None:
    with serving(operator.issue("127.0.0.1")) as port:
        settings = site(tmp_path, f"https://127.0.0.1:{port}", ca_file=operator.pem)
        with settings.client() as client:
            assert client.get("/health").status_code == 200


def test_its_certificates_hold_what_newer_pythons_ask_for(operator: Authority) -> None:
    """What docs/operators.md lists; Python 3.13 checks it without being told to."""
    context = operator.client_context()
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with serving(operator.issue("127.0.0.1")) as port:
        url = f"https://127.0.0.1:{port}"
        assert httpx.get(url, verify=context, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("names", "begins", "ends", "known", "words"),
    [
        (["127.0.0.1"], -DAY, DAY, False, ("not trusted here", "ca_file in settings")),
        (["127.0.0.1"], -2 * DAY, -DAY / 2, True, ("expired", "clock")),
        (["127.0.0.1"], DAY / 2, DAY, True, ("not valid now", "clock")),
        ([NAME], -DAY, DAY, True, ("another name's", "coordinator_url")),
    ],
    ids=["authority", "expired", "too early", "name"],
)
def test_a_certificate_that_is_not_accepted(
    names: list[str],
    begins: timedelta,
    ends: timedelta,
    known: bool,
    words: tuple[str, str],
    operator: Authority,
    hospital: Authority,
    tmp_path: Path,
) -> None:
    """In the agent's log, in its check, and in what a flow process hears."""
    trusted = operator if known else hospital
    with serving(operator.issue(*names, begins=begins, ends=ends)) as port:
        settings = site(tmp_path, f"https://127.0.0.1:{port}", ca_file=trusted.pem)
        said = [kind_of(fault(settings))]
        with settings.client() as client:
            found = check_coordinator(client, settings, now=lambda: datetime.now(UTC))
            (finding,) = list(found)
            with pytest.raises(Unavailable) as caught:
                HttpTransport(client, "secret").request("GET", "/health")
    assert finding.state == "wrong"
    said += [f"{finding.sentence} {finding.remedy}", str(caught.value)]
    for sentence in said:
        assert all(word in sentence for word in words), sentence


def test_without_a_named_authority_the_variable_counts_then_the_usual_ones(
    operator: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(operator.issue("127.0.0.1")) as port:
        settings = site(tmp_path, f"https://127.0.0.1:{port}")
        assert "ca_file" in kind_of(fault(settings))
        monkeypatch.setenv("SSL_CERT_FILE", str(operator.pem))
        with settings.client() as client:
            assert client.get("/health").status_code == 200
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path))
    with pytest.raises(BadRequest, match="SSL_CERT_FILE"):
        authorities("https://consilium.example.org")


def test_who_writes_a_notebook_is_told_of_the_variable(operator: Authority) -> None:
    with (
        serving(operator.issue("127.0.0.1")) as port,
        pytest.raises(Unavailable, match="variable SSL_CERT_FILE"),
    ):
        Federation(f"https://127.0.0.1:{port}", token="secret", user=2).hospitals()


def test_a_proxy_with_a_password(operator: Authority, tmp_path: Path) -> None:
    """Where it is wrong, the sentence says so and does not repeat it."""
    with serving(operator.issue(NAME)) as port:
        proxy = ForwardProxy(
            {f"{NAME}:443": ("127.0.0.1", port)}, "127.0.0.3", login="agent:geheim"
        )
        with running_proxy(proxy):
            settings = site(
                tmp_path, f"https://{NAME}", ca_file=operator.pem, proxy=proxy.url
            )
            with settings.client() as client:
                assert client.get("/health").status_code == 200
            settings = site(
                tmp_path,
                f"https://{NAME}",
                ca_file=operator.pem,
                proxy=proxy.url.replace("geheim", "falsch"),
            )
            said = kind_of(fault(settings))
    assert "status 407" in said
    assert "proxy in settings.toml" in said
    assert "falsch" not in said


def test_a_proxy_that_opens_tls_is_trusted_by_its_own_authority(
    operator: Authority, hospital: Authority, tmp_path: Path
) -> None:
    with serving(operator.issue(NAME)) as port:
        proxy = ForwardProxy(
            {f"{NAME}:443": ("127.0.0.1", port)},
            "127.0.0.4",
            opens=Opens(
                hospital.issue(NAME).server_context(), operator.client_context()
            ),
        )
        with running_proxy(proxy):
            url = f"https://{NAME}"
            settings = site(tmp_path, url, ca_file=hospital.pem, proxy=proxy.url)
            with settings.client() as client:
                assert client.get("/health").status_code == 200
            assert proxy.seen == ["/health"]
            settings = site(tmp_path, url, ca_file=operator.pem, proxy=proxy.url)
            assert "of a proxy here that opens TLS" in kind_of(fault(settings))
    assert proxy.seen == ["/health"]


@pytest.mark.parametrize(
    "proxy",
    [
        "",
        "proxy.local:3128",
        "https://proxy.local:3128",
        "socks5://proxy.local:1080",
        "http://geheim@proxy.local:3128",
        "http://proxy.local:3128/geheim",
        "http://proxy.local:geheim",
    ],
)
def test_what_is_no_proxy_is_refused_and_not_repeated(
    proxy: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="http://host:port") as caught:
        site(tmp_path, f"https://{NAME}", proxy=proxy)
    assert caught.value.code == "proxy"
    assert "geheim" not in str(caught.value)


def findings(settings: SiteSettings, check: str) -> list[Finding]:
    with settings.client() as client:
        found = list(check_coordinator(client, settings, now=lambda: datetime.now(UTC)))
    said = " ".join(f"{finding.sentence} {finding.remedy}" for finding in found)
    assert "geheim" not in said
    assert "unplanned" not in said
    return [finding for finding in found if finding.check == check]


def test_a_variable_that_names_a_proxy_is_told_to_be_none(
    operator: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://u:geheim@proxy.local:3128")
    with serving(operator.issue("127.0.0.1")) as port:
        settings = site(tmp_path, f"https://127.0.0.1:{port}", ca_file=operator.pem)
        (told,) = findings(settings, "proxy")
    assert told.state == "ok"
    assert "https_proxy is set here" in told.sentence


@pytest.mark.parametrize(
    ("variable", "no_proxy", "state", "words"),
    [
        ("the proxy", "", "wrong", "Write the address that HTTPS_PROXY has as proxy"),
        ("http://geheim@127.0.0.1:9", "", "warn", "neither with it nor without"),
        ("socks5://127.0.0.1:9", "", "warn", "neither with it nor without"),
        ("no address", "", "warn", "neither with it nor without"),
    ],
)
def test_whether_the_coordinator_answers_by_the_proxy_that_a_variable_names(
    variable: str,
    no_proxy: str,
    state: str,
    words: str,
    operator: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name is known to the proxy alone."""
    with serving(operator.issue(NAME)) as port:
        targets = {f"{NAME}:443": ("127.0.0.1", port)}
        proxy = ForwardProxy(targets, "127.0.0.3", login="agent:geheim")
        with running_proxy(proxy):
            address = proxy.url if variable == "the proxy" else variable
            monkeypatch.setenv("HTTPS_PROXY", address)
            settings = site(tmp_path, f"https://{NAME}", ca_file=operator.pem)
            (told,) = findings(settings, "proxy")
    assert told.state == state
    assert words in f"{told.sentence} {told.remedy}"


def test_a_proxy_for_an_address_that_is_reached_without_one(
    operator: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"ca_file": operator.pem, "proxy": "http://127.0.0.1:9"}
    with serving(operator.issue("127.0.0.1")) as port:
        settings = site(tmp_path, f"https://127.0.0.1:{port}", **keys)
        assert findings(settings, "proxy") == []
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,.local")
        (told,) = findings(settings, "proxy")
    assert told.state == "warn"
    assert "NO_PROXY leaves 127.0.0.1 out" in told.sentence
    assert "Leave out the line proxy" in told.remedy


def test_a_proxy_that_opens_tls_and_that_the_machine_trusts(
    operator: Authority,
    hospital: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who issued the certificate is named, and it is not the authority of the
    enrolment.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(hospital.pem))
    with serving(hospital.issue("127.0.0.1")) as port:
        settings = site(tmp_path, f"https://127.0.0.1:{port}", ca_file=operator.pem)
        (told,) = findings(settings, "coordinator")
        # Whoever has taken it on purpose is told nothing of it.
        settings = site(tmp_path, f"https://127.0.0.1:{port}", ca_file=hospital.pem)
        assert "opens TLS" not in findings(settings, "coordinator")[0].sentence
    assert told.state == "wrong"
    assert 'is by "hospital"' in told.sentence
    assert "opens TLS" in told.sentence
    assert "Ask the operator" in told.remedy


READ_BY_PREFECT = """
import os, sys
from pathlib import Path
from agents.site.settings import load_settings
from deployments.agent.starting import take_environment
take_environment(load_settings(Path(sys.argv[1])))
from prefect.settings import get_current_settings
from urllib.request import getproxies
api = get_current_settings().api
print(api.tls_insecure_skip_verify, api.ssl_cert_file, sorted(getproxies().items()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("proxied", [False, True])
def test_prefects_client_follows_the_settings_and_nothing_else(
    proxied: bool, operator: Authority, tmp_path: Path
) -> None:
    """Whatever the environment says, and the files that Prefect looks for where it is
    started.
    """
    keys = {"ca_file": str(operator.pem)}
    if proxied:
        keys["proxy"] = "http://proxy.local:3128"
    settings = site(tmp_path, f"https://{NAME}", **keys)
    started_in = tmp_path / "elsewhere"
    started_in.mkdir()
    (started_in / "prefect.toml").write_text("[api]\ntls_insecure_skip_verify = true\n")
    environment = {
        "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true",
        "PREFECT_API_SSL_CERT_FILE": "/nowhere.pem",
        "HTTPS_PROXY": "http://other.local:1",
        "all_proxy": "http://other.local:1",
        "wss_proxy": "http://other.local:1",
        "NO_PROXY": "*",
    }
    read = subprocess.run(
        [sys.executable, "-c", READ_BY_PREFECT, str(settings.site)],
        cwd=started_in,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    proxies = []
    if proxied:
        proxies = [(name, keys["proxy"]) for name in ("http", "https")]
    assert read == f"False {operator.pem} {proxies}"


OFF = ("_create_unverified_context", "CERT_NONE")


def test_nothing_turns_the_check_of_certificates_off() -> None:
    found = []
    for package in ("agents", "api", "deployments", "flows", "protocol", "tasks"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            found += [f"{path.name}: {what}" for what in turned_off(tree)]
    assert found == []


def turned_off(tree: ast.AST) -> Iterator[str]:
    """Where a check is switched off: verify=False, check_hostname = False, CERT_NONE."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(
                arg="verify" | "check_hostname", value=ast.Constant(False)
            ):
                yield ast.unparse(node)
            case ast.Assign(
                targets=[ast.Attribute(attr="check_hostname" | "verify_mode")]
            ):
                yield ast.unparse(node)
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in OFF:
                yield name


@pytest.mark.parametrize(
    "line",
    [
        "httpx.get(url, verify=False)",
        "context.check_hostname = False",
        "context.verify_mode = mode",
        "ssl._create_unverified_context()",
        "f(ssl.CERT_NONE)",
    ],
)
def test_what_turns_it_off_is_found(line: str) -> None:
    assert list(turned_off(ast.parse(line)))
