"""`python -m consilium_client`: what `api.client.__main__` does, under the installed name."""

from __future__ import annotations

import sys

from api.client.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], program="python -m consilium_client"))
