"""The table of what an agent may ask of Prefect, and how one call is answered.

Every address of `ROUTES` was recorded at agents: orders of each kind, with kills of the
agent and of its flow processes, a cancelled order, an inference, a schedule. All others
are 404, and so is what belongs to another hospital.

Decision 79.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.auth import CallerOf
from api.gateway import bodies
from api.gateway.bodies import Body, checked, read_json
from api.gateway.ownership import Kind
from api.gateway.parts import PREFIX, Gateway, pool_of
from protocol.errors import InvalidInput, NotFound

router = APIRouter(include_in_schema=False)

Answer = Callable[[], Response]
Shown = Callable[[Any], Any]
Runs = Callable[[Any], list[Any]]


@dataclass(frozen=True)
class Route:
    """An address and its rule.

    {pool} is the caller's own pool and no other. {id} is of something of that pool's,
    of the kind `of`. `body` is what may be sent. `shown` is what the caller sees of
    Prefect's answer; `here` answers in Prefect's place.
    """

    method: str
    path: str
    of: Kind | None = None
    body: type[Body] | None = None
    shown: Shown = lambda answer: answer
    runs: Runs = lambda answer: []  # of its pool, in the answer
    here: Answer | None = None
    query: str = ""  # a name that may stand in the query, and is not passed on

    def match(
        self,
        method: str,
        path: str,
    ) -> re.Match[str] | None:
        if method != self.method:
            return None
        # Prefect gets the path as it was sent: so a pool and an id have one spelling
        # only, and what is checked is what is asked for.
        pattern = self.path.replace("{pool}", "(?P<pool>hospital-[0-9]{1,10})")
        pattern = pattern.replace("{id}", f"(?P<id>{_UUID})")
        return re.fullmatch(pattern, path)


_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def _version() -> Response:
    return JSONResponse(version("prefect"))


def _no_storage() -> Response:
    return JSONResponse({"default_result_storage_block_id": None})


def _no_csrf() -> Response:
    """As Prefect's server says it, by which its client knows that none is needed."""
    return JSONResponse({"detail": "CSRF protection is disabled."}, 422)


def _name_only(flow: Any) -> Any:
    return {"id": flow["id"], "name": flow["name"]}


ROUTES = (
    Route("GET", "/admin/version", here=_version),
    Route("GET", "/admin/storage", here=_no_storage),
    Route(
        "GET",
        "/csrf-token",
        here=_no_csrf,
        query="client",
    ),
    Route("GET", "/work_pools/{pool}"),
    Route(
        "POST",
        "/work_pools/{pool}/workers/heartbeat",
        body=bodies.Heartbeat,
    ),
    Route(
        "POST",
        "/work_pools/{pool}/get_scheduled_flow_runs",
        body=bodies.DueRuns,
        runs=lambda due: [entry["flow_run"] for entry in due],
    ),
    Route("GET", "/work_queues/{id}", of=Kind.QUEUE),
    Route("GET", "/deployments/{id}", of=Kind.DEPLOYMENT),
    Route(
        "GET",
        "/flows/{id}",
        of=Kind.FLOW,
        # A flow is of several hospitals' pools: nothing but its name is told.
        shown=_name_only,
    ),
    Route("GET", "/flow_runs/{id}", of=Kind.FLOW_RUN),
    Route(
        "PATCH",
        "/flow_runs/{id}",
        of=Kind.FLOW_RUN,
        body=bodies.RunChange,
    ),
    Route(
        "POST",
        "/flow_runs/{id}/set_state",
        of=Kind.FLOW_RUN,
        body=bodies.StateChange,
    ),
    Route(
        "POST",
        "/flow_runs/filter",
        body=bodies.RunsFilter,
        runs=lambda answer: answer,
    ),
)


@router.api_route(
    PREFIX + "/{rest:path}",
    methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"],
)
async def ask_prefect(request: Request, caller: CallerOf) -> Response:
    """Any address below PREFIX, for the agent whose token comes with the call.

    The token is looked at before the body. Discloses of Prefect what belongs to the
    agent's own pool.
    """
    pool = pool_of(caller)
    route, path_match = _route_of(request)
    path_values = path_match.groupdict()
    named_pool = path_values.get("pool")
    # 404 as for an address that there is not: nobody learns which pools there are.
    if named_pool not in (None, pool):
        raise _no_such_address()
    gateway: Gateway = request.app.state.gateway
    body = _read_body(route, await request.body())
    if route.here is not None:
        return route.here()
    owned = None
    if route.of is not None:
        owned = UUID(path_values["id"])
        # Before Prefect is asked in the coordinator's name, to whom it shows
        # everything.
        await gateway.ownership.require(route.of, owned, pool)
    content = None
    if body is not None:
        content = body.rewritten(pool, owned)
    prefect_answer = await gateway.relay.send(
        route.method,
        path_match.string,
        content,
    )
    if not prefect_answer.content:
        return Response(status_code=prefect_answer.status_code)
    parsed_answer = prefect_answer.json()
    flow_runs = route.runs(parsed_answer)
    gateway.ownership.learn(pool, flow_runs)
    shown_answer = route.shown(parsed_answer)
    return JSONResponse(shown_answer, prefect_answer.status_code)


def _route_of(request: Request) -> tuple[Route, re.Match[str]]:
    """By the path as it was sent, letter by letter: what another reader could take for
    another path (%2f, //, ..;) is in no table.
    """
    sent_path = request.scope["raw_path"].decode("latin-1")
    headers = request.scope["headers"]
    hosts = [header_name for header_name, _ in headers if header_name == b"host"]
    if not sent_path.startswith(PREFIX) or len(hosts) > 1:
        raise _no_such_address()
    path = sent_path.removeprefix(PREFIX)
    for route in ROUTES:
        path_match = route.match(request.method, path)
        if path_match is None:
            continue
        query_pairs = request.query_params.multi_items()
        query_names = {name for name, _ in query_pairs}
        unknown = query_names - {route.query}
        if unknown:
            raise InvalidInput(
                "This address takes no such query.",
                remedy="Leave the query away.",
            )
        return route, path_match
    raise _no_such_address()


def _read_body(route: Route, sent: bytes) -> Body | None:
    if route.body is not None:
        return checked(route.body, read_json(sent))
    if sent:
        raise InvalidInput("This address takes no body.", remedy="Send none.")
    return None


def _no_such_address() -> NotFound:
    return NotFound(
        "An agent has no such address at Prefect.",
        remedy="Run the same version at agent and coordinator.",
    )
