"""What was asked in an order and where its numbers are, which is what people look for
first on its page.

The numbers themselves are at the hospitals; this page never has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.pages.error_words import CHINESE_ERRORS
from api.pages.frame import Safe, note, shown
from api.pages.order_list import MODELS
from api.pages.protection import suppression_words
from api.pages.visit import Visit
from api.store.tables import ENDED
from protocol.errors import ConsiliumError

BY_NEWTON = "newton"
NO_METRICS = "A study shows the coordinator no loss and no metrics by round: its estimates are at the hospitals alone."
REPORT = (
    "The estimates with their intervals are with each hospital of the order: on the hospital's own page under Models, "
    "or by ./run agent report --model {n}."
)
MODEL = (
    "The model is with each hospital of the order: on the hospital's own page under Models, or by "
    "./run agent export --model {n}."
)
CURVES = (
    "Curves and tables are with each hospital of the order: on the hospital's own page under Models, or by "
    "./run agent report --evaluation {n}."
)
VALUES = (
    "The values are with the receivers alone, in their results folders: {path}. Their people read them "
    "with ./run agent results show {order_id}."
)
SEALED = (
    "The answer is sealed to the reader {reader} too, and the coordinator has not read it. The reader's own client "
    "opens it: federation.order({n}) in a notebook, or python -m consilium_client open."
)
TOLD = "What was asked: {what}."


def asked_of(visit: Visit, info: Mapping[str, Any] | None) -> Safe:
    """The model's columns, as its order named them; nothing of other orders."""
    if info is None:
        return Safe("")
    params = info["model_params"]
    columns = [str(attribute) for attribute in params["attributes"]]
    listed = ", ".join(columns[:12])
    if len(columns) > 12:
        listed += visit.t(" and {n} more", n=len(columns) - 12)
    description = visit.t(
        "{model} of {label} by {columns}",
        model=_model_words(visit, info["model_type"]),
        label=params["label_name"],
        columns=listed,
    )
    return Safe(f'<p class="soft">{shown(visit.t(TOLD, what=description))}</p>')


def _model_words(visit: Visit, name: str) -> str:
    """As the list of orders says it; the API's own name where that has none."""
    for label in MODELS.values():
        if label.lower() == name.lower():
            return visit.t(label)
    return name


def is_by_newton(order: Mapping[str, Any]) -> bool:
    """Whether its hospitals withhold metrics because they train by newton."""
    for round_ in order["rounds"][-1:]:
        for report in round_["hospitals"].values():
            withheld = report.get("withheld", {}).get("train") or {}
            if withheld.get("rule") == BY_NEWTON:
                return True
    return False


def refused(visit: Visit, refusal: Mapping[str, Any]) -> Safe:
    """Why an order has ended: of several hospitals each one's reason on a line of its
    own, and what helps.
    """
    error = ConsiliumError.from_json(dict(refusal))
    also = refusal.get("detail", {}).get("also", [])
    if not also:
        return note(visit.error(error), "bad")
    other_sentences = [other["sentence"] for other in also]
    # The store has put the sentences of the others behind the first one.
    first_sentence = error.sentence.removesuffix(" " + " ".join(other_sentences))
    items = "".join(
        f"<li>{shown(sentence)}</li>" for sentence in (first_sentence, *other_sentences)
    )
    chinese = CHINESE_ERRORS.get(error.code, "") if visit.language == "zh" else ""
    refusal_html = f"{shown(chinese)}<ul>{items}</ul>{shown(error.remedy)}"
    return note(Safe(refusal_html), "bad")


def where_numbers_are(visit: Visit, order: Mapping[str, Any]) -> Safe:
    """Once it has succeeded: in whose hands, and by which command."""
    if order["state"] != "success":
        return Safe("")
    order_id = order["order_id"]
    if order["kind"] == "train":
        sentence = REPORT if is_by_newton(order) else MODEL
        return note(visit.t(sentence, n=order_id), "good")
    if order["kind"] == "evaluate":
        return note(visit.t(CURVES, n=order_id), "good")
    return Safe("")


def sealed_to(visit: Visit, order: Mapping[str, Any]) -> Safe:
    """Who else reads the answer of an order that has succeeded."""
    reader = order.get("reader")
    if reader is None or order["state"] != "success":
        return Safe("")
    return note(visit.t(SEALED, reader=reader, n=order["order_id"]))


def statistics_notes(visit: Visit, order: Mapping[str, Any]) -> Safe:
    """Of joint statistics how far it is; at the end what was opened, where its values are
    and what was withheld.
    """
    t = visit.t
    notes = []
    if order["stage"] and order["state"] not in ENDED:
        stage = order["stage"]
        notes.append(
            note(f"{t('Under way')}: {stage['what']}, {stage['done']} / {stage['of']}")
        )
    recorded = order["summary"].get("statistics")
    if not recorded:
        return Safe("".join(notes))
    for sentence in recorded.get("opened") or []:
        notes.append(note(t("Opened: {what}.", what=sentence)))
    where = t(VALUES, path=recorded.get("path", "-"), order_id=order["order_id"])
    notes.append(note(where, "good"))
    reasons = [
        suppression_words(visit, withheld)
        for withheld in recorded.get("suppressed", [])
    ]
    items = ""
    for sentence in (*reasons, *recorded.get("notes", [])):
        items += f"<li>{shown(sentence)}</li>"
    if items:
        notes.append(
            note(
                Safe(
                    f"{shown(t('What is not in the answer, and why:'))}<ul>{items}</ul>"
                )
            )
        )
    return Safe("".join(notes))
