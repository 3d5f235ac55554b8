"""The same training with Flower's simulation engine, twice: the job on stdin, what came
of it as JSON on stdout; its two apps are those of Flower's deployment too.

Runs in the environment of requirements.txt, with nothing of Consilium. Each client
makes one full-batch step from the joint model and sends it back; FedAvg takes the mean
weighted by rows, which is one step with the mean gradient.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

Job = dict[str, Any]


class WatchedFedAvg(FedAvg):
    """FedAvg that keeps the time of each round's end and the messages, to be weighed
    when all is over.
    """

    def __init__(self, n_clients: int) -> None:
        super().__init__(
            fraction_evaluate=0.0,
            min_train_nodes=n_clients,
            min_available_nodes=n_clients,
        )
        self.round_ends: list[float] = []
        self.messages: list[Message] = []

    def configure_train(self, *args: Any, **kwargs: Any) -> list[Message]:
        sent = list(super().configure_train(*args, **kwargs))
        self.messages += sent
        return sent

    def aggregate_train(
        self, server_round: int, replies: Any
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        received = list(replies)
        self.messages += received
        aggregate = super().aggregate_train(server_round, received)
        self.round_ends.append(time.time())
        return aggregate


def main() -> None:
    """Runs the job and answers."""
    from flwr.simulation import run_simulation  # not there, and not needed, in an app

    job = json.load(sys.stdin)
    answer: dict[str, Any] = {}
    n_clients = len(job["tables"])
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {
            "_temp_dir": job["folder"],
            "_node_ip_address": "127.0.0.1",
            "log_to_driver": False,
        },
    }
    client = client_of(
        lambda context: str(job["tables"][int(context.node_config["partition-id"])]),
        job_of=lambda context: job,
    )
    run_simulation(
        _server(job, n_clients, answer), client, n_clients, backend_config=backend
    )
    print(json.dumps(answer), flush=True)


def _server(job: Job, n_clients: int, answer: dict[str, Any]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        _wait_for_all(grid, n_clients)
        submitted = time.time()
        answer.update(one_order(grid, job))
        finished = time.time()
        _train(grid, job, n_clients)
        again = time.time() - finished
        answer.update(submitted=submitted, finished=finished, again=again)

    return app


def one_order(grid: Grid, job: Job) -> dict[str, Any]:
    """Trains once: ends of rounds in seconds since the epoch, the weights, and bytes of
    all messages as they are serialised.
    """
    strategy, weights = _train(grid, job, len(job["tables"]))
    sizes = (message_to_proto(message).ByteSize() for message in strategy.messages)
    return {
        "round_ends": strategy.round_ends,
        "weights": weights,
        "n_bytes": sum(sizes),
    }


def _train(grid: Grid, job: Job, n_clients: int) -> tuple[WatchedFedAvg, list[float]]:
    strategy = WatchedFedAvg(n_clients)
    with np.load(job["tables"][0], allow_pickle=False) as table:
        start = ArrayRecord([np.zeros(table["X"].shape[1] + 1)])
    result = strategy.start(grid, start, num_rounds=job["max_iter"])
    return strategy, result.arrays.to_numpy_ndarrays()[0].tolist()


def _wait_for_all(grid: Grid, n_clients: int) -> None:
    """Until every client has answered once: from here on nothing of Flower or Ray is
    still starting.
    """
    while len(nodes := list(grid.get_node_ids())) < n_clients:
        time.sleep(0.05)
    grid.send_and_receive(
        [
            Message(RecordDict(), dst_node_id=node, message_type="query")
            for node in nodes
        ]
    )


def client_of(
    table_of: Callable[[Context], str], *, job_of: Callable[[Context], Job]
) -> ClientApp:
    """A hospital's app, which finds its table and the job by its context."""
    app = ClientApp()

    @app.query()
    def say_hello(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    @app.train()
    def take_step(message: Message, context: Context) -> Message:
        job = job_of(context)
        with np.load(table_of(context), allow_pickle=False) as table:
            X, y = table["X"], table["y"]
        weights = message.content["arrays"].to_numpy_ndarrays()[0]
        margins = X @ weights[:-1] + weights[-1]
        residuals = (1.0 / (1.0 + np.exp(-margins)) - y) / len(y)
        gradient = np.append(
            residuals @ X + job["alpha"] * weights[:-1], residuals.sum()
        )
        t = int(message.content["config"]["server-round"]) - 1
        after = (
            weights
            - job["learning_rate"] / math.sqrt(1.0 + job["decay"] * t) * gradient
        )
        loss = float(np.mean(np.logaddexp(0.0, np.where(y > 0, -margins, margins))))
        metrics = MetricRecord({"num-examples": len(y), "loss": loss})
        return Message(
            RecordDict({"arrays": ArrayRecord([after]), "metrics": metrics}),
            reply_to=message,
        )

    return app


if __name__ == "__main__":
    main()
