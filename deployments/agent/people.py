"""What people decide here: who may read sealed answers, and which orders go on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from deployments.agent.printing import (
    print_json,
    print_line,
    print_lines,
    say,
)
from protocol.errors import BadRequest

if TYPE_CHECKING:
    from agents.order.approval import ApprovalQuestion


def run_readers(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Lists the readers to whose own keys answers may be sealed, or changes the list in
    policy.toml; the ledger has each change.
    """
    from agents.order.approval import person
    from agents.site.policy import load_policy
    from agents.site.readers_file import add_reader, remove_reader

    reader_name, fingerprint = options.name, options.fingerprint
    n_given = len([word for word in (reader_name, fingerprint) if word is not None])
    if n_given != {"list": 0, "add": 2, "remove": 1}[options.action]:
        raise BadRequest(
            "Names and fingerprints are not those that this takes.",
            remedy="Write `readers list`, `readers add NAME FINGERPRINT` or `readers remove NAME`.",
            code="reader",
        )
    if options.action == "list":
        readers = load_policy(settings.policy).readers
        print_lines(f"{listed}  {who}" for who, listed in sorted(readers.items()))
        if not readers:
            say("Nobody is listed: no answer is sealed to a reader.")
        return 0
    sentence = ""

    def note(listed: str) -> None:
        nonlocal sentence
        sentence = f"No answer is sealed to {reader_name} any more, {listed}."
        if options.action == "add":
            sentence = f"Answers may be sealed to {reader_name}, {listed}."
        # The name that the kernel remembers through sudo: nobody gives another's.
        Ledger(settings.ledger).write("readers", person=person(), sentence=sentence)

    if options.action == "remove":
        remove_reader(settings.policy, reader_name, note=note)
    elif not add_reader(settings.policy, reader_name, fingerprint, note=note):
        say(f"{reader_name} is listed already.")
        return 0
    print_line(sentence)
    return 0


def list_approvals(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Prints every order that waits for a person here, with all that it says."""
    from agents.order.approval import Approvals

    waiting = Approvals(settings).waiting()
    if options.json:
        print_json([asdict(question) for question in waiting])
    else:
        for question in waiting:
            print_lines([*_question_lines(question), ""])
        how = " Decide by `approve ORDER_ID` or `refuse ORDER_ID`." if waiting else ""
        say(f"{len(waiting)} waiting.{how}")
    return 0


def _question_lines(question: ApprovalQuestion) -> Iterator[str]:
    yield f"order {question.order_id}, since {question.asked_at}"
    for name, text in question.lines():
        yield f"  {name:24}  {text}"


def decide(options: argparse.Namespace, settings: SiteSettings) -> int:
    """Approves or refuses an order that waits; says so when it is in ledger and vault."""
    from agents.order.approval import Approvals, person

    approval = Approvals(settings).decide(
        options.order_id,
        approve=options.approve,
        reason=options.reason.strip(),
        person=person(),
    )
    print_line(
        f"Order {approval.order_id} is {approval.decision} by {approval.person} at {approval.at}."
    )
    return 0
