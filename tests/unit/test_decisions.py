"""The code names the decisions that made it so, and each decision the code that holds
it: neither without the other.
"""

from __future__ import annotations

import functools
import re

import pytest

from tests.unit.test_arrows import PACKAGES, ROOT, every_module, name_of

SECTION = re.compile(r"^## (\d+)\. .*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
ENFORCED = re.compile(r"^- \*\*Enforced by\.\*\*(.*)", re.DOTALL | re.MULTILINE)
MENTION = re.compile(r"\b[Dd]ecisions? (\d+(?:(?:, | and )\d+)*)")


def holders() -> dict[int, set[str]]:
    """For each decision the modules of ours that its last line names, folders as their
    modules.
    """
    text = (ROOT / "DECISIONS.md").read_text("utf-8")
    found = {}
    for section in SECTION.finditer(text):
        enforced = ENFORCED.search(section[0])
        assert enforced is not None, section[0][:60]
        paths = re.findall(r"`([\w./-]+)`", enforced[1])
        found[int(section[1])] = {
            path
            for path in paths
            if path.split("/")[0] in PACKAGES and path.endswith(".py")
        }
    return found


@functools.cache
def mentions() -> dict[str, set[int]]:
    """For each module the decisions that its comments and docstrings name."""
    found: dict[str, set[int]] = {}
    for path in every_module():
        # A sentence goes on behind the end of its line, and behind the next line's "#".
        sentences = re.sub(r"\n\s*(?:# )?", " ", path.read_text("utf-8"))
        for mention in MENTION.finditer(sentences):
            numbers = {int(number) for number in re.findall(r"\d+", mention[1])}
            found.setdefault(name_of(path), set()).update(numbers)
    return found


HOLDERS = holders()


@pytest.mark.parametrize("number", sorted(HOLDERS))
def test_the_code_of_a_decision_names_it(number: int) -> None:
    named = mentions()
    assert [
        path for path in sorted(HOLDERS[number]) if number not in named.get(path, set())
    ] == []


def test_every_decision_that_code_names_is_held_by_that_code() -> None:
    wrong = [
        f"{path} names decision {number}, which does not name it"
        for path, numbers in sorted(mentions().items())
        for number in sorted(numbers)
        if path not in HOLDERS.get(number, set())
    ]
    assert wrong == []


def test_decisions_are_numbered_without_gaps() -> None:
    assert sorted(HOLDERS) == list(range(1, len(HOLDERS) + 1))
