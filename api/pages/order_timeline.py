"""An order's timeline as a picture: which part ran where and when, in one round or
around the rounds; how long each round took; and what has happened, in words.
"""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from api.pages import charts
from api.pages.charts import Span
from api.pages.frame import Drawing, Safe, figure, html, moment, note, shown
from api.pages.order_list import named
from api.pages.visit import Visit
from api.routes.timeline import WHOLE_ORDER
from api.store.tables import ENDED
from protocol.errors import ConsiliumError

AROUND = "around"
# While an order runs, Prefect has better things to do than to be asked more often.
REST_SECONDS = 3.0
RUN_DELETED = (
    "Prefect keeps the runs of the newest orders; this order's were deleted on {when}."
)
COARSE = "This order has many hospitals: each shows its whole work as one part, and the coordinator shows the rounds."
WAITING = (
    "The coordinator's parts last until all hospitals have sent theirs; each hospital's times are by its own"
    " clock."
)


class Timeline:
    """The picture, and the choice of what it shows: the newest round until the visitor
    chooses.
    """

    def __init__(
        self,
        visit: Visit,
        order: dict[str, Any],
        names: dict[int, str],
    ) -> None:
        self.visit = visit
        self.order_id = order["order_id"]
        self.names = names
        self.rounds: list[dict[str, Any]] = order["rounds"]
        self.has_rounds = order["kind"] == "train"
        self.is_over = order["state"] in ENDED
        # Whether the visitor has chosen, and the choice that was asked for last.
        self.is_chosen = False
        self.shown = ""
        t = visit.t
        with ui.element("div").classes("row"):
            self.choice = ui.select(
                self._options(),
                value=self._newest(),
                label=t("Parts of"),
                on_change=self.choose,
            )
            self.choice.style("min-width:260px")
        self.below = html("")
        file_name = f"order-{self.order_id}-timeline"
        self.figure = figure(
            visit,
            file_name,
            *self._picture([]),
            label=t("Which part ran where and when"),
        )
        waiting = shown(t(WAITING))
        html(f'<p class="soft">{waiting}</p>')
        ui.timer(0, self.draw, once=True)
        self.clock = ui.timer(
            REST_SECONDS,
            self._look_again,
            active=not self.is_over,
        )

    def news(
        self,
        order: dict[str, Any],
        rounds: list[dict[str, Any]],
    ) -> None:
        """The order has gone on: a visitor who has chosen nothing sees its newest
        round, when the clock ticks.
        """
        self.rounds = rounds
        self.is_over = order["state"] in ENDED
        shown_choice = self._newest()
        if self.is_chosen:
            shown_choice = self.choice.value
        options = self._options()
        self.choice.set_options(options, value=shown_choice)

    async def choose(self) -> None:
        self.is_chosen = self.choice.value != self._newest()
        if self.is_chosen or self.is_over:
            await self.draw()

    async def _look_again(self) -> None:
        """Once more after the end: Prefect's record is a moment late."""
        if self.is_over:
            self.clock.deactivate()
        await self.draw()

    async def draw(self) -> None:
        """Asks the API; an error is shown in its sentence."""
        choice = str(self.choice.value)
        self.shown = choice
        arguments = {}
        if choice != AROUND:
            fold, _, round_ = choice.partition("/")
            arguments["fold"] = int(fold)
            arguments["round"] = int(round_)
        path = f"/orders/{self.order_id}/timeline"
        try:
            answer = await self.visit.data(path, **arguments)
        except ConsiliumError as error:
            sentence = self.visit.error(error)
            self.below.set_content(note(sentence, "bad"))
            return
        # The visitor has chosen something else meanwhile, which has an answer of its
        # own.
        if self.shown != choice:
            return
        parts = answer["parts"]
        deleted = answer["prefect_run_deleted"]
        legend = _legend(self.visit, parts, deleted)
        if answer["hospitals_show"] == WHOLE_ORDER:
            coarse = note(self.visit.t(COARSE))
            legend = Safe(legend + coarse)
        self.below.set_content(legend)
        picture = self._picture(parts)
        self.figure.show(*picture)
        lanes = {part["user_id"] for part in parts}
        n_lanes = max(1, len(lanes))
        height = 90 + 44 * n_lanes
        self.figure.chart.style(f"height:{height}px")

    def _options(self) -> dict[str, str]:
        """Each recorded round, newest first, by fold/round."""
        t = self.visit.t
        around = t("The whole order")
        if self.has_rounds:
            around = t("Before and after the rounds")
        round_labels = {AROUND: around}
        for recorded_round in reversed(self.rounds):
            round_label = t("Round {n}", n=recorded_round["round"])
            if recorded_round["final"]:
                round_label = t("Final metrics")
            if recorded_round["fold"]:
                of_fold = t("Fold {n}", n=recorded_round["fold"])
                round_label = f"{of_fold}: {round_label}"
            round_labels[_choice_of(recorded_round)] = round_label
        return round_labels

    def _newest(self) -> str:
        """The newest round that trained something."""
        for recorded_round in reversed(self.rounds):
            if not recorded_round["final"]:
                return _choice_of(recorded_round)
        return AROUND

    def _picture(self, parts: list[dict[str, Any]]) -> Drawing:
        """A bar for each part; one that still runs lasts until now."""
        spans = []
        rows = [["user_id", "part", "began", "ended", "state"]]
        for part in parts:
            began = _seconds(part["began"])
            if part["ended"]:
                ended = _seconds(part["ended"])
            else:
                ended = time.time()
            part_label = self.visit.t(part["what"])
            span = Span(
                who=self._who(part),
                what=part_label,
                began=began,
                ended=ended,
            )
            spans.append(span)
            part_row = [
                part["user_id"],
                part["what"],
                part["began"],
                part["ended"],
                part["state"],
            ]
            rows.append(part_row)
        options = charts.spans(
            spans,
            x_name=self.visit.t("seconds"),
            is_dark=self.visit.is_dark,
        )
        return Drawing(options, rows)

    def _who(self, part: dict[str, Any]) -> str:
        user_id = part["user_id"]
        if not user_id:
            return self.visit.t("coordinator")
        return named(self.visit, user_id, self.names)


def _choice_of(entry: dict[str, Any]) -> str:
    """A recorded round in the list of choices, by fold/round."""
    fold = entry["fold"]
    number = entry["round"]
    return f"{fold}/{number}"


def happened(
    visit: Visit,
    order: dict[str, Any],
    rounds: list[dict[str, Any]],
    names: dict[int, str],
) -> list[tuple[str, str]]:
    """When, and what: of an order whose rounds are these."""
    t = visit.t
    sender = named(visit, order["user_id"], names)
    sent_at = moment(order["created"])
    rows = [(sent_at, t("Sent by {name}", name=sender))]
    counted = []
    for user_id, n_rows in order["data_volum"].items():
        if n_rows is not None:
            hospital = named(visit, int(user_id), names)
            counted.append(hospital)
    if counted and order["kind"] != "external":
        all_names = ", ".join(counted)
        rows.append(("-", t("Rows counted by {names}", names=all_names)))
    if order["late"]:
        late = []
        for user_id in order["late"]:
            late.append(named(visit, user_id, names))
        all_names = ", ".join(late)
        rows.append(("-", t("Began without {names}", names=all_names)))
    if rounds:
        first_round = rounds[0]
        newest = rounds[-1]
        began = moment(first_round["recorded"])
        rows.append((began, t("First round")))
        went_on = moment(newest["recorded"])
        newest_round = t("Newest round: {n}", n=newest["round"])
        rows.append((went_on, newest_round))
    if order["state"] in ENDED:
        state_label = t(order["state"])
        ended = moment(order["updated"])
        rows.append((ended, t("Ended: {state}", state=state_label)))
    return rows


def pace_figure(
    visit: Visit,
    rounds: list[dict[str, Any]],
) -> Drawing:
    """The seconds from the record of one round to the next, by fold and round."""
    round_labels = []
    seconds = []
    rows: list[list[Any]] = [["round", "seconds"]]
    for previous, recorded_round in itertools.pairwise(rounds):
        began = datetime.fromisoformat(previous["recorded"])
        ended = datetime.fromisoformat(recorded_round["recorded"])
        duration = ended - began
        lasted = round(duration.total_seconds(), 3)
        round_label = str(recorded_round["round"])
        if recorded_round["fold"]:
            round_label = _choice_of(recorded_round)
        round_labels.append(round_label)
        seconds.append(lasted)
        rows.append([round_label, lasted])
    options = charts.bars(
        round_labels,
        seconds,
        x_name=visit.t("Round"),
        y_name=visit.t("seconds"),
        is_dark=visit.is_dark,
    )
    return Drawing(options, rows)


def _legend(
    visit: Visit,
    parts: list[dict[str, Any]],
    deleted: str | None,
) -> Safe:
    """Each part by its colour; why there is none."""
    t = visit.t
    # The order of first mention, in which charts.spans gives out the colours.
    mentioned = [t(part["what"]) for part in parts]
    part_labels = list(dict.fromkeys(mentioned))
    if deleted is not None:
        when = moment(deleted)
        return note(t(RUN_DELETED, when=when))
    if not part_labels:
        return note(t("Prefect has recorded no part of it yet."))
    marks = ""
    for colour_place, part_label in enumerate(part_labels):
        colour = charts.colour(colour_place)
        style = f"display:inline-block;width:.8em;height:.8em;background:{colour}"
        shown_label = shown(part_label)
        marks += f'<span><i style="{style}"></i> {shown_label}</span>'
    return Safe(f'<p class="row">{marks}</p>')


def _seconds(moment: str) -> float:
    """Of the epoch."""
    parsed_moment = datetime.fromisoformat(moment)
    instant = parsed_moment.astimezone(UTC)
    return instant.timestamp()
