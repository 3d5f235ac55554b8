"""How an order is protected and why an answer withholds something, in words for readers
who are no cryptographers.

The words belong to methods and rules of `protocol`; SECURITY.md has the whole of it.
"""

from __future__ import annotations

from typing import Any

from api.pages.frame import Safe, shown
from api.pages.visit import Visit
from api.routes.order_protection import SCORED

# By method.
WORDS = {
    "Paillier": [
        "No row leaves its hospital.",
        "Each hospital encrypts what it has computed and adds random numbers that cancel out only in the sum of all.",
        "The coordinator adds up what it cannot open. Only the sum can be opened, by {holder} ({bits} bit key).",
        "Nobody can see one hospital's contribution: not the coordinator, not {holder}.",
    ],
    "Mask": [
        "No row leaves its hospital.",
        "Each hospital adds random numbers to what it has computed; they cancel out only in the sum of all.",
        "Nobody can see one hospital's contribution, and the coordinator can open nothing.",
    ],
    "None": [
        "No row leaves its hospital.",
        "Nothing else is hidden: the coordinator sees what each hospital has computed, and the model.",
        "Every hospital's policy must allow this.",
    ],
    "additive masks": [
        "No row leaves its hospital.",
        "Each hospital adds random numbers to its totals; they cancel out only in the total of all.",
        "Only the receivers can open the result: {receivers}. The coordinator can open nothing.",
    ],
    "additive masks, opened by all": [
        "No row leaves its hospital.",
        "Each hospital adds random numbers to its counts of rows; they cancel out only in the counts of all.",
        "The receivers can open these, and every hospital that provides rows: so each checks what it is asked.",
        "Of two hospitals that provide rows, each learns the other's counts. The coordinator can open nothing.",
    ],
    "additive masks, counts opened by all": [
        "No row leaves its hospital.",
        "Each hospital adds random numbers to its totals; they cancel out only in the total of all.",
        "Only the receivers can open means and counts: {receivers}.",
        "Counts of rows below a value, which find the medians, every hospital that provides rows can open, too.",
        "Of two hospitals that provide rows, each learns the other's counts. The coordinator can open nothing.",
    ],
    "additive secret sharing": [
        "No row leaves its hospital.",
        "Each value is split into random parts, one for each hospital; a part alone says nothing.",
        "Only the receivers can open the result: {receivers}.",
        "The coordinator learns how many persons each hospital has and how many are common, not who they are.",
    ],
    "recorded": ["Nothing is encrypted: gradients are kept as they were recorded."],
    "sealed": [
        "The predictions are sealed for the one who asked; nobody else can open them."
    ],
}

# By the level of scoring.
LEARNT = {
    "none": "The coordinator learns nothing of single gradients.",
    "round": "For the scores the coordinator learns lengths and angles of the gradients of one round.",
    "full": "For the scores the coordinator learns lengths and angles, also from one round to the next.",
}

# By the rule of a policy.
WITHHELD = {
    "min_rows": "{n} group(s) withheld: fewer than {threshold} rows at a hospital, so few that persons could be told.",
    "max_share": "{n} group(s) withheld: one or two persons make more than {threshold} of a hospital's total.",
    "pair_rows": "{n} group(s) withheld: fewer than {threshold} rows of a hospital have a pair of values.",
    "min_providers": "{n} group(s) withheld: fewer than {threshold} hospitals have rows in them.",
    "cells": "{n} group(s) withheld: of all hospitals fewer than {threshold} rows, too few have any, or few changed.",
    "earlier_cohort": "{n} group(s) withheld: with an earlier answer they would tell of fewer than {threshold} people.",
    "complement": "{n} more group(s) withheld: with them, a withheld one could be computed from the rest.",
}


def protection_words(
    visit: Visit, order: dict[str, Any], names: dict[int, str]
) -> Safe:
    """The statement as a list, with the API's own sentence below it; in Chinese, which
    the API does not speak, the list alone.
    """
    statement = order["protection"]
    method = statement["method"]
    # These two kinds have no method of a sum.
    words_of = {"external": "recorded", "infer": "sealed"}.get(order["kind"], method)

    def named(user: int) -> str:
        return names.get(user, f"{visit.t('Hospital')} {user}")

    values = {
        "holder": named(order["user_id"]),
        "bits": statement.get("key_bits"),
        # Of statistics alone.
        "receivers": ", ".join(map(named, statement.get("receivers", []))),
    }
    sentences = [visit.t(template, **values) for template in WORDS.get(words_of, [])]
    # With None the coordinator sees the gradients anyway, as a sentence above says.
    if method != "None":
        for level, template in LEARNT.items():
            if statement.get("scoring") == SCORED[level]:
                sentences.append(visit.t(template))
    items = "".join(f"<li>{shown(sentence)}</li>" for sentence in sentences)
    sentence_of_api = f"{shown(method)}: {shown(statement['who_could_decrypt'])}"
    if visit.language == "zh" and sentences:
        sentence_of_api = f"{shown(visit.t('Method'))}：{shown(method)}"
    return Safe(f'<ul>{items}</ul><p class="soft">{sentence_of_api}</p>')


def suppression_words(visit: Visit, withheld: dict[str, Any]) -> str:
    """Why a rule of a hospital's policy withheld groups."""
    rule = withheld["rule"]
    template = WITHHELD.get(
        rule, "{n} group(s) withheld by the rule {rule} (threshold {threshold})."
    )
    return visit.t(
        template, n=withheld["groups"], rule=rule, threshold=withheld["threshold"]
    )
