"""The steps of a hospital in an order of joint statistics, each visible in Prefect."""

from __future__ import annotations

from agents.order import party as parties
from agents.statistics import answer as answers
from agents.statistics import joined, joined_rows, pooled
from agents.statistics.answer import Answered
from agents.statistics.party import Reading, StatisticsParty
from tasks.steps import step

__all__ = ["StatisticsParty"]


@step("data extraction")
def read_data(party: StatisticsParty) -> Reading | None:
    """A provider's rows, through the gate; nothing at a hospital that only receives."""
    if not party.is_provider:
        return None
    return joined_rows.read_rows(party) if party.request.is_joined else pooled.read_rows(party)


@step("key agreement")
def agree_on_keys(party: StatisticsParty, reading: Reading | None) -> None:
    """Acceptances and the order secret."""
    parties.accept(party, reading.n_rows if reading else 0)
    parties.begin(party, parties.agree(party))


@step("joint answer")
def answer(party: StatisticsParty, reading: Reading | None) -> Answered:
    """This provider's part of the answer, and at a receiver the answer."""
    return joined.answer(party, reading) if party.request.is_joined else pooled.answer(party, reading)


@step("results")
def keep_result(party: StatisticsParty, answered: Answered) -> None:
    """The answer, into the receiver's own folder; keys and what was read are forgotten."""
    answers.deliver(party, answered)
    answers.report(party, answered)
    parties.end(party)
