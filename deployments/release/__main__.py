"""`python -m deployments.release`, which is `./run release`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from deployments.release.making import PYTHONS, make_release
from protocol.errors import ConsiliumError


def main() -> int:
    """Makes a release; 2 and one sentence where it cannot."""
    parser = argparse.ArgumentParser(
        prog="./run release",
        description="Makes packages, locks, bundles and their signature of the newest commit.",
    )
    parser.add_argument(
        "--into", type=Path, default=Path("dist"), help="a new folder (dist)"
    )
    parser.add_argument(
        "--key", type=Path, help="an OpenSSH key that signs; without it, unsigned"
    )
    parser.add_argument(
        "--python",
        action="append",
        choices=PYTHONS,
        help="this one only; once for each (all three)",
    )
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="consilium-release-") as work:
            make_release(
                options.into,
                work=Path(work),
                pythons=tuple(options.python or PYTHONS),
                key=None if options.key is None else options.key.resolve(),
            )
    except ConsiliumError as error:
        print(error, file=sys.stderr)
        return 2
    if options.key is None:
        print("Nothing is signed: give --key before you hand it on.", file=sys.stderr)
    print(options.into)
    return 0


sys.exit(main())
