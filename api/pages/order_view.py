"""One order as it goes: loss and metrics of each hospital, who is waited for, how it is
protected, and its timeline.

`OrderView` has every part twice: `build` puts it on the page, `refresh` and `draw` show
what is new in it.
"""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from nicegui import ui

from api.pages import charts
from api.pages.ending_words import stopped_by_words, warning_notes
from api.pages.frame import (
    Drawing,
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
from api.pages.order_list import KINDS, hospital_names, method_words, named, progress
from api.pages.order_timeline import RUN_DELETED, Timeline
from api.pages.pooled import pooled_metrics
from api.pages.protection import protection_words, suppression_words
from api.pages.visit import Visit
from api.settings import LOOPBACK
from api.store.tables import ENDED
from protocol.errors import ConsiliumError

WITHHELD_METRICS = (
    "Metrics of single hospitals are withheld: one of them has fewer rows of a class than"
    " its policy's min_rows asks for. Those of all hospitals together are shown."
)
UNSCORED = (
    "This order is trained without scores: its model has fewer coefficients than a"
    " hospital's min_scored_coefficients asks for."
)
# Metrics in the order in which they are shown.
FIRST = (
    "loss",
    "accuracy",
    "auc",
    "ks",
    "concordance",
    "f1",
    "f1_macro",
    "mse",
    "rmse",
    "mae",
    "r2",
)
THROUGH_TUNNEL = "opens on the coordinator's machine, elsewhere through its operator's ssh tunnel only"


def prefect_run(visit: Visit, address: str) -> Safe:
    """The link to an order's run in Prefect.

    Prefect listens on loopback of the coordinator's machine, where the visitor's browser
    hardly ever is; an address that an operator publishes needs no word.
    """
    run = link(address, visit.t("The run in Prefect"), is_new=True)
    if urlsplit(address).hostname not in LOOPBACK:
        return run
    return Safe(f'{run} <span class="soft">({shown(visit.t(THROUGH_TUNNEL))})</span>')


class OrderView:
    """The parts of the page that change while the order goes on."""

    def __init__(
        self, visit: Visit, order: dict[str, Any], names: dict[int, str]
    ) -> None:
        self.visit = visit
        self.order = order
        self.names = names
        # All that have come; an answer of the API may hold the newest only.
        self.rounds: list[dict[str, Any]] = order["rounds"]
        # What the figure of metrics shows.
        self.metric = "loss"
        self.part = "train"
        self.fold = 0
        # Elements of the page by name, so that news can be put into them.
        self.parts: dict[str, Any] = {}
        self.figures: dict[str, Figure] = {}
        self.timeline: Timeline | None = None
        self.build()

    # What is there

    def build(self) -> None:
        t = self.visit.t
        name = f"order-{self.order['order_id']}"
        self.parts["top"] = html(self.top())
        self._buttons()
        if self.order["kind"] in ("train", "external"):
            self._choices()
            label = t("A chosen metric of each hospital by round")
            self.figures["metric"] = figure(
                self.visit, name, *self.metric_figure(), label=label
            )
            self.parts["hospitals"] = html(self.hospitals())
        if self.order["kind"] in ("train", "evaluate", "external"):
            self.parts["pooled"] = html(self.pooled())
        protection = protection_words(self.visit, self.order, self.names)
        html(f"<h2>{shown(t('Protection'))}</h2>{protection}")
        html(f"<h2>{shown(t('Timeline'))}</h2>")
        self.parts["events"] = html(self.events())
        if self.order["kind"] in ("train", "evaluate", "statistics"):
            self.timeline = Timeline(self.visit, self.order, self.names)
        if self.order["kind"] == "train":
            label = t("Seconds that each round took")
            self.figures["pace"] = figure(
                self.visit, f"{name}-rounds", *self.pace_figure(), label=label
            )

    def top(self) -> Safe:
        t, order = self.visit.t, self.order
        pairs = [
            (t("State"), chip(self.visit, order["state"])),
            (t("Kind"), t(KINDS.get(order["kind"], order["kind"]))),
            (t("Progress"), progress(self.visit, order)),
            (t("Asked by"), named(self.visit, order["user_id"], self.names)),
            (t("Method"), method_words(order)),
        ]
        if order["loss"] is not None:
            pairs.append((t("Loss on training rows"), number(order["loss"])))
        stopped_by = stopped_by_words(self.visit, order)
        if stopped_by:
            pairs.append((t("Training ended"), stopped_by))
        notes = []
        if order["waiting_for"]:
            notes.append(note(self.waiting()))
        if order["refusal"]:
            error = ConsiliumError.from_json(order["refusal"])
            notes.append(note(self.visit.error(error), "bad"))
        if order["kind"] == "statistics":
            notes.append(self.statistics())
        notes.append(warning_notes(self.visit, order))
        return Safe(facts(pairs) + "".join(notes))

    def waiting(self) -> str:
        """Who is waited for, and why, in the API's own sentences."""
        names, reasons = [], []
        for hospital in self.order["waiting_for"]:
            names.append(self.visit.t(str(hospital["name"] or hospital["user_id"])))
            reasons.append(self.visit.waiting(hospital))
        first = self.visit.t("Waiting for {names}.", names=", ".join(names))
        return " ".join([first, *reasons])

    def statistics(self) -> Safe:
        """How far it is; when it has ended, where its values are and what was withheld."""
        t, order = self.visit.t, self.order
        notes = []
        if order["stage"] and order["state"] not in ENDED:
            stage = order["stage"]
            notes.append(note(f"{stage['what']}: {stage['done']} / {stage['of']}"))
        recorded = order["summary"].get("statistics")
        if recorded:
            where = t(
                "The values are with the receivers alone, in their results folders: {path}. Their people read them "
                "with ./run agent results show {order_id}.",
                path=recorded.get("path", "-"),
                order_id=order["order_id"],
            )
            notes.append(note(where, "good"))
            for withheld in recorded.get("suppressed", []):
                notes.append(note(suppression_words(self.visit, withheld)))
            for sentence in recorded.get("notes", []):
                notes.append(note(sentence))
        return Safe("".join(notes))

    def hospitals(self) -> Safe:
        """Each hospital's rows and its metrics of the newest round."""
        t = self.visit.t
        rounds = self.shown_rounds()
        newest = rounds[-1]["hospitals"] if rounds else {}
        metrics = _metrics_of(newest)
        # An external order has no row counts, and its hospitals are those of its
        # rounds.
        n_rows_of = self.order["data_volum"] or dict.fromkeys(newest)
        rows = []
        for user, n_rows in n_rows_of.items():
            measured = _measured(newest, user, self.part)
            values = [number(measured.get(name)) for name in metrics]
            hospital = named(self.visit, int(user), self.names)
            rows.append([hospital, number(n_rows), *values])
        heads = [t("Hospital"), t("Rows"), *map(t, metrics)]
        caption = t("Rows and metrics of the newest round")
        drawn = table(heads, rows, caption=caption)
        withheld: set[str] = set()
        for own in newest.values():
            withheld.update(own.get("withheld", {}))
        if withheld & {"train", "test"}:
            drawn = Safe(drawn + note(t(WITHHELD_METRICS)))
        if "scores" in withheld:
            drawn = Safe(drawn + note(t(UNSCORED)))
        return drawn

    def events(self) -> Safe:
        """What has happened, by time, and links to more."""
        t, order = self.visit.t, self.order
        sender = named(self.visit, order["user_id"], self.names)
        sent = t("Sent by {name}", name=sender)
        rows = [(moment(order["created"]), sent)]
        counted = []
        for user, n_rows in order["data_volum"].items():
            if n_rows is not None:
                counted.append(named(self.visit, int(user), self.names))
        if counted and order["kind"] != "external":
            rows.append(("", t("Rows counted by {names}", names=", ".join(counted))))
        if self.rounds:
            first, newest = self.rounds[0], self.rounds[-1]
            rows.append((moment(first["recorded"]), t("First round")))
            newest_round = t("Newest round: {n}", n=newest["round"])
            rows.append((moment(newest["recorded"]), newest_round))
        if order["state"] in ENDED:
            state = t(order["state"])
            rows.append((moment(order["updated"]), t("Ended: {state}", state=state)))
        links = []
        if order["prefect_run"]:
            links.append(prefect_run(self.visit, order["prefect_run"]))
        if order["prefect_run_deleted"]:
            deleted = moment(order["prefect_run_deleted"])
            sentence = shown(t(RUN_DELETED, when=deleted))
            links.append(Safe(f'<span class="soft">{sentence}</span>'))
        if order["rerun_of"]:
            earlier = order["rerun_of"]
            links.append(
                link(f"/page/orders/{earlier}", t("Runs order {n} again", n=earlier))
            )
        if order["gradients"]:
            links.append(
                link(
                    f"/page/scores?order_id={order['order_id']}",
                    t("Scores of this order"),
                )
            )
        grid = table([t("When"), t("What")], rows)
        return Safe(f'{grid}<p class="row">{" ".join(links)}</p>')

    # Its figures

    def shown_rounds(self) -> list[dict[str, Any]]:
        return [entry for entry in self.rounds if entry["fold"] == self.fold]

    def metric_figure(self) -> Drawing:
        """A line for each hospital, and the joint loss where the metric is the loss of
        training.
        """
        rounds = self.shown_rounds()
        numbers = [entry["round"] for entry in rounds]
        users: set[str] = set()
        for entry in rounds:
            users.update(entry["hospitals"])
        series: dict[str, list[float | None]] = {}
        joint = self.visit.t("all")
        if self.metric == "loss" and self.part == "train":
            series[joint] = [entry["loss"] for entry in rounds]
        for user in sorted(users, key=int):
            values = []
            for entry in rounds:
                measured = _measured(entry["hospitals"], user, self.part)
                values.append(_plain(measured.get(self.metric)))
            hospital = named(self.visit, int(user), self.names)
            series[hospital] = values
        options = charts.lines(
            numbers,
            series,
            x_name=self.visit.t("Round"),
            y_name=self.visit.t(self.metric),
            is_dark=self.visit.is_dark,
            bold=joint,
        )
        rows: list[list[Any]] = [["round", *series]]
        for place, round_ in enumerate(numbers):
            values_then = [column[place] for column in series.values()]
            rows.append([round_, *values_then])
        return Drawing(options, rows)

    def pace_figure(self) -> Drawing:
        """The seconds from the record of one round to the next, by fold and round."""
        names, seconds = [], []
        rows: list[list[Any]] = [["round", "seconds"]]
        for before, entry in itertools.pairwise(self.rounds):
            began = datetime.fromisoformat(before["recorded"])
            ended = datetime.fromisoformat(entry["recorded"])
            lasted = round((ended - began).total_seconds(), 3)
            name = str(entry["round"])
            if entry["fold"]:
                name = f"{entry['fold']}/{name}"
            names.append(name)
            seconds.append(lasted)
            rows.append([name, lasted])
        options = charts.bars(
            names,
            seconds,
            x_name=self.visit.t("Round"),
            y_name=self.visit.t("seconds"),
            is_dark=self.visit.is_dark,
        )
        return Drawing(options, rows)

    def _choices(self) -> None:
        t = self.visit.t
        with ui.element("div").classes("row"):
            self.parts["metric"] = ui.select(
                self.metrics(),
                value="loss",
                label=t("Metric"),
                on_change=self.choose,
            )
            self.parts["part"] = ui.select(
                {"train": t("training rows"), "test": t("held-out rows")},
                value="train",
                label=t("On"),
                on_change=self.choose,
            )
            self.parts["fold"] = ui.select(
                self.folds(),
                value=0,
                label=t("Part"),
                on_change=self.choose,
            )
            for name in ("metric", "part", "fold"):
                self.parts[name].style("min-width:150px")

    def metrics(self) -> dict[str, str]:
        """The metrics of the newest round; the loss before there is one."""
        names = ["loss"]
        if self.rounds:
            names += _metrics_of(self.rounds[-1]["hospitals"])
        return {name: self.visit.t(name) for name in names}

    def folds(self) -> dict[int, str]:
        """The final model, which is fold 0, and the folds that have begun."""
        numbers = {entry["fold"] for entry in self.rounds}
        names = {0: self.visit.t("Final model")}
        for fold in sorted(numbers - {0}):
            names[fold] = self.visit.t("Fold {n}", n=fold)
        return names

    def choose(self) -> None:
        self.metric = self.parts["metric"].value
        self.part = self.parts["part"].value
        self.fold = self.parts["fold"].value
        self.draw()

    # What is done with it

    def _buttons(self) -> None:
        t = self.visit.t
        with ui.element("div").classes("row"):
            cancel = ui.button(t("Cancel"), on_click=self.cancel)
            rerun = ui.button(t("Run again"), on_click=self.rerun)
        self.parts["cancel"] = cancel.props("no-caps outline color=negative")
        self.parts["rerun"] = rerun.props("no-caps outline")
        self._allow()

    def _allow(self) -> None:
        """Shows the buttons that the API would take; it decides again when one is
        pressed.
        """
        caller, order = self.visit.caller, self.order
        is_owner = caller.user_id == order["user_id"] or caller.role == "open"
        may_cancel = is_owner or caller.role == "operator"
        has_ended = order["state"] in ENDED
        self.parts["cancel"].set_visibility(may_cancel and not has_ended)
        self.parts["rerun"].set_visibility(
            is_owner and order["kind"] in ("train", "evaluate", "statistics")
        )

    async def cancel(self) -> None:
        order_id = self.order["order_id"]
        if not await asked(
            self.visit, self.visit.t("Cancel order {n} for all hospitals?", n=order_id)
        ):
            return
        with told_as_notice(self.visit):
            await self.visit.call("POST", f"/orders/{order_id}/cancel")

    async def rerun(self) -> None:
        self.parts["rerun"].props("loading")
        try:
            with told_as_notice(self.visit):
                response = await self.visit.call(
                    "POST", f"/orders/{self.order['order_id']}/rerun"
                )
                ui.navigate.to(f"/page/orders/{number_of(response)}")
        finally:
            self.parts["rerun"].props(remove="loading")

    # News

    async def refresh(self) -> bool:
        """Fetches what is new; False when the order has ended and all of it is here."""
        state, n_rounds = self.order["state"], len(self.rounds)
        was_ended = state in ENDED
        path = f"/orders/{self.order['order_id']}"
        if was_ended:
            # Once more after the end, and whole: what was recorded last may have come
            # in between.
            self.order = await self.visit.data(path)
            self.rounds = self.order["rounds"]
        else:
            self.order = await self.visit.data(path, rounds_from=n_rounds)
            self.rounds = [*self.rounds, *self.order["rounds"]]
        self.parts["top"].set_content(self.top())
        self.parts["events"].set_content(self.events())
        self._allow()
        if self.order["state"] != state or len(self.rounds) != n_rounds:
            self.draw()
            if self.timeline:
                self.timeline.news(self.order, self.rounds)
        is_over = was_ended and self.order["state"] in ENDED
        return not is_over

    def pooled(self) -> Safe:
        """What the model is worth on all hospitals' rows."""
        return pooled_metrics(
            self.visit, self.order["summary"], order_id=self.order["order_id"]
        )

    def draw(self) -> None:
        """Shows the rounds that are here, in the parts that this kind of order has."""
        if "hospitals" in self.parts:
            self.parts["hospitals"].set_content(self.hospitals())
            self.parts["metric"].set_options(self.metrics())
            self.parts["fold"].set_options(self.folds())
        if "pooled" in self.parts:
            self.parts["pooled"].set_content(self.pooled())
        if "metric" in self.figures:
            self.figures["metric"].show(*self.metric_figure())
        if "pace" in self.figures:
            self.figures["pace"].show(*self.pace_figure())


def _measured(hospitals: dict[str, Any], user: str, part: str) -> dict[str, Any]:
    """A hospital's metrics of a round; none where it had no part in it, or no such
    rows.
    """
    own = hospitals.get(user, {})
    return own.get(part) or {}


def _metrics_of(hospitals: dict[str, Any]) -> list[str]:
    """The metrics that some hospital has of its training rows."""
    names: set[str] = set()
    for user in hospitals:
        names.update(_measured(hospitals, user, "train"))
    return [name for name in FIRST if name in names]


def _plain(value: Any) -> float | None:
    """A metric as it is drawn: 6 significant digits, which is all that leaves a
    hospital.
    """
    if not isinstance(value, (int, float)):
        return None
    return float(f"{value:.6g}")


def number_of(response: Any) -> int:
    """The order's number in an answer of training or of statistics."""
    header = response.headers.get("x-order-id")
    return int(header or response.json()["data"]["order_id"])


async def show_order(visit: Visit, order_id: int) -> None:
    with frame(visit, visit.t("Order {n}", n=order_id)):
        order = await visit.data(f"/orders/{order_id}")
        names = await hospital_names(visit)
        view = OrderView(visit, order, names)
        if order["state"] not in ENDED:
            follow(visit, ("order", order_id), view.refresh)
