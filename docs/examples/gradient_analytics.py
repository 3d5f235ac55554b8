"""Which hospital stands out, and which contributes: of a sealed order, and of a
training loop of one's own.

    .venv/bin/python -m docs.examples.gradient_analytics [URL TOKEN_FILE]

runs beside `./run up`, as the user of hospital 4, in the project's folder.
external_rounds.py records the rounds of a real training loop.
"""

from __future__ import annotations

import sys

import numpy as np

from api.client import Federation, Scores
from docs.examples.training import ORDER

N_CLIENTS, N_ROUNDS, ATTACKER = 10, 3, 7


def main(federation: Federation) -> tuple[Scores, Scores]:
    """Prints the scores of the hospitals of a sealed order, then those of ten clients
    of which one attacks.
    """
    tests = dict.fromkeys(ORDER["data_info"], "SELECT * FROM data.breast_homo_test")
    few_rounds = {**ORDER["model_params"], "max_iter": 3}
    order = federation.submit(
        ORDER, model_params=few_rounds, test_data_info=tests, scoring="full"
    ).wait()
    sealed = order.scores(k=1)
    print(f"\n{order}: {order.info()['protection']['scoring']}\n")
    print(sealed.anomaly[["geometric_median", "true_krum", "foolsgold_weight"]], "\n")
    print(sealed.contribution, "\n")
    order.plot_scores(k=1).figure.savefig("scores.png")
    return sealed, external(federation)


def external(federation: Federation) -> Scores:
    """Records made gradients of which one points the other way, and prints who is the
    most anomalous by each score.
    """
    order, random = (
        federation.open_external("ten clients, one attacks"),
        np.random.default_rng(1),
    )
    for number in range(N_ROUNDS):
        honest = random.normal(1, 0.3, size=(N_CLIENTS, 50))
        honest[ATTACKER] *= -1
        order.record(
            number,
            {client: {"dense": gradient} for client, gradient in enumerate(honest)},
        )
    scores = order.scores(k=5)
    distances = scores.ranks[["krum", "foolsgold", "true_krum", "geometric_median"]]
    print(distances.idxmin().rename("most anomalous client"), "\n")
    print("Not to be told:", *scores.unavailable.items(), sep="\n  ")
    order.cancel()
    return scores


if __name__ == "__main__":
    url, token_file = sys.argv[1:] or (
        "http://127.0.0.1:5000",
        ".consilium/tokens.json",
    )
    with Federation(url, token_file=token_file, user=4) as federation:
        main(federation)
