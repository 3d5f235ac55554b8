"""How texts are set: the width of Markdown, and the words and punctuation of Chinese."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.page import words as hospital_words
from api.pages import error_words, words

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 120
CHINESE_PAGES = sorted([*ROOT.glob("*.zh-CN.md"), *(ROOT / "docs").glob("*.zh-CN.md")])
"""Not wrapped: a line is a sentence or several."""
DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests" / "README.md"}
    - {*CHINESE_PAGES}
)
HAN = "[\u4e00-\u9fff]"
ENDS_A_SENTENCE = ("。", "？", "！", "。）")
FENCE = "```"


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines outside of code blocks and tables, with their numbers."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(FENCE):
            is_code = not is_code
        elif not is_code and not line.startswith("|"):
            yield number, line


def is_too_long(line: str) -> bool:
    """Over the width, and not because of an address."""
    return len(re.sub(r"https?://\S+|\]\([^)\s]+\)", "", line)) > WIDTH


def chinese_texts() -> dict[str, str]:
    """Every Chinese text of the project: the lines of the documents, and the words of
    both pages.
    """
    found = {
        f"{path.name}:{number}": line
        for path in CHINESE_PAGES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
    }
    found |= {f"api/pages: {english}": text for english, text in words.CHINESE.items()}
    found |= {
        f"error {code}": text for code, text in error_words.CHINESE_ERRORS.items()
    }
    found |= {
        f"cause {cause}": text for cause, text in error_words.CHINESE_CAUSES.items()
    }
    found |= {
        f"agents/page: {name}": text
        for name, (_, text) in hospital_words._WORDS.items()
    }
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_prose_is_wrapped(path: Path) -> None:
    lines = prose(path.read_text("utf-8"))
    assert [
        f"{number}: {line[:60]}" for number, line in lines if is_too_long(line)
    ] == []


def test_a_long_address_may_pass_the_width_and_a_long_sentence_may_not() -> None:
    assert not is_too_long(f"See [the paper](https://example.org/{'x' * WIDTH}).")
    assert is_too_long("word " * 30)


@pytest.mark.parametrize("path", CHINESE_PAGES, ids=lambda path: path.name)
def test_chinese_lines_end_where_a_sentence_ends(path: Path) -> None:
    """A line break within a sentence would be a blank within it."""
    lines = path.read_text("utf-8").splitlines()
    for line, following in itertools.pairwise(lines):
        is_prose = re.search(HAN, line) and not line.startswith(("|", "#"))
        goes_on = re.match(r"(?!```)[^|#!\s-]", following)
        assert not (is_prose and goes_on) or line.endswith(ENDS_A_SENTENCE), line


def test_an_order_has_one_name_in_chinese() -> None:
    others = re.compile("订单|训练单|作业|账本")
    assert [name for name, text in chinese_texts().items() if others.search(text)] == []


def test_chinese_has_full_width_punctuation() -> None:
    """No half-width comma, colon, semicolon, question mark or bracket is beside a
    Chinese character.
    """
    half_width = re.compile(rf"{HAN}[,:;?!()]|[,:;?!()]{HAN}")
    wrong = []
    for name, text in chinese_texts().items():
        without_links = re.sub(r"\]\([^)]*\)|`[^`]*`", "", text)
        if half_width.search(without_links):
            wrong.append(f"{name}: {text}")
    assert wrong == []
