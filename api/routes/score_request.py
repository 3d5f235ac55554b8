"""Which order and round a call of the analytics endpoints is about, who may read it,
and how scores are shown.

`scores` has the endpoints, `score_arguments` the arguments.
"""

from __future__ import annotations

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
# Errors list so many names or ranges, and then "...".
N_SHOWN = 20
T = TypeVar("T")


class ScoreRequest:
    """Who asks for which order and round, and the parts of the application that answer."""

    def __init__(
        self,
        request: Request,
        caller: CallerOf,
        order_id: OrderIdOf = None,
        round_: RoundOf = None,
    ) -> None:
        given.refuse_unknown(request)
        self.request = request
        self.caller = caller
        self.services = Services(request)
        self.files: RoundFiles = request.app.state.round_files
        self.order_id = given.integer("order_id", order_id, least=1)
        self.round = given.integer("round", round_, least=0)

    async def order(
        self,
        record_kind: Literal["files", "reports"] = "files",
        *,
        is_score: bool = True,
    ) -> OrderRow:
        """The order whose `files` or `reports` are asked for.

        NotFound, or Forbidden when it is not the caller's.
        """
        if self.order_id is not None:
            order = await in_thread(self.services.store.orders.get, self.order_id)
            _require_reader(self.caller, order, is_score=is_score)
            return order

        def may_read(candidate: OrderRow) -> bool:
            try:
                _require_reader(self.caller, candidate, is_score=is_score)
            except Forbidden:
                return False
            return True

        newest = await in_thread(
            self.services.store.rounds.newest_order_with,
            record_kind,
            may_read,
        )
        if newest is None:
            raise NotFound(
                "There is no order with recorded rounds that this token may read.",
                remedy="Send an order with scoring, or record rounds into one of kind external.",
                code="no_rounds",
            )
        return newest

    async def entry(self, order: OrderRow) -> RoundEntry:
        """The index entry of the round that is asked for, or of the newest."""
        rounds = self.services.store.rounds
        round_entry = await in_thread(
            rounds.file,
            order.order_id,
            self.round,
        )
        if round_entry is not None:
            return round_entry
        numbers = await in_thread(rounds.file_numbers, order.order_id)
        if not numbers:
            raise NotFound(
                f"order_id is {order.order_id}, and no gradients of that order are recorded.",
                remedy="Send an order with scoring round or full, or with method None.",
                code="no_rounds",
            )
        raise unknown_round(self.round, order.order_id, numbers)

    async def work(self, task: Callable[[], T]) -> T:
        """Runs arithmetic in a thread, few at a time; a number that a rule cannot take
        is a BadRequest.
        """
        limiter = self.request.app.state.scoring
        return await to_thread.run_sync(_argument_errors, task, limiter=limiter)


class Scoring(ScoreRequest):
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
        super().__init__(
            request,
            caller,
            order_id,
            round_,
        )
        self.layers = given.layers_of(request)
        self.normalize = given.choice(
            "normalize",
            normalize,
            ("minmax",),
            default=None,
        )

    def layers_in(self, entry: RoundEntry) -> list[str]:
        asked_layers = self.layers or DEFAULT_LAYERS
        return known_layers(entry, asked_layers)

    def answer(
        self,
        order: OrderRow,
        round_: int,
        scores: Mapping[int, float | None],
        **headers: str,
    ) -> JSONResponse:
        """{"round", "data"}: a score or null for each client."""
        shown_scores = normalized(scores) if self.normalize else scores
        data = {str(client): score for client, score in shown_scores.items()}
        return bare(
            order,
            {"round": round_, "data": data},
            **headers,
        )


AskedOf = Annotated[ScoreRequest, Depends()]
ScoringOf = Annotated[Scoring, Depends()]


def _argument_errors(task: Callable[[], T]) -> T:
    try:
        return task()
    except ValueError as error:
        sentence = str(error).rstrip(".")
        raise BadRequest(
            f"{sentence}.",
            remedy="Correct the argument.",
            code="argument",
        ) from None


def _require_reader(
    caller: Caller,
    order: OrderRow,
    *,
    is_score: bool,
) -> None:
    """Parties, owner and operators; for scores the operator only, where a hospital's
    policy says so.
    """
    require_reader(caller, order.hospitals)
    is_for_operator = is_score and order.score_readers == "operator"
    if is_for_operator and caller.role in (HOSPITAL, AGENT):
        raise Forbidden(
            f"Gradients and scores of order {order.order_id} are for the operator only.",
            remedy="Its hospitals' policies say so (score_readers); ask the operator.",
            code="score_readers",
        )


def unknown_round(
    round_: int | None,
    order_id: int,
    numbers: Iterable[int],
) -> NotFound:
    round_ranges = _ranges(sorted(numbers))
    return NotFound(
        f"round is {round_}, and order {order_id} has no such round.",
        remedy=f"It has rounds {round_ranges}.",
        code="round",
    )


def _ranges(numbers: list[int]) -> str:
    """0 to 9, 12 for the rounds 0, 1, ..., 9 and 12."""
    number_runs: list[list[int]] = []
    for number in numbers:
        newest = number_runs[-1] if number_runs else []
        if newest and number == newest[-1] + 1:
            newest.append(number)
        else:
            number_runs.append([number])
    ranges = []
    for number_run in number_runs:
        first_number = number_run[0]
        last_number = number_run[-1]
        if first_number == last_number:
            ranges.append(str(first_number))
        else:
            ranges.append(f"{first_number} to {last_number}")
    return _shortened(ranges) or "none"


def _shortened(words: list[str]) -> str:
    """The first words of a list, and whether there are more."""
    text = ", ".join(words[:N_SHOWN])
    return f"{text}, ..." if len(words) > N_SHOWN else text


def known_layers(
    entry: RoundEntry,
    asked_layers: list[str],
) -> list[str]:
    """The wanted layers, all of which the round has.

    NotFound names the first that it has not, and those it has.
    """
    for layer in asked_layers:
        if layer not in entry.layers:
            asked_names = given.shown(",".join(asked_layers))
            missing = given.shown(layer)
            layer_names = _shortened(list(entry.layers))
            raise NotFound(
                f"layers is {asked_names}, and round {entry.round} has no {missing}.",
                remedy=f"It has {layer_names}.",
                code="layer",
            )
    return asked_layers


def bare(
    order: OrderRow,
    data: Any,
    **headers: str,
) -> JSONResponse:
    """An answer in the document's shape, which has no place for the order's number:
    that is a header.
    """
    named = {"X-Order-Id": str(order.order_id)}
    for name, header_value in headers.items():
        header = name.replace("_", "-")
        named[header] = header_value
    return JSONResponse(data, headers=named)


def frame_headers(entry: RoundEntry) -> dict[str, str]:
    """Marks values that are coordinates in a frame of the coordinator's own."""
    if entry.kind == "sealed":
        return {"X_Gradient_Frame": "sealed"}
    return {}


def by_client(
    entry: RoundEntry,
    scores: Iterable[Any],
) -> dict[int, float | None]:
    """Scores in the order of the round's clients, by client."""
    finite_scores = (finite(float(score)) for score in scores)
    return dict(zip(entry.clients, finite_scores, strict=True))


def finite(value: Any) -> float | None:
    """A number as JSON can hold it; None for NaN, infinity and what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def normalized(scores: Mapping[int, float | None]) -> dict[int, float | None]:
    """(score - smallest) / (largest - smallest); 0 where all are the same; null stays
    null.
    """
    known_scores = [score for score in scores.values() if score is not None]
    smallest = min(known_scores, default=0.0)
    largest = max(known_scores, default=0.0)
    # Halves, because the difference may leave the range of float64.
    half_smallest = smallest / 2
    span = largest / 2 - half_smallest
    normalized_scores: dict[int, float | None] = {}
    for client, score in scores.items():
        if score is None:
            normalized_scores[client] = None
        elif not span:
            normalized_scores[client] = 0.0
        else:
            above = score / 2 - half_smallest
            normalized_scores[client] = above / span
    return normalized_scores


def ranked(scores: Mapping[int, float | None]) -> dict[int, int | None]:
    """1 for the highest; equal scores have equal ranks; None has none."""
    known_scores = [score for score in scores.values() if score is not None]
    ranks: dict[int, int | None] = {}
    for client, score in scores.items():
        if score is None:
            ranks[client] = None
        else:
            higher = [other for other in known_scores if other > score]
            ranks[client] = 1 + len(higher)
    return ranks
