"""Anomaly and contribution: one score of all clients by round, and all scores of one
round side by side.

`SCORES` says what each score sees, `ScoresQuery` reads the address, `ScoreView` draws.
Each choice on the page is an address of its own, so that a picture can be sent to
somebody as a link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from api.pages import charts
from api.pages.frame import Safe, figure, frame, html, link, note, number, shown, table
from api.pages.order_list import hospital_names
from api.pages.visit import Visit
from protocol.errors import ConsiliumError

MOST_ROUNDS = 100  # in one picture; each is a call of the API
DEFAULT_SCORE = "geometric_median"
PARAMETERS = ("k", "p", "n_attackers")


@dataclass(frozen=True)
class Score:
    """What a score takes, and what it can and cannot see (docs/scores.md)."""

    address: str  # of the API
    takes: dict[
        str, str
    ]  # its arguments, each with the report's name for the value used without it
    sees: str
    misses: str


SCORES = {
    "krum": Score(
        "/anomaly/krum",
        {"k": "k"},
        "Who is far from its k nearest.",
        "k + 1 attackers who agree: to each other they are near. k must be larger than their number.",
    ),
    "foolsgold": Score(
        "/anomaly/foolsgold",
        {"k": "k"},
        "Who points in another direction than its k nearest.",
        "Length: who sends ten times its gradient looks honest. And k + 1 attackers who agree.",
    ),
    "zeno": Score(
        "/anomaly/zeno",
        {"p": "zeno_weight"},
        "Whose loss fell little while its gradient changed much since the round before.",
        "Direction, and an attack that goes on as before. Losses are those that hospitals report.",
    ),
    "auror": Score(
        "/anomaly/auror",
        {"k": "clusters"},
        "Who is far from the middle of the group it is counted to.",
        "Attackers who get a group of their own: a low score is no sign of health. k = 1 has no such blind spot.",
    ),
    "sniper": Score(
        "/anomaly/sniper",
        {"p": "p"},
        "Who is not in the majority: 0 within, 1 outside.",
        "Attackers, where p of all is more than there are honest ones.",
    ),
    "pca": Score(
        "/anomaly/pca",
        {"k": "components"},
        "Who is not described by the directions in which most differ.",
        "A strong attacker: the directions then point at it. A low score is no sign of health.",
    ),
    "true_krum": Score(
        "/anomaly/true_krum",
        {"n_attackers": "n_attackers"},
        "Who is far from its neighbours; with a proof, for few enough attackers.",
        "Attackers who keep their length, where honest hospitals have very different rows.",
    ),
    "multi_krum": Score(
        "/anomaly/multi_krum",
        {"n_attackers": "n_attackers"},
        "Whom the aggregation multi_krum would leave out: 1, others 0.",
        "The same as true_krum; where rows differ it leaves out honest hospitals too.",
    ),
    "geometric_median": Score(
        "/anomaly/geometric_median",
        {},
        "Who is far from a middle that fewer than half cannot move.",
        "Attackers who keep their length, where honest hospitals have very different rows.",
    ),
    "foolsgold_weight": Score(
        "/anomaly/foolsgold_weight",
        {},
        "Who points the same way as another: the same attacker under several names.",
        "Everything else; and honest hospitals that agree very well look the same.",
    ),
    "grad_diff": Score(
        "/contribution/grad_diff",
        {},
        "How far a hospital pulls away from where the model was going.",
        "Whether that is good: an attacker who sends a large vector contributes most.",
    ),
    "perf_diff": Score(
        "/contribution/perf_diff",
        {},
        "How much worse the model is without the hospital; below 0 it is better without.",
        "What test rows do not show. In sealed orders each hospital measures it itself.",
    ),
}


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
        for name in PARAMETERS:
            text = question.text(name)
            if text:
                self.given[name] = text

    def address(self, **changes: Any) -> str:
        """The address of this page with other choices; empty ones are left out."""
        wanted = {
            "order_id": self.order_id,
            "score": self.score,
            "round": self.round,
            "last": self.last,
            "layers": self.layers,
            **self.given,
            **changes,
        }
        chosen = {
            name: value for name, value in wanted.items() if value not in (None, "")
        }
        return f"/page/scores?{urlencode(chosen)}"


async def show_scores(visit: Visit, question: Any) -> None:
    t = visit.t
    asked = ScoresQuery(question)
    with frame(visit, t("Scores")):
        html(f'<p class="soft">{shown(t(CAUTION))}</p>')
        if asked.order_id is None:
            # Which order is the newest that this visitor may read is for the API to
            # say.
            newest = await visit.call("GET", "/anomaly/report")
            asked.order_id = int(newest.headers["x-order-id"])
        found = await visit.data(f"/orders/{asked.order_id}/rounds", limit=1000)
        names = await hospital_names(visit)
        view = ScoreView(visit, asked, found["rounds"], names)
        view.choices()
        response = await visit.call(
            "GET", "/anomaly/report", params=view.params({}, asked.round)
        )
        report = response.json()
        html(view.explained())
        await view.by_round(report["parameters"])
        view.side_by_side(report)


CAUTION = (
    "A score says how one hospital's gradient lies among the others'. It is no verdict: a hospital with rare patients "
    "is unlike the others. Look at several rounds and several scores."
)


class ScoreView:
    """The page of one order."""

    def __init__(
        self,
        visit: Visit,
        asked: ScoresQuery,
        rounds: list[dict[str, Any]],
        names: dict[int, str],
    ) -> None:
        self.visit = visit
        self.asked = asked
        self.rounds = rounds  # the newest first, as the API lists them
        self.names = names

    def name(self, client: int) -> str:
        return self.names.get(client, str(client))

    def params(self, arguments: dict[str, Any], round_: int | None) -> dict[str, Any]:
        """The arguments of a call for a score of this order."""
        sent = {
            "order_id": self.asked.order_id,
            "round": round_,
            "layers": self.asked.layers or None,
            **arguments,
        }
        return {name: value for name, value in sent.items() if value is not None}

    def choices(self) -> None:
        t, asked = self.visit.t, self.asked
        order = link(f"/page/orders/{asked.order_id}", t("Order {n}", n=asked.order_id))
        html(Safe(f"<p>{order}</p>"))
        layers = list(self.rounds[0]["layers"]) if self.rounds else []
        numbers = [entry["round"] for entry in self.rounds]
        with ui.element("div").classes("row"):
            # Another score takes other arguments.
            scores = {name: name for name in SCORES}
            self._select(
                t("Score"),
                scores,
                asked.score,
                "score",
                **dict.fromkeys(PARAMETERS, ""),
            )
            if len(layers) > 1:
                choices = {"": t("as the default"), ",".join(layers): t("all layers")}
                choices |= {name: name for name in layers}
                self._select(t("Layers"), choices, asked.layers, "layers")
            for name in SCORES[asked.score].takes:
                self._entry(name)
            if numbers:
                rounds = {number_: str(number_) for number_ in numbers}
                self._select(t("Round side by side"), rounds, asked.round, "round")
            if len(numbers) > MOST_ROUNDS:
                ends = {number_: str(number_) for number_ in numbers[::MOST_ROUNDS]}
                self._select(t("100 rounds that end with"), ends, asked.last, "last")

    def _select(
        self, label: str, options: dict[Any, str], value: Any, name: str, **changes: Any
    ) -> None:
        """A choice that goes on to its own address."""

        def go(event: Any) -> None:
            ui.navigate.to(self.asked.address(**changes, **{name: event.value}))

        if value not in options:
            value = next(iter(options), None)
        ui.select(options, label=label, value=value, on_change=go).style(
            "min-width:170px"
        )

    def _entry(self, name: str) -> None:
        """The same for an argument that is typed."""
        placeholder = self.visit.t("as the default")
        entry = ui.input(
            name, value=self.asked.given.get(name, ""), placeholder=placeholder
        )

        def go() -> None:
            ui.navigate.to(self.asked.address(**{name: entry.value}))

        entry.style("width:120px").on("change", go)

    def explained(self) -> Safe:
        t = self.visit.t
        score = SCORES[self.asked.score]
        sees = f"<b>{shown(self.asked.score)}</b> {shown(t('sees:'))} {shown(t(score.sees))}"
        misses = f"<b>{shown(t('Does not see:'))}</b> {shown(t(score.misses))}"
        return note(Safe(f"{sees} {misses}"))

    async def by_round(self, defaults: dict[str, Any]) -> None:
        """The heat map: a row for each client, a column for each round; where there is
        no score, why.
        """
        t, asked = self.visit.t, self.asked
        score = SCORES[asked.score]
        arguments = {}
        for name, default in score.takes.items():
            arguments[name] = asked.given.get(name, defaults[default])
        numbers = [entry["round"] for entry in self.rounds]
        if asked.last is not None:
            numbers = [number_ for number_ in numbers if number_ <= asked.last]
        numbers = sorted(numbers[:MOST_ROUNDS])
        columns, missing = await self._scores_of(score, arguments, numbers)
        clients: set[int] = set()
        for column in columns:
            clients.update(int(client) for client in column)
        if not clients and missing:
            html(note(next(iter(missing.values())), "bad"))
            return
        names, cells = [], []
        rows: list[list[Any]] = [["client", *numbers]]
        for client in sorted(clients):
            name = self.name(client)
            line = [column.get(str(client)) for column in columns]
            names.append(name)
            cells.append(line)
            rows.append([name, *line])
        options = charts.heat_map(
            numbers, names, cells, x_name=t("Round"), is_dark=self.visit.is_dark
        )
        label = t("{score} of each client by round", score=asked.score)
        html(f"<h2>{shown(label)}</h2>")

        def go(event: Any) -> None:
            ui.navigate.to(asked.address(round=numbers[event.value[0]]))

        file = f"order-{asked.order_id}-{asked.score}"
        picture = figure(self.visit, file, options, rows, label=label, on_click=go)
        height = max(260, 130 + 22 * len(names))
        picture.chart.style(f"height:{height}px")
        if missing:
            without = ", ".join(map(str, missing))
            first = next(iter(missing.values()))
            html(
                f'<p class="soft">{shown(t("Without a score:"))} {shown(without)}. {shown(first)}</p>'
            )

    async def _scores_of(
        self, score: Score, arguments: dict[str, Any], numbers: list[int]
    ) -> tuple[list[dict[str, Any]], dict[int, str]]:
        """({client: score} of each round, the sentence of each round that has no
        scores).
        """
        columns: list[dict[str, Any]] = []
        missing: dict[int, str] = {}
        for number_ in numbers:
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
        data, round_ = report["data"], report["round"]
        clients = sorted(data, key=int)
        names = [self.name(int(client)) for client in clients]
        kinds = list(next(iter(data.values()), {}))
        label = t("All scores of round {n}", n=round_)
        html(f"<h2>{shown(label)}</h2>")
        # Scores have no common unit: each is drawn on its own scale.
        scaled = []
        for kind in kinds:
            scores = [data[client][kind]["score"] for client in clients]
            scaled.append(_from_low_to_high(scores))
        by_client = [list(line) for line in zip(*scaled, strict=True)]
        options = charts.heat_map(
            kinds,
            names,
            by_client,
            x_name=t("from the lowest (0) to the highest (1)"),
            is_dark=self.visit.is_dark,
        )
        # The names of scores are long: they stand at an angle, with room for them.
        options["xAxis"]["axisLabel"] |= {"rotate": 35, "hideOverlap": False}
        options["xAxis"]["nameGap"] = 76
        options["grid"]["bottom"] = 130
        file_rows: list[list[Any]] = [["client", *kinds]]
        table_rows: list[list[str]] = []
        for client, name in zip(clients, names, strict=True):
            file_row, table_row = [name], [name]
            for kind in kinds:
                own = data[client][kind]
                file_row.append(own["score"])
                table_row.append(f"{number(own['score'])} ({own['rank'] or '-'})")
            file_rows.append(file_row)
            table_rows.append(table_row)
        file = f"order-{self.asked.order_id}-round-{round_}"
        picture = figure(self.visit, file, options, file_rows, label=label)
        height = max(320, 230 + 22 * len(names))
        picture.chart.style(f"height:{height}px")
        caption = t("Score, and its rank; 1 is the most anomalous")
        html(table([t("Client"), *kinds], table_rows, caption=caption))
        reasons = ""
        for kind, text in report["unavailable"].items():
            reasons += f"<li>{shown(kind)}: {shown(text)}</li>"
        if reasons:
            html(f'<ul class="soft">{reasons}</ul>')


def _from_low_to_high(values: list[float | None]) -> list[float | None]:
    """(value - lowest) / (highest - lowest); 0 where all are the same."""
    known = [value for value in values if value is not None]
    lowest = min(known, default=0.0)
    span = max(known, default=0.0) - lowest
    scaled: list[float | None] = []
    for value in values:
        if value is None:
            scaled.append(None)
        elif not span:
            scaled.append(0.0)
        else:
            scaled.append((value - lowest) / span)
    return scaled
