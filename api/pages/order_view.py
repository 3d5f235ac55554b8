"""One order as it goes: loss and metrics of each hospital, who is waited for, how it is protected, and its timeline."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

from nicegui import ui

from api.pages import charts
from api.pages.frame import (
    Figure,
    Safe,
    asked,
    chip,
    facts,
    figure,
    follow,
    frame,
    html,
    link,
    moment,
    note,
    number,
    shown,
    table,
    told_as_notice,
)
from api.pages.order_list import KINDS, hospital_names, named, progress
from api.pages.order_timeline import Timeline
from api.pages.pooled import pooled_metrics
from api.pages.protection import protection_words, suppression_words
from api.pages.visit import Visit
from api.store.tables import ENDED
from protocol.errors import ConsiliumError

FIRST = ("loss", "accuracy", "auc", "ks", "f1", "f1_macro", "mse", "rmse", "mae", "r2")


class OrderView:
    """The parts of the page that change while the order goes on."""

    def __init__(self, visit: Visit, order: dict[str, Any], names: dict[int, str]) -> None:
        self.visit, self.order, self.names = visit, order, names
        self.rounds: list[dict[str, Any]] = order["rounds"]
        self.metric, self.part, self.fold = "loss", "train", 0
        self.parts: dict[str, Any] = {}
        self.figures: dict[str, Figure] = {}
        self.timeline: Timeline | None = None
        self.build()

    # What is there

    def build(self) -> None:
        t = self.visit.t
        self.parts["top"] = html(self.top())
        self._buttons()
        if self.order["kind"] in ("train", "external"):
            self._choices()
            label = t("A chosen metric of each hospital by round")
            self.figures["metric"] = figure(
                self.visit, f"order-{self.order['order_id']}", *self.metric_figure(), label=label
            )
            self.parts["hospitals"] = html(self.hospitals())
            self.parts["pooled"] = html(pooled_metrics(self.visit, self.order["summary"]))
        html(f"<h2>{shown(t('Protection'))}</h2>{protection_words(self.visit, self.order, self.names)}")
        html(f"<h2>{shown(t('Timeline'))}</h2>")
        self.parts["events"] = html(self.events())
        if self.order["kind"] in ("train", "statistics"):
            self.timeline = Timeline(self.visit, self.order, self.names)
        if self.order["kind"] == "train":
            label = t("Seconds that each round took")
            name = f"order-{self.order['order_id']}-rounds"
            self.figures["pace"] = figure(self.visit, name, *self.pace_figure(), label=label)

    def top(self) -> Safe:
        t, order = self.visit.t, self.order
        pairs = [
            (t("State"), chip(self.visit, order["state"])),
            (t("Kind"), t(KINDS.get(order["kind"], order["kind"]))),
            (t("Progress"), progress(self.visit, order)),
            (t("Asked by"), named(self.visit, order["user_id"], self.names)),
            (t("Method"), " ".join(filter(None, (order["model_type"], order["method"]))) or "-"),
        ]
        if order["loss"] is not None:
            pairs.append((t("Loss on training rows"), number(order["loss"])))
        notes = [note(self.waiting())] if order["waiting_for"] else []
        if order["refusal"]:
            notes.append(note(self.visit.error(ConsiliumError.from_json(order["refusal"])), "bad"))
        if order["kind"] == "statistics":
            notes.append(self.statistics())
        return Safe(facts(pairs) + "".join(notes))

    def waiting(self) -> str:
        """Who is waited for, and why, in the API's own sentences."""
        waiting = self.order["waiting_for"]
        names = ", ".join(self.visit.t(str(one["name"] or one["user_id"])) for one in waiting)
        said = [
            self.visit.t("Waiting for {names}.", names=names),
            *(self.visit.waiting(one) for one in waiting),
        ]
        return " ".join(said)

    def statistics(self) -> Safe:
        """How far it is; when it has ended, where its values are and what was withheld."""
        t, order = self.visit.t, self.order
        said = []
        if order["stage"] and order["state"] not in ENDED:
            stage = order["stage"]
            said.append(note(f"{stage['what']}: {stage['done']} / {stage['of']}"))
        recorded = order["summary"].get("statistics")
        if recorded:
            where = t(
                "The values are with the receivers alone, in their results folders: {path}. Their people read them "
                "with ./run agent results show {order_id}.",
                path=recorded.get("path", "-"),
                order_id=order["order_id"],
            )
            said.append(note(where, "good"))
            said += [note(suppression_words(self.visit, one)) for one in recorded.get("suppressed", [])]
            said += [note(sentence) for sentence in recorded.get("notes", [])]
        return Safe("".join(said))

    def hospitals(self) -> Safe:
        """Each hospital's rows and its metrics of the newest round."""
        t, order = self.visit.t, self.order
        last = self.shown_rounds()[-1]["hospitals"] if self.shown_rounds() else {}
        kinds = [name for name in FIRST if any(name in (own.get("train") or {}) for own in last.values())]
        rows = [
            (
                named(self.visit, int(user), self.names),
                number(n_rows),
                *(number((last.get(user, {}).get(self.part) or {}).get(name)) for name in kinds),
            )
            for user, n_rows in (order["data_volum"] or dict.fromkeys(last)).items()
        ]
        caption = t("Rows and metrics of the newest round")
        return table([t("Hospital"), t("Rows"), *map(t, kinds)], rows, caption=caption)

    def events(self) -> Safe:
        t, order = self.visit.t, self.order
        events = [
            (order["created"], t("Sent by {name}", name=named(self.visit, order["user_id"], self.names)))
        ]
        counted = [user for user, n_rows in order["data_volum"].items() if n_rows is not None]
        if counted and order["kind"] != "external":
            names = ", ".join(named(self.visit, int(user), self.names) for user in counted)
            events.append((None, t("Rows counted by {names}", names=names)))
        if self.rounds:
            events.append((self.rounds[0]["recorded"], t("First round")))
            events.append((self.rounds[-1]["recorded"], t("Newest round: {n}", n=self.rounds[-1]["round"])))
        if order["state"] in ENDED:
            events.append((order["updated"], t("Ended: {state}", state=t(order["state"]))))
        more = (
            [link(order["prefect_run"], t("The run in Prefect"), is_new=True)] if order["prefect_run"] else []
        )
        if order["rerun_of"]:
            more.append(
                link(f"/page/orders/{order['rerun_of']}", t("Runs order {n} again", n=order["rerun_of"]))
            )
        if order["gradients"]:
            more.append(link(f"/page/scores?order_id={order['order_id']}", t("Scores of this order")))
        rows = [(moment(when) if when else "", what) for when, what in events]
        return Safe(table([t("When"), t("What")], rows) + f'<p class="row">{" ".join(more)}</p>')

    # Its figures

    def shown_rounds(self) -> list[dict[str, Any]]:
        return [one for one in self.rounds if one["fold"] == self.fold]

    def metric_figure(self) -> tuple[dict[str, Any], list[list[Any]]]:
        """(options, rows): a line for each hospital, and the joint loss where the metric is the loss of training."""
        found = self.shown_rounds()
        users = sorted({user for one in found for user in one["hospitals"]}, key=int)
        series = {
            named(self.visit, int(user), self.names): [
                _plain((one["hospitals"].get(user, {}).get(self.part) or {}).get(self.metric))
                for one in found
            ]
            for user in users
        }
        joint = self.visit.t("all")
        if self.metric == "loss" and self.part == "train":
            series = {joint: [one["loss"] for one in found], **series}
        numbers = [one["round"] for one in found]
        options = charts.lines(
            numbers,
            series,
            x_name=self.visit.t("Round"),
            y_name=self.visit.t(self.metric),
            is_dark=self.visit.is_dark,
            bold=joint,
        )
        columns = list(series.values())
        rows = [
            ["round", *series],
            *([n, *(column[at] for column in columns)] for at, n in enumerate(numbers)),
        ]
        return options, rows

    def pace_figure(self) -> tuple[dict[str, Any], list[list[Any]]]:
        times = [datetime.fromisoformat(one["recorded"]) for one in self.rounds]
        seconds = [round((b - a).total_seconds(), 3) for a, b in itertools.pairwise(times)]
        names = [
            f"{one['fold']}/{one['round']}" if one["fold"] else str(one["round"]) for one in self.rounds[1:]
        ]
        options = charts.bars(
            names,
            seconds,
            x_name=self.visit.t("Round"),
            y_name=self.visit.t("seconds"),
            is_dark=self.visit.is_dark,
        )
        return options, [["round", "seconds"], *map(list, zip(names, seconds, strict=True))]

    def _choices(self) -> None:
        t = self.visit.t
        with ui.element("div").classes("row"):
            self.parts["metric"] = ui.select(
                self.metrics(), value="loss", label=t("Metric"), on_change=self.choose
            )
            self.parts["part"] = ui.select(
                {"train": t("training rows"), "test": t("held-out rows")},
                value="train",
                label=t("On"),
                on_change=self.choose,
            )
            self.parts["fold"] = ui.select(self.folds(), value=0, label=t("Part"), on_change=self.choose)
            for name in ("metric", "part", "fold"):
                self.parts[name].style("min-width:150px")

    def metrics(self) -> dict[str, str]:
        there = {
            name
            for one in self.rounds[-1:]
            for own in one["hospitals"].values()
            for name in (own.get("train") or {})
        }
        return {name: self.visit.t(name) for name in FIRST if name in there or name == "loss"}

    def folds(self) -> dict[int, str]:
        numbers = sorted({one["fold"] for one in self.rounds} | {0})
        return {
            fold: self.visit.t("Fold {n}", n=fold) if fold else self.visit.t("Final model")
            for fold in numbers
        }

    def choose(self) -> None:
        self.metric, self.part = self.parts["metric"].value, self.parts["part"].value
        self.fold = self.parts["fold"].value
        self.draw()

    # What is done with it

    def _buttons(self) -> None:
        t = self.visit.t
        with ui.element("div").classes("row"):
            self.parts["cancel"] = ui.button(t("Cancel"), on_click=self.cancel).props(
                "no-caps outline color=negative"
            )
            self.parts["rerun"] = ui.button(t("Run again"), on_click=self.rerun).props("no-caps outline")
        self._allow()

    def _allow(self) -> None:
        caller, order = self.visit.caller, self.order
        is_owner = caller.user_id == order["user_id"] or caller.role == "open"
        self.parts["cancel"].set_visibility(
            order["state"] not in ENDED and (is_owner or caller.role == "operator")
        )
        self.parts["rerun"].set_visibility(is_owner and order["kind"] in ("train", "statistics"))

    async def cancel(self) -> None:
        number_ = self.order["order_id"]
        if not await asked(self.visit, self.visit.t("Cancel order {n} for all hospitals?", n=number_)):
            return
        with told_as_notice(self.visit):
            await self.visit.call("POST", f"/orders/{number_}/cancel")

    async def rerun(self) -> None:
        self.parts["rerun"].props("loading")
        try:
            with told_as_notice(self.visit):
                response = await self.visit.call("POST", f"/orders/{self.order['order_id']}/rerun")
                ui.navigate.to(f"/page/orders/{number_of(response)}")
        finally:
            self.parts["rerun"].props(remove="loading")

    # News

    async def refresh(self) -> bool:
        """Fetches what is new; False when the order has ended and all of it is here."""
        was_ended, before = self.order["state"] in ENDED, (self.order["state"], len(self.rounds))
        path = f"/orders/{self.order['order_id']}"
        self.order = await self.visit.data(path, rounds_from=None if was_ended else len(self.rounds))
        self.rounds = self.order["rounds"] if was_ended else [*self.rounds, *self.order["rounds"]]
        self.parts["top"].set_content(self.top())
        self.parts["events"].set_content(self.events())
        self._allow()
        if before != (self.order["state"], len(self.rounds)):
            self.draw()
            if self.timeline:
                self.timeline.news(self.order, self.rounds)
        return not (was_ended and self.order["state"] in ENDED)

    def draw(self) -> None:
        if "hospitals" in self.parts:
            self.parts["hospitals"].set_content(self.hospitals())
            self.parts["pooled"].set_content(pooled_metrics(self.visit, self.order["summary"]))
            self.parts["metric"].set_options(self.metrics())
            self.parts["fold"].set_options(self.folds())
        if "metric" in self.figures:
            self.figures["metric"].show(*self.metric_figure())
        if "pace" in self.figures:
            self.figures["pace"].show(*self.pace_figure())


def _plain(value: Any) -> float | None:
    """A metric as it is drawn: 6 significant digits, which is all that leaves a hospital."""
    return float(f"{value:.6g}") if isinstance(value, (int, float)) else None


def number_of(response: Any) -> int:
    """The order's number in an answer of training or of statistics."""
    header = response.headers.get("x-order-id")
    return int(header or response.json()["data"]["order_id"])


async def show_order(visit: Visit, order_id: int) -> None:
    with frame(visit, visit.t("Order {n}", n=order_id)):
        order = await visit.data(f"/orders/{order_id}")
        view = OrderView(visit, order, await hospital_names(visit))
        if order["state"] not in ENDED:
            follow(visit, ("order", order_id), view.refresh)
