"""Rounds as trainers and the coordinator's flow send them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from analytics.scores import geometry
from deployments.demo.training import document_order
from tests.api.conftest import Coordinator

SAFETENSORS = {"Content-Type": "application/octet-stream"}
# Six clients of the golden values, and the average of the first five as that of the
# round before.
GOLDEN = np.array(
    [
        [1, 2, 3, 4, 0],
        [1, 2, 3, 5, 0],
        [2, 2, 3, 4, 1],
        [1, 3, 3, 4, 0],
        [0, 2, 2, 4, 1],
        [-9, 8, -7, 6, -5],
    ],
    float,
)
Layers = Mapping[str, Any]


def open_order(coordinator: Coordinator, who: str = "user-4") -> int:
    answer = coordinator.call(
        "POST", "/orders", who, json={"kind": "external", "name": "made"}
    )
    assert answer.status_code == 200, answer.text
    return int(answer.json()["order_id"])


def as_json(vectors: Any, layer: str = "dense") -> dict[str, Any]:
    """{"<client>": {layer: [...]}} of an (n, d) array."""
    return {
        str(client): {layer: list(map(float, row))}
        for client, row in enumerate(vectors)
    }


def put(
    coordinator: Coordinator, order_id: int, round_: int, body: Any, who: str = "user-4"
) -> Any:
    """A JSON body, or the bytes of a safetensors file."""
    path = f"/orders/{order_id}/rounds/{round_}"
    if isinstance(body, bytes):
        return coordinator.call("PUT", path, who, content=body, headers=SAFETENSORS)
    return coordinator.call("PUT", path, who, json=body)


def record(
    coordinator: Coordinator, order_id: int, round_: int, body: Any, who: str = "user-4"
) -> None:
    answer = put(coordinator, order_id, round_, body, who)
    assert answer.status_code == 200, answer.text


def golden_order(coordinator: Coordinator) -> int:
    """An external order with two rounds: the golden gradients, and before them others
    with the golden average.
    """
    order_id = open_order(coordinator)
    before = {
        "gradients": as_json(GOLDEN + 1),
        "average": {"dense": GOLDEN[:5].mean(axis=0).tolist()},
    }
    record(coordinator, order_id, 0, {**before, "performance": performance(1.0)})
    left_out = {
        str(client): {"accuracy": 0.5 - client / 10, "loss": 1.5 + client}
        for client in range(6)
    }
    now = {
        "gradients": as_json(GOLDEN),
        "performance": performance(0.25),
        "leave_one_out": left_out,
    }
    record(
        coordinator,
        order_id,
        1,
        {**now, "sizes": {str(client): 100 * (client + 1) for client in range(6)}},
    )
    return order_id


def performance(loss: float) -> dict[str, Any]:
    return {
        "train": {str(client): {"accuracy": 0.15, "loss": loss} for client in range(6)},
        "test": {
            str(client): {"accuracy": 0.25, "loss": 2 * loss} for client in range(6)
        },
    }


def training_order(coordinator: Coordinator, method: str) -> int:
    """An order of hospital 4 with 2 and 3."""
    answer = coordinator.call(
        "POST", "/model/train", json=document_order(method=method)
    )
    assert answer.status_code == 200, answer.text
    return int(answer.json()["data"]["order_id"])


def open_file(
    gradients: Mapping[int, Layers],
    sizes: list[int] | None = None,
    average: Layers | None = None,
    **told: Any,
) -> bytes:
    """As the flow writes it with method None."""
    tensors = {
        f"gradient/{user}/{layer}": v
        for user, own in gradients.items()
        for layer, v in own.items()
    }
    tensors |= {f"average/{layer}": values for layer, values in (average or {}).items()}
    return save(tensors, metadata=_metadata("open", list(gradients), sizes, **told))


def sealed_file(
    gradients: Mapping[int, Layers],
    sizes: list[int] | None = None,
    between: Mapping[str, Any] | None = None,
    **told: Any,
) -> bytes:
    """As the flow writes it with method Paillier or Mask: factors, and scalars from the
    second round on.
    """
    tensors = {}
    for layer in next(iter(gradients.values())):
        stacked = np.stack([own[layer] for own in gradients.values()])
        tensors[f"factor/{layer}"] = np.ascontiguousarray(
            geometry.triangular_factor([stacked], len(stacked))
        )
    tensors |= {f"between/{layer}": values for layer, values in (between or {}).items()}
    return save(tensors, metadata=_metadata("sealed", list(gradients), sizes, **told))


def _metadata(
    kind: str, clients: list[int], sizes: list[int] | None, **told: Any
) -> dict[str, str]:
    return {
        "round": json.dumps({"kind": kind, "clients": clients, "sizes": sizes, **told})
    }


def external_file(
    gradients: Any, facts: Mapping[str, Any] | None = None, layer: str = "dense"
) -> bytes:
    """As an external trainer sends it: (n, d) of one layer."""
    tensors = {
        f"gradients/{client}/{layer}": np.ascontiguousarray(row)
        for client, row in enumerate(gradients)
    }
    return save(tensors, metadata={"round": json.dumps(facts or {})})


def report_round(
    coordinator: Coordinator,
    order_id: int,
    round_: int,
    losses: Mapping[int, float],
    **more: Any,
) -> None:
    """As the flow reports a round's metrics."""
    hospitals = {
        str(user): {"n_rows": 100, "train": {"loss": loss, "accuracy": 0.5}}
        for user, loss in losses.items()
    }
    entry = {
        "fold": 0,
        "round": round_,
        "loss": 1.0,
        "final": False,
        "hospitals": hospitals,
        **more,
    }
    answer = coordinator.call(
        "POST", f"/orders/{order_id}/progress", "coordinator", json={"round": entry}
    )
    assert answer.status_code == 200, answer.text
