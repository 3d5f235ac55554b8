"""An expression over joined rows: a provider's part, and how a receiver reads it.

The rows are matched already: every provider holds those of the common keys, in one
order. Batch by batch it computes its own leaves in clear and the rest on shares, and
after the last one the triples are verified; only then is there a share to release. A
receiver adds the shares of all providers.

`analytics/statistics/circuit.py` has the plan's steps, `protocol/shares/sharing.py` how
each is done on shares.

Decision 36.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from analytics.statistics.circuit import (
    Conjunction,
    Exclusive,
    Leaf,
    Linear,
    Part,
    Plan,
    Product,
    Sign,
    Step,
)
from analytics.statistics.expression import ExpressionError
from analytics.statistics.rowwise import Column, Computed, compute
from protocol.errors import ProtocolViolation, other_version
from protocol.shares.channel import Channel, Keys
from protocol.shares.result import ResultShare, open_result
from protocol.shares.ring import Limbs, Words, n_words
from protocol.shares.sharing import Sharing

Shares = list[Any]
"""A batch's registers: numbers (n_limbs, n) or booleans (ceil(n / 64),)."""


def evaluate(
    plan: Plan,
    columns: Mapping[str, Column],
    *,
    keys: Keys,
    channel: Channel,
    n_rows: int,
) -> bytes:
    """This provider's share of the result, a `ResultShare`, for each receiver alike.

    `columns` holds this provider's own ones by "alias.column", their rows in the order
    of the common keys. Every call with the same keys, columns and dealt material sends
    the same bytes. Raises ExpressionError where a column holds what its type does not,
    ProtocolViolation `false_triple` when the coordinator dealt falsely, `opening` or
    `dealt` when a message has another length.

    Disclosure: messages to other providers are masked and sealed; the share says
    nothing without all others'. Together they give the result, for receivers only:
    release it through the door, pair-sealed.
    """
    evaluation = _Evaluation(
        plan,
        columns,
        keys,
        channel,
        n_rows,
    )
    return evaluation.share()


class _Evaluation:
    """One run of a plan at one provider."""

    def __init__(
        self,
        plan: Plan,
        columns: Mapping[str, Column],
        keys: Keys,
        channel: Channel,
        n_rows: int,
    ) -> None:
        self._plan = plan
        self._columns = columns
        self._me = keys.me
        self._n_rows = n_rows
        self._sharing = Sharing(
            keys,
            channel,
            providers=plan.providers,
            bits=plan.bits(n_rows),
        )
        # What is kept of every batch for the result. Values by row:
        self._numbers: list[Limbs] = []
        # Of each boolean that is opened by row, its batches.
        opened = _bits(plan)
        self._bits: list[list[Words]] = [[] for register in opened]
        # Sums over rows.
        self._totals = [0] * len(plan.totals)
        self._n_divisions_by_zero = 0

    def share(self) -> bytes:
        for rows in self._plan.batches(self._n_rows):
            registers = self._registers(rows)
            self._keep(registers)
        # Before there is a share: a false triple of the dealer would make the result
        # another function of the rows (decision 35).
        self._sharing.verify()
        result_share = self._sharing.result(
            self._joined_numbers(),
            self._joined_bits(),
            n_rows=self._n_rows,
        )
        return result_share.encode()

    def _joined_numbers(self) -> Limbs:
        """The values of all batches, then the sums."""
        own_sums = [*self._totals, self._n_divisions_by_zero]
        sums = np.array(own_sums, dtype=object)
        shared_sums = self._sharing.ring.encode(sums)
        return np.concatenate([*self._numbers, shared_sums], axis=1)

    def _joined_bits(self) -> Words:
        """The booleans of all batches, a line of words for each."""
        bit_lines = []
        for batches in self._bits:
            if batches:
                bit_line = np.concatenate(batches)
                bit_lines.append(bit_line)
        bit_words = np.array(bit_lines, dtype=np.uint64)
        # Also without any batch the array has its two axes.
        n_lines = len(self._bits)
        return bit_words.reshape(n_lines, n_words(self._n_rows))

    def _keep(self, registers: Shares) -> None:
        """What a batch adds to the result."""
        plan = self._plan
        for place, plan_total in enumerate(plan.totals):
            terms = registers[plan_total.register]
            self._totals[place] += self._sharing.total(terms)
        if plan.value is not None and not plan.is_boolean:
            batch_values = registers[plan.value]
            self._numbers.append(batch_values)
        opened = zip(self._bits, _bits(plan), strict=True)
        for batches, register in opened:
            batches.append(registers[register])

    def _registers(self, rows: slice) -> Shares:
        """A batch's registers, one for each step of the plan."""
        n_batch_rows = rows.stop - rows.start
        columns = {}
        for column_name, column in self._columns.items():
            columns[column_name] = column[rows]
        registers: Shares = []
        # A row counts once, however often it is divided by zero.
        by_zero = np.zeros(n_batch_rows, dtype=bool)
        for step in self._plan.steps:
            if not isinstance(step, Leaf):
                shares = self._joint(step, registers, n_batch_rows)
                registers.append(shares)
                continue
            computed = self._own(step, columns, n_batch_rows)
            if computed is not None:
                by_zero |= computed.divided_by_zero
            shares = self._leaf(step, computed, n_batch_rows)
            registers.append(shares)
        n_divisions = by_zero.sum()
        self._n_divisions_by_zero += int(n_divisions)
        return registers

    def _own(
        self,
        leaf: Leaf,
        columns: Mapping[str, Column],
        count: int,
    ) -> Computed | None:
        """What this provider computes in clear; None for another provider's leaf."""
        if leaf.provider != self._me:
            return None
        computed = compute(
            leaf.node,
            columns,
            self._plan.types,
            n_rows=count,
        )
        is_aggregate = not self._plan.is_row_level
        if is_aggregate and not computed.valid.all():
            # The circuit of an aggregate has no factor for rows without a value: they
            # would count as zeros.
            raise ExpressionError(
                "An aggregate is over a row without a value.",
                "Leave such rows out before.",
            )
        return computed

    def _leaf(
        self,
        leaf: Leaf,
        computed: Computed | None,
        count: int,
    ) -> Limbs | Words:
        """A share of a leaf; without values, that of a provider which lacks them."""
        own_values = None
        if computed is not None:
            own_values = computed.values
        if leaf.node.is_boolean:
            return self._sharing.boolean(own_values, count)
        return self._sharing.number(own_values, count)

    def _joint(
        self,
        step: Step,
        registers: Shares,
        count: int,
    ) -> Any:
        """A share of what the providers compute together from registers before."""
        sharing = self._sharing
        match step:
            case Linear(terms=terms, constant=constant):
                numbers = []
                for register, factor in terms:
                    numbers.append((registers[register], factor))
                shared_constant = sharing.constant(constant, count)
                return sharing.linear(numbers, constant=shared_constant)
            case Product(left=left, right=right):
                left_number = registers[left]
                right_number = registers[right]
                return sharing.product(left_number, right_number)
            case Sign(number=number, width=width):
                shares = registers[number]
                return sharing.is_negative(shares, width)
            case Exclusive(bits=bits, constant=inverted):
                operands = [registers[bit] for bit in bits]
                return sharing.exclusive(operands, constant=inverted)
            case Conjunction(left=left, right=right):
                left_bits = registers[left]
                right_bits = registers[right]
                return sharing.conjunction(left_bits, right_bits)
            case Part(bit=bit, provider=provider):
                shares = registers[bit]
                return sharing.part(shares, provider, count)
        raise TypeError(f"{step} is no step of shares")


def _bits(plan: Plan) -> list[int]:
    """The registers of the booleans that are opened by row.

    They are the value if it is a boolean, and whether there is a value.
    """
    bits = []
    if plan.is_boolean and plan.value is not None:
        bits.append(plan.value)
    if plan.valid is not None:
        bits.append(plan.valid)
    return bits


@dataclass(frozen=True)
class JoinedResult:
    """What a receiver learns."""

    # One for each joined row, in their order, or a single one; None where there is
    # none.
    values: list[Fraction | bool | None]
    n_rows: int
    # Rows without a value, where the result is by row; else 0.
    n_missing: int
    # Rows that miss one for that reason, added over the providers.
    n_divisions_by_zero: int


def reveal(plan: Plan, shares: Mapping[int, bytes]) -> JoinedResult:
    """The result of all providers' shares.

    A receiver runs it; ProtocolViolation `result_share` if one is unfit.
    """
    if set(shares) != set(plan.providers):
        raise ProtocolViolation(
            "The shares of the result are not those of all providers.",
            remedy="Wait for every provider's share.",
            code="result_share",
        )
    decoded = []
    for provider in plan.providers:
        result_share = ResultShare.decode(shares[provider])
        decoded.append(result_share)
    n_rows = decoded[0].n_rows
    _require_shape(plan, decoded)
    numbers, bits = open_result(decoded)
    # As `_Evaluation.share` writes them: the values of rows, or the totals, and the
    # divisions by zero last.
    *numbers, n_divisions_by_zero = numbers
    joined_values: list[Fraction | bool | None] = []
    n_missing = 0
    if not plan.is_row_level:
        aggregate_value = plan.finish(numbers, n_rows)
        joined_values.append(aggregate_value)
    else:
        if plan.is_boolean:
            joined_values += bits[0].tolist()
        else:
            scale = plan.kind.scale
            joined_values += _scaled(numbers, scale)
        # Without such a register every row has a value.
        if plan.valid is not None:
            missing = np.flatnonzero(~bits[-1])
            n_missing = len(missing)
            for row in missing:
                joined_values[row] = None
    return JoinedResult(
        joined_values,
        n_rows,
        n_missing,
        n_divisions_by_zero,
    )


def _scaled(numbers: Sequence[int], scale: Fraction) -> list[Fraction]:
    numerator, denominator = scale.as_integer_ratio()
    scaled = []
    for number in numbers:
        fraction = Fraction(number * numerator, denominator)
        scaled.append(fraction)
    return scaled


def _require_shape(plan: Plan, shares: Sequence[ResultShare]) -> None:
    """A share of another shape would be added to the others in wrong places."""
    for share in shares:
        # The last one counts the divisions by zero.
        n_numbers = len(plan.totals) + 1
        if plan.is_row_level and not plan.is_boolean:
            n_numbers += share.n_rows
        n_bits = len(_bits(plan))
        found_numbers = share.numbers.shape[1]
        if found_numbers != n_numbers or len(share.bits) != n_bits:
            raise other_version(
                "result_share",
                "A provider's share of the result is not one of this expression.",
            )
