"""Anomaly and contribution: one score of all hospitals by round, and all scores of one
round side by side.

`score_words` says what each score sees, `ScoresQuery` reads the address, `ScoreView`
draws. Each choice on the page is an address of its own, so that a picture can be sent to
somebody as a link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from nicegui import background_tasks, ui

from api.pages import charts
from api.pages.frame import (
    Safe,
    bar,
    figure,
    follow,
    frame,
    html,
    link,
    note,
    shown,
    table,
)
from api.pages.order_list import KINDS, hospital_names, method_words
from api.pages.score_words import (
    ARGUMENTS,
    CAUTION,
    NONE_HERE,
    NONE_YET,
    SCORES,
    Score,
    score_name,
)
from api.pages.visit import Visit
from protocol.errors import ConsiliumError, NotFound

MOST_ROUNDS = 100  # in one picture; each is a call of the API
DEFAULT_SCORE = "geometric_median"
PARAMETERS = tuple(ARGUMENTS)
MOST_ORDERS = 100
"""That are offered; an address takes any."""

FEW = 6
"""So many hospitals have a column each in the table of one round's scores."""

NO_ANOMALY = ("foolsgold_weight",)
"""Whose highest is who is most like another, not unlike them."""


class ScoresQuery:
    """What the address asks for."""

    def __init__(self, question: Any) -> None:
        self.order_id = question.number("order_id")
        self.round = question.number("round")  # that is shown side by side
        self.last = question.number("last")  # round of the picture by round
        self.score = question.text("score", DEFAULT_SCORE)
        if self.score not in SCORES:
            self.score = DEFAULT_SCORE
        self.layers = question.text("layers")
        self.given: dict[str, str] = {}
        for parameter in PARAMETERS:
            given_text = question.text(parameter)
            if given_text:
                self.given[parameter] = given_text

    def address(self, **changes: Any) -> str:
        """The address of this page with other choices; empty ones are left out."""
        choices = {
            "order_id": self.order_id,
            "score": self.score,
            "round": self.round,
            "last": self.last,
            "layers": self.layers,
            **self.given,
            **changes,
        }
        chosen = {}
        for parameter, choice in choices.items():
            if choice not in (None, ""):
                chosen[parameter] = choice
        question = urlencode(chosen)
        return f"/page/scores?{question}"


async def show_scores(visit: Visit, question: Any) -> None:
    t = visit.t
    asked = ScoresQuery(question)
    with frame(visit, t("Scores")):
        html(f'<p class="soft">{shown(t(CAUTION))}</p>')
        if asked.order_id is None and not await _take_newest(visit, asked):
            new = link("/page/orders/new", t("New order"))
            sentence = shown(t(NONE_YET))
            html(note(Safe(f"{sentence} {new}")))
            return
        answer = await visit.data("/orders", limit=MOST_ORDERS)
        names = await hospital_names(visit)
        view = ScoreView(visit, asked, names)
        view.choose_order(answer["orders"])
        view.rounds = await _rounds(visit, asked)
        if not view.rounds:
            html(note(t(NONE_HERE)))
            _wait_for_the_first(visit, asked)
            return
        view.choices()
        response = await visit.call(
            "GET", "/anomaly/report", params=view.params({}, asked.round)
        )
        report = response.json()
        html(view.explained())
        view.show_by_round(report["parameters"])
        view.side_by_side(report)


async def _take_newest(visit: Visit, asked: ScoresQuery) -> bool:
    """Which order is the newest that this visitor may read is for the API to say; False
    where there is none.
    """
    try:
        newest = await visit.call("GET", "/anomaly/report")
    except NotFound as error:
        if error.code != "no_rounds":
            raise
        return False
    asked.order_id = int(newest.headers["x-order-id"])
    return True


async def _rounds(visit: Visit, asked: ScoresQuery) -> list[dict[str, Any]]:
    """The recorded rounds, the newest first."""
    answer = await visit.data(f"/orders/{asked.order_id}/rounds", limit=1000)
    rounds: list[dict[str, Any]] = answer["rounds"]
    return rounds


def _wait_for_the_first(visit: Visit, asked: ScoresQuery) -> None:
    async def look() -> bool:
        if not await _rounds(visit, asked):
            return True
        ui.navigate.to(asked.address())
        return False

    follow(visit, "order", look)


class ScoreView:
    """The page of one order."""

    def __init__(
        self,
        visit: Visit,
        asked: ScoresQuery,
        names: dict[int, str],
    ) -> None:
        self.visit = visit
        self.asked = asked
        self.names = names
        self.rounds: list[dict[str, Any]] = []  # the newest first

    def name(self, client: int) -> str:
        return self.names.get(client, str(client))

    def params(self, arguments: dict[str, Any], round_: int | None) -> dict[str, Any]:
        """The arguments of a call for a score of this order."""
        parameters = {
            "order_id": self.asked.order_id,
            "round": round_,
            "layers": self.asked.layers or None,
            **arguments,
        }
        return {name: value for name, value in parameters.items() if value is not None}

    def choose_order(self, orders: Iterable[Mapping[str, Any]]) -> None:
        """Another training; what was chosen of this one's rounds is not of that one."""
        t = self.visit.t
        chosen = self.asked.order_id
        offered: dict[Any, str] = {}
        for order in orders:
            kind = order["kind"]
            if kind in ("train", "external"):
                order_id = order["order_id"]
                kind_label = t(KINDS[kind])
                method = method_words(self.visit, order)
                state_label = t(order["state"])
                offered[order_id] = f"{order_id}: {kind_label}, {method}, {state_label}"
        offered.setdefault(chosen, str(chosen))
        forgotten = dict.fromkeys(("round", "last", "layers"), "")
        with ui.element("div").classes("row"):
            choice = self._select(
                t("Order"),
                offered,
                chosen,
                "order_id",
                **forgotten,
            )
            choice.style("min-width:min(100%,340px)")
            address = f"/page/orders/{chosen}"
            html(link(address, t("Order {n}", n=chosen)))

    def choices(self) -> None:
        t = self.visit.t
        asked = self.asked
        layers = list(self.rounds[0]["layers"])
        numbers = {entry["round"]: str(entry["round"]) for entry in self.rounds}
        # Another score takes other arguments.
        forgotten = dict.fromkeys(PARAMETERS, "")
        scores = {score: score_name(self.visit, score) for score in SCORES}
        with ui.element("div").classes("row"):
            choice = self._select(
                t("Score"),
                scores,
                asked.score,
                "score",
                **forgotten,
            )
            choice.style("min-width:min(100%,340px)")
            if len(layers) > 1:
                choices = {"": t("as the default")}
                choices[",".join(layers)] = t("all layers")
                choices |= {layer: layer for layer in layers}
                self._select(t("Layers"), choices, asked.layers, "layers")
            for argument in SCORES[asked.score].takes:
                self._entry(argument)
            self._select(t("Round side by side"), numbers, asked.round, "round")
            if len(self.rounds) > MOST_ROUNDS:
                last_rounds = [entry["round"] for entry in self.rounds[::MOST_ROUNDS]]
                ends = {number_: str(number_) for number_ in last_rounds}
                self._select(t("100 rounds that end with"), ends, asked.last, "last")

    def _select(
        self,
        label: str,
        options: dict[Any, str],
        value: Any,
        name: str,
        **changes: Any,
    ) -> Any:
        """A choice that goes on to its own address."""

        def go(event: Any) -> None:
            ui.navigate.to(self.asked.address(**changes, **{name: event.value}))

        if value not in options:
            value = next(iter(options), None)
        choice: Any = ui.select(options, label=label, value=value, on_change=go)
        return choice.style("min-width:170px")

    def _entry(self, name: str) -> None:
        """The same for an argument that is typed."""
        t = self.visit.t
        label = t(ARGUMENTS[name][self.asked.score])
        argument_input = ui.input(
            label,
            value=self.asked.given.get(name, ""),
            placeholder=t("as the default"),
        )

        def go() -> None:
            ui.navigate.to(self.asked.address(**{name: argument_input.value}))

        argument_input.style("width:260px").on("change", go)

    def explained(self) -> Safe:
        t = self.visit.t
        score = SCORES[self.asked.score]
        score_label = shown(score_name(self.visit, self.asked.score))
        sees = f"<p><b>{score_label}</b> {shown(t('sees:'))} {shown(t(score.sees))}</p>"
        misses = f"<p><b>{shown(t('Does not see:'))}</b> {shown(t(score.misses))}</p>"
        return note(Safe(f"{sees}{misses}"))

    def show_by_round(self, defaults: dict[str, Any]) -> None:
        """The heat map, once the page is there: each round is a call of the API, and of a
        hundred a bar says how many have come.
        """
        score_label = score_name(self.visit, self.asked.score)
        label = self.visit.t("{score} by hospital and round", score=score_label)
        html(f"<h2>{shown(label)}</h2>")
        client = ui.context.client
        with ui.element("div").classes("part") as picture_place:
            coming = html("").props('aria-live="polite"')

        async def fill() -> None:
            await client.connected()
            with picture_place:
                await self.by_round(label, defaults, coming)
                coming.delete()

        background_tasks.create(fill(), name="scores by round")

    async def by_round(self, label: str, defaults: dict[str, Any], coming: Any) -> None:
        """A row for each hospital, a column for each round; where there is no score, why."""
        t = self.visit.t
        asked = self.asked
        score = SCORES[asked.score]
        arguments = {}
        for name, default in score.takes.items():
            arguments[name] = asked.given.get(name, defaults[default])
        numbers = [entry["round"] for entry in self.rounds]
        if asked.last is not None:
            numbers = [number_ for number_ in numbers if number_ <= asked.last]
        numbers = sorted(numbers[:MOST_ROUNDS])
        columns, missing = await self._scores_of(score, arguments, numbers, coming)
        clients: set[int] = set()
        for column in columns:
            clients.update(int(client) for client in column)
        reasons = list(missing.values())
        if not clients and missing:
            html(note(reasons[0], "bad"))
            return
        client_names = []
        cells = []
        rows: list[list[Any]] = [["hospital", *numbers]]
        for client in sorted(clients):
            name = self.name(client)
            client_scores = [column.get(str(client)) for column in columns]
            client_names.append(name)
            cells.append(client_scores)
            rows.append([name, *client_scores])
        options = charts.heat_map(
            numbers,
            client_names,
            cells,
            x_name=t("Round"),
            is_dark=self.visit.is_dark,
        )

        def go(event: Any) -> None:
            round_place = event.value[0]
            ui.navigate.to(asked.address(round=numbers[round_place]))

        file_name = f"order-{asked.order_id}-{asked.score}"
        picture = figure(self.visit, file_name, options, rows, label=label, on_click=go)
        height = max(260, 130 + 22 * len(client_names))
        picture.chart.style(f"height:{height}px")
        if missing:
            caption = shown(t("Rounds without a score:"))
            without = shown(", ".join(map(str, missing)))
            first_reason = shown(reasons[0])
            html(f'<p class="soft">{caption} {without}. {first_reason}</p>')

    async def _scores_of(
        self,
        score: Score,
        arguments: dict[str, Any],
        numbers: list[int],
        coming: Any,
    ) -> tuple[list[dict[str, Any]], dict[int, str]]:
        """({client: score} of each round, the sentence of each round that has no
        scores).
        """
        columns: list[dict[str, Any]] = []
        missing: dict[int, str] = {}
        n_rounds = len(numbers)
        for n_done, number_ in enumerate(numbers):
            label = self.visit.t("{n} of {of} rounds", n=n_done, of=n_rounds)
            grown = bar(n_done, n_rounds, label)
            coming.set_content(f"{shown(label)} {grown}")
            params = self.params(arguments, number_)
            column = {}
            try:
                response = await self.visit.call("GET", score.address, params=params)
                column = response.json()["data"]
            except ConsiliumError as error:
                missing[number_] = self.visit.error(error)
            columns.append(column)
        return columns, missing

    def side_by_side(self, report: dict[str, Any]) -> None:
        """All anomaly scores of one round: each from its lowest (0) to its highest (1),
        and in figures with ranks.
        """
        t = self.visit.t
        data = report["data"]
        round_ = report["round"]
        clients = sorted(data, key=int)
        client_names = [self.name(int(client)) for client in clients]
        kinds = list(next(iter(data.values()), {}))
        label = t("All scores of round {n}", n=round_)
        html(f"<h2>{shown(label)}</h2>")
        html(self.summary(data))
        html(f'<p class="soft">{shown(t(OWN_SCALES))}</p>')
        by_kind = {}
        for kind in kinds:
            by_kind[kind] = [data[client][kind]["score"] for client in clients]
        scaled = [charts.from_low_to_high(scores) for scores in by_kind.values()]
        by_client = [list(line) for line in zip(*scaled, strict=True)]
        options = charts.heat_map(
            kinds,
            client_names,
            by_client,
            x_name="",
            is_dark=self.visit.is_dark,
        )
        # The names of scores are long: they stand at an angle, with room for them.
        turned = {"rotate": 35, "hideOverlap": False, "interval": 0}
        options["xAxis"]["axisLabel"] |= turned
        file_rows: list[list[Any]] = [["hospital", *kinds]]
        for name, *client_scores in zip(client_names, *by_kind.values(), strict=True):
            file_rows.append([name, *client_scores])
        file_name = f"order-{self.asked.order_id}-round-{round_}"
        picture = figure(self.visit, file_name, options, file_rows, label=label)
        height = max(320, 190 + 22 * len(client_names))
        picture.chart.style(f"height:{height}px")
        html(self.figures(data, clients, client_names, by_kind))
        reasons = ""
        for kind, reason in report["unavailable"].items():
            name = shown(self._called(kind))
            reasons += f"<li>{name}: {shown(reason)}</li>"
        if reasons:
            without = shown(t("Scores that this round does not have:"))
            html(f'<div class="soft">{without}<ul>{reasons}</ul></div>')

    def _called(self, kind: str) -> str:
        """A score's name, where it has one."""
        return score_name(self.visit, kind) if kind in SCORES else kind

    def summary(self, data: Mapping[str, Any]) -> Safe:
        """Who is the most unlike, in words."""
        t = self.visit.t
        n_scores, first_counts = most_unlike(data)
        sentences = []
        for client, n_first in first_counts.items():
            sentence = t(
                "{name} is the most unlike in {n} of {of} scores.",
                name=self.name(int(client)),
                n=n_first,
                of=n_scores,
            )
            sentences.append(sentence)
        if not sentences:
            sentences = [t("No hospital is by itself the most unlike in any score.")]
        return note(" ".join(sentences))

    def figures(
        self,
        data: Mapping[str, Any],
        clients: list[str],
        names: list[str],
        by_kind: Mapping[str, list[float | None]],
    ) -> Safe:
        """The scores with ranks; of few hospitals each has a column, and each score a
        row that says what it is called.
        """
        t = self.visit.t
        cells: dict[str, list[str]] = {}
        for kind, scores in by_kind.items():
            sizes = [abs(score) for score in scores if score is not None]
            largest = max(sizes, default=0)
            score_cells = []
            for client, score in zip(clients, scores, strict=True):
                digits = _short(score, largest)
                rank = data[client][kind]["rank"] or "-"
                score_cells.append(f"{digits} ({rank})")
            cells[kind] = score_cells
        caption = t("Score, and its rank; 1 is the most anomalous")
        if len(clients) <= FEW:
            rows = []
            for kind, score_cells in cells.items():
                rows.append([self._called(kind), *score_cells])
            return table([t("Score"), *names], rows, caption=caption)
        by_client = zip(names, *cells.values(), strict=True)
        return table([t("Hospital"), *cells], by_client, caption=caption)


OWN_SCALES = "In the picture each score goes from its lowest (0) to its highest (1): scores have no common unit."


def most_unlike(data: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    """(How many scores there are, in how many of them each hospital alone is first); the
    most often first, and who is in none is left out.

    >>> most_unlike({"2": {"krum": {"rank": 1}}, "3": {"krum": {"rank": 2}}})
    (1, {'2': 1})
    """
    scores: Iterable[str] = next(iter(data.values()), {})
    kinds = [kind for kind in scores if kind not in NO_ANOMALY]
    counts: dict[str, int] = {}
    for kind in kinds:
        leaders = [client for client, entry in data.items() if entry[kind]["rank"] == 1]
        if len(leaders) == 1:
            (client,) = leaders
            counts[client] = counts.get(client, 0) + 1
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return len(kinds), dict(ordered)


def _short(value: float | None, largest: float) -> str:
    """Three digits, for a person; what is rounding beside the largest is 0."""
    if value is None:
        return "-"
    if abs(value) < 1e-9 * largest:
        return "0"
    return f"{value:.3g}"
