"""A text as it is written into a TOML file, which Python reads and does not write."""

from __future__ import annotations

import json


def toml_string(text: str) -> str:
    """A basic string of TOML: JSON's, whose escapes TOML knows, without the one letter
    that JSON leaves as it is and TOML forbids.

    >>> toml_string('a "b"')
    '"a \\\\"b\\\\""'
    """
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
