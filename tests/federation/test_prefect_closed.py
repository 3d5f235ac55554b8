"""What Prefect's server could do on its own account is out of reach, with its auth
string too.
"""

from __future__ import annotations

import socket
import uuid
from typing import Any

import httpx
import pytest

from tests.conftest import RunningFederation

pytestmark = pytest.mark.slow

ID = str(uuid.UUID(int=1))
WEBHOOK = {
    "name": "call-home",
    "data": {"url": "http://127.0.0.1:9/", "method": "POST"},
    "block_schema_id": ID,
    "block_type_id": ID,
}
AUTOMATION = {
    "name": "call-home",
    "trigger": {
        "type": "event",
        "posture": "Reactive",
        "threshold": 1,
        "within": 0,
        "expect": ["prefect.flow-run.*"],
    },
    "actions": [{"type": "call-webhook", "block_document_id": ID}],
}
CLOSED: list[tuple[str, str, Any]] = [
    ("POST", "/automations/", AUTOMATION),
    ("PUT", f"/automations/{ID}", AUTOMATION),
    ("PATCH", f"/automations/{ID}", {"enabled": True}),
    ("POST", "/automations/filter", {}),
    ("POST", "/automations/count", {}),
    ("GET", f"/automations/{ID}", None),
    ("GET", f"/automations/related-to/{ID}", None),
    ("DELETE", f"/automations/owned-by/{ID}", None),
    ("DELETE", f"/automations/{ID}", None),
    ("POST", "/templates/validate", "{{ 7 * 7 }}"),
    ("POST", "/automations/templates/validate", "{{ 7 * 7 }}"),
    ("POST", "/block_documents/", WEBHOOK),
    ("POST", "/block_documents/filter", {}),
    ("POST", "/block_documents/count", {}),
    ("GET", f"/block_documents/{ID}", None),
    ("PATCH", f"/block_documents/{ID}", {"data": {}}),
    ("DELETE", f"/block_documents/{ID}", None),
    ("POST", "/block_types/", {"name": "webhook", "slug": "webhook"}),
    ("POST", "/block_types/install_system_block_types", None),
    ("POST", "/block_types/filter", {}),
    ("GET", "/block_types/slug/webhook", None),
    ("GET", "/block_types/slug/webhook/block_documents", None),
    ("GET", f"/block_types/{ID}", None),
    ("POST", "/block_schemas/", {"fields": {}, "block_type_id": ID}),
    ("POST", "/block_schemas/filter", {}),
    ("GET", f"/block_schemas/checksum/{ID}", None),
    ("GET", "/block_capabilities/", None),
]
OTHER_SPELLINGS = (
    "/automations",
    "//automations/",
    "/./automations/",
    "/flows/../automations/",
    "/%61utomations/",
    "/automations%2f",
    "/AUTOMATIONS/",
    "/automations/;x",
)


def test_it_has_no_route_for_automations_blocks_and_webhooks(
    federation: RunningFederation,
) -> None:
    with federation.prefect() as prefect:
        # The string is the right one, and the server answers it.
        assert prefect.post("/flows/filter", json={}).status_code == 200
        reached = []
        for method, path, body in CLOSED:
            answer = prefect.request(method, path, json=body)
            if answer.status_code not in (404, 405):
                reached.append((method, path, answer.status_code))
        for path in OTHER_SPELLINGS:
            for method in ("GET", "POST"):
                answer = prefect.request(
                    method, path, json=AUTOMATION, follow_redirects=True
                )
                if answer.status_code not in (404, 405):
                    reached.append((method, path, answer.status_code))
    assert reached == []


def test_it_runs_no_service_for_triggers_and_stores_no_events(
    federation: RunningFederation,
) -> None:
    """Events of this server's runs are many; its own list of settings says why none is
    there.
    """
    with federation.prefect() as prefect:
        services = prefect.get("/admin/settings").json()["server"]["services"]
        assert services["triggers"]["enabled"] is False
        assert services["event_persister"]["enabled"] is False
        found = prefect.post("/events/filter", json={"limit": 1}).json()
    assert found["total"] == 0


def test_its_description_names_none_of_them(federation: RunningFederation) -> None:
    with federation.prefect() as prefect:
        server = str(prefect.base_url).removesuffix("/api/")
        paths = prefect.get(f"{server}/openapi.json").json()["paths"]
    assert any("/flow_runs/" in path for path in paths)
    words = ("automation", "block_", "webhook", "template")
    assert [path for path in paths if any(word in path for word in words)] == []


PAGE = ("/", "/v2/", "/runs/flow-run/1", "/ui-settings", "/api/health")
"""Addresses of its page, and of what its page calls."""
BELOW = ("", "/prefect", "/prefect/api")
NAVIGATION = {"Accept": "text/html"}
"""As a browser asks for a page; others get none from Prefect."""


@pytest.mark.parametrize("who", ["operator", "4", "agent"])
def test_its_page_is_not_at_the_coordinators_address(
    federation: RunningFederation, who: str
) -> None:
    """Nor what that page calls, below whatever a proxy might have it."""
    own = federation.prefect_url.removesuffix("/api")
    for path in PAGE:
        answer = httpx.get(own + path, headers=NAVIGATION, trust_env=False)
        assert answer.status_code == 200, path
    if who == "agent":
        client = federation.agent_client("suzhou-szslyy")
    else:
        client = federation.client(who)
    # By its name too, as a proxy may pass it on.
    its_name = NAVIGATION | {"Host": f"127.0.0.1:{federation.prefect_port}"}
    reached = []
    with client:
        for address in [below + path for below in BELOW for path in PAGE]:
            # The coordinator's own page.
            if address == "/":
                continue
            for headers in (NAVIGATION, its_name):
                answer = client.get(address, headers=headers)
                if answer.status_code not in closed_to(who, address):
                    reached.append((address, headers, answer.status_code))
    assert reached == []


def closed_to(who: str, address: str) -> set[int]:
    """No such address; the gateway's are refused to others than agents at once."""
    is_gateway = address.startswith("/prefect/api/")
    return {403, 404} if is_gateway and who != "agent" else {404}


def test_it_is_reached_at_one_address_of_this_machine_alone(
    federation: RunningFederation,
) -> None:
    """All of 127.0.0.0/8 is this machine's: a server that listens on every address
    answers at each of them.
    """
    socket.create_connection(("127.0.0.1", federation.prefect_port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", federation.prefect_port))
