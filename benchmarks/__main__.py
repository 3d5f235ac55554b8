"""`./run bench`: all benchmarks, or those named: encryption, orders, hospitals."""

from __future__ import annotations

import argparse
import sys

from benchmarks import encryption, hospitals, orders

BENCHMARKS = {"encryption": encryption.main, "orders": orders.main, "hospitals": hospitals.main}


def main() -> int:
    """Runs the benchmarks one after another, each under its own heading."""
    parser = argparse.ArgumentParser(prog="./run bench", description="Benchmarks, printed as ratios.")
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME", help=", ".join(BENCHMARKS))
    for name in parser.parse_args().names or list(BENCHMARKS):
        print(f"\n== {name}", flush=True)
        BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
