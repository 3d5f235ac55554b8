"""What the coordinator deals to the providers of a joint computation: seeds, and the corrections of the last one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from analytics.statistics.circuit import Conjunction, Plan, Product, Sign
from protocol.shares import triples
from protocol.shares.ring import n_words
from protocol.shares.sharing import SEED, n_conjunctions, rings
from protocol.shares.triples import Buckets


@dataclass(frozen=True)
class Dealt:
    """Message `number` to one provider; `protocol.shares.sharing.Channel.dealt` gives it its bytes."""

    number: int  # 0 for a seed, then the corrections
    provider: int
    data: bytes


def deal(plan: Plan, *, n_rows: int, seeds: Mapping[int, bytes]) -> Iterator[Dealt]:
    """All messages of a plan over `n_rows` joint rows, in the order in which they are needed.

    `seeds` holds 32 random bytes for each of the plan's providers, drawn once for a run of an order: the same seeds
    give the same messages. One correction after another is made, so that memory stays that of a batch.
    """
    for provider in plan.providers:
        yield Dealt(SEED, provider, seeds[provider])
    ordered = {provider: seeds[provider] for provider in plan.providers}
    # All shares but the last provider's are drawn from the seeds; the last one gets what makes them fit.
    last = plan.providers[-1]
    for number, correction in enumerate(_corrections(plan, n_rows, ordered), start=1):
        yield Dealt(number, last, correction)


def _corrections(plan: Plan, n_rows: int, seeds: Mapping[int, bytes]) -> Iterator[bytes]:
    """One for each step that multiplies, batch by batch of rows; the other steps need nothing dealt."""
    index = 0
    _, ring = rings(plan.bits(n_rows))
    for rows in plan.batches(n_rows):
        count = rows.stop - rows.start
        for step in plan.steps:
            match step:
                case Product():
                    yield triples.number_correction(seeds, index, ring=ring, count=count)
                case Sign(width=width):
                    words = n_conjunctions(width, len(seeds)) * n_words(count)
                    yield triples.bit_correction(seeds, index, count=Buckets.of(words).n_dealt)
                case Conjunction():
                    words = n_words(count)
                    yield triples.bit_correction(seeds, index, count=Buckets.of(words).n_dealt)
                case _:
                    continue
            index += 1
