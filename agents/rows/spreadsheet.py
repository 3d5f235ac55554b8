"""Texts of other hospitals in files that a spreadsheet opens here."""

from __future__ import annotations

import re

# With a sign in front only where it calls something, as -5 mg is no formula.
_FORMULA = re.compile(r"[=@\t\r]|[+-].*[(|!]", re.DOTALL)


def inert(text: str) -> str:
    """The text, or behind an apostrophe where a spreadsheet would compute it: names of
    groups and classes come from other hospitals. Numbers written as texts stay.

    >>> inert("=HYPERLINK(A1)"), inert("-3")
    ("'=HYPERLINK(A1)", '-3')
    """
    if _FORMULA.match(text):
        return f"'{text}"
    return text
