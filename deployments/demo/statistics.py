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
    # Groups of a column are held against totals of it that are under way, before it is
    # known which groups are withheld: beside the schedule's they might be refused.
    after_schedule: bool = False


def document_request(names: Names) -> dict[str, Any]:
    """The request document's body, with two of the demonstration's hospitals and their
    files.
    """
    first, second = list(names.values())[:2]
    return {
        "data_providers": [
            {
                **_place(first, PRICES),
                "key_column": "id_col",
                "data_alias": "df1",
            },
            {
                **_place(second, UNITS),
                "key_column": "id_col",
                "data_alias": "df2",
            },
        ],
        "result_receivers": [first, second],
        "method": "custom",
        "expression": "df1.unit_price * df2.units",
        "result_alias": "total_value",
    }


def pooled_request(
    names: Names,
    method: str,
    column: str,
    **fields: Any,
) -> dict[str, Any]:
    """One statistic of a laboratory value over all three, for the last of them."""
    providers = []
    for user_id, hospital_name in names.items():
        provider = {
            **_place(hospital_name, LAB_VALUES[user_id]),
            "key_column": column,
        }
        providers.append(provider)
    *_, receiver = names.values()
    return {
        "data_providers": providers,
        "result_receivers": [receiver],
        "method": method,
        "result_alias": f"{method}_{column}",
        **fields,
    }


def threshold_request(names: Names) -> dict[str, Any]:
    """Whose units at all three hospitals together reach the dose limit."""
    providers = []
    for hospital_name in names.values():
        provider = {
            **_place(hospital_name, UNITS),
            "key_column": "id_col",
            "value_column": "units",
        }
        providers.append(provider)
    *_, receiver = names.values()
    return {
        "data_providers": providers,
        "result_receivers": [receiver],
        "method": "is_investor_accredited",
        "threshold": DOSE_LIMIT,
        "result_alias": "reaches_limit",
    }


def _place(name: str, file: str) -> dict[str, str]:
    return {
        "name": name,
        "data_path": file,
        "data_type": Path(file).suffix[1:],
    }


def questions(names: Names) -> list[DemoQuestion]:
    first_hospital = min(names)
    last_hospital = max(names)
    by_age = pooled_request(
        names,
        "avg",
        "glucose",
        group_by=["age_group"],
    )
    products = document_request(names)
    mean = pooled_request(names, "avg", "ldl")
    variance = pooled_request(names, "var", "ldl")
    reached = threshold_request(names)
    return [
        DemoQuestion(first_hospital, "df1.unit_price * df2.units", products),
        DemoQuestion(last_hospital, "avg of ldl", mean),
        DemoQuestion(last_hospital, "var of ldl", variance),
        DemoQuestion(
            last_hospital,
            "avg of glucose by age",
            by_age,
            after_schedule=True,
        ),
        DemoQuestion(last_hospital, f"units at all three reach {DOSE_LIMIT}", reached),
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
        base_url=url,
        timeout=LONGEST_SECONDS,
        trust_env=False,
    ) as client:
        asked_questions = questions(names)
        first_question = asked_questions[0]
        asks_first = names[first_question.user_id]
        say_request(
            console,
            f"POST {url}{PATH}",
            f"the request document's own, asked by {asks_first}",
        )
        body_text = json.dumps(first_question.body)
        console.print(f"{body_text}\n", markup=False)
        answers, runs = await _ask_all(
            console,
            client,
            _tokens(settings),
            asked_questions,
            names,
        )
    times["questions"] = time.monotonic() - began
    by_user = {site.user_id: site for site in sites}
    report = AnswerTables(console, by_user)
    report.show(answers, runs)
    report.search([settings.folder, settings.home / "prefect"])


def _tokens(settings: CoordinatorSettings) -> dict[int, dict[str, str]]:
    headers = {}
    for user, token in read_tokens(settings).items():
        if user.isdecimal():  # not the operator's
            bearer = f"Bearer {token}"
            headers[int(user)] = {"Authorization": bearer}
    return headers


async def _ask_all(
    console: Console,
    client: httpx.AsyncClient,
    headers: Mapping[int, dict[str, str]],
    asked_questions: Sequence[DemoQuestion],
    names: Names,
) -> tuple[list[Answer], list[dict[str, Any]]]:
    """One question after the other, while a schedule asks another; every answer, and
    the schedule's runs. Those that the schedule's would disturb wait for its end.
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
        last_hospital = max(names)
        scheduled = asyncio.create_task(_schedule(client, headers[last_hospital], body))

        def has_ended(task: asyncio.Task[Any]) -> None:
            is_answered = not task.cancelled()
            progress.update(timed, completed=int(is_answered))

        scheduled.add_done_callback(has_ended)
        answers = []
        try:
            for question in asked_questions:
                if question.after_schedule:
                    await asyncio.wait([scheduled])
                asks = question.user_id
                title = f"{question.title}, asked by {names[asks]}"
                progress_line = progress.add_task(title, total=1)
                answer = await _ask(client, headers[asks], question.body)
                answers.append(answer)
                progress.update(progress_line, completed=1)
            return answers, await scheduled
        finally:
            # It deletes the schedule.
            scheduled.cancel()
            await asyncio.gather(scheduled, return_exceptions=True)


async def _ask(
    client: httpx.AsyncClient,
    headers: dict[str, str],
    body: dict[str, Any],
) -> Answer:
    patient = {**body, "timeout_seconds": LONGEST_SECONDS}
    response = await client.post(
        PATH,
        json=patient,
        headers=headers,
    )
    answer = response.json()
    if answer["status"] != 200:
        raise ConsiliumError(
            f"The question was not answered: {answer['msg']}",
            remedy="",
        )
    return dict(answer)


async def _schedule(
    client: httpx.AsyncClient,
    headers: dict[str, str],
    body: dict[str, Any],
) -> list[dict[str, Any]]:
    """Makes a schedule, waits until it has answers, and deletes it; its runs that were
    no skipped ones.
    """
    timing = {"interval_seconds": INTERVAL_SECONDS}
    response = await client.post(
        "/statistics/schedules",
        json={**body, "schedule": timing},
        headers=headers,
    )
    answer = response.json()
    if answer["code"] != 200:
        raise ConsiliumError(
            f"The schedule was not made: {answer['message']}",
            remedy="",
        )
    schedule_id = answer["data"]["schedule_id"]
    try:
        return await _runs(client, headers, schedule_id)
    finally:
        await client.delete(f"/statistics/schedules/{schedule_id}", headers=headers)


async def _runs(
    client: httpx.AsyncClient,
    headers: dict[str, str],
    schedule_id: int,
) -> list[dict[str, Any]]:
    """Its answers, oldest first; the history is asked each second, since nothing
    announces a schedule's order.
    """
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            response = await client.get(
                "/statistics/history",
                params={"schedule_id": schedule_id},
                headers=headers,
            )
            history = response.json()["data"]
            runs: list[dict[str, Any]] = history["runs"]
            answered_runs = []
            for run in runs:
                if run["state"] in ("failed", "refused", "cancelled"):
                    raise ConsiliumError(
                        f"A scheduled question was not answered: {run['sentence']}",
                        remedy="",
                    )
                if run["state"] == "success":
                    answered_runs.append(run)
            if len(answered_runs) >= N_RUNS:
                oldest_first = answered_runs[::-1]
                return oldest_first[:N_RUNS]
            await asyncio.sleep(1)
