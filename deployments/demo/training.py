"""`./run demo`: the request document's own order on this machine, shown as it goes, and
what came of it.

With `--statistics` it is questions of joint statistics instead
(deployments.demo.statistics).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections.abc import Iterable
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from analytics.training.descent import train
from analytics.training.models import Model
from api.settings import CoordinatorSettings
from deployments.demo import statistics, study
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.demo.disk_search import search_disk
from deployments.demo.screen import (
    make_table,
    open_console,
    save_picture,
    say_answer,
    say_request,
)
from deployments.local.federation import federation
from deployments.state import read_tokens
from protocol.errors import BadRequest, ConsiliumError

INITIATOR = 4
N_FEATURES = 30
MOST_COLUMNS = 8
"""Of the weights, so many are shown beside the intercept."""


def document_order(
    hospitals: Iterable[int] = (2, 3, 4),
    *,
    rounds: int = 10,
    features: int = 4,
    method: str = "Paillier",
) -> dict[str, Any]:
    """The body of POST /model/train in the request document; hospital 4 holds the guest
    table, others the host's.
    """
    ids = sorted(hospitals)
    tables = {
        user_id: "breast_homo_guest" if user_id == INITIATOR else "breast_homo_host"
        for user_id in ids
    }
    # The request document's attributes are x1 to x4; the tables' thirty are x0 to x29.
    first_column = 1 if features < N_FEATURES else 0
    return {
        "user_id": INITIATOR,
        "model_type": "lr",
        "model_params": {
            "penalty": "L2",
            "optimizer": "sgd",
            "eps": 1e-4,
            "alpha": 0.01,
            "max_iter": rounds,
            "converge_func": "diff",
            "batch_size": 500,
            "learning_rate": 0.15,
            "decay": 1,
            "decay_sqrt": True,
            "init_param": {"init_method": "zeros"},
            "encrypt_param": {"method": method},
            "cv_param": {"need_cv": False},
        },
        "party_id": [user_id for user_id in ids if user_id != INITIATOR],
        "data_info": {
            str(user_id): f"SELECT * FROM data.{table};"  # noqa: S608
            for user_id, table in tables.items()
        },
        "unique_id": "id",
        "attributes": [
            f"x{number}" for number in range(first_column, first_column + features)
        ],
        "label_name": "y",
    }


async def show(
    settings: CoordinatorSettings, sites: list[SiteSettings], args: argparse.Namespace
) -> int:
    """Starts a federation, asks and shows, and ends everything.

    Exit code 0 when all went well.
    """
    _check(args)
    console = open_console(args.picture)
    started = time.monotonic()
    task = asyncio.current_task()
    assert task is not None
    # Before anything starts: from then on Ctrl-C ends the parts, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    console.print(
        f"Starting Prefect, the coordinator and {len(sites)} hospital agents ...\n"
    )
    try:
        async with federation(settings, sites, restart=False):
            times = {"start": time.monotonic() - started}
            if args.study:
                began = time.monotonic()
                # In a thread: its client waits, and the loop looks after the parts.
                await asyncio.to_thread(
                    study.show, console, settings, sites, args.figures
                )
                times["study"] = time.monotonic() - began
            elif args.statistics:
                await statistics.show(console, settings, sites, times)
            else:
                await _train(console, settings, sites, args, times)
            _say_end(console, settings, times)
    except asyncio.CancelledError:
        console.print("Stopped; nothing is left running.")
        return 130
    if args.picture:
        save_picture(console, args.picture, title=_title(args))
    return 0


def _title(args: argparse.Namespace) -> str:
    if args.study:
        return "./run demo --study"
    return "./run demo --statistics" if args.statistics else "./run demo"


async def _train(
    console: Console,
    settings: CoordinatorSettings,
    sites: list[SiteSettings],
    args: argparse.Namespace,
    times: dict[str, float],
) -> None:
    hospitals = [site.user_id for site in sites]
    body = document_order(
        hospitals, rounds=args.rounds, features=args.features, method=args.method
    )
    order_id = await _run(console, settings, sites, body, times)
    _report(console, settings, sites, body, order_id)


def _say_end(
    console: Console, settings: CoordinatorSettings, times: dict[str, float]
) -> None:
    spans = [f"{span_name} {seconds:.1f} s" for span_name, seconds in times.items()]
    console.print("Times: " + ", ".join(spans))
    console.print(
        f"Coordinator http://{settings.host}:{settings.port}/docs, Prefect {settings.prefect_page}"
    )
    console.print("Both end with this demo; ./run up keeps them running.")


def _check(args: argparse.Namespace) -> None:
    if (args.statistics or args.study) and args.hospitals != 3:
        raise BadRequest(
            "--statistics and --study have hospitals of their own.",
            remedy="Leave --hospitals out.",
        )
    if args.statistics and args.study:
        raise BadRequest(
            "--statistics and --study are two demonstrations.",
            remedy="Give one of them.",
        )
    if (args.postgresql or args.mariadb) and not args.study:
        raise BadRequest(
            "--postgresql and --mariadb are sources of --study.",
            remedy="Give --study too, or leave them out.",
        )
    if args.figures and not args.study:
        raise BadRequest(
            "--figures draws pictures of --study.",
            remedy="Give --study too, or leave it out.",
        )
    if not 3 <= args.hospitals <= 50:
        raise BadRequest(
            "--hospitals is out of range.",
            remedy="Give 3 to 50; fewer could subtract themselves.",
        )
    if not 1 <= args.features <= 30:
        raise BadRequest("--features is out of range.", remedy="Give 1 to 30.")
    if not 1 <= args.rounds <= 10_000:
        raise BadRequest("--rounds is out of range.", remedy="Give 1 to 10000.")


async def _run(
    console: Console,
    settings: CoordinatorSettings,
    sites: list[SiteSettings],
    body: dict[str, Any],
    times: dict[str, float],
) -> int:
    token = read_tokens(settings)[str(INITIATOR)]
    headers = {"Authorization": f"Bearer {token}"}
    url = f"http://{settings.host}:{settings.port}"
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=90, trust_env=False
    ) as client:
        method = body["model_params"]["encrypt_param"]["method"]
        say_request(
            console,
            f"POST {url}/model/train",
            f"the order of hospital {INITIATOR}, method {method}",
        )
        began = time.monotonic()
        answer = (await client.post("/model/train", json=body)).json()
        say_answer(console, answer["code"], answer["data"])
        if answer["code"] != 200:
            raise ConsiliumError(answer["message"], remedy="")
        order_id = int(answer["data"]["order_id"])
        times["rows counted"] = time.monotonic() - began
        await _follow(console, client, order_id, body["model_params"]["max_iter"])
        times["order"] = time.monotonic() - began
        order = (await client.get(f"/orders/{order_id}")).json()["data"]
        names = {site.user_id: site.name for site in sites}
        _metrics(console, order, names)
        await _scores(console, client, order_id, names)
        infer = {
            "model_id": str(order_id),
            "input_data": {
                "user_id": "4",
                "data_sql": "SELECT * FROM data.breast_homo_guest where id=133;",
            },
        }
        answer = (await client.post("/model/infer", json=infer)).json()
        say_request(
            console, f"POST {url}/model/infer", f"one row of hospital {INITIATOR}'s own"
        )
        say_answer(console, answer["code"], answer["data"])
    return order_id


async def _follow(
    console: Console, client: httpx.AsyncClient, order_id: int, rounds: int
) -> None:
    """A progress bar fed by the order's server-sent events."""
    columns = (
        TextColumn("order {task.fields[order]}"),
        BarColumn(40),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    order_state = "pending"
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=rounds, order=order_id, loss="-")
        async with client.stream("GET", f"/orders/{order_id}/events") as stream:
            event = ""
            async for event_line in stream.aiter_lines():
                if event_line.startswith("event:"):
                    event = event_line.removeprefix("event:").strip()
                elif event_line.startswith("data:"):
                    fields = json.loads(event_line.removeprefix("data:"))
                    if event == "round":
                        progress.update(
                            bar, completed=fields["round"], loss=f"{fields['loss']:.6f}"
                        )
                    else:
                        order_state = fields["state"]
        if order_state == "success":  # it may have converged before its last round
            n_done = progress.tasks[0].completed
            progress.update(bar, completed=n_done, total=n_done)
    if order_state != "success":
        order = (await client.get(f"/orders/{order_id}")).json()["data"]
        raise ConsiliumError(
            f"The order ended as {order_state}: {order['refusal']}", remedy=""
        )


def _metrics(console: Console, order: dict[str, Any], names: dict[int, str]) -> None:
    last_round = order["rounds"][-1]
    who_could_decrypt = order["protection"]["who_could_decrypt"]
    console.print("\n" + who_could_decrypt.replace(". ", ".\n"))
    table = make_table(
        f"Order {order['order_id']} after {last_round['round']} rounds, on training rows"
    )
    for column in ("hospital", "rows", "AUC", "KS", "accuracy", "loss"):
        table.add_column(column, justify="left" if column == "hospital" else "right")
    for user_id, report in last_round["hospitals"].items():
        table.add_row(
            f"{names[int(user_id)]} ({user_id})",
            str(report["n_rows"]),
            *_four_digits(report["train"]),
        )
    pooled = order["summary"]["0"]
    table.add_row(
        "all, from sums", str(pooled["n_rows"]), *_four_digits(pooled), style="bold"
    )
    console.print(table)
    for sentence in order["warnings"]:
        console.print(f"[yellow]Warning:[/] {sentence}")


def _four_digits(metrics: dict[str, float | None]) -> list[str]:
    digits = []
    for metric in ("auc", "ks", "accuracy", "loss"):
        value = metrics[metric]
        digits.append("withheld" if value is None else f"{value:.4f}")
    return digits


async def _scores(
    console: Console, client: httpx.AsyncClient, order_id: int, names: dict[int, str]
) -> None:
    """Who stands out and who contributes, of a round of which the coordinator has seen
    no coordinate.
    """
    of_order = {"order_id": order_id}
    report = (await client.get("/anomaly/report", params=of_order)).json()
    answer = (await client.get("/contribution/grad_diff/", params=of_order)).json()
    contributions = answer.get("data") or {}
    table = make_table(
        f"Scores of round {report['round']}, from lengths and angles of the gradients"
    )
    score_titles = {
        "krum": "Krum",
        "foolsgold": "FoolsGold",
        "geometric_median": "from the median",
    }
    for column in ("hospital", *score_titles.values(), "contribution"):
        table.add_column(column, justify="left" if column == "hospital" else "right")
    for user_id, scores in report["data"].items():
        numbers = [scores[score_name]["score"] for score_name in score_titles]
        numbers.append(contributions.get(user_id))
        cells = ["-" if number is None else f"{number:.6f}" for number in numbers]
        table.add_row(names[int(user_id)], *cells)
    console.print(table)


def _report(
    console: Console,
    settings: CoordinatorSettings,
    sites: list[SiteSettings],
    body: dict[str, Any],
    order_id: int,
) -> None:
    weights = {}
    for site in sites:
        model = Vault(site.vault).model(order_id)
        weights[site.user_id] = np.array(model["layers"]["dense"])
    pooled = pooled_weights(body)
    named = body["attributes"][:MOST_COLUMNS]
    table = make_table("Federated against pooled weights")
    for column in ("", *named, "intercept"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in (("federated", weights[INITIATOR]), ("pooled", pooled)):
        shown_weights = [*values[: len(named)], values[-1]]
        table.add_row(name, *[f"{weight:.6f}" for weight in shown_weights])
    console.print(table)
    differences = [
        float(np.abs(own_weights - pooled).max()) for own_weights in weights.values()
    ]
    console.print(
        f"Largest difference, any hospital, any weight: [bold]{max(differences):.1e}[/]\n"
    )
    searched = [settings.folder, settings.home / "prefect"]
    n_files, n_bytes, matches = search_disk(searched, weights[INITIATOR].tolist())
    holds = "[bold green]nothing of the model[/]"
    if matches:
        holds = f"[bold red]the model[/] ({', '.join(matches)})"
    console.print(
        f"The coordinator's disk ({n_files} files, {n_bytes / 2**20:.1f} MiB) was searched for the weights,\n"
        f"as 8-byte floats and as text: it holds {holds}.\n"
    )


def pooled_weights(body: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Plain gradient descent on the pooled rows of the order's tables, in this process."""
    tables = breast_cancer_tables()
    params = body["model_params"]
    features, labels = [], []
    for sql in body["data_info"].values():
        frame = tables["guest" if "guest" in sql else "host"].sort_values("id")
        features.append(frame[body["attributes"]].to_numpy())
        labels.append(frame["y"].to_numpy(dtype=np.float64))
    X, y = np.vstack(features), np.concatenate(labels)
    trained = train(
        Model("lr", len(body["attributes"])),
        [(X, y)],
        optimizer=params["optimizer"],
        learning_rate=params["learning_rate"],
        decay=params["decay"],
        decay_sqrt=params["decay_sqrt"],
        penalty=params["penalty"],
        alpha=params["alpha"],
        max_iter=params["max_iter"],
        eps=params["eps"],
        converge_func=params["converge_func"],
    )
    return trained.weights
