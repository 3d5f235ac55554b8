"""Trains a model with three hospitals, and asks it about patients of one's own.

    .venv/bin/python -m docs.examples.training [URL TOKEN_FILE]

runs beside `./run up`, as the user of hospital 4, in the project's folder.
"""

from __future__ import annotations

import sys

from api.client import Federation, Order

ORDER = {
    "model_type": "lr",
    "model_params": {
        "max_iter": 10,
        "learning_rate": 0.15,
        "decay": 1,
        "batch_size": 500,
    },
    "party_id": [2, 3],
    "data_info": {
        "4": "SELECT * FROM data.breast_homo_guest",
        "2": "SELECT * FROM data.breast_homo_host",
        "3": "SELECT * FROM data.breast_homo_host",
    },
    "test_data_info": {"4": "SELECT * FROM data.breast_homo_test"},
    "unique_id": "id",
    "attributes": ["x1", "x2", "x3", "x4"],
    "label_name": "y",
    "purpose": "A first look at the client",
}


def main(federation: Federation) -> Order:
    """Prints who takes part, how the training went, where a round's time went, and some
    predictions.
    """
    print(federation.hospitals()[["name", "online"]])
    order = federation.submit(ORDER).wait()
    info = order.info()
    print(
        f"\n{order}, rows {info['data_volum']}\n{info['protection']['who_could_decrypt']}\n"
    )
    for sentence in order.warnings():
        print(f"Warning: {sentence}")
    metrics = order.metrics()
    print(
        metrics.pivot(index="round", columns="hospital", values="train_accuracy"), "\n"
    )
    print(
        metrics[metrics["final"]].set_index("hospital")[
            ["n_rows", "train_auc", "test_accuracy", "test_loss"]
        ],
        "\n",
    )
    print(order.timeline(round=0), "\n")
    print(order.infer("SELECT * FROM data.breast_homo_guest WHERE id < 20"))
    order.plot_loss().figure.savefig("loss.png")
    return order


if __name__ == "__main__":
    url, token_file = sys.argv[1:] or (
        "http://127.0.0.1:5000",
        ".consilium/tokens.json",
    )
    with Federation(url, token_file=token_file, user=4) as federation:
        main(federation)
