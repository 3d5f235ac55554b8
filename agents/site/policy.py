"""Reads a hospital's `policy.toml`, and says what is wrong in one that is none.

The rules themselves are `protocol.policy.Policy`; what each key means is in
deployments/sites/policy.example.toml. A missing file, a missing key of those that have
no default, an unknown key and a value of another type are refusals that name the key
and say what to write.

Decision 66.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from protocol.errors import Refused
from protocol.policy import (
    CROSS_CHECK,
    CohortRules,
    InferenceRules,
    NamedCohort,
    OrderRules,
    Policy,
    StatisticsRules,
    TableRules,
    Wanted,
)
from protocol.versions import SPOKEN, Window

EXAMPLE = "deployments/sites/policy.example.toml"
_SECTIONS: dict[str, type[BaseModel]] = {
    "orders": OrderRules,
    "cohort": CohortRules,
    "tables": TableRules,
    "cohorts": NamedCohort,
    "inference": InferenceRules,
    "statistics": StatisticsRules,
}


def load_policy(path: Path) -> Policy:
    """Read and check a hospital's `policy.toml`.

    Raises Refused (code policy) when the file is missing or unreadable, is not TOML,
    lacks a key that has no default, holds an unknown key or a value of a wrong type or
    range. The sentence names the file and the key.
    """
    try:
        policy_text = path.read_text("utf-8")
    except FileNotFoundError:
        raise _refusal(
            f"There is no policy at {path}, and silence means no.",
            f"Copy {EXAMPLE} and edit it.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(
            f"The policy {path} cannot be read ({type(error).__name__}).",
            "Make it a readable UTF-8 file.",
        ) from None
    return parse_policy(policy_text, name=str(path))


def spoken_here(path: Path) -> Window:
    """The protocol numbers that this hospital takes: its release's, where the policy is
    not stricter or cannot be read, when every order is refused.
    """
    try:
        return load_policy(path).speaks(SPOKEN)
    except Refused:
        return SPOKEN


def parse_policy(text: str, *, name: str = "policy.toml") -> Policy:
    """The policy in a TOML text; errors as `load_policy`, with the file's `name`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refusal(
            f"The policy {name} is not TOML: {error}.", f"Compare it with {EXAMPLE}."
        ) from None
    try:
        policy = Policy.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise _first_problem(problems, name) from None
    for cohort in policy.cohorts.values():
        _check_times(cohort, name)
    return policy


def _check_times(cohort: NamedCohort, name: str) -> None:
    """Its `refresh` names a time that comes, in a zone that there is."""
    section = f"cohorts.{cohort.short_name}"
    try:
        zone = ZoneInfo(cohort.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _refusal(
            f"{section}.timezone in {name} is no name of the IANA list.",
            "Write a place, as Asia/Shanghai or Europe/Berlin, or UTC.",
        ) from None
    if cohort.refresh is None:
        return
    try:
        next(CronSim(cohort.refresh, datetime(2026, 1, 1, tzinfo=UTC).astimezone(zone)))
    except (CronSimError, StopIteration):
        raise _refusal(
            f"{section}.refresh in {name} names no time that comes.",
            'Write five fields (minute, hour, day, month, weekday), as "0 3 * * *".',
        ) from None


def _first_problem(problems: list[ErrorDetails], name: str) -> Refused:
    """The refusal of what is wrong first in the file's order.

    Unknown keys are named all of one section at once.
    """
    problem = problems[0]
    place = [str(part) for part in problem["loc"]]

    if problem["type"] == CROSS_CHECK:
        details = problem["ctx"]
        sentence_fields = {**details, "section": ".".join(place), "file": name}
        sentence = details["sentence"].format(**sentence_fields)
        return _refusal(sentence, details["remedy"])

    if problem["type"] == "extra_forbidden":
        unknown = []
        for other_problem in problems:
            is_beside = other_problem["loc"][:-1] == problem["loc"][:-1]
            if other_problem["type"] == "extra_forbidden" and is_beside:
                unknown.append(".".join(str(part) for part in other_problem["loc"]))
        unknown_keys = ", ".join(sorted(unknown))
        return _refusal(
            f"{name} has unknown keys: {unknown_keys}.",
            f"Remove them or spell them as in {EXAMPLE}.",
        )

    # A table's keys lie one level deeper than those of other sections. What comes after
    # the key is a place within its value, such as the third of a list, and the sentence
    # is about the value as a whole.
    depth = 2 if place[0] in ("tables", "cohorts") else 1
    key = ".".join(place[: depth + 1])
    is_section = len(place) <= depth
    wanted = "a table" if is_section else _wanted_at(place[0], place[depth])
    remedy = f"Write {wanted}; see {EXAMPLE}."
    if problem["type"] == "missing":
        return _refusal(f"{key} is missing in {name}, and silence means no.", remedy)
    return _refusal(f"{key} in {name} is not {wanted}.", remedy)


def _wanted_at(section: str, key: str) -> str:
    model_field = _SECTIONS[section].model_fields[key]
    for mark in model_field.metadata:
        if isinstance(mark, Wanted):
            return mark.words
    raise AssertionError(f"{section}.{key} does not say what it wants")


def _refusal(sentence: str, remedy: str) -> Refused:
    return Refused(sentence, remedy=remedy, code="policy")
