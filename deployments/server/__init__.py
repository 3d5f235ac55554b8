"""The coordinator's half: `./run server COMMAND`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import socket
import sys

from api.settings import CoordinatorSettings, load_settings
from deployments.serving import check_port, exit_code, said
from deployments.state import (
    begin_store,
    new_token,
    open_store,
    page_key,
    prefect_auth,
    read_secret,
)
from protocol.errors import BadRequest, ConsiliumError, NotFound
from protocol.messages import COORDINATOR

SERVING = (None, "start", "api", "worker")


def serve_api(settings: CoordinatorSettings, *, expected: int) -> None:
    """The REST API, in this process.

    A Prefect that is away is an answer here, not something to wait for.
    """
    open_store(settings).close()
    auth, key = prefect_auth(settings), page_key(settings)
    check_port(settings.host, settings.port, "CONSILIUM_API_PORT")
    os.environ["PREFECT_CLIENT_MAX_RETRIES"] = "0"
    import uvicorn

    from api.app import create_app
    from api.connections import TimedProtocol
    from api.pages.serving import add_pages

    class Server(uvicorn.Server):
        """Ends the long polls when it is asked to end; uvicorn would wait for them, and
        then cut them off.
        """

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.bell.close()
            app.state.inbox.bell.close()
            await super().shutdown(sockets)

    _allow_connections()
    app = create_app(settings, prefect_auth=auth, expected=expected)
    add_pages(app, key)
    Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=TimedProtocol,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=2,
        )
    ).run()


def _allow_connections() -> None:
    """As many as the system lets this process have: with the usual 1024, as many silent
    ones would keep everybody out until their time is over.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve_worker(settings: CoordinatorSettings) -> None:
    """The worker of pool `coordinator`.

    Prefect's environment is set before Prefect is imported.
    """
    auth = prefect_auth(settings)
    read_secret(
        settings.folder / "token",
        "Remove it, and start `./run server`, which makes a new one.",
    )
    host = f"http://{settings.host}:{settings.port}"
    os.environ |= {
        "PREFECT_API_URL": settings.prefect_url,
        "PREFECT_WORKER_QUERY_SECONDS": "30",
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",  # as at the agents
        "CONSILIUM_COORDINATOR_URL": os.environ.get("CONSILIUM_COORDINATOR_URL", host),
        "CONSILIUM_COORDINATOR_TOKEN_FILE": str(settings.folder / "token"),
        **({"PREFECT_API_AUTH_STRING": auth} if auth else {}),
    }
    from deployments.coordinator_worker import main

    main(settings)


def _add_hospital(settings: CoordinatorSettings, args: argparse.Namespace) -> None:
    store = open_store(settings)
    if not COORDINATOR < args.user_id < 2**31:
        raise BadRequest(
            f"--user-id {args.user_id} cannot be a hospital's.",
            remedy="Give 2 or more; 1 is the coordinator.",
            code="user",
        )
    store.hospitals.add(args.user_id, args.name)
    tokens = {
        "user": new_token(store, "hospital", args.user_id),
        "agent": new_token(store, "agent", args.user_id),
    }
    print(
        json.dumps(
            {"user_id": args.user_id, "name": args.name, "tokens": tokens}, indent=2
        )
    )
    print("Now run: ./run server deploy", file=sys.stderr)


def _token(settings: CoordinatorSettings, args: argparse.Namespace) -> None:
    store = open_store(settings)
    role = {"user": "hospital"}.get(args.role, args.role)
    if (role == "operator") != (args.user_id is None):
        raise BadRequest(
            "An operator has no user_id, a user or agent needs one.",
            remedy="Correct --user-id.",
        )
    if args.user_id is not None and args.user_id not in store.hospitals.names():
        raise NotFound(
            f"There is no hospital {args.user_id}.",
            remedy="Run: ./run server add-hospital",
            code="user",
        )
    if args.action in ("revoke", "rotate"):
        print(
            f"{store.hospitals.revoke_tokens(role, args.user_id)} revoked",
            file=sys.stderr,
        )
    if args.action in ("issue", "rotate"):
        print(new_token(store, role, args.user_id))


def _new_store(settings: CoordinatorSettings) -> None:
    store = begin_store(settings)
    print(
        f"An empty store is in {store.place}; orders are numbered from 1.",
        file=sys.stderr,
    )
    print(
        "Register every hospital: ./run server add-hospital (./run up does it for its own).",
        file=sys.stderr,
    )
    store.close()


def _deploy(settings: CoordinatorSettings) -> None:
    os.environ["PREFECT_API_URL"] = settings.prefect_url
    from prefect.client.orchestration import PrefectClient

    from deployments.pools import deploy

    async def run() -> list[str]:
        async with PrefectClient(
            settings.prefect_url, auth_string=prefect_auth(settings)
        ) as client:
            return await deploy(client, open_store(settings).hospitals.names())

    for name in asyncio.run(run()):
        print(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./run server", description="The coordinator: Prefect, API and worker."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "start", help="Prefect, the API and the worker, until Ctrl-C (the default)"
    )
    api = commands.add_parser("api", help="the REST API alone")
    api.add_argument(
        "--expect-agents", type=int, default=0, help="/health waits for so many agents"
    )
    commands.add_parser("worker", help="the worker of pool coordinator alone")
    commands.add_parser("deploy", help="make work pools and deployments")
    hospital = commands.add_parser(
        "add-hospital", help="register a hospital; prints its tokens once"
    )
    hospital.add_argument("--user-id", type=int, required=True)
    hospital.add_argument("--name", required=True)
    commands.add_parser(
        "new-store",
        help="begin with an empty store where an earlier one was lost for good",
    )
    forget = commands.add_parser(
        "forget-keys", help="let a hospital that lost its vault present new keys, once"
    )
    forget.add_argument("--user-id", type=int, required=True)
    token = commands.add_parser("token", help="issue, rotate or revoke tokens")
    token.add_argument("action", choices=("issue", "rotate", "revoke"))
    token.add_argument("role", choices=("operator", "user", "agent"))
    token.add_argument("--user-id", type=int)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command; a known error is one sentence on stderr and exit code 2.

    Of what keeps running (start, api, worker) it is 78 where a person has to put
    something right first.
    """
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    for name in ("httpx", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        settings = load_settings()
        match args.command:
            case "api":
                serve_api(settings, expected=args.expect_agents)
            case "worker":
                serve_worker(settings)
            case "deploy":
                _deploy(settings)
            case "add-hospital":
                _add_hospital(settings, args)
            case "new-store":
                _new_store(settings)
            case "forget-keys":
                open_store(settings).hospitals.forget_keys(args.user_id)
            case "token":
                _token(settings, args)
            case _:
                from deployments.coordinator import serve

                return serve(settings)
    except (ConsiliumError, OSError) as caught:
        error = said(caught) if isinstance(caught, OSError) else caught
        print(error, file=sys.stderr)
        return exit_code(error) if args.command in SERVING else 2
    return 0
