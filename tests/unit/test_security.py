"""Each sentence of SECURITY.md has the tests that attack it, or it is said why none can:
`tests/security.toml` says so, and is held against the page and the tests here.
"""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "SECURITY.md"
INDEX: dict[str, Any] = tomllib.loads((TESTS / "security.toml").read_text("utf-8"))
WITHOUT_A_TEST = {"assumed", "leak", "remark"}
BLOCK_ENDS = re.compile(r"\n\s*\n|\n(?=\d+\. |- )")
LIST_MARK = re.compile(r"^(\d+\.|-) ")
SENTENCE_ENDS = re.compile(r"(?<=[.:]) (?=[A-Z`*(])|(?<=\.\*\*) ")


def sentences(text: str) -> list[str]:
    """Without headings, tables and marks."""
    found = []
    for block in BLOCK_ENDS.split(text):
        stripped = block.strip()
        if not stripped or stripped.startswith(("#", "|")):
            continue
        line = " ".join(LIST_MARK.sub("", stripped).split())
        for sentence in SENTENCE_ENDS.split(line):
            found.append(sentence.replace("*", "").replace("`", ""))
    return joined(found)


def joined(parts: list[str]) -> list[str]:
    """A word before a colon is the beginning of the sentence behind it."""
    found: list[str] = []
    for part in parts:
        if found and found[-1].endswith(":") and found[-1].startswith("To "):
            found[-1] = f"{found[-1]} {part}"
        else:
            found.append(part)
    return found


SENTENCES = sentences(PAGE.read_text("utf-8"))


def entries_of(sentence: str) -> list[str]:
    """The longest beginning of it that the index has; none, or one."""
    fitting = [words for words in INDEX if is_beginning(words, sentence)]
    return sorted(fitting, key=len)[-1:]


def is_beginning(words: str, sentence: str) -> bool:
    return sentence.startswith(words.replace("`", "").replace("*", ""))


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence[:50])
def test_each_sentence_has_what_attacks_it(sentence: str) -> None:
    assert entries_of(sentence), f"tests/security.toml has nothing on: {sentence}"


def test_what_the_index_names_stands_on_the_page() -> None:
    used = set()
    for sentence in SENTENCES:
        used.update(entries_of(sentence))
    assert sorted(set(INDEX) - used) == []


@functools.cache
def names_in(file: str) -> dict[str, bool]:
    """The tests of a file, and whether one is thorough in all its cases."""
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            names[node.name] = "pytest.mark.thorough" in marks
    return names


@pytest.mark.parametrize("words", INDEX, ids=lambda words: words[:50])
def test_what_attacks_a_sentence_exists(words: str) -> None:
    attacks = INDEX[words]
    if isinstance(attacks, str):
        assert attacks in WITHOUT_A_TEST
        return
    assert attacks
    for attack in attacks:
        file, _, name = attack.partition("::")
        assert (TESTS / file).is_file(), attack
        assert name in names_in(file), attack


# What needs processes of its own, and what takes a minute.
OVER_A_FEDERATION = ("faults/", "federation/", "browser/")
OF_A_MINUTE = {
    "pooled/test_sparse_masks.py::test_a_model_over_seventy_hospitals",
    "pooled/test_sparse_masks.py::"
    "test_an_average_over_seventy_hospitals_and_one_whose_policy_is_silent",
    "privacy/test_blind_coordinator.py::"
    "test_under_method_none_the_coordinator_holds_gradients_while_the_order_runs",
}


def test_what_attacks_in_one_process_is_run_at_every_commit() -> None:
    late = set()
    for attacks in INDEX.values():
        if isinstance(attacks, str):
            continue
        for attack in attacks:
            file, _, name = attack.partition("::")
            if names_in(file)[name] and not file.startswith(OVER_A_FEDERATION):
                late.add(attack)
    assert late == OF_A_MINUTE


def test_what_is_assumed_stands_under_that_heading() -> None:
    """Nobody is to find an assumption among promises."""
    text = PAGE.read_text("utf-8")
    of_training = text.split("## What is assumed")[1].split("## What still leaks")[0]
    of_statistics = text.split("**What is assumed**")[1].split("**To each hospital")[0]
    stated = sentences(of_training) + sentences(of_statistics)
    for sentence in SENTENCES:
        (words,) = entries_of(sentence)
        if INDEX[words] == "assumed":
            assert sentence in stated, sentence
