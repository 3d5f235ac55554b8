"""The command line of a federation on one machine: `./run up` and `./run demo`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from agents.site.settings import SiteSettings
from api.settings import CoordinatorSettings
from deployments.coordinator import alone, say_addresses, until_signal
from deployments.local.federation import choose_ports, federation
from deployments.local.sites import prepare
from deployments.serving import exit_code, said
from deployments.state import (
    read_tokens,
    tokens_path,
)
from protocol.errors import ConsiliumError


async def _up(
    settings: CoordinatorSettings, sites: list[SiteSettings], *, restart: bool
) -> None:
    async with federation(settings, sites, restart=restart) as parts:
        say_addresses(settings)
        print(f"Tokens       {tokens_path(settings)}", file=sys.stderr)
        for user_id, token in read_tokens(settings).items():
            print(f"  {user_id:>8}  {token}", file=sys.stderr)
        print("Ready. Ctrl-C ends it.", file=sys.stderr)
        await parts.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./run")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="keep a federation of local hospitals running")
    up.add_argument("--hospitals", type=int, default=3)
    up.add_argument(
        "--no-restart", action="store_true", help="do not start a part again that dies"
    )
    demo = commands.add_parser(
        "demo", help="run the request document's order from end to end"
    )
    demo.add_argument("--hospitals", type=int, default=3, help="3 or more")
    demo.add_argument("--rounds", type=int, default=10)
    demo.add_argument("--features", type=int, default=4, help="1 to 30 of x1, x2, ...")
    demo.add_argument(
        "--method", choices=("Paillier", "Mask", "None"), default="Paillier"
    )
    demo.add_argument(
        "--statistics", action="store_true", help="ask for joint statistics instead"
    )
    demo.add_argument(
        "--study", action="store_true", help="a paper's tables and models, instead"
    )
    demo.add_argument(
        "--postgresql", help="of --study: one hospital's tables go there, an address"
    )
    demo.add_argument("--mariadb", help="of --study: another hospital's, an address")
    demo.add_argument(
        "--figures",
        type=Path,
        help="of --study: a folder for its forest plot and survival curves (SVG, csv)",
    )
    demo.add_argument(
        "--picture", type=Path, help="write what is shown to this file too, as an SVG"
    )
    return parser


def _sites(
    settings: CoordinatorSettings, args: argparse.Namespace
) -> list[SiteSettings]:
    if args.command == "up" or not args.study:
        return prepare(settings, n_hospitals=args.hospitals)
    # Only here, as below.
    from deployments.demo.study_sites import study_sites

    addresses = {3: args.postgresql, 4: args.mariadb}
    return study_sites(
        settings, {user: url for user, url in addresses.items() if url is not None}
    )


def main(argv: list[str] | None = None) -> int:
    """Runs `up` or `demo`; a known error is one sentence on stderr.

    Exit code 78 where a person has to put something right first, else 2.
    """
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    try:
        settings = choose_ports(any_free=args.command == "demo")
        # Sites are made under the lock: two starts at once would each make tokens.
        with alone(settings):
            sites = _sites(settings, args)
            if args.command == "up":
                work = _up(settings, sites, restart=not args.no_restart)
                asyncio.run(until_signal(work))
                return 0
            # Only here: the demonstration brings pandas and scikit-learn along.
            from deployments.demo.training import show

            return asyncio.run(show(settings, sites, args))
    except (ConsiliumError, OSError) as caught:
        error = said(caught) if isinstance(caught, OSError) else caught
        print(error, file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
