"""One order as it goes: loss and metrics of each hospital, who is waited for, how it is
protected, and its timeline.

`OrderView` has every part twice: `build` puts it on the page, `refresh` and `draw` show
what is new in it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from nicegui import ui

from api.pages import charts
from api.pages.ending_words import stopped_by_words, warning_notes
from api.pages.form import once_at_a_time
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
from api.pages.order_result import (
    NO_METRICS,
    asked_of,
    is_by_newton,
    refused,
    sealed_to,
    statistics_notes,
    where_numbers_are,
)
from api.pages.order_timeline import RUN_DELETED, Timeline, happened, pace_figure
from api.pages.pooled import pooled_metrics
from api.pages.protection import protection_words
from api.pages.round_metrics import as_drawn, has_some, measured_of, metrics_of
from api.pages.visit import Visit
from api.settings import LOOPBACK
from api.store.tables import ENDED

WITHHELD_METRICS = (
    "Metrics of single hospitals are withheld: one of them has fewer rows of a class than"
    " its policy's min_rows asks for. Those of all hospitals together are shown."
)
UNSCORED = (
    "This order is trained without scores: its model has fewer coefficients than a"
    " hospital's min_scored_coefficients asks for."
)
THROUGH_TUNNEL = "opens on the coordinator's machine, elsewhere through its operator's ssh tunnel only"


def prefect_run(visit: Visit, address: str) -> Safe:
    """The link to an order's run in Prefect.

    Prefect listens on loopback of the coordinator's machine, where the visitor's browser
    hardly ever is; an address that an operator publishes needs no word.
    """
    label = visit.t("The run in Prefect")
    run_link = link(address, label, is_new=True)
    if urlsplit(address).hostname not in LOOPBACK:
        return run_link
    hint = shown(visit.t(THROUGH_TUNNEL))
    return Safe(f'{run_link} <span class="soft">({hint})</span>')


class OrderView:
    """The parts of the page that change while the order goes on."""

    def __init__(
        self,
        visit: Visit,
        order: dict[str, Any],
        names: dict[int, str],
        info: dict[str, Any] | None = None,
    ) -> None:
        self.visit = visit
        self.order = order
        # What GET /model/info says of an order that trains a model.
        self.info = info
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
        kind = self.order["kind"]
        file_name = f"order-{self.order['order_id']}"
        self.parts["top"] = html(self.top())
        self._buttons()
        if kind in ("train", "evaluate", "external"):
            self.parts["pooled"] = html(self.pooled())
        if kind in ("train", "external"):
            with ui.element("div").classes("part") as self.parts["by round"]:
                html(_head(t("Round by round")))
                self._choices()
                self.figures["metric"] = figure(
                    self.visit,
                    file_name,
                    *self.metric_figure(),
                    label=t("A chosen metric of each hospital by round"),
                )
            self.parts["hospitals"] = html(self.hospitals())
        protection = protection_words(self.visit, self.order, self.names)
        head = _head(t("Protection"))
        html(head + protection)
        html(_head(t("Timeline")))
        self.parts["events"] = html(self.events())
        if kind in ("train", "evaluate", "statistics"):
            self.timeline = Timeline(self.visit, self.order, self.names)
        if kind == "train":
            label = t("Seconds that each round took")
            with ui.element("div").classes("part") as self.parts["pace"]:
                html(_head(label))
                self.figures["pace"] = figure(
                    self.visit,
                    f"{file_name}-rounds",
                    *pace_figure(self.visit, self.rounds),
                    label=label,
                )
        self._show_what_there_is()

    def _show_what_there_is(self) -> None:
        """Figures of nothing are not shown: before the first round, of orders that were
        refused, and of studies.
        """
        if "by round" in self.parts:
            self.parts["by round"].set_visibility(has_some(self.rounds))
        if "pace" in self.parts:
            self.parts["pace"].set_visibility(len(self.rounds) > 1)

    def top(self) -> Safe:
        t = self.visit.t
        order = self.order
        kind = order["kind"]
        pairs = [
            (t("State"), chip(self.visit, order["state"])),
            (t("Kind"), t(KINDS.get(kind, kind))),
            (t("Progress"), progress(self.visit, order)),
            (t("Asked by"), self._named(order["user_id"])),
            (t("Method"), method_words(self.visit, order)),
        ]
        if order["loss"] is not None:
            loss = number(order["loss"])
            pairs.append((t("Loss on training rows"), loss))
        stopped_by = stopped_by_words(self.visit, order)
        if stopped_by:
            pairs.append((t("Training ended"), stopped_by))
        notes = []
        if order["waiting_for"]:
            notes.append(note(self.waiting()))
        if order["refusal"]:
            reason = refused(self.visit, order["refusal"])
            notes.append(reason)
        if order["kind"] == "statistics":
            notes.append(statistics_notes(self.visit, order))
        notes.append(where_numbers_are(self.visit, order))
        notes.append(sealed_to(self.visit, order))
        notes.append(warning_notes(self.visit, order))
        notes.append(asked_of(self.visit, self.info))
        all_notes = "".join(notes)
        return Safe(facts(pairs) + all_notes)

    def _named(self, user: int | None) -> str:
        return named(self.visit, user, self.names)

    def waiting(self) -> str:
        """Who is waited for, and why, in the API's own sentences."""
        awaited_names = []
        reasons = []
        for hospital in self.order["waiting_for"]:
            awaited_name = str(hospital["name"] or hospital["user_id"])
            awaited_names.append(self.visit.t(awaited_name))
            reasons.append(self.visit.waiting(hospital))
        all_names = ", ".join(awaited_names)
        sentence = self.visit.t("Waiting for {names}.", names=all_names)
        return " ".join([sentence, *reasons])

    def hospitals(self) -> Safe:
        """Each hospital's rows and its metrics of the newest round."""
        t = self.visit.t
        rounds = self.shown_rounds()
        newest: dict[str, Any] = {}
        if rounds:
            newest = rounds[-1]["hospitals"]
        by_newton = is_by_newton({"rounds": rounds})
        metrics = [] if by_newton else metrics_of(newest)
        # An external order has no row counts, and its hospitals are those of its
        # rounds.
        n_rows_of = self.order["data_volum"] or dict.fromkeys(newest)
        rows = []
        for user_id, n_rows in n_rows_of.items():
            measured = measured_of(newest, user_id, self.part)
            hospital = self._named(int(user_id))
            hospital_row = [hospital, number(n_rows)]
            for metric in metrics:
                hospital_row.append(number(measured.get(metric)))
            rows.append(hospital_row)
        heads = [t("Hospital"), t("Rows")]
        heads.extend(map(t, metrics))
        counted = [n_rows for n_rows in n_rows_of.values() if n_rows is not None]
        if not counted and not newest:
            return Safe("")
        caption = t("Rows of each hospital")
        if metrics:
            caption = t("Rows and metrics of the newest round")
        grid = table(heads, rows, caption=caption)
        if by_newton:
            return Safe(grid + note(t(NO_METRICS)))
        withheld: set[str] = set()
        for report in newest.values():
            withheld.update(report.get("withheld", {}))
        if withheld & {"train", "test"}:
            sentence = note(t(WITHHELD_METRICS))
            grid = Safe(grid + sentence)
        if "scores" in withheld:
            sentence = note(t(UNSCORED))
            grid = Safe(grid + sentence)
        return grid

    def events(self) -> Safe:
        """What has happened, by time, and links to more."""
        t = self.visit.t
        order = self.order
        rows = happened(
            self.visit,
            order,
            self.rounds,
            self.names,
        )
        links = []
        if order["prefect_run"]:
            run_link = prefect_run(self.visit, order["prefect_run"])
            links.append(run_link)
        if order["prefect_run_deleted"]:
            deleted = moment(order["prefect_run_deleted"])
            sentence = shown(t(RUN_DELETED, when=deleted))
            links.append(Safe(f'<span class="soft">{sentence}</span>'))
        if order["rerun_of"]:
            earlier = order["rerun_of"]
            address = f"/page/orders/{earlier}"
            label = t("Runs order {n} again", n=earlier)
            links.append(link(address, label))
        if order["gradients"]:
            address = f"/page/scores?order_id={order['order_id']}"
            links.append(link(address, t("Scores of this order")))
        heads = [t("When"), t("What")]
        grid = table(heads, rows)
        all_links = " ".join(links)
        return Safe(f'{grid}<p class="row">{all_links}</p>')

    # Its figures

    def shown_rounds(self) -> list[dict[str, Any]]:
        rounds = []
        for recorded_round in self.rounds:
            if recorded_round["fold"] == self.fold:
                rounds.append(recorded_round)
        return rounds

    def metric_figure(self) -> Drawing:
        """A line for each hospital, and the joint loss where the metric is the loss of
        training.
        """
        rounds = self.shown_rounds()
        numbers = [recorded_round["round"] for recorded_round in rounds]
        user_ids: set[str] = set()
        for recorded_round in rounds:
            user_ids.update(recorded_round["hospitals"])
        series: dict[str, list[float | None]] = {}
        joint_label = self.visit.t("all")
        if self.metric == "loss" and self.part == "train":
            series[joint_label] = [recorded_round["loss"] for recorded_round in rounds]
        for user_id in sorted(user_ids, key=int):
            metric_values = []
            for recorded_round in rounds:
                measured = measured_of(recorded_round["hospitals"], user_id, self.part)
                metric_value = measured.get(self.metric)
                metric_values.append(as_drawn(metric_value))
            hospital = self._named(int(user_id))
            series[hospital] = metric_values
        options = charts.lines(
            numbers,
            series,
            x_name=self.visit.t("Round"),
            y_name=self.visit.t(self.metric),
            is_dark=self.visit.is_dark,
            bold=joint_label,
        )
        rows: list[list[Any]] = [["round", *series]]
        for round_place, round_ in enumerate(numbers):
            values_then = [column[round_place] for column in series.values()]
            rows.append([round_, *values_then])
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
                {
                    "train": t("training rows"),
                    "test": t("held-out rows"),
                },
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
            for part_name in ("metric", "part", "fold"):
                self.parts[part_name].style("min-width:150px")

    def metrics(self) -> dict[str, str]:
        """The metrics of the newest round; the loss before there is one."""
        metric_names = ["loss"]
        if self.rounds:
            metric_names += metrics_of(self.rounds[-1]["hospitals"])
        labels = {}
        for metric_name in metric_names:
            labels[metric_name] = self.visit.t(metric_name)
        return labels

    def folds(self) -> dict[int, str]:
        """The final model, which is fold 0, and the folds that have begun."""
        numbers = {recorded_round["fold"] for recorded_round in self.rounds}
        fold_labels = {0: self.visit.t("Final model")}
        begun = numbers - {0}
        for fold in sorted(begun):
            fold_labels[fold] = self.visit.t("Fold {n}", n=fold)
        return fold_labels

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
            rerun = ui.button(t("Run again"), on_click=once_at_a_time(self.rerun))
        self.parts["cancel"] = cancel.props("no-caps outline color=negative")
        self.parts["rerun"] = rerun.props("no-caps outline")
        self._allow()

    def _allow(self) -> None:
        """Shows the buttons that the API would take; it decides again when one is
        pressed.
        """
        caller = self.visit.caller
        order = self.order
        has_asked = caller.user_id == order["user_id"]
        is_owner = has_asked or caller.role == "open"
        may_cancel = is_owner or caller.role == "operator"
        has_ended = order["state"] in ENDED
        self.parts["cancel"].set_visibility(may_cancel and not has_ended)
        is_ours = order["kind"] in ("train", "evaluate", "statistics")
        may_rerun = is_owner and is_ours
        self.parts["rerun"].set_visibility(may_rerun)

    async def cancel(self) -> None:
        order_id = self.order["order_id"]
        question = self.visit.t("Cancel order {n} for all hospitals?", n=order_id)
        if not await asked(self.visit, question):
            return
        with told_as_notice(self.visit):
            await self.visit.call("POST", f"/orders/{order_id}/cancel")

    async def rerun(self) -> None:
        order_id = self.order["order_id"]
        self.parts["rerun"].props("loading")
        try:
            with told_as_notice(self.visit):
                response = await self.visit.call("POST", f"/orders/{order_id}/rerun")
                again = number_of(response)
                ui.navigate.to(f"/page/orders/{again}")
        finally:
            self.parts["rerun"].props(remove="loading")

    # News

    async def refresh(self) -> bool:
        """Fetches what is new; False when the order has ended and all of it is here."""
        earlier_state = self.order["state"]
        n_rounds = len(self.rounds)
        was_ended = earlier_state in ENDED
        order_path = f"/orders/{self.order['order_id']}"
        if was_ended:
            # Once more after the end, and whole: what was recorded last may have come
            # in between.
            self.order = await self.visit.data(order_path)
            self.rounds = self.order["rounds"]
        else:
            self.order = await self.visit.data(order_path, rounds_from=n_rounds)
            new_rounds = self.order["rounds"]
            self.rounds = [*self.rounds, *new_rounds]
        self.parts["top"].set_content(self.top())
        self.parts["events"].set_content(self.events())
        self._allow()
        has_new_state = self.order["state"] != earlier_state
        if has_new_state or len(self.rounds) != n_rounds:
            self.draw()
            if self.timeline:
                self.timeline.news(self.order, self.rounds)
        is_over = was_ended and self.order["state"] in ENDED
        return not is_over

    def pooled(self) -> Safe:
        """What the model is worth on all hospitals' rows."""
        return pooled_metrics(self.visit, self.order["summary"])

    def draw(self) -> None:
        """Shows the rounds that are here, in the parts that this kind of order has."""
        if "hospitals" in self.parts:
            self.parts["hospitals"].set_content(self.hospitals())
            self.parts["metric"].set_options(self.metrics())
            self.parts["fold"].set_options(self.folds())
        if "pooled" in self.parts:
            self.parts["pooled"].set_content(self.pooled())
        if "metric" in self.figures:
            metric = self.metric_figure()
            self.figures["metric"].show(*metric)
        if "pace" in self.figures:
            pace = pace_figure(self.visit, self.rounds)
            self.figures["pace"].show(*pace)
        self._show_what_there_is()


def _head(text: str) -> Safe:
    title = shown(text)
    return Safe(f"<h2>{title}</h2>")


def number_of(response: Any) -> int:
    """The order's number in an answer of training or of statistics."""
    header = response.headers.get("x-order-id")
    if header:
        return int(header)
    envelope = response.json()
    return int(envelope["data"]["order_id"])


async def show_order(visit: Visit, order_id: int) -> None:
    with frame(visit, visit.t("Order {n}", n=order_id)):
        order = await visit.data(f"/orders/{order_id}")
        names = await hospital_names(visit)
        model_info = None
        if order["kind"] == "train":
            model_info = await visit.data("/model/info", model_id=order_id)
        view = OrderView(visit, order, names, model_info)
        if order["state"] not in ENDED:
            follow(visit, ("order", order_id), view.refresh)
