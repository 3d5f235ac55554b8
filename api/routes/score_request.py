"""What a call of the analytics endpoints asks for, who may have it, and how scores are shown."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.responses import JSONResponse

from api.auth import AGENT, HOSPITAL, CallerOf, require_reader
from api.routes import score_arguments as given
from api.routes.score_arguments import LayersOf, NormalizeOf, OrderIdOf, RoundOf
from api.routes.services import Services
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.round_files import RoundFiles
from api.store.rows import OrderRow, RoundEntry
from protocol.errors import BadRequest, Forbidden, NotFound

DEFAULT_LAYERS = ["dense"]
N_SHOWN = 20
T = TypeVar("T")


class Asked:
    """Who asks for which order and round, and the parts of the application that answer."""

    def __init__(
        self, request: Request, caller: CallerOf, order_id: OrderIdOf = None, round_: RoundOf = None
    ) -> None:
        given.refuse_unknown(request)
        self.request, self.caller, self.services = request, caller, Services(request)
        self.files: RoundFiles = request.app.state.round_files
        self.order_id = given.integer("order_id", order_id, least=1)
        self.round = given.integer("round", round_, least=0)

    async def order(self, what: Literal["files", "reports"] = "files", *, is_score: bool = True) -> OrderRow:
        """The order whose `files` or `reports` are asked for. NotFound, or Forbidden when it is not the caller's."""
        if self.order_id is not None:
            order = await in_thread(self.services.store.orders.get, self.order_id)
            _require_reader(self.caller, order, is_score=is_score)
            return order

        def may_read(found: OrderRow) -> bool:
            try:
                _require_reader(self.caller, found, is_score=is_score)
            except Forbidden:
                return False
            return True

        newest = await in_thread(self.services.store.rounds.newest_order_with, what, may_read)
        if newest is None:
            raise NotFound(
                "There is no order with recorded rounds that this token may read.",
                remedy="Send an order with scoring, or record rounds into one of kind external.",
                code="no_rounds",
            )
        return newest

    async def entry(self, order: OrderRow) -> RoundEntry:
        """The index entry of the round that is asked for, or of the newest."""
        entry = await in_thread(self.services.store.rounds.file, order.order_id, self.round)
        if entry is not None:
            return entry
        numbers = await in_thread(self.services.store.rounds.file_numbers, order.order_id)
        if not numbers:
            raise NotFound(
                f"order_id is {order.order_id}, and no gradients of that order are recorded.",
                remedy="Send an order with scoring round or full, or with method None.",
                code="no_rounds",
            )
        raise unknown_round(self.round, order.order_id, numbers)

    async def work(self, task: Callable[[], T]) -> T:
        """Runs arithmetic in a thread, few at a time; a number that a rule cannot take is a BadRequest."""
        return await to_thread.run_sync(lambda: _told(task), limiter=self.request.app.state.scoring)


class Scoring(Asked):
    """The same, and the layers and form of a score."""

    def __init__(
        self,
        request: Request,
        caller: CallerOf,
        order_id: OrderIdOf = None,
        round_: RoundOf = None,
        layers: LayersOf = None,
        normalize: NormalizeOf = None,
    ) -> None:
        super().__init__(request, caller, order_id, round_)
        self.layers = given.layers_of(request)
        self.normalize = given.choice("normalize", normalize, ("minmax",), default=None)

    def layers_in(self, entry: RoundEntry) -> list[str]:
        return known_layers(entry, self.layers or DEFAULT_LAYERS)

    def answer(
        self, order: OrderRow, round_: int, scores: Mapping[int, float | None], **headers: str
    ) -> JSONResponse:
        """{"round", "data"}: a score or null for each client."""
        values = normalized(scores) if self.normalize else scores
        data = {str(client): value for client, value in values.items()}
        return bare(order, {"round": round_, "data": data}, **headers)


AskedOf = Annotated[Asked, Depends()]
ScoringOf = Annotated[Scoring, Depends()]


def _told(task: Callable[[], T]) -> T:
    try:
        return task()
    except ValueError as error:
        sentence = str(error).rstrip(".")
        raise BadRequest(f"{sentence}.", remedy="Correct the argument.", code="argument") from None


def _require_reader(caller: Caller, order: OrderRow, *, is_score: bool) -> None:
    """Parties, owner and operators; of scores the operator only, where a hospital's policy says so."""
    require_reader(caller, order.hospitals)
    if is_score and order.score_readers == "operator" and caller.role in (HOSPITAL, AGENT):
        raise Forbidden(
            f"Gradients and scores of order {order.order_id} are for the operator only.",
            remedy="Its hospitals' policies say so (score_readers); ask the operator.",
            code="score_readers",
        )


def unknown_round(round_: int | None, order_id: int, numbers: Iterable[int]) -> NotFound:
    return NotFound(
        f"round is {round_}, and order {order_id} has no such round.",
        remedy=f"It has rounds {_ranges(sorted(numbers))}.",
        code="round",
    )


def _ranges(numbers: list[int]) -> str:
    """0 to 9, 12 for the rounds 0, 1, ..., 9 and 12."""
    runs = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ends = [[number for _, number in run] for _, run in runs]
    words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in ends]
    return ", ".join([*words[:N_SHOWN], *(["..."] if len(words) > N_SHOWN else [])]) or "none"


def known_layers(entry: RoundEntry, wanted: list[str]) -> list[str]:
    """The wanted layers, all of which the round has. NotFound names the first that it has not, and those it has."""
    for layer in wanted:
        if layer not in entry.layers:
            names = list(entry.layers)
            raise NotFound(
                f"layers is {given.shown(','.join(wanted))}, and round {entry.round} has no {given.shown(layer)}.",
                remedy=f"It has {', '.join(names[:N_SHOWN])}{', ...' if len(names) > N_SHOWN else ''}.",
                code="layer",
            )
    return wanted


def bare(order: OrderRow, data: Any, **headers: str) -> JSONResponse:
    """An answer in the document's shape; which order it is about stands in a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(data, headers={"X-Order-Id": str(order.order_id), **named})


def frame_headers(entry: RoundEntry) -> dict[str, str]:
    return {"X_Gradient_Frame": "sealed"} if entry.kind == "sealed" else {}


def by_client(entry: RoundEntry, scores: Iterable[Any]) -> dict[int, float | None]:
    return {client: finite(float(score)) for client, score in zip(entry.clients, scores, strict=True)}


def finite(value: Any) -> float | None:
    """A number as JSON can hold it; None for NaN, infinity and what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def normalized(scores: Mapping[int, float | None]) -> dict[int, float | None]:
    """(score - smallest) / (largest - smallest); 0 where all are the same; null stays null."""
    known = [score for score in scores.values() if score is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    span = high / 2 - low / 2  # halves, because the difference may leave the range of float64
    return {
        client: None if score is None else ((score / 2 - low / 2) / span if span else 0.0)
        for client, score in scores.items()
    }


def ranked(scores: Mapping[int, float | None]) -> dict[int, int | None]:
    """1 for the highest; equal scores have equal ranks; None has none."""
    known = [score for score in scores.values() if score is not None]
    return {
        client: None if score is None else 1 + sum(other > score for other in known)
        for client, score in scores.items()
    }
