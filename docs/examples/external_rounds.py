"""Records the rounds of a training loop that Consilium knows nothing of, and reads
every score of them.

    CONSILIUM_URL=http://127.0.0.1:5000 CONSILIUM_TOKEN=... python docs/examples/external_rounds.py

Ten clients hold scikit-learn's digits and train one SGDClassifier together by federated
averaging. Client 7 flips the sign of what it sends. Needs httpx, numpy, safetensors and
scikit-learn.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

N_CLIENTS, N_ROUNDS, ATTACKER = 10, 4, 7
CLASSES = np.arange(10)
SCORES: dict[str, dict[str, Any]] = {
    "/anomaly/krum/": {"k": 5},
    "/anomaly/foolsgold/": {"k": 5},
    "/anomaly/zeno/": {"p": 1},
    "/anomaly/auror/": {"k": 2},
    "/anomaly/sniper/": {"p": 0.8},
    "/anomaly/pca/": {"k": 2},
    "/anomaly/true_krum/": {"n_attackers": 2},
    "/anomaly/multi_krum/": {"n_attackers": 2},
    "/anomaly/geometric_median/": {},
    "/anomaly/foolsgold_weight/": {},
    "/contribution/grad_diff/": {"metric": "cos"},
    "/contribution/perf_diff/": {"metric": "loss"},
}


def main(client: httpx.Client) -> dict[str, dict[str, float]]:
    """Trains, records each round, prints and returns the scores of the last one."""
    order_id = ask(
        client.post(
            "/orders", json={"kind": "external", "name": "digits by SGDClassifier"}
        )
    )["order_id"]
    (parts, test), model = data(), new_model()
    for round_ in range(N_ROUNDS):
        updates, facts = train_round(model, parts, test)
        body = save(
            {
                f"gradients/{user}/dense": update.astype(np.float32)
                for user, update in updates.items()
            },
            metadata={"round": json.dumps(facts)},
        )
        kind = {"Content-Type": "application/octet-stream"}
        ask(
            client.put(
                f"/orders/{order_id}/rounds/{round_}", content=body, headers=kind
            )
        )
        step(model, mean(updates, facts["sizes"]))
    scores = {
        path: ask(client.get(path, params={"order_id": order_id, **arguments}))["data"]
        for path, arguments in SCORES.items()
    }
    for path, by_client in scores.items():
        print(
            f"{path:30}",
            "  ".join(f"{user}: {score:.3g}" for user, score in by_client.items()),
        )
    return scores


def ask(answer: httpx.Response) -> Any:
    """The answer's JSON; the coordinator's sentence as an error."""
    if answer.is_error:
        raise SystemExit(answer.json()["message"])
    return answer.json()


def data() -> tuple[list[tuple[Any, Any]], tuple[Any, Any]]:
    """(each client's rows and labels, unevenly many; test rows and labels)."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    cuts = (
        np.cumsum(np.arange(1, N_CLIENTS) + 10)
        * len(X_train)
        // sum(range(11, 11 + N_CLIENTS))
    )
    return list(zip(np.split(X_train, cuts), np.split(y_train, cuts), strict=True)), (
        X_test,
        y_test,
    )


def new_model() -> SGDClassifier:
    """All weights 0."""
    model = SGDClassifier(
        loss="log_loss", learning_rate="constant", eta0=0.05, shuffle=False
    )
    model.partial_fit(np.zeros((1, 64)), [0], classes=CLASSES)
    model.coef_[:], model.intercept_[:] = 0, 0
    return model


def train_round(
    model: SGDClassifier, parts: list[tuple[Any, Any]], test: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(each client's update, what is recorded beside it)."""
    updates, train = {}, {}
    for user, (X, y) in enumerate(parts):
        own = copy.deepcopy(model).partial_fit(X, y)
        updates[str(user)] = (flat(model) - flat(own)) * (-1 if user == ATTACKER else 1)
        train[str(user)] = metrics(model, X, y)
    sizes = {str(user): len(y) for user, (_, y) in enumerate(parts)}
    with_all = metrics(moved(model, mean(updates, sizes)), *test)
    left_out = {
        user: {
            **metrics(moved(model, mean({**updates, user: None}, sizes)), *test),
            "all": with_all,
        }
        for user in updates
    }
    return updates, {
        "sizes": sizes,
        "performance": {"train": train},
        "leave_one_out": left_out,
    }


def mean(updates: dict[str, Any], sizes: dict[str, int]) -> Any:
    """The mean weighted by row counts, without the clients whose update is None."""
    present = [user for user, update in updates.items() if update is not None]
    return np.average(
        [updates[user] for user in present],
        axis=0,
        weights=[sizes[user] for user in present],
    )


def flat(model: SGDClassifier) -> Any:
    return np.concatenate([model.coef_.ravel(), model.intercept_])


def step(model: SGDClassifier, update: Any) -> None:
    model.coef_ -= update[: model.coef_.size].reshape(model.coef_.shape)
    model.intercept_ -= update[model.coef_.size :]


def moved(model: SGDClassifier, update: Any) -> SGDClassifier:
    other = copy.deepcopy(model)
    step(other, update)
    return other


def metrics(model: SGDClassifier, X: Any, y: Any) -> dict[str, float]:
    return {
        "accuracy": model.score(X, y),
        "loss": log_loss(y, model.predict_proba(X), labels=CLASSES),
    }


if __name__ == "__main__":
    with httpx.Client(
        base_url=os.environ.get("CONSILIUM_URL", "http://127.0.0.1:5000"),
        headers={"Authorization": f"Bearer {os.environ['CONSILIUM_TOKEN']}"},
        timeout=60,
    ) as session:
        main(session)
