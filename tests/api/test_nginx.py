"""The documented nginx.conf before the coordinator, with a real nginx: what it passes
on, what it keeps out, and that a browser behind it has a safe cookie.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from deployments.demo.training import document_order
from tests.api.conftest import Coordinator
from tests.conftest import ROOT, free_port

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

NAME = "consilium.example.org"
FILE = ROOT / "deployments" / "production" / "nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass
class Front:
    """nginx before a coordinator."""

    coordinator: Coordinator
    order_id: int
    port: int
    clear_port: int
    authority: Path

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority))
        # The certificate's name is looked up nowhere here.
        context.check_hostname = False
        return context

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.origin, verify=self.context(), trust_env=False, timeout=60
        )


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, with_pages: Coordinator
) -> Iterator[Front]:
    if NGINX is None:
        if os.environ.get("CI") == "true":
            pytest.fail("nginx is missing: apt-get install nginx")
        pytest.skip("needs nginx (Debian: apt-get install nginx)")
    folder = tmp_path_factory.mktemp("nginx")
    answer = with_pages.call("POST", "/model/train", json=document_order())
    order_id = answer.json()["data"]["order_id"]
    api_port = with_pages.client.base_url.port
    assert api_port is not None
    port, clear_port = free_port(), free_port()
    certificate, key = _certificate(folder)
    site = FILE.read_text("utf-8")
    for ours, here in (
        ("127.0.0.1:5000", f"127.0.0.1:{api_port}"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("listen 80", f"listen 127.0.0.1:{clear_port}"),
        ("/etc/ssl/consilium/fullchain.pem", str(certificate)),
        ("/etc/ssl/consilium/privkey.pem", str(key)),
    ):
        assert site.count(ours) == 1, ours
        site = site.replace(ours, here)
    (folder / "site.conf").write_text(site)
    config = folder / "nginx.conf"
    config.write_text(_around(folder))
    command = [NGINX, "-e", str(folder / "error.log"), "-c", str(config)]
    checked = subprocess.run(
        [*command, "-t"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    try:
        _until_open(port, process)
        yield Front(with_pages, order_id, port, clear_port, certificate)
    finally:
        process.terminate()
        process.wait()


def _around(folder: Path) -> str:
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"pid {folder}/pid;\nevents {{ worker_connections 4096; }}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/site.conf;\n}}\n"
    )


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(pem))
    paths[1].write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def _until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=5),
        ):
            return
        assert process.poll() is None, "nginx ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_call_goes_through(front: Front) -> None:
    token = front.coordinator.tokens["user-4"]
    with front.client() as client:
        answer = client.get(
            f"/orders/{front.order_id}", headers={"Authorization": f"Bearer {token}"}
        )
    assert answer.status_code == 200
    assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "/" not in answer.headers["server"]  # no version


def test_without_tls_one_is_sent_to_it(front: Front) -> None:
    url = f"http://127.0.0.1:{front.clear_port}/orders"
    answer = httpx.get(url, trust_env=False)
    assert answer.status_code == 308
    assert answer.headers["location"].startswith("https://")


def test_a_browser_behind_it_has_a_safe_cookie(front: Front) -> None:
    form = {"token": front.coordinator.tokens["user-4"], "back": "/page/hospitals"}
    with front.client() as client:
        own = {"Origin": front.origin}
        answer = client.post("/page/sign-in", data=form, headers=own)
        assert answer.headers["location"] == "/page/hospitals"
        assert answer.headers["set-cookie"].startswith("__Host-consilium_session=")
        assert "Secure" in answer.headers["set-cookie"]
        page = client.get("/page/hospitals")
        assert page.status_code == 200
        elsewhere = {"Origin": "https://elsewhere.example"}
        refused = client.post("/page/sign-in", data=form, headers=elsewhere)
        assert refused.status_code == 403


def test_its_socket_opens_from_its_own_page_only(front: Front) -> None:
    url = (
        f"wss://127.0.0.1:{front.port}/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    )
    with connect(
        url,
        ssl=front.context(),
        proxy=None,
        additional_headers={"Origin": front.origin},
    ) as opened:
        assert str(opened.recv()).startswith("0{")
    with (
        pytest.raises(InvalidStatus),
        connect(
            url,
            ssl=front.context(),
            proxy=None,
            additional_headers={"Origin": "https://elsewhere.example"},
        ),
    ):
        pass


def test_events_come_at_once(front: Front) -> None:
    """The first, of an order that goes on."""
    token = front.coordinator.tokens["user-4"]
    with (
        front.client() as client,
        client.stream(
            "GET",
            f"/orders/{front.order_id}/events",
            headers={"Authorization": f"Bearer {token}"},
        ) as stream,
    ):
        first = next(stream.iter_lines())
    assert first == "event: state"


def test_a_body_has_its_limit_and_its_token_first(front: Front) -> None:
    token = front.coordinator.tokens["user-4"]
    with front.client() as client:
        headers = {"Authorization": f"Bearer {token}"}
        large = client.post("/model/train", content=b" " * 2**21, headers=headers)
        assert large.status_code == 413
    # Nobody waits for a body without a token, here neither.
    raw = socket.create_connection(("127.0.0.1", front.port), timeout=60)
    with front.context().wrap_socket(raw) as encrypted:
        encrypted.sendall(
            b"POST /model/train HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
        )
        assert encrypted.recv(65_536).startswith(b"HTTP/1.1 401")
