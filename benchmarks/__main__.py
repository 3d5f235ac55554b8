"""`./run bench`: all benchmarks but attacks and prefect, or those named; with --peers another
framework beside this one.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import (
    accumulation,
    attacks,
    audit,
    cells,
    encryption,
    gateway,
    hospitals,
    joined,
    orders,
    prefect,
    rounds,
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
    "hospitals": hospitals.main,
    "rounds": rounds.main,
    "scores": scores.main,
    "accumulation": accumulation.main,
    "audit": audit.main,
    "sharing": sharing.main,
    "joined": joined.main,
    "cells": cells.main,
    "prefect": prefect.main,
    "attacks": attacks.main,
}

ASIDE = ("attacks", "prefect")
"""What takes an hour, and runs where it is named."""


def main() -> int:
    """Runs the benchmarks one after another, each under its own heading."""
    parser = argparse.ArgumentParser(
        prog="./run bench", description="Benchmarks, printed as ratios."
    )
    parser.add_argument(
        "names",
        nargs="*",
        choices=[*BENCHMARKS, []],
        metavar="NAME",
        help=", ".join(BENCHMARKS),
    )
    parser.add_argument("--full", action="store_true", help="rounds: 500 instead of 20")
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
        BENCHMARKS[name](**({"full": True} if args.full and name == "rounds" else {}))
    return 0


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
