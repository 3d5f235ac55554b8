"""What `./run bench --peers` prints of the systems that it has measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FLOWER, FLOWER_DEPLOYED = "Flower, simulation", "Flower, deployment"
FLARE, FLARE_DEPLOYED = "FLARE, simulator", "FLARE, POC"
BESIDE = {
    "one process": (FLOWER, FLARE),
    "federation": (FLOWER_DEPLOYED, FLARE_DEPLOYED),
}
"""The peers that each place of Consilium is compared with."""
TARGET_RATIO, TARGET_LOSS_DIFFERENCE = 4.0, 1e-6
RATIOS = ("whole", "first", "order", "again", "round", "n_bytes", "peak_mib")
COLUMNS = {
    "start-up s": 11,
    "first s": 9,
    "order s": 9,
    "again s": 9,
    "whole s": 9,
    "round s": 9,
    "bytes/round": 12,
    "MiB": 8,
    "final loss": 13,
    "- pooled": 10,
}
SAW = {
    "Flower": "every hospital's model of every round, and the joint model",
    "FLARE": "every hospital's model of every round, and the joint model",
    "None": "every hospital's gradient, from which it can compute the joint model",
    "Mask": "random numbers and row counts; lengths and angles of gradients where every policy allows it",
    "Paillier": "ciphertexts and row counts; lengths and angles of gradients where every policy allows it",
}


@dataclass(frozen=True)
class Measured:
    """One system: seconds, MiB, bytes for each hospital and round, and the final
    model's loss.

    `start` is from the command until it can take the order, `first` from the command to
    the end of the first round, `order` from there where it can take one to the model,
    `again` the same order a second time, `round` one of its rounds once they run.
    `n_bytes` is None where nothing counts them.
    """

    start: float
    first: float
    order: float
    again: float
    round: float
    n_bytes: float | None
    peak_mib: float
    loss: float

    @property
    def whole(self) -> float:
        """Seconds from the command to the first model."""
        return self.start + self.order


def print_table(systems: Mapping[str, Measured], pooled_loss: float) -> None:
    """One line for each system."""
    print(f"{'':27}" + "".join(f"{t:>{w}}" for t, w in COLUMNS.items()))
    for name, m in systems.items():
        seconds = [
            f"{value:.2f}" for value in (m.start, m.first, m.order, m.again, m.whole)
        ]
        cells = [
            *seconds,
            f"{m.round:.3f}",
            "-" if m.n_bytes is None else f"{m.n_bytes:,.0f}",
            f"{m.peak_mib:,.0f}",
            f"{m.loss:.9f}",
            f"{m.loss - pooled_loss:.1e}",
        ]
        widths = COLUMNS.values()
        print(
            f"{name:27}"
            + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
        )
    print("first: from the command to the end of the first round; whole: to the model;")
    print(
        "order: from submission to the model; bytes/round: for each hospital, both ways,"
    )
    print(
        "of the first order: messages alone in simulations, and what TCP carried, counted by"
    )
    print(
        "a relay between hospitals and server, in deployments; MiB: proportional set sizes"
    )
    print("(PSS) of all processes added up, at the peak")
    print("what the server sees:")
    for name, words in SAW.items():
        print(f"  {name:10}{words}")


def print_ratios(systems: Mapping[str, Measured]) -> None:
    """Each peer beside each of our ways to run of its kind."""
    print("The peer's figure divided by Consilium's (above 1: Consilium needs less)")
    titles = "".join(f"{title:>10}" for title in RATIOS)
    for place, peers in BESIDE.items():
        ours = [name for name in systems if name.endswith(f", {place}")]
        for peer in peers:
            if peer not in systems:
                continue
            print(f"{peer:27}{titles}")
            for name in ours:
                row = ratios(systems[peer], systems[name])
                print(f"  {name:25}" + "".join(map(_cell, row.values())))


def _cell(ratio: float | None) -> str:
    return f"{'-':>10}" if ratio is None else f"{ratio:10.2f}"


def ratios(peer: Measured, own: Measured) -> dict[str, float | None]:
    """The peer's figures divided by ours; None where one of both is not counted."""
    found: dict[str, float | None] = {}
    for name in RATIOS:
        theirs, ours = getattr(peer, name), getattr(own, name)
        found[name] = theirs / ours if theirs is not None and ours else None
    return found


def print_targets(systems: Mapping[str, Measured], pooled_loss: float) -> None:
    """Whether encrypted orders are four times faster than Flower of the same kind, and
    every final loss is the pooled one.
    """
    for place, (flower, _) in BESIDE.items():
        if flower not in systems:
            continue
        row = ratios(systems[flower], systems[f"Paillier, {place}"])
        verdicts = [
            f"{what} {_verdict((row[what] or 0.0) >= TARGET_RATIO)}"
            for what in ("whole", "order", "again", "round")
        ]
        print(
            f"at least {TARGET_RATIO:g} times faster than {flower} while encrypted, {place}: {', '.join(verdicts)}"
        )
    worst = max(abs(m.loss - pooled_loss) for m in systems.values())
    is_met = worst <= TARGET_LOSS_DIFFERENCE
    print(
        f"final losses within {TARGET_LOSS_DIFFERENCE:g} of the pooled one: {worst:.1e}, {_verdict(is_met)}"
    )


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"
