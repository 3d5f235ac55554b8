"""What a joint histogram of scores tells of calling positive what scores at least a
cut-off: the four counts, and the shares that a paper prints.

Two cut-offs tell of each class how many rows score between them. So those that are asked
for beside the curves are answered where a step of the curves begins
(`curves.merged_steps`): however many are asked for, in one evaluation or in many, they
tell what the curve tells.

Decision 87.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from analytics.arrays import Ints
from analytics.training.curves import merged_steps


class Calls(NamedTuple):
    """Rows by class, and by what they are called."""

    tn: int
    fp: int
    fn: int
    tp: int

    @property
    def figures(self) -> dict[str, Any]:
        """The counts, and the shares that a paper prints; None of no rows."""
        tn, fp, fn, tp = self
        return {
            **self._asdict(),
            "accuracy": _share(tn + tp, fp + fn),
            "sensitivity": _share(tp, fn),
            "specificity": _share(tn, fp),
            "ppv": _share(tp, fp),
            "npv": _share(tn, fn),
        }


def _share(n_of: int, n_rest: int) -> float | None:
    n_all = n_of + n_rest
    return n_of / n_all if n_all else None


def calls_at(counts: Ints, cutoff: float) -> Calls:
    """counts: a `metrics.score_histogram`, int64 (2 * n_bins,); cutoff: where one of its
    bins begins.

    >>> import numpy as np
    >>> calls_at(np.array([3, 1, 0, 4]), 0.5)
    Calls(tn=3, fp=1, fn=0, tp=4)

    Disclosure: four counts over all rows; those of two cut-offs tell what scores between.
    """
    n_bins = len(counts) // 2
    # Not int(): 0.29 * 100 is 28.999999999999996.
    cutoff_bin = round(cutoff * n_bins)
    negatives, positives = counts[:n_bins], counts[n_bins:]
    return Calls(
        tn=int(negatives[:cutoff_bin].sum()),
        fp=int(negatives[cutoff_bin:].sum()),
        fn=int(positives[:cutoff_bin].sum()),
        tp=int(positives[cutoff_bin:].sum()),
    )


def answered(
    counts: Ints, cutoffs: Sequence[float], *, min_rows: int
) -> list[dict[str, Any]]:
    """For each cut-off that is asked for a line: `asked`, the `threshold` nearest to it
    at which a step of the curve begins (of two the lower one), and `Calls.figures` there.

    None where a class has fewer than min_rows rows.

    Disclosure: as `curves.roc_points`.
    """
    n_bins = len(counts) // 2
    starts = [step.first for step in merged_steps(counts, min_rows=min_rows)]
    cutoff_lines: list[dict[str, Any]] = []
    for cutoff in cutoffs:
        if not starts:
            break
        cutoff_bin = round(cutoff * n_bins)
        nearest = min(starts, key=lambda start: abs(start - cutoff_bin))
        threshold = nearest / n_bins
        calls = calls_at(counts, threshold)
        cutoff_lines.append({"asked": cutoff, "threshold": threshold, **calls.figures})
    return cutoff_lines
