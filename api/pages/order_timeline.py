"""An order's timeline as a picture: which part ran where and when, in one round or around the rounds."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from api.pages import charts
from api.pages.charts import Span
from api.pages.frame import Safe, figure, html, note, shown
from api.pages.order_list import named
from api.pages.visit import Visit
from api.store.tables import ENDED
from protocol.errors import ConsiliumError

AROUND = "around"
REST_SECONDS = 3.0
"""While an order runs, Prefect has better things to do than to be asked more often."""
WAITING = (
    "The coordinator's parts last until all hospitals have sent theirs; each hospital's times are by its own"
    " clock."
)


class Timeline:
    """The picture, and the choice of what it shows: the newest round until the visitor chooses."""

    def __init__(self, visit: Visit, order: dict[str, Any], names: dict[int, str]) -> None:
        self.visit, self.order_id, self.names = visit, order["order_id"], names
        self.rounds: list[dict[str, Any]] = order["rounds"]
        self.has_rounds = order["kind"] == "train"
        self.is_over = order["state"] in ENDED
        self.is_chosen, self.shown = False, ""
        t = visit.t
        with ui.element("div").classes("row"):
            self.choice = ui.select(
                self._options(), value=self._newest(), label=t("Parts of"), on_change=self.choose
            )
            self.choice.style("min-width:260px")
        self.said = html("")
        name = f"order-{self.order_id}-timeline"
        self.figure = figure(visit, name, *self._picture([]), label=t("Which part ran where and when"))
        html(f'<p class="soft">{shown(t(WAITING))}</p>')
        ui.timer(0, self.draw, once=True)
        self.clock = ui.timer(REST_SECONDS, self._look_again, active=not self.is_over)

    def news(self, order: dict[str, Any], rounds: list[dict[str, Any]]) -> None:
        """The order has gone on: a visitor who has chosen nothing sees its newest round, when the clock ticks."""
        self.rounds, self.is_over = rounds, order["state"] in ENDED
        self.choice.set_options(
            self._options(), value=self.choice.value if self.is_chosen else self._newest()
        )

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
        """Asks the API; what cannot be had is told in its sentence. An answer to an earlier choice is not drawn."""
        self.shown = choice = str(self.choice.value)
        fold, _, round_ = choice.partition("/")
        asked = {} if choice == AROUND else {"fold": int(fold), "round": int(round_)}
        try:
            parts = (await self.visit.data(f"/orders/{self.order_id}/timeline", **asked))["parts"]
        except ConsiliumError as error:
            self.said.set_content(note(self.visit.error(error), "bad"))
            return
        if self.shown != choice:
            return
        self.said.set_content(_legend(self.visit, parts))
        self.figure.show(*self._picture(parts))
        self.figure.chart.style(f"height:{90 + 44 * max(1, len({one['user_id'] for one in parts}))}px")

    def _options(self) -> dict[str, str]:
        """Each recorded round, newest first, by fold/round."""
        t = self.visit.t
        names = {}
        for one in reversed(self.rounds):
            name = t("Final metrics") if one["final"] else t("Round {n}", n=one["round"])
            names[f"{one['fold']}/{one['round']}"] = (
                f"{t('Fold {n}', n=one['fold'])}: {name}" if one["fold"] else name
            )
        return {AROUND: t("Before and after the rounds" if self.has_rounds else "The whole order"), **names}

    def _newest(self) -> str:
        rounds = [one for one in self.rounds if not one["final"]]
        return f"{rounds[-1]['fold']}/{rounds[-1]['round']}" if rounds else AROUND

    def _picture(self, parts: list[dict[str, Any]]) -> tuple[dict[str, Any], list[list[Any]]]:
        began = [_seconds(one["began"]) for one in parts]
        ended = [_seconds(one["ended"]) if one["ended"] else time.time() for one in parts]
        found = [
            Span(self._who(one), self.visit.t(one["what"]), a, b)
            for one, a, b in zip(parts, began, ended, strict=True)
        ]
        options = charts.spans(found, x_name=self.visit.t("seconds"), is_dark=self.visit.is_dark)
        rows = [["user_id", "part", "began", "ended", "state"]]
        rows += [[one["user_id"], one["what"], one["began"], one["ended"], one["state"]] for one in parts]
        return options, rows

    def _who(self, part: dict[str, Any]) -> str:
        return (
            named(self.visit, part["user_id"], self.names) if part["user_id"] else self.visit.t("coordinator")
        )


def _legend(visit: Visit, parts: list[dict[str, Any]]) -> Safe:
    """Each part by its colour."""
    t = visit.t
    kinds = list(dict.fromkeys(t(one["what"]) for one in parts))
    if not kinds:
        return note(t("Prefect has recorded no part of it yet."))
    marks = "".join(
        f'<span><i style="display:inline-block;width:.8em;height:.8em;background:{charts.colour(n)}"></i> '
        f"{shown(kind)}</span>"
        for n, kind in enumerate(kinds)
    )
    return Safe(f'<p class="row">{marks}</p>')


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).astimezone(UTC).timestamp()
