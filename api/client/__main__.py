"""Opens sealed answers for who works with curl: `python -m api.client COMMAND`.

    key                    this user's public key and fingerprint; the first call makes them
    open FILE [--into F]   what is sealed in a file that GET /orders/{order_id}/answer gave

What is opened is written into a new file with mode 0600, never over one. Exit codes: 0;
2 for an error, in one line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from api.client.reader import Opened, own_reader, write_opened
from protocol.errors import ConsiliumError
from protocol.readers import SealedAnswer


def main(arguments: list[str], program: str = "python -m api.client") -> int:
    """Runs one command; never a traceback."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    key = commands.add_parser("key", help="this user's public key and fingerprint")
    key.set_defaults(run=show_key)
    opening = commands.add_parser("open", help="open a sealed answer")
    opening.add_argument("file", type=Path, metavar="FILE")
    help_text = "write it there; else FILE with the ending .opened.json"
    opening.add_argument("--into", type=Path, metavar="FILE", help=help_text)
    help_text = "refuse an answer of another order"
    opening.add_argument("--order", type=int, help=help_text)
    help_text = "the fingerprint of the hospital that must have signed it"
    opening.add_argument("--hospital", metavar="FINGERPRINT", help=help_text)
    opening.set_defaults(run=open_file)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except ConsiliumError as error:
        print(_printable(str(error)), file=sys.stderr)
        return 2
    except OSError as error:
        name = error.filename or "a file"
        print(f"{name}: {error.strerror or type(error).__name__}.", file=sys.stderr)
        return 2
    return 0


def show_key(_options: argparse.Namespace) -> None:
    reader = own_reader()
    print(f"public key   {reader.public}")
    print(f"fingerprint  {reader.fingerprint}")
    print()
    print(
        "# For the hospital, once it has compared the fingerprint with you by telephone:"
    )
    print(f"./run agent readers add NAME {reader.fingerprint} --site FOLDER")


def open_file(options: argparse.Namespace) -> None:
    sealed = SealedAnswer.read(options.file.read_bytes())
    into = options.into or options.file.with_suffix(".opened.json")
    opened = own_reader().open(
        sealed,
        order_id=options.order,
        hospital=options.hospital,
        keep=lambda payload: write_opened(into, payload),
    )
    _tell(opened, into)


def _tell(opened: Opened, into: Path) -> None:
    place = opened.place
    print(
        f"{into}: {place.kind} of order {place.order_id}, signed by {opened.hospital}"
    )
    if opened.note:
        print(opened.note, file=sys.stderr)


def _printable(text: str) -> str:
    # Others may have written what stands in an error: control letters would move the
    # cursor, and a line break make a second line.
    return "".join(letter if letter.isprintable() else "?" for letter in text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
