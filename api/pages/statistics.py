"""Joint statistics: from each question to where its answer is, and the schedules. No
value of a result is here.
"""

from __future__ import annotations

import re
from typing import Any

from nicegui import ui

from api.pages.frame import (
    Safe,
    asked,
    chip,
    follow,
    frame,
    html,
    link,
    moment,
    note,
    save_rows,
    shown,
    table,
    told_as_notice,
)
from api.pages.order_list import hospital_names, named, progress
from api.pages.question_words import METHODS
from api.pages.visit import Visit
from api.store.tables import ENDED

PAGE = 50


async def show_statistics(
    visit: Visit, schedule_id: int | None, before: int | None
) -> None:
    t = visit.t
    with frame(visit, t("Joint statistics")):
        html(f'<p class="soft">{shown(t(WHERE))}</p>')
        ask = ui.button(
            t("Ask a question"), on_click=lambda: ui.navigate.to("/page/statistics/new")
        )
        ask.props("no-caps").style("align-self:flex-start")
        names = await hospital_names(visit)
        history = await _runs(visit, schedule_id, before)
        title = t("Questions and answers")
        if schedule_id:
            title = t("Runs of schedule {n}", n=schedule_id)
        html(f"<h2>{shown(title)}</h2>")
        grid = html(_grid(visit, history, names, schedule_id, before))
        save = ui.button(
            t("Save numbers (CSV)"),
            on_click=lambda: save_rows("statistics", _numbers(history)),
        )
        save.props("no-caps outline dense").style("align-self:flex-start")
        save.set_visibility(bool(history["runs"]))
        html(f"<h2>{shown(t('Schedules'))}</h2>")
        schedules = Schedules(visit, names)
        await schedules.build()

        async def refresh() -> None:
            # In place, since the button saves these very runs.
            history.update(await _runs(visit, schedule_id, before))
            grid.set_content(_grid(visit, history, names, schedule_id, before))
            save.set_visibility(bool(history["runs"]))

        follow(visit, "order", refresh)


WHERE = (
    "A question is answered from the rows of all hospitals that bring some, and none of them shows a row. The values "
    "are with the receivers alone: in each one's results folder, which its people read on the hospital's own page "
    "under Results, or with ./run agent results. Here is what was asked and what became of it."
)
NOTHING_YET = (
    "Nothing was asked yet. A mean, a first table, a test or survival curves over the rows of several hospitals begin "
    "with the button above."
)


async def _runs(
    visit: Visit, schedule_id: int | None, before: int | None
) -> dict[str, Any]:
    path = "/statistics/history"
    history: dict[str, Any] = await visit.data(
        path, schedule_id=schedule_id, limit=PAGE, before=before
    )
    return history


def _grid(
    visit: Visit,
    history: dict[str, Any],
    names: dict[int, str],
    schedule_id: int | None,
    before: int | None,
) -> Safe:
    t = visit.t
    if not history["runs"]:
        return note(t(NOTHING_YET))
    heads = [
        "Order",
        "Question",
        "State",
        "When",
        "Asked by",
        "Rows used",
        "Where the values are",
    ]
    rows = [run_row(visit, run, names) for run in history["runs"]]
    links = []
    if before or schedule_id:
        links.append(link("/page/statistics", t("All runs")))
    if history["next"]:
        which = f"schedule_id={schedule_id}&" if schedule_id else ""
        links.append(
            link(f"/page/statistics?{which}before={history['next']}", t("Older"))
        )
    grid = table([t(head) for head in heads], rows)
    return Safe(f'{grid}<p class="row">{" ".join(links)}</p>')


def run_row(visit: Visit, run: dict[str, Any], names: dict[int, str]) -> list[Any]:
    """From the question to where its answer is; a time that was skipped has no order."""
    t = visit.t
    order: Any = "-"
    if run["order_id"]:
        order = link(f"/page/orders/{run['order_id']}", run["order_id"])
    question = shown(t(METHODS.get(run["method"], run["method"] or "-")))
    for sentence in run["opened"] or []:
        question += _soft(t("Opened: {what}.", what=sentence))
    if run["schedule_id"]:
        address = f"/page/statistics?schedule_id={run['schedule_id']}"
        question += _soft(link(address, t("Schedule {n}", n=run["schedule_id"])))
    state = str(chip(visit, run["state"]))
    if run["state"] not in (*ENDED, "refused", "skipped") and run["progress"]:
        state += progress(visit, run)
    if run["sentence"]:
        state += _soft(run["sentence"])
    who: Any = "-"
    if run["order_id"]:
        who = named(visit, run["user_id"], names)
    n_rows: Any = "-"
    if run["rows_used"]:
        n_rows = sum(run["rows_used"].values())
    where = shown(run["path"] or "-")
    if run["repeats"]:
        where += _soft(t("Repeats order {n}", n=run["repeats"]))
    started = moment(run["started"])
    return [order, Safe(question), Safe(state), started, who, n_rows, Safe(where)]


def _soft(text: str) -> str:
    return f'<br><span class="soft small">{shown(text)}</span>'


def _numbers(history: dict[str, Any]) -> list[list[Any]]:
    field_names = [
        "order_id",
        "state",
        "scheduled",
        "started",
        "user_id",
        "method",
        "path",
        "type",
        "rows_used",
        "schedule_id",
        "repeats",
        "sentence",
    ]
    rows = [field_names]
    for run in history["runs"]:
        row = {field_name: run[field_name] for field_name in field_names}
        # An object, which takes one cell of the file.
        if isinstance(row["rows_used"], dict):
            row["rows_used"] = str(row["rows_used"])
        rows.append(list(row.values()))
    return rows


NO_SCHEDULE = "There is no schedule. A question that is asked again and again is made by the same form."
WEEKDAYS = (
    "Sundays",
    "Mondays",
    "Tuesdays",
    "Wednesdays",
    "Thursdays",
    "Fridays",
    "Saturdays",
)
_DAILY = re.compile(r"(\d{1,2}) (\d{1,2}) \* \* (\*|[0-7](?:-[0-7])?)")


def cron_words(visit: Visit, cron: str) -> str:
    """The usual times in words, with the expression behind; any other as it is."""
    t = visit.t
    match = _DAILY.fullmatch(cron.strip())
    if match is None:
        return cron
    minute, hour, days = match.groups()
    time = f"{int(hour):02}:{int(minute):02}"
    if days == "*":
        phrase = t("each day at {time}", time=time)
    else:
        first_day, _, last_day = days.partition("-")
        # In cron 7 is Sunday too.
        named_days = t(WEEKDAYS[int(first_day) % 7])
        if last_day:
            named_days += f" - {t(WEEKDAYS[int(last_day) % 7])}"
        phrase = t("{days} at {time}", days=named_days, time=time)
    return f"{phrase}, {cron}"


class Schedules:
    """The schedules with what may be done with them; the API says to whom."""

    def __init__(self, visit: Visit, names: dict[int, str]) -> None:
        self.visit = visit
        self.names = names

    async def build(self) -> None:
        self.place = ui.element("div").style(
            "display:flex;flex-direction:column;gap:10px"
        )
        await self.show()

    async def show(self) -> None:
        response = await self.visit.call(
            "GET", "/statistics/schedules", params={"limit": 100}
        )
        answer = response.json()
        schedules = answer["data"]["schedules"]
        self.place.clear()
        with self.place:
            # Such as that Prefect does not answer.
            if answer["message"]:
                html(note(answer["message"]))
            if not schedules:
                html(f'<p class="soft">{shown(self.visit.t(NO_SCHEDULE))}</p>')
            for schedule in schedules:
                self.one(schedule)

    def one(self, schedule: dict[str, Any]) -> None:
        t = self.visit.t
        number = schedule["schedule_id"]
        request, timing = schedule["request"], schedule["schedule"]
        timing_words = t("every {n} seconds", n=timing.get("interval_seconds"))
        if timing.get("cron"):
            timing_words = cron_words(self.visit, timing["cron"])
        zone = timing.get("timezone", "UTC")
        next_run = schedule["next_runs"][0] if schedule["next_runs"] else None
        runs_link = link(
            f"/page/statistics?schedule_id={number}", t("what became of each time")
        )
        question = f"{t(METHODS.get(request['method'], request['method']))}: {request['result_alias']}"
        pairs = [
            (t("Question"), question),
            (t("Asked by"), named(self.visit, schedule["user_id"], self.names)),
            (t("When"), f"{timing_words} ({zone})"),
            (t("Next time"), moment(next_run)),
            (t("Runs"), runs_link),
        ]
        state_name = "active" if schedule["active"] else "paused"
        state_chip = chip(self.visit, state_name)
        title = Safe(f"<b>{number} {shown(schedule['name'])}</b> {state_chip}")
        caller = self.visit.caller
        is_owner = caller.user_id == schedule["user_id"] or caller.role == "open"
        with ui.element("section").classes("note"):
            pair_lines = ""
            for label, value in pairs:
                pair_lines += (
                    f'<p><span class="soft">{shown(label)}:</span> {shown(value)}</p>'
                )
            html(f"{title}{pair_lines}")
            if is_owner:
                self.buttons(number, is_active=schedule["active"])

    def buttons(self, number: int, *, is_active: bool) -> None:
        t = self.visit.t

        path = f"/statistics/schedules/{number}"

        async def turn() -> None:
            with told_as_notice(self.visit):
                await self.visit.call("PATCH", path, json={"active": not is_active})
                await self.show()

        async def delete() -> None:
            if not await asked(
                self.visit, t("Delete schedule {n}? Its orders stay.", n=number)
            ):
                return
            with told_as_notice(self.visit):
                await self.visit.call("DELETE", path)
                await self.show()

        with ui.element("div").classes("row"):
            other_state = t("Pause") if is_active else t("Resume")
            ui.button(other_state, on_click=turn).props("no-caps outline dense")
            ui.button(t("Delete"), on_click=delete).props(
                "no-caps outline dense color=negative"
            )
