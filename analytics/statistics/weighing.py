"""What the opened totals of a circuit are made of: whether columns are added up in
them, or weighed by each other.

    sum(a.w + b.x)            w + x
    var(b.x)                  x, and x^2
    var(a.w + b.x)            w + x, and its square, in which w x stands: where w is 0 or 1, it chooses rows
    sum(a.w + 1e-20 * b.x)    w + 10^-20 x: two columns, each in digits of its own

The circuit is asked, since that is what is computed, and not the text: one total can be
written in many ways, and an aggregate that is new has to add columns too, or it does
not pass. Decision 44; the refusal is made in `agents/gate/disclosure.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

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
    Total,
)
from analytics.statistics.expression import Node, add, constant, multiply
from analytics.statistics.kinds import kind_of, name

Coefficients = Mapping[tuple[int, str], Fraction]
"""(provider, alias.column) to what the column's numbers are multiplied by: never zero.
Constants are left out.
"""


class Weighing(Enum):
    """How a total does more than add columns up; the first that holds is reported."""

    COMBINED = "It multiplies, compares or divides columns."
    SCALED = "It gives columns other factors than 1 and -1."


def weighing(plan: Plan, provider: int) -> Weighing | None:
    """How the totals of a plan weigh this provider's columns; None where they do not.

    A total that they go into must be c + sum of s_j x_j over columns x_j of any
    providers, s_j = 1 or -1; or else, in a variance over this provider's columns alone,
    the square of such a sum. Which rows count may depend on such sums only, too: a
    division by zero leaves rows out, and so would choose them.

    Results of a value per row have no totals, and pass.
    """
    sources = _sources(plan)
    sums = _sums(plan)
    weighings: set[Weighing | None] = set()
    for total in plan.totals:
        providers = sources[total.register]
        if provider in providers:
            coefficients = _coefficients(plan, total, sums)
            weighings.add(_judged(coefficients, provider))
    for leaf in plan.needed:
        is_own = leaf.provider == provider
        if is_own and _affine(leaf.node, provider) is None:
            weighings.add(Weighing.COMBINED)
    for reason in Weighing:
        if reason in weighings:
            return reason
    return None


@dataclass(frozen=True)
class Composition:
    """What one opened total of a plan is made of."""

    total: Total
    # Whose columns are left in it once like terms are added: a column times zero, or
    # one that is taken off again, is not there.
    providers: frozenset[int]
    # Of the sum, or of the sum that is squared; None where columns are weighed by each
    # other.
    coefficients: Coefficients | None


def compositions(plan: Plan) -> list[Composition]:
    """What each opened total of a plan is made of, in the plan's order.

    Where columns are weighed by each other, everybody whose columns stand behind the
    total counts.
    """
    sources = _sources(plan)
    sums = _sums(plan)
    total_compositions = []
    for total in plan.totals:
        coefficients = _coefficients(plan, total, sums)
        providers = sources[total.register]
        if coefficients is not None:
            providers = frozenset(owner for owner, _ in coefficients)
        composition = Composition(
            total=total,
            providers=providers,
            coefficients=coefficients,
        )
        total_compositions.append(composition)
    return total_compositions


@dataclass(frozen=True)
class Summand:
    """What a provider adds to a total for each row."""

    node: Node
    # Whether others' numbers are added to it.
    is_shared: bool


def summands(plan: Plan, provider: int) -> list[Summand]:
    """What this provider adds to totals that are sums, each once.

    Its columns in a total are taken together, as that is what hides other hospitals'
    part, and is hidden by theirs: of (a.w + b.x) - (a.v + b.y) hospital a adds w - v.
    """
    own_summands: dict[Summand, None] = {}  # an ordered set
    for composition in compositions(plan):
        total = composition.total
        coefficients = composition.coefficients
        if total.of != "sum":
            continue
        is_shared = len(composition.providers) > 1
        if coefficients is None:
            nodes = _leaves_below(plan, total.register, provider)
        else:
            nodes = _own_part(plan, coefficients, provider)
        for node in nodes:
            own_summands[Summand(node, is_shared)] = None
    return list(own_summands)


def _own_part(
    plan: Plan,
    coefficients: Coefficients,
    provider: int,
) -> list[Node]:
    """The provider's columns times their coefficients, added up; none without any."""
    column_nodes = {}
    for node in plan.expression.root.every():
        if node.op == "column":
            column_nodes[name(node)] = node
    terms = []
    for (owner, column), coefficient in coefficients.items():
        if owner == provider:
            factor = constant(coefficient)
            term = multiply(factor, column_nodes[column])
            terms.append(term)
    if not terms:
        return []
    return [add(*terms)]


def _leaves_below(
    plan: Plan,
    register: int,
    provider: int,
) -> list[Node]:
    """The provider's leaves that additions alone bring into a register."""
    step = plan.steps[register]
    if isinstance(step, Linear):
        nodes: list[Node] = []
        for term_register, _ in step.terms:
            nodes += _leaves_below(plan, term_register, provider)
        return nodes
    if not isinstance(step, Leaf) or step.provider != provider:
        return []
    if not step.node.aliases:
        return []
    return [step.node]


def _judged(
    coefficients: Coefficients | None,
    provider: int,
) -> Weighing | None:
    if coefficients is None:
        return Weighing.COMBINED
    owners = {owner for owner, _ in coefficients}
    is_scaled = any(abs(factor) != 1 for factor in coefficients.values())
    if is_scaled and provider in owners:
        return Weighing.SCALED
    return None


def _coefficients(
    plan: Plan,
    total: Total,
    sums: list[Coefficients | None],
) -> Coefficients | None:
    """Those of a total's sum, or of the sum whose square it is; else None."""
    step = plan.steps[total.register]
    # A square is judged by its root only where the root is one hospital's own sum: its
    # columns could weigh no others.
    if total.of == "squares" and isinstance(step, Leaf):
        square = multiply(total.node, total.node)
        if step.node == square:
            return _affine(total.node, step.provider)
    coefficients = sums[total.register]
    if coefficients is None:
        return None
    return _times(coefficients, total.kind.scale)


def _sources(plan: Plan) -> list[frozenset[int]]:
    """For each register, whose columns stand behind it, even where they cancel."""
    sources: list[frozenset[int]] = []
    for step in plan.steps:
        providers: set[int] = set()
        if isinstance(step, Leaf):
            # A constant is computed by a provider, and is no column of it.
            if step.node.aliases:
                providers.add(step.provider)
        else:
            for register in _inputs(step):
                providers |= sources[register]
        sources.append(frozenset(providers))
    return sources


def _inputs(step: Step) -> tuple[int, ...]:
    match step:
        case Leaf():
            return ()
        case Linear(terms=terms):
            return tuple(register for register, _ in terms)
        case Product(left=left, right=right):
            return left, right
        case Conjunction(left=left, right=right):
            return left, right
        case Sign(number=number):
            return (number,)
        case Exclusive(bits=bits):
            return bits
        case Part(bit=bit):
            return (bit,)


def _sums(plan: Plan) -> list[Coefficients | None]:
    """For each register, of which columns its integer is a sum; else None."""
    sums: list[Coefficients | None] = []
    for step in plan.steps:
        coefficients: Coefficients | None = None
        match step:
            case Leaf():
                coefficients = _of_leaf(plan, step)
            case Linear(terms=terms):
                added: list[tuple[Coefficients | None, Fraction]] = []
                for register, factor in terms:
                    summand = sums[register]
                    added.append((summand, Fraction(factor)))
                coefficients = _added(added)
        sums.append(coefficients)
    return sums


def _of_leaf(plan: Plan, leaf: Leaf) -> Coefficients | None:
    """Of a leaf's integer, that is, of its number over its scale."""
    coefficients = _affine(leaf.node, leaf.provider)
    if coefficients is None:
        return None
    scale = kind_of(leaf.node, plan.types).scale
    return _times(coefficients, 1 / scale)


def _affine(node: Node, provider: int) -> Coefficients | None:
    """Of which columns a node over one provider's is a sum.

    None where it multiplies or divides them, or compares.
    """
    match node.op:
        case "column":
            column = (provider, name(node))
            return {column: Fraction(1)}
        case "constant":
            return {}
        case "+":
            terms = [_affine(arg, provider) for arg in node.args]
            return _added((term, Fraction(1)) for term in terms)
        case "*":
            number = Fraction(1)
            factors = []
            for operand in node.args:
                if operand.op == "constant":
                    number *= operand.value
                else:
                    factors.append(operand)
            # A column by a constant is scaled, by another column it is weighed.
            if len(factors) == 1:
                term = _affine(factors[0], provider)
                return _added([(term, number)])
    return None


def _added(
    terms: Iterable[tuple[Coefficients | None, Fraction]],
) -> Coefficients | None:
    """The sum of all terms, each times its factor.

    Like columns are added first, and what cancels is not there.
    """
    combined: dict[tuple[int, str], Fraction] = defaultdict(Fraction)
    for coefficients, factor in terms:
        if coefficients is None:
            return None
        for column, coefficient in coefficients.items():
            combined[column] += factor * coefficient
    remaining = {}
    for column, coefficient_sum in combined.items():
        if coefficient_sum != 0:
            remaining[column] = coefficient_sum
    return remaining


def _times(coefficients: Coefficients, factor: Fraction) -> Coefficients:
    scaled: dict[tuple[int, str], Fraction] = {}
    for column, coefficient in coefficients.items():
        scaled[column] = factor * coefficient
    return scaled
