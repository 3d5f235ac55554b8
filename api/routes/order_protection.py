"""How an order is protected, in plain words: who could decrypt what."""

from __future__ import annotations

from typing import Any

from api.routes import statistics
from api.store.rows import OrderRow


def method_of(order: OrderRow) -> str:
    """Paillier, Mask or None, as the training order says it in any case; null is None,
    and unsaid it is Paillier.
    """
    # The body stands as it was sent: what is unsaid there has no default filled in.
    encrypt = order.body.get("model_params", {}).get("encrypt_param", {})
    unsaid = "None" if "method" in encrypt else "Paillier"
    method = str(encrypt.get("method") or unsaid)
    spellings = {word.lower(): word for word in ("Paillier", "Mask", "None")}
    return spellings.get(method.lower(), method)


def protection(order: OrderRow) -> dict[str, Any]:
    """Who could decrypt what, in plain words."""
    if order.kind == "external":
        return {
            "method": "None",
            "who_could_decrypt": "Nothing is encrypted: gradients are kept as they were recorded.",
        }
    if order.kind == "statistics":
        return statistics.protection(order)
    if order.kind not in ("train", "evaluate"):
        return {
            "method": "sealed to the one who asked",
            "who_could_decrypt": "the owner of the token",
        }
    encrypt = order.body.get("model_params", {}).get("encrypt_param", {})
    method = method_of(order)
    if method == "None" and order.kind == "evaluate":
        return {
            "method": "None",
            "key_bits": None,
            "key_holder": None,
            "who_could_decrypt": "Nothing is encrypted: the coordinator sees each hospital's counts of scores.",
        }
    if method == "None":
        return {
            "method": "None",
            "key_bits": None,
            "key_holder": None,
            "who_could_decrypt": "Nothing is encrypted: the coordinator sees gradients and can compute the model.",
        }
    is_paillier = method == "Paillier"
    initiator = f"hospital {order.initiator}"
    return {
        "method": method,
        "key_bits": encrypt.get("key_length", 2048) if is_paillier else None,
        "key_holder": initiator if is_paillier else "each pair of hospitals",
        "who_could_decrypt": (
            f"Only sums over {_members(order)} hospitals can be opened, by {initiator}. Nobody can open one "
            "hospital's gradient, and the coordinator can open nothing."
        ),
        "scoring": SCORED[order.body.get("scoring") or "none"],
    }


def _members(order: OrderRow) -> str:
    all_members = f"all {len(order.members)}"
    takes_everybody = order.body.get("aggregation", "mean") == "mean"
    return all_members if takes_everybody else f"the chosen of {all_members}"


SCORED = {
    "none": "The coordinator learns nothing of single gradients.",
    "round": "The coordinator learns the lengths of the gradients of a round and the angles between them.",
    "full": (
        "The coordinator learns the lengths of the gradients of a round, the angles between them, "
        "and how far each moved since the round before."
    ),
}
