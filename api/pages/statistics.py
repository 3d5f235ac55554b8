"""Joint statistics: what was asked and what became of it, and the schedules. No value
of a result is here.
"""

from __future__ import annotations

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
from api.pages.order_list import hospital_names, named
from api.pages.visit import Visit

PAGE = 50


async def show_statistics(
    visit: Visit, schedule_id: int | None, before: int | None
) -> None:
    t = visit.t
    with frame(visit, t("Joint statistics")):
        html(note(t(WHERE)))
        html(Safe(f"<p>{link('/page/statistics/new', t('Ask a question'))}</p>"))
        runs = await _runs(visit, schedule_id, before)
        title = t("Runs of schedule {n}", n=schedule_id) if schedule_id else t("Runs")
        html(f"<h2>{shown(title)}</h2>")
        grid = html(_grid(visit, runs, schedule_id, before))
        save = ui.button(
            t("Save numbers (CSV)"),
            on_click=lambda: save_rows("statistics", _numbers(runs)),
        )
        save.props("no-caps outline dense").style("align-self:flex-start")
        html(f"<h2>{shown(t('Schedules'))}</h2>")
        schedules = Schedules(visit, await hospital_names(visit))
        await schedules.build()

        async def refresh() -> None:
            runs.update(await _runs(visit, schedule_id, before))
            grid.set_content(_grid(visit, runs, schedule_id, before))

        follow(visit, "order", refresh)


WHERE = (
    "The values of an answer are not here: they are with the receivers alone, each in its own results folder, and its "
    "people read them with ./run agent results. Here is what was asked, what became of it, and where the values are."
)


async def _runs(
    visit: Visit, schedule_id: int | None, before: int | None
) -> dict[str, Any]:
    path = "/statistics/history"
    found: dict[str, Any] = await visit.data(
        path, schedule_id=schedule_id, limit=PAGE, before=before
    )
    return found


def _grid(
    visit: Visit, found: dict[str, Any], schedule_id: int | None, before: int | None
) -> Safe:
    t = visit.t
    if not found["runs"]:
        return note(t("Nothing was asked yet."))
    heads = [
        "Order",
        "State",
        "When",
        "Rows used",
        "Where the values are",
        "Schedule",
        "What happened",
    ]
    rows = [_run_row(visit, run) for run in found["runs"]]
    links = []
    if before or schedule_id:
        links.append(link("/page/statistics", t("All runs")))
    if found["next"]:
        which = f"schedule_id={schedule_id}&" if schedule_id else ""
        links.append(
            link(f"/page/statistics?{which}before={found['next']}", t("Older"))
        )
    grid = table([t(head) for head in heads], rows)
    return Safe(f'{grid}<p class="row">{" ".join(links)}</p>')


def _run_row(visit: Visit, run: dict[str, Any]) -> list[Any]:
    """What became of one time; a time that was skipped has no order."""
    order: Any = "-"
    if run["order_id"]:
        order = link(f"/page/orders/{run['order_id']}", run["order_id"])
    n_rows: Any = "-"
    if run["rows_used"]:
        n_rows = sum(run["rows_used"].values())
    schedule: Any = "-"
    if run["schedule_id"]:
        schedule = link(
            f"/page/statistics?schedule_id={run['schedule_id']}", run["schedule_id"]
        )
    what = run["sentence"]
    if not what:
        what = visit.t("Repeats order {n}", n=run["repeats"]) if run["repeats"] else "-"
    state, started = chip(visit, run["state"]), moment(run["started"])
    return [order, state, started, n_rows, run["path"] or "-", schedule, what]


def _numbers(found: dict[str, Any]) -> list[list[Any]]:
    names = [
        "order_id",
        "state",
        "scheduled",
        "started",
        "path",
        "type",
        "rows_used",
        "schedule_id",
        "repeats",
        "sentence",
    ]
    rows = [names]
    for run in found["runs"]:
        row = {name: run[name] for name in names}
        # An object, which takes one cell of the file.
        if isinstance(row["rows_used"], dict):
            row["rows_used"] = str(row["rows_used"])
        rows.append(list(row.values()))
    return rows


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
                html(
                    f'<p class="soft">{shown(self.visit.t("There is no schedule."))}</p>'
                )
            for schedule in schedules:
                self.one(schedule)

    def one(self, schedule: dict[str, Any]) -> None:
        t = self.visit.t
        number = schedule["schedule_id"]
        request, timing = schedule["request"], schedule["schedule"]
        times = timing.get("cron") or t(
            "every {n} seconds", n=timing.get("interval_seconds")
        )
        zone = timing.get("timezone", "UTC")
        next_run = schedule["next_runs"][0] if schedule["next_runs"] else None
        runs = link(
            f"/page/statistics?schedule_id={number}", t("what became of each time")
        )
        rows = [
            (t("Question"), f"{request['method']}: {request['result_alias']}"),
            (t("Asked by"), named(self.visit, schedule["user_id"], self.names)),
            (t("When"), f"{times} ({zone})"),
            (t("Next time"), moment(next_run)),
            (t("Runs"), runs),
        ]
        word = "active" if schedule["active"] else "paused"
        state = chip(self.visit, word)
        title = Safe(f"<b>{number} {shown(schedule['name'])}</b> {state}")
        caller = self.visit.caller
        is_owner = caller.user_id == schedule["user_id"] or caller.role == "open"
        with ui.element("section").classes("note"):
            html(f"{title}{table([t('What'), t('Is')], rows)}")
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
