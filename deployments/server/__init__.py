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
from pathlib import Path
from typing import NamedTuple

from api.settings import CoordinatorSettings, load_settings
from deployments.server.enrolment import read_enrolment, write_enrolment
from deployments.serving import check_port, exit_code, said, shared_socket
from deployments.state import (
    begin_store,
    coordinator_token,
    new_token,
    open_store,
    page_key,
    prefect_auth,
    read_secret,
)
from protocol.errors import BadRequest, ConsiliumError, NotFound
from protocol.machine.importing import uncollected
from protocol.machine.installed import command_of, require_own_environment
from protocol.messages import COORDINATOR

SERVING = (None, "start", "prefect", "api", "page", "worker")


def serve_api(settings: CoordinatorSettings, *, expected: int) -> None:
    """The REST API, in this process; with the page where it is the only one."""
    is_one_of_several = settings.api_processes > 1
    port = PortSetting(settings.port, "CONSILIUM_API_PORT", is_one_of_several)
    _serve(settings, port, expected=expected, has_pages=not is_one_of_several)


def serve_page(settings: CoordinatorSettings) -> None:
    """The page in a process of its own: what it shows to a browser stands in its memory,
    so that each browser has to come to one and the same.
    """
    port = PortSetting(settings.page_port, "CONSILIUM_PAGE_PORT", is_shared=False)
    _serve(settings, port, expected=0, has_pages=True)


class PortSetting(NamedTuple):
    """Where a process listens."""

    number: int
    name: str  # of the variable that sets it
    is_shared: bool  # with other processes


def _serve(
    settings: CoordinatorSettings, port: PortSetting, *, expected: int, has_pages: bool
) -> None:
    """The API's application, in this process.

    A Prefect that is away is an answer here, not something to wait for.
    """
    store = open_store(settings)
    # The worker's, which may be started apart.
    coordinator_token(settings, store)
    store.close()
    auth, cookie_key = prefect_auth(settings), page_key(settings)
    sockets = None
    if port.is_shared:
        sockets = [shared_socket(settings.host, port.number)]
    else:
        check_port(settings.host, port.number, port.name)
    # Before what imports Prefect, which reads its environment once.
    os.environ["PREFECT_CLIENT_MAX_RETRIES"] = "0"
    with uncollected():
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
    if has_pages:
        add_pages(app, cookie_key)
    Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=port.number,
            http=TimedProtocol,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=2,
        )
    ).run(sockets)


def _allow_connections() -> None:
    """As many as the system lets this process have: with the usual 1024, as many silent
    ones would keep everybody out until their time is over.
    """
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))


def serve_worker(settings: CoordinatorSettings) -> None:
    """The worker of pool `coordinator`.

    Prefect's environment is set before Prefect is imported.
    """
    auth = prefect_auth(settings)
    # Only looked at: a damaged token is a sentence here, not a run that fails later.
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
    with uncollected():
        from deployments.coordinator_worker import main

    main(settings)


def _add_hospital(settings: CoordinatorSettings, args: argparse.Namespace) -> None:
    store = open_store(settings)
    # The store's column is an integer of 32 bits on PostgreSQL.
    if not COORDINATOR < args.user_id < 2**31:
        raise BadRequest(
            f"--user-id {args.user_id} cannot be a hospital's.",
            remedy="Give 2 or more; 1 is the coordinator.",
            code="user",
        )
    enrolment = None
    if args.address is not None:
        # Before the hospital is added: what is wrong with it adds nobody.
        enrolment = read_enrolment(
            args.address, args.ca, args.into / f"{args.name}.enrol.toml"
        )
    store.hospitals.add(args.user_id, args.name)
    tokens = {"user": new_token(store, "hospital", args.user_id)}
    told = {"user_id": args.user_id, "name": args.name, "tokens": tokens}
    if enrolment is None:
        tokens["agent"] = new_token(store, "agent", args.user_id)
    else:
        write_enrolment(store, enrolment, args.user_id, args.name)
        told["enrolment"] = str(enrolment.path)
    print(json.dumps(told, indent=2))
    print("Now run: ./run server deploy", file=sys.stderr)


def _enrol(settings: CoordinatorSettings, args: argparse.Namespace) -> None:
    store = open_store(settings)
    hospital_names = store.hospitals.names()
    if args.user_id not in hospital_names:
        raise NotFound(
            f"There is no hospital {args.user_id}.",
            remedy="Run: ./run server add-hospital",
            code="user",
        )
    enrolment_path = args.into / f"{hospital_names[args.user_id]}.enrol.toml"
    enrolment = read_enrolment(args.address, args.ca, enrolment_path)
    write_enrolment(store, enrolment, args.user_id, hospital_names[args.user_id])
    print(enrolment.path)


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
        # On stderr: stdout has the token alone, for a pipe or a file.
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


def _deploy(settings: CoordinatorSettings, *, when_told: bool) -> None:
    # Before the import below, as with the worker.
    os.environ["PREFECT_API_URL"] = settings.prefect_url
    with uncollected():
        from prefect.client.orchestration import PrefectClient

        from deployments.pools import deploy

    if when_told and not sys.stdin.buffer.readline():
        return  # who was to tell has ended

    async def run() -> list[str]:
        async with PrefectClient(
            settings.prefect_url, auth_string=prefect_auth(settings)
        ) as client:
            return await deploy(client, open_store(settings).hospitals.names())

    for deployment_name in asyncio.run(run()):
        print(deployment_name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_of("server"),
        description="The coordinator: Prefect, API and worker.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "start", help="Prefect, the API and the worker, until Ctrl-C (the default)"
    )
    commands.add_parser("prefect", help="Prefect's server alone")
    api = commands.add_parser("api", help="the REST API alone")
    api.add_argument(
        "--expect-agents", type=int, default=0, help="/health waits for so many agents"
    )
    commands.add_parser(
        "page", help="the page alone, where the API has several processes"
    )
    commands.add_parser("worker", help="the worker of pool coordinator alone")
    deploy = commands.add_parser("deploy", help="make work pools and deployments")
    help_text = "not before a line has come on stdin; everything is imported meanwhile"
    deploy.add_argument("--when-told", action="store_true", help=help_text)
    hospital = commands.add_parser(
        "add-hospital", help="register a hospital; prints its tokens once"
    )
    hospital.add_argument("--user-id", type=int, required=True)
    hospital.add_argument("--name", required=True)
    _add_enrolment(hospital, required=False)
    enrol = commands.add_parser(
        "enrol", help="write a hospital's enrolment file anew; an earlier one ends"
    )
    enrol.add_argument("--user-id", type=int, required=True)
    _add_enrolment(enrol, required=True)
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


def _add_enrolment(command: argparse.ArgumentParser, *, required: bool) -> None:
    help_text = "the coordinator's, as agents reach it; writes NAME.enrol.toml in place of an agent token"
    command.add_argument("--address", required=required, help=help_text)
    help_text = (
        "the PEM file of the authority of its certificate, where that is a private one"
    )
    command.add_argument("--ca", type=Path, help=help_text)
    help_text = "the folder of the file (here)"
    command.add_argument("--into", type=Path, default=Path(), help=help_text)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; a known error is one sentence on stderr and exit code 2.

    Of what keeps running (start, prefect, api, page, worker) it is 78 where a person has to put
    something right first.
    """
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    # httpx writes a line with its address for each call.
    for logger_name in ("httpx", "alembic"):
        logging.getLogger(logger_name).setLevel(logging.WARNING)
    try:
        if args.command in SERVING:
            require_own_environment()
        settings = load_settings()
        match args.command:
            case "prefect":
                # Only here, as below.
                from deployments.coordinator import become_prefect

                become_prefect(settings)
            case "api":
                serve_api(settings, expected=args.expect_agents)
            case "page":
                serve_page(settings)
            case "worker":
                serve_worker(settings)
            case "deploy":
                _deploy(settings, when_told=args.when_told)
            case "add-hospital":
                _add_hospital(settings, args)
            case "enrol":
                _enrol(settings, args)
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
