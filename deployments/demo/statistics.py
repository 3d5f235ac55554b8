"""`./run demo --statistics`: five questions and a schedule, what the receivers hold,
and what plain pandas says.

The demonstration owns every hospital's files, so it can put pandas on the pooled rows
beside each joint answer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from agents.site.settings import SiteSettings
from api.settings import CoordinatorSettings
from deployments.demo.joint_data import DOSE_LIMIT, LAB_VALUES, PRICES, UNITS
from deployments.demo.screen import say_request
from deployments.demo.statistics_report import AnswerTables
from deployments.state import read_tokens
from protocol.errors import ConsiliumError

INTERVAL_SECONDS = 10
"""The shortest that a schedule may have."""

N_RUNS = 2
LONGEST_SECONDS = 600.0
PATH = "/runModelTrainTask"

Names = Mapping[int, str]
Answer = dict[str, Any]


@dataclass(frozen=True)
class DemoQuestion:
    """What the user of one hospital asks, and what it is called on the screen."""

    user_id: int
    title: str
    body: dict[str, Any]


def document_request(names: Names) -> dict[str, Any]:
    """The request document's body, with two of the demonstration's hospitals and their
    files.
    """
    first, second = list(names.values())[:2]
    return {
        "data_providers": [
            {**_place(first, PRICES), "key_column": "id_col", "data_alias": "df1"},
            {**_place(second, UNITS), "key_column": "id_col", "data_alias": "df2"},
        ],
        "result_receivers": [first, second],
        "method": "custom",
        "expression": "df1.unit_price * df2.units",
        "result_alias": "total_value",
    }


def pooled_request(
    names: Names, method: str, column: str, **fields: Any
) -> dict[str, Any]:
    """One statistic of a laboratory value over all three, for the last of them."""
    return {
        "data_providers": [
            {**_place(name, LAB_VALUES[user]), "key_column": column}
            for user, name in names.items()
        ],
        "result_receivers": [list(names.values())[-1]],
        "method": method,
        "result_alias": f"{method}_{column}",
        **fields,
    }


def threshold_request(names: Names) -> dict[str, Any]:
    """Whose units at all three hospitals together reach the dose limit."""
    places = [
        {**_place(name, UNITS), "key_column": "id_col", "value_column": "units"}
        for name in names.values()
    ]
    return {
        "data_providers": places,
        "result_receivers": [list(names.values())[-1]],
        "method": "is_investor_accredited",
        "threshold": DOSE_LIMIT,
        "result_alias": "reaches_limit",
    }


def _place(name: str, file: str) -> dict[str, str]:
    return {"name": name, "data_path": file, "data_type": Path(file).suffix[1:]}


def questions(names: Names) -> list[DemoQuestion]:
    first, last = min(names), max(names)
    by_age = pooled_request(names, "avg", "glucose", group_by=["age_group"])
    return [
        DemoQuestion(first, "df1.unit_price * df2.units", document_request(names)),
        DemoQuestion(last, "avg of ldl", pooled_request(names, "avg", "ldl")),
        DemoQuestion(last, "var of ldl", pooled_request(names, "var", "ldl")),
        DemoQuestion(last, "avg of glucose by age", by_age),
        DemoQuestion(
            last, f"units at all three reach {DOSE_LIMIT}", threshold_request(names)
        ),
    ]


# Asking


async def show(
    console: Console,
    settings: CoordinatorSettings,
    sites: Sequence[SiteSettings],
    times: dict[str, float],
) -> None:
    """Asks everything of a running federation, then prints what the receivers' folders
    hold.
    """
    names = {site.user_id: site.name for site in sites}
    url = f"http://{settings.host}:{settings.port}"
    began = time.monotonic()
    async with httpx.AsyncClient(
        base_url=url, timeout=LONGEST_SECONDS, trust_env=False
    ) as client:
        asked = questions(names)
        asks_first = names[asked[0].user_id]
        say_request(
            console,
            f"POST {url}{PATH}",
            f"the request document's own, asked by {asks_first}",
        )
        console.print(json.dumps(asked[0].body) + "\n", markup=False)
        answers, runs = await _ask_all(console, client, _tokens(settings), asked, names)
    times["questions"] = time.monotonic() - began
    report = AnswerTables(console, {site.user_id: site for site in sites})
    report.show(answers, runs)
    report.search([settings.folder, settings.home / "prefect"])


def _tokens(settings: CoordinatorSettings) -> dict[int, dict[str, str]]:
    headers = {}
    for user, token in read_tokens(settings).items():
        if user.isdecimal():  # not the operator's
            headers[int(user)] = {"Authorization": f"Bearer {token}"}
    return headers


async def _ask_all(
    console: Console,
    client: httpx.AsyncClient,
    headers: Mapping[int, dict[str, str]],
    asked: Sequence[DemoQuestion],
    names: Names,
) -> tuple[list[Answer], list[dict[str, Any]]]:
    """One question after the other, while a schedule asks another; every answer, and
    the schedule's runs.
    """
    columns = (
        SpinnerColumn(finished_text="+"),
        TextColumn("{task.description:60}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        title = f"sum of glucose, every {INTERVAL_SECONDS} seconds, {N_RUNS} times"
        timed = progress.add_task(title, total=1)
        body = pooled_request(names, "sum", "glucose")
        scheduled = asyncio.create_task(_schedule(client, headers[max(names)], body))
        scheduled.add_done_callback(
            lambda task: progress.update(timed, completed=int(not task.cancelled()))
        )
        answers = []
        try:
            for question in asked:
                line = progress.add_task(
                    f"{question.title}, asked by {names[question.user_id]}", total=1
                )
                answers.append(
                    await _ask(client, headers[question.user_id], question.body)
                )
                progress.update(line, completed=1)
            return answers, await scheduled
        finally:
            scheduled.cancel()
            await asyncio.gather(
                scheduled, return_exceptions=True
            )  # it deletes the schedule


async def _ask(
    client: httpx.AsyncClient, headers: dict[str, str], body: dict[str, Any]
) -> Answer:
    patient = {**body, "timeout_seconds": LONGEST_SECONDS}
    answer = (await client.post(PATH, json=patient, headers=headers)).json()
    if answer["status"] != 200:
        raise ConsiliumError(
            f"The question was not answered: {answer['msg']}", remedy=""
        )
    return dict(answer)


async def _schedule(
    client: httpx.AsyncClient, headers: dict[str, str], body: dict[str, Any]
) -> list[dict[str, Any]]:
    """Makes a schedule, waits until it has answers, and deletes it; its runs that were
    no skipped ones.
    """
    made = await client.post(
        "/statistics/schedules",
        json={**body, "schedule": {"interval_seconds": INTERVAL_SECONDS}},
        headers=headers,
    )
    if made.json()["code"] != 200:
        raise ConsiliumError(
            f"The schedule was not made: {made.json()['message']}", remedy=""
        )
    schedule_id = made.json()["data"]["schedule_id"]
    try:
        return await _runs(client, headers, schedule_id)
    finally:
        await client.delete(f"/statistics/schedules/{schedule_id}", headers=headers)


async def _runs(
    client: httpx.AsyncClient, headers: dict[str, str], schedule_id: int
) -> list[dict[str, Any]]:
    """Its answers, oldest first; the history is asked each second, since nothing
    announces a schedule's order.
    """
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            query = {"schedule_id": schedule_id}
            history = await client.get(
                "/statistics/history", params=query, headers=headers
            )
            runs: list[dict[str, Any]] = history.json()["data"]["runs"]
            done = []
            for run in runs:
                if run["state"] in ("failed", "refused", "cancelled"):
                    raise ConsiliumError(
                        f"A scheduled question was not answered: {run['sentence']}",
                        remedy="",
                    )
                if run["state"] == "success":
                    done.append(run)
            if len(done) >= N_RUNS:
                return done[::-1][:N_RUNS]
            await asyncio.sleep(1)
