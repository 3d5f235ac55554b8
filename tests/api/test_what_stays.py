"""What the coordinator was shown while an order ran is on no disk of its when the order
has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.exchange import Address, HttpTransport
from protocol.messages import COORDINATOR
from tests.api.conftest import Coordinator, serve, settings_in
from tests.pairwise import quick

NEEDLE = b"a gradient in its frame, which nobody may find" * 200


def files_with_needle(home: Path) -> list[str]:
    found = []
    for path in home.rglob("*"):
        if path.is_file() and NEEDLE[:46] in path.read_bytes():
            found.append(path.name)
    return found


def cancel(coordinator: Coordinator, order_id: int) -> None:
    answer = coordinator.call("POST", f"/orders/{order_id}/cancel")
    assert answer.status_code == 200, answer.text


def fail(coordinator: Coordinator, order_id: int) -> None:
    stop = {"type": "ConsiliumError", "code": "x", "sentence": "x.", "remedy": "x."}
    transport = HttpTransport(coordinator.client, coordinator.tokens["coordinator"])
    transport.record(order_id, {"end": "failed", "stop": stop})


# The second is so large that it stands in a file of its own.
NEEDLES = (NEEDLE, NEEDLE * 200)


@pytest.mark.parametrize("needle", quick(NEEDLES, 1), ids=["in the table", "in a file"])
@pytest.mark.parametrize("end", quick([cancel, fail], 1))
def test_what_was_shown_is_gone_with_the_order(
    tmp_path: Path, end: Callable[[Coordinator, int], None], needle: bytes
) -> None:
    """While it runs it is found, so the search is one."""
    from deployments.demo.training import document_order

    with serve(settings_in(tmp_path)) as coordinator:
        body = document_order()
        # A model whose messages may be so large.
        body["model_type"] = "mlp"
        body["model_params"]["hidden"] = [1000, 990]
        body["model_params"]["init_param"] = {"init_method": "random_normal"}
        answer = coordinator.call("POST", "/model/train", json=body)
        order_id = answer.json()["data"]["order_id"]
        coordinator.give_places()
        agent = HttpTransport(coordinator.client, coordinator.tokens["agent-2"])
        agent.put(Address(order_id, "vectors"), 2, COORDINATOR, needle)
        assert files_with_needle(tmp_path)
        end(coordinator, order_id)
        assert files_with_needle(tmp_path) == []
