"""The documented nginx.conf before the coordinator, with a real nginx: what it passes
on, what it keeps out, and that a browser behind it has a safe cookie.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from deployments.demo.training import document_order
from tests.api.conftest import Coordinator
from tests.certificates import Authority
from tests.nginx import NAME, run_nginx

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


@dataclass
class Front:
    """nginx before a coordinator."""

    coordinator: Coordinator
    order_id: int
    port: int
    clear_port: int
    authority: Authority

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.origin,
            verify=self.authority.client_context(),
            trust_env=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, with_pages: Coordinator
) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("nginx")
    answer = with_pages.call("POST", "/model/train", json=document_order())
    order_id = answer.json()["data"]["order_id"]
    api_port = with_pages.client.base_url.port
    assert api_port is not None
    authority = Authority(folder, "operator")
    with run_nginx(folder, api_port, authority.issue(NAME, "127.0.0.1")) as nginx:
        yield Front(with_pages, order_id, nginx.port, nginx.clear_port, authority)


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
        ssl=front.authority.client_context(),
        proxy=None,
        additional_headers={"Origin": front.origin},
    ) as opened:
        assert str(opened.recv()).startswith("0{")
    with (
        pytest.raises(InvalidStatus),
        connect(
            url,
            ssl=front.authority.client_context(),
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
    context = front.authority.client_context()
    with context.wrap_socket(raw, server_hostname="127.0.0.1") as encrypted:
        encrypted.sendall(
            b"POST /model/train HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
        )
        assert encrypted.recv(65_536).startswith(b"HTTP/1.1 401")
