"""`./run bench`: all benchmarks but those that take an hour (ASIDE), or those named; with
--peers another framework beside this one.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks import (
    accumulation,
    attacks,
    audit,
    cells,
    dispatch,
    encryption,
    gateway,
    hospitals,
    install,
    joined,
    network,
    orders,
    prefect,
    rest,
    rounds,
    rows,
    scores,
    sharing,
    studies,
)
from benchmarks.peers import comparison
from protocol.errors import ConsiliumError

BENCHMARKS = {
    "encryption": encryption.main,
    "orders": orders.main,
    "studies": studies.main,
    "gateway": gateway.main,
    "rest": rest.main,
    "dispatch": dispatch.main,
    "hospitals": hospitals.main,
    "network": network.main,
    "rounds": rounds.main,
    "scores": scores.main,
    "accumulation": accumulation.main,
    "audit": audit.main,
    "sharing": sharing.main,
    "joined": joined.main,
    "cells": cells.main,
    "prefect": prefect.main,
    "attacks": attacks.main,
    "install": install.main,
    "rows": rows.main,
}

ASIDE = ("attacks", "install", "network", "prefect", "rows")
"""What takes an hour or the package registry, and runs where it is named."""


WITH_MORE = ("network", "rounds")
"""What has more to measure with --full."""


def main() -> int:
    """Runs the benchmarks one after another, each under its own heading."""
    parser = argparse.ArgumentParser(
        prog="./run bench", description="Benchmarks, printed as ratios."
    )
    parser.add_argument(
        "names",
        nargs="*",
        # And []: where no name is given, argparse looks for that among the choices.
        choices=[*BENCHMARKS, []],
        metavar="NAME",
        help=", ".join(BENCHMARKS),
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="rounds: 500 instead of 20; network: 300 hospitals instead of 30",
    )
    parser.add_argument(
        "--hospitals",
        nargs="*",
        type=int,
        metavar="N",
        help="network: these numbers of hospitals in one process, and no others; none for no table",
    )
    parser.add_argument(
        "--agents",
        nargs="*",
        type=int,
        metavar="N",
        help="network: these numbers of real agents, and no others; none for no table",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        type=int,
        metavar="N",
        help="rows: tables of these numbers of rows, and no others",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="one order beside Flower, which is installed for it",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=comparison.ROUNDS,
        help="peers: %(default)s unless told",
    )
    args = parser.parse_args()
    if args.peers:
        return _compare(rounds=args.rounds)
    for name in args.names or [name for name in BENCHMARKS if name not in ASIDE]:
        print(f"\n== {name}", flush=True)
        try:
            BENCHMARKS[name](**_options(name, args))
        except ConsiliumError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


def _options(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What is said on the command line to this benchmark."""
    options: dict[str, Any] = {}
    if args.full and name in WITH_MORE:
        options["full"] = True
    if name == "network":
        options.update(hospitals=args.hospitals, agents=args.agents)
    if name == "rows" and args.rows:
        options["sizes"] = args.rows
    return options


def _compare(*, rounds: int) -> int:
    """A known error is one sentence on stderr and exit code 2."""
    try:
        comparison.main(rounds=rounds)
    except ConsiliumError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
