"""An order's timeline as a picture: which part ran where and when, in one round or
around the rounds.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from api.pages import charts
from api.pages.charts import Span
from api.pages.frame import Drawing, Safe, figure, html, moment, note, shown
from api.pages.order_list import named
from api.pages.visit import Visit
from api.store.tables import ENDED
from protocol.errors import ConsiliumError

AROUND = "around"
# While an order runs, Prefect has better things to do than to be asked more often.
REST_SECONDS = 3.0
RUN_DELETED = (
    "Prefect keeps the runs of the newest orders; this order's were deleted on {when}."
)
WAITING = (
    "The coordinator's parts last until all hospitals have sent theirs; each hospital's times are by its own"
    " clock."
)


class Timeline:
    """The picture, and the choice of what it shows: the newest round until the visitor
    chooses.
    """

    def __init__(
        self, visit: Visit, order: dict[str, Any], names: dict[int, str]
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
        name = f"order-{self.order_id}-timeline"
        self.figure = figure(
            visit, name, *self._picture([]), label=t("Which part ran where and when")
        )
        html(f'<p class="soft">{shown(t(WAITING))}</p>')
        ui.timer(0, self.draw, once=True)
        self.clock = ui.timer(REST_SECONDS, self._look_again, active=not self.is_over)

    def news(self, order: dict[str, Any], rounds: list[dict[str, Any]]) -> None:
        """The order has gone on: a visitor who has chosen nothing sees its newest
        round, when the clock ticks.
        """
        self.rounds = rounds
        self.is_over = order["state"] in ENDED
        value = self.choice.value if self.is_chosen else self._newest()
        self.choice.set_options(self._options(), value=value)

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
        asked = {}
        if choice != AROUND:
            fold, _, round_ = choice.partition("/")
            asked = {"fold": int(fold), "round": int(round_)}
        try:
            found = await self.visit.data(f"/orders/{self.order_id}/timeline", **asked)
        except ConsiliumError as error:
            self.below.set_content(note(self.visit.error(error), "bad"))
            return
        # The visitor has chosen something else meanwhile, which has an answer of its
        # own.
        if self.shown != choice:
            return
        parts = found["parts"]
        self.below.set_content(_legend(self.visit, parts, found["prefect_run_deleted"]))
        self.figure.show(*self._picture(parts))
        lanes = {part["user_id"] for part in parts}
        height = 90 + 44 * max(1, len(lanes))
        self.figure.chart.style(f"height:{height}px")

    def _options(self) -> dict[str, str]:
        """Each recorded round, newest first, by fold/round."""
        t = self.visit.t
        around = "Before and after the rounds" if self.has_rounds else "The whole order"
        names = {AROUND: t(around)}
        for entry in reversed(self.rounds):
            fold, number = entry["fold"], entry["round"]
            name = t("Final metrics") if entry["final"] else t("Round {n}", n=number)
            if fold:
                name = f"{t('Fold {n}', n=fold)}: {name}"
            names[f"{fold}/{number}"] = name
        return names

    def _newest(self) -> str:
        """The newest round that trained something."""
        for entry in reversed(self.rounds):
            if not entry["final"]:
                return f"{entry['fold']}/{entry['round']}"
        return AROUND

    def _picture(self, parts: list[dict[str, Any]]) -> Drawing:
        """A bar for each part; one that still runs lasts until now."""
        spans = []
        rows = [["user_id", "part", "began", "ended", "state"]]
        for part in parts:
            began = _seconds(part["began"])
            ended = _seconds(part["ended"]) if part["ended"] else time.time()
            what = self.visit.t(part["what"])
            spans.append(Span(who=self._who(part), what=what, began=began, ended=ended))
            rows.append(
                [part[name] for name in ("user_id", "what", "began", "ended", "state")]
            )
        options = charts.spans(
            spans, x_name=self.visit.t("seconds"), is_dark=self.visit.is_dark
        )
        return Drawing(options, rows)

    def _who(self, part: dict[str, Any]) -> str:
        if not part["user_id"]:
            return self.visit.t("coordinator")
        return named(self.visit, part["user_id"], self.names)


def _legend(visit: Visit, parts: list[dict[str, Any]], deleted: str | None) -> Safe:
    """Each part by its colour; why there is none."""
    t = visit.t
    # The order of first mention, in which charts.spans gives out the colours.
    kinds = list(dict.fromkeys(t(part["what"]) for part in parts))
    if deleted is not None:
        return note(t(RUN_DELETED, when=moment(deleted)))
    if not kinds:
        return note(t("Prefect has recorded no part of it yet."))
    marks = ""
    for place, kind in enumerate(kinds):
        style = f"display:inline-block;width:.8em;height:.8em;background:{charts.colour(place)}"
        marks += f'<span><i style="{style}"></i> {shown(kind)}</span>'
    return Safe(f'<p class="row">{marks}</p>')


def _seconds(moment: str) -> float:
    """Of the epoch."""
    instant = datetime.fromisoformat(moment).astimezone(UTC)
    return instant.timestamp()
