"""What the coordinator deals to the providers of a joint computation.

A seed to each of them, and to the last one corrections too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from analytics.statistics.circuit import Conjunction, Plan, Product, Sign
from protocol.shares import triples
from protocol.shares.channel import SEED
from protocol.shares.ring import n_words
from protocol.shares.sizes import n_conjunctions, rings
from protocol.shares.triples import Buckets


@dataclass(frozen=True)
class Dealt:
    """One message to one provider, which reads it by `sharing.Channel.dealt`."""

    number: int  # 0 for a seed, then the corrections
    provider: int
    data: bytes


def deal(plan: Plan, *, n_rows: int, seeds: Mapping[int, bytes]) -> Iterator[Dealt]:
    """All messages of a plan over `n_rows` joint rows, in the order of their use.

    `seeds` holds 32 random bytes for each of the plan's providers, drawn once for a run
    of an order: the same seeds give the same messages. One correction after another is
    made, so that memory stays that of a batch.
    """
    for provider in plan.providers:
        yield Dealt(SEED, provider, seeds[provider])
    ordered = {provider: seeds[provider] for provider in plan.providers}
    # All shares but the last provider's are drawn from the seeds; the last one gets
    # what makes them fit.
    last_provider = plan.providers[-1]
    for number, correction in enumerate(_corrections(plan, n_rows, ordered), start=1):
        yield Dealt(number, last_provider, correction)


def _corrections(
    plan: Plan, n_rows: int, seeds: Mapping[int, bytes]
) -> Iterator[bytes]:
    """One for each step that multiplies, batch by batch of rows.

    The other steps need nothing dealt.
    """
    _, ring = rings(plan.bits(n_rows))
    # The number of the correction: it keeps the seeds' random words of one apart from
    # those of another, and all providers count alike.
    index = 0
    for rows in plan.batches(n_rows):
        n_batch_rows = rows.stop - rows.start
        for step in plan.steps:
            match step:
                case Product():
                    yield triples.number_correction(
                        seeds, index, ring=ring, count=n_batch_rows
                    )
                case Sign(width=width):
                    n_products = n_conjunctions(width, len(seeds))
                    word_count = n_products * n_words(n_batch_rows)
                    yield _bit_correction(seeds, index, word_count)
                case Conjunction():
                    word_count = n_words(n_batch_rows)
                    yield _bit_correction(seeds, index, word_count)
                case _:
                    continue
            index += 1


def _bit_correction(seeds: Mapping[int, bytes], index: int, word_count: int) -> bytes:
    # More are dealt than used: some are opened, to find out whether the dealer is honest.
    n_dealt = Buckets.of(word_count).n_dealt
    return triples.bit_correction(seeds, index, count=n_dealt)
