"""Anomaly and contribution: one score of all clients by round, and all scores of one round side by side."""

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

MOST_ROUNDS = 100


@dataclass(frozen=True)
class Score:
    """What a score takes, and what it can and cannot see (docs/scores.md)."""

    address: str
    takes: dict[str, str]
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


class Asked:
    """What the address asks for; each choice is an address of its own."""

    def __init__(self, question: Any) -> None:
        self.order_id, self.round, self.last = (
            question.number(name) for name in ("order_id", "round", "last")
        )
        self.score = question.text("score", "geometric_median")
        if self.score not in SCORES:
            self.score = "geometric_median"
        self.layers = question.text("layers")
        self.given = {name: question.text(name) for name in ("k", "p", "n_attackers") if question.text(name)}

    def address(self, **changes: Any) -> str:
        now = {"order_id": self.order_id, "score": self.score, "round": self.round, "last": self.last}
        wanted = {**now, "layers": self.layers, **self.given, **changes}
        return f"/page/scores?{urlencode({name: value for name, value in wanted.items() if value not in (None, '')})}"


async def show_scores(visit: Visit, question: Any) -> None:
    t, asked = visit.t, Asked(question)
    with frame(visit, t("Scores")):
        html(f'<p class="soft">{shown(t(CAUTION))}</p>')
        sent = {"layers": asked.layers or None}
        if asked.order_id is None:
            newest = await visit.call("GET", "/anomaly/report")
            asked.order_id = int(newest.headers["x-order-id"])
        found = (await visit.data(f"/orders/{asked.order_id}/rounds", limit=1000))["rounds"]
        view = ScoreView(visit, asked, found, await hospital_names(visit))
        view.choices()
        report = (await visit.call("GET", "/anomaly/report", params=view.params(sent, asked.round))).json()
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
        self, visit: Visit, asked: Asked, found: list[dict[str, Any]], names: dict[int, str]
    ) -> None:
        self.visit, self.asked, self.found, self.names = visit, asked, found, names

    def name(self, client: int) -> str:
        return self.names.get(client, str(client))

    def params(self, more: dict[str, Any], round_: int | None) -> dict[str, Any]:
        sent = {"order_id": self.asked.order_id, "round": round_, **more}
        return {name: value for name, value in sent.items() if value is not None}

    def choices(self) -> None:
        t, asked = self.visit.t, self.asked
        html(Safe(f"<p>{link(f'/page/orders/{asked.order_id}', t('Order {n}', n=asked.order_id))}</p>"))
        layers = list(self.found[0]["layers"]) if self.found else []
        numbers = [one["round"] for one in self.found]
        with ui.element("div").classes("row"):
            self._select(
                t("Score"), {name: name for name in SCORES}, asked.score, "score", k="", p="", n_attackers=""
            )
            if len(layers) > 1:
                every = {
                    "": t("as the default"),
                    ",".join(layers): t("all layers"),
                    **{name: name for name in layers},
                }
                self._select(t("Layers"), every, asked.layers, "layers")
            for name in SCORES[asked.score].takes:
                self._entry(name)
            if numbers:
                rounds = {number_: str(number_) for number_ in numbers}
                self._select(t("Round side by side"), rounds, asked.round, "round")
            if len(numbers) > MOST_ROUNDS:
                ends = {number_: f"{number_}" for number_ in numbers[::MOST_ROUNDS]}
                self._select(t("100 rounds that end with"), ends, asked.last, "last")

    def _select(self, label: str, options: dict[Any, str], value: Any, name: str, **changes: Any) -> None:
        """A choice that goes on to its own address."""

        def go(event: Any) -> None:
            ui.navigate.to(self.asked.address(**changes, **{name: event.value}))

        known = value if value in options else next(iter(options), None)
        ui.select(options, label=label, value=known, on_change=go).style("min-width:170px")

    def _entry(self, name: str) -> None:
        entry = ui.input(
            name, value=self.asked.given.get(name, ""), placeholder=self.visit.t("as the default")
        )
        entry.style("width:120px").on(
            "change", lambda: ui.navigate.to(self.asked.address(**{name: entry.value}))
        )

    def explained(self) -> Safe:
        t, score = self.visit.t, SCORES[self.asked.score]
        told = (
            f"<b>{shown(self.asked.score)}</b> {shown(t('sees:'))} {shown(t(score.sees))} "
            f"<b>{shown(t('Does not see:'))}</b> {shown(t(score.misses))}"
        )
        return note(Safe(told))

    async def by_round(self, defaults: dict[str, Any]) -> None:
        """The heat map: a row for each client, a column for each round; where there is no score, why."""
        t, asked = self.visit.t, self.asked
        score = SCORES[asked.score]
        more = {name: asked.given.get(name, defaults[default]) for name, default in score.takes.items()}
        chosen = [one["round"] for one in self.found if asked.last is None or one["round"] <= asked.last]
        numbers = sorted(chosen[:MOST_ROUNDS])
        columns, missing = [], {}
        for number_ in numbers:
            sent = self.params({"layers": asked.layers or None, **more}, number_)
            try:
                columns.append((await self.visit.call("GET", score.address, params=sent)).json()["data"])
            except ConsiliumError as error:
                columns.append({})
                missing[number_] = self.visit.error(error)
        clients = sorted({int(client) for column in columns for client in column})
        if not clients and missing:
            html(note(next(iter(missing.values())), "bad"))
            return
        cells = [[column.get(str(client)) for column in columns] for client in clients]
        names = [self.name(client) for client in clients]
        options = charts.heat_map(numbers, names, cells, x_name=t("Round"), is_dark=self.visit.is_dark)
        rows = [["client", *numbers], *([name, *line] for name, line in zip(names, cells, strict=True))]
        label = t("{score} of each client by round", score=asked.score)
        html(f"<h2>{shown(label)}</h2>")

        def go(event: Any) -> None:
            ui.navigate.to(asked.address(round=numbers[event.value[0]]))

        made = figure(
            self.visit, f"order-{asked.order_id}-{asked.score}", options, rows, label=label, on_click=go
        )
        made.chart.style(f"height:{max(260, 130 + 22 * len(names))}px")
        if missing:
            html(
                f'<p class="soft">{shown(t("Without a score:"))} {shown(", ".join(map(str, missing)))}. '
                f"{shown(next(iter(missing.values())))}</p>"
            )

    def side_by_side(self, report: dict[str, Any]) -> None:
        """All anomaly scores of one round: each from its lowest (0) to its highest (1), and in figures with ranks."""
        t, data = self.visit.t, report["data"]
        clients = sorted(data, key=int)
        kinds = list(next(iter(data.values()), {}))
        html(f"<h2>{shown(t('All scores of round {n}', n=report['round']))}</h2>")
        cells = [_from_low_to_high([data[client][kind]["score"] for client in clients]) for kind in kinds]
        turned = [list(line) for line in zip(*cells, strict=True)]
        names = [self.name(int(client)) for client in clients]
        options = charts.heat_map(
            kinds,
            names,
            turned,
            x_name=t("from the lowest (0) to the highest (1)"),
            is_dark=self.visit.is_dark,
        )
        options["xAxis"]["axisLabel"] |= {"rotate": 35, "hideOverlap": False}
        options["xAxis"]["nameGap"] = 76
        options["grid"]["bottom"] = 130
        rows = [
            ["client", *kinds],
            *([name, *(data[c][k]["score"] for k in kinds)] for name, c in zip(names, clients, strict=True)),
        ]
        label = t("All scores of round {n}", n=report["round"])
        made = figure(
            self.visit, f"order-{self.asked.order_id}-round-{report['round']}", options, rows, label=label
        )
        made.chart.style(f"height:{max(320, 230 + 22 * len(names))}px")
        cells_ = [
            (name, *(f"{number(data[c][k]['score'])} ({data[c][k]['rank'] or '-'})" for k in kinds))
            for name, c in zip(names, clients, strict=True)
        ]
        html(table([t("Client"), *kinds], cells_, caption=t("Score, and its rank; 1 is the most anomalous")))
        why = "".join(
            f"<li>{shown(kind)}: {shown(text)}</li>" for kind, text in report["unavailable"].items()
        )
        if why:
            html(f'<ul class="soft">{why}</ul>')


def _from_low_to_high(values: list[float | None]) -> list[float | None]:
    """(value - lowest) / (highest - lowest); 0 where all are the same."""
    known = [value for value in values if value is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    return [None if value is None else (value - low) / span if span else 0.0 for value in values]
