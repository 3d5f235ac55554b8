"""The coordinator's FastAPI application: its parts, its routes, and what its errors
are.

`create_app` puts it together. What runs beside the routes is in `lifespan`; how errors
become answers, in `_add_error_handlers`; the forms of answers, in `answers`; what
stands before all routes, in `door`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from api.answers import failure_at
from api.auth import Rate, SeenTokens
from api.conditions import Conditions
from api.door import BodyRefused, Door, OpenCalls
from api.gateway import routes as gateway_routes
from api.gateway import sockets as gateway_sockets
from api.gateway.parts import open_gateway
from api.live import Bell, Inbox, Presence, Waits
from api.prefect_runs import open_runs
from api.routes import (
    admission,
    anomaly_scores,
    contribution_scores,
    evaluation,
    exchange,
    hospitals,
    inbox,
    inference,
    model_schedules,
    order_end,
    order_events,
    order_reports,
    order_shown,
    order_watch,
    orders,
    round_data,
    rounds,
    schedule_times,
    schedules,
    sealed_answers,
    statistics,
    swagger,
    timeline,
)
from api.routes.budgets import Budgets
from api.routes.services import Services
from api.settings import CoordinatorSettings
from api.sign_in import provider_of
from api.store import Store
from api.store.disk import Disk, is_full
from api.store.round_files import RoundFiles
from api.together import Together, hold_duties
from api.told_orders import ToldOrders
from api.trimming import trim_when_ended
from protocol import VERSION
from protocol.errors import ConsiliumError, InvalidInput, NotFound
from protocol.fields import describe
from protocol.machine.connections import mind_closed_connections

log = logging.getLogger("consilium.api")

SCORED_AT_ONCE = 4  # arithmetic of scores runs in threads, and each takes memory
DAY_SECONDS = 86_400

ABANDONED_HOURS = 1.0
"""A message's file to which nothing has been added for so long, and which no row names,
is what a crash has left.
"""
SHARED_LEFTOVER_DAYS = 1.0
"""Younger files of rounds may be those that another process is writing."""


ROUTERS = (
    exchange.router,  # first: most calls are of it, and routes are tried in order
    inbox.router,
    orders.router,
    order_shown.router,
    order_events.router,
    order_end.router,
    order_reports.router,
    admission.router,
    timeline.router,
    statistics.router,
    schedules.router,
    schedule_times.router,
    model_schedules.router,
    inference.router,
    evaluation.router,
    sealed_answers.router,
    rounds.router,
    round_data.router,
    anomaly_scores.router,
    contribution_scores.router,
    hospitals.router,
    swagger.router,
    gateway_sockets.router,
    gateway_routes.router,
)


def create_app(
    settings: CoordinatorSettings, *, prefect_auth: str | None = None, expected: int = 0
) -> FastAPI:
    """The application.

    `expected` is how many local agents /health waits for before it says ready.
    """

    mind_closed_connections()
    disk = Disk(settings.folder, settings.least_free_bytes)
    app = FastAPI(
        title="Consilium",
        version=VERSION,
        lifespan=_lifespan(settings, disk, prefect_auth),
        redirect_slashes=False,
        # Their pages load scripts from elsewhere; `swagger` serves our own.
        docs_url=None,
        redoc_url=None,
    )
    app_state = app.state
    app_state.settings = settings
    app_state.identity_provider = provider_of(settings.sign_in)
    app_state.rate = Rate(settings.calls_per_second)
    app_state.seen_tokens = SeenTokens()
    app_state.open_calls = OpenCalls(settings.calls_at_once)
    app_state.expected = expected
    app_state.bell = Bell()
    app_state.inbox = Inbox()
    app_state.waits = Waits()
    app_state.presence = Presence(app_state.bell)
    # One-time keys to which answers are sealed; in memory only (decision 7).
    app_state.reply_keys = {}
    app_state.conditions = Conditions(app_state.bell)
    app_state.disk = disk
    app_state.firing = asyncio.Lock()
    app_state.started = time.monotonic()
    for router in ROUTERS:
        app.include_router(router)
    _add_error_handlers(app)
    app.add_middleware(Door, settings=settings)
    return app


def _lifespan(
    settings: CoordinatorSettings, disk: Disk, prefect_auth: str | None
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """What the application opens when it starts, does while it runs and closes."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = Store(settings.store_url, disk, exchange_url=settings.exchange_url)
        await to_thread.run_sync(store.migrate)
        round_files = RoundFiles(settings.rounds_folder, store, disk)
        # On SQLite there is no other process: whatever is unfinished now is what a
        # crash has left.
        least_days = 0.0 if store.conninfo is None else SHARED_LEFTOVER_DAYS
        await to_thread.run_sync(round_files.clean_up, least_days * DAY_SECONDS)
        async with (
            _among_others(app, store),
            open_runs(settings.prefect_url, prefect_auth) as runs,
            open_gateway(
                settings.prefect_url, prefect_auth, settings.calls_per_second
            ) as gateway,
        ):
            app.state.store = store
            app.state.told_orders = ToldOrders(store, app.state.bell)
            app.state.gateway = gateway
            app.state.budgets = Budgets(store, settings.max_message_bytes)
            app.state.runs = runs
            app.state.round_files = round_files
            app.state.scoring = CapacityLimiter(SCORED_AT_ONCE)
            services = Services(Request({"type": "http", "app": app}))
            task = asyncio.create_task(_look_after(services, store, round_files))
            yield
            # Before Prefect's client and the store are closed, which the duties use.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        store.close()

    return lifespan


def _among_others(
    app: FastAPI, store: Store
) -> contextlib.AbstractAsyncContextManager[None]:
    """Hears the other processes of the same store; on SQLite there is none."""
    if store.conninfo is None:
        return contextlib.nullcontext()
    app_state = app.state
    together = Together(
        store.conninfo,
        bell=app_state.bell,
        inbox=app_state.inbox,
        presence=app_state.presence,
        conditions=app_state.conditions,
        waits=app_state.waits,
    )
    return together.joined()


async def _look_after(
    services: Services, store: Store, round_files: RoundFiles
) -> None:
    """What no request brings, as long as the application runs; of several processes one
    does it.
    """

    async def do() -> None:
        async with asyncio.TaskGroup() as duties:
            for duty in (
                _prune_daily(store, round_files, services.settings),
                order_watch.watch_orders(services),
                schedule_times.wake_worker(services),
                trim_when_ended(services),
                admission.admit_when_rung(services, admission.PLACES),
                # Orders may have waited for the hospital that comes.
                admission.admit_when_rung(services, "hospitals"),
            ):
                duties.create_task(duty)

    if store.conninfo is None:
        await do()
    else:
        await hold_duties(store.conninfo, do)


class Retention(NamedTuple):
    """Something that is kept for some days."""

    what: str  # in the log
    prune: Callable[[datetime], Any]  # removes what was recorded before
    days: float


async def _prune_daily(
    store: Store, round_files: RoundFiles, settings: CoordinatorSettings
) -> None:
    """At the start and each day. Sealed predictions and round files are kept for some
    days, so that who asked can ask again.
    """
    retentions = (
        Retention("Predictions", store.messages.prune, settings.retention_days),
        Retention("Round files", round_files.prune, settings.round_retention_days),
        Retention("Sessions of the page", store.sessions.prune, days=1.0),
        Retention("Files of no message", store.clean_up_bodies, ABANDONED_HOURS / 24),
    )
    while True:
        for subject, prune, days in retentions:
            now = datetime.now(UTC).replace(tzinfo=None)
            try:
                await to_thread.run_sync(prune, now - timedelta(days=days))
            # What cannot be pruned keeps nothing else from it.
            except Exception:
                log.exception(
                    "%s could not be pruned; it is tried again in a day", subject
                )
        await asyncio.sleep(DAY_SECONDS)


def _add_error_handlers(app: FastAPI) -> None:
    """One place where errors become answers: a sentence and its remedy, never a
    traceback.
    """

    @app.exception_handler(ConsiliumError)
    async def known(request: Request, error: ConsiliumError) -> JSONResponse:
        return failure_at(request.url.path, error)

    @app.exception_handler(RequestValidationError)
    async def malformed(
        request: Request, error: RequestValidationError
    ) -> JSONResponse:
        return failure_at(request.url.path, describe_request(error))

    @app.exception_handler(StarletteHTTPException)
    async def not_routed(
        request: Request, error: StarletteHTTPException
    ) -> JSONResponse:
        path = request.url.path
        if isinstance(error, BodyRefused):
            return failure_at(path, error.known, status=error.status_code)
        if error.status_code == 404:
            missing = NotFound(
                "There is no such address.", remedy="See /docs for what there is."
            )
            return failure_at(path, missing)
        # FastAPI's status for a body that json.loads gave up on: depth, digits,
        # encoding.
        if error.status_code == 400:
            return failure_at(path, _not_json())
        problem = InvalidInput(f"{error.detail}.", remedy="See /docs.")
        return failure_at(path, problem, status=error.status_code)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _error: ClientDisconnect) -> JSONResponse:
        """An agent or flow that died while it sent: nobody reads this, and its next
        process sends it all again.
        """
        cut_short = InvalidInput("The body was cut short.", remedy="Send it again.")
        return failure_at(request.url.path, cut_short)

    @app.exception_handler(Exception)
    async def unplanned(request: Request, error: Exception) -> JSONResponse:
        if is_full(error):
            return failure_at(request.url.path, request.app.state.disk.noted())
        # The text stays in the log: it may hold something that a caller must not see.
        log.error("Unplanned error", exc_info=error)
        problem = ConsiliumError(
            "The coordinator met an unplanned error.",
            remedy="Its log has the full text.",
        )
        return failure_at(request.url.path, problem, status=500)


def describe_request(error: RequestValidationError) -> ConsiliumError:
    """The same sentence for a malformed body, query or path."""
    mistakes = error.errors()
    if mistakes[0]["type"] == "json_invalid":
        return _not_json()
    # As pydantic would have raised them for a body, so that `describe` has one form to
    # read.
    line_errors = []
    for mistake in mistakes:
        field_place = tuple(mistake["loc"][1:])  # without "body", "query" or "path"
        line_error = {
            "type": "value_error",
            "loc": field_place or ("body",),
            "input": None,
            "ctx": {"error": mistake["msg"]},
        }
        line_errors.append(line_error)
    return describe(ValidationError.from_exception_data("request", line_errors))  # type: ignore[arg-type]


def _not_json() -> InvalidInput:
    return InvalidInput(
        "The body is not JSON.",
        remedy="Send a JSON object, with Content-Type: application/json.",
    )
