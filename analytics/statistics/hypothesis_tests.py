"""Tests of hypotheses, from counts and exact sums: what receivers compute once these are
opened.

    ttest, paired_ttest, anova     of n, sum x and sum x^2 of each group
    chi2, trend                    of a table of counts
    mann_whitney, kruskal          of the counts of each value in each group
    correlation_test               of the sums of two columns

Each gives the quantities of a result in order, with their names: the statistic, degrees
of freedom, p (two-sided), an effect size and its interval of 95 %, n. Distributions are
SciPy's. ValueError, with a sentence, where a test has no value.

Pure functions: nothing is disclosed but to who has the sums. Decision 85.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analytics.arrays import Floats
from analytics.statistics import exact
from analytics.statistics.exact import JointMoments, Moments

LEVEL = 0.975
"""Of the upper end of an interval of 95 %."""

Quantities = list[tuple[str, float]]


@dataclass(frozen=True)
class Sample:
    """A group of a test: n values, their mean, and their variance over n - 1."""

    n: int
    mean: float
    variance: float


def sample_of(moments: Moments) -> Sample:
    """ValueError for fewer than two values."""
    mean, variance = exact.mean(moments), exact.variance(moments)
    if mean is None or variance is None:
        raise ValueError("A group of a single value has no variance.")
    return Sample(moments.n, float(mean), float(variance))


def t_test(
    groups: Mapping[str, Moments], *, equal_var: bool, least_df: int
) -> Quantities:
    """Two groups: t = (m1 - m2) / sqrt(s1^2 / n1 + s2^2 / n2) with Welch's degrees of
    freedom, or with equal_var Student's, of the pooled variance.

    Cohen's d is of the pooled standard deviation. The difference is the first group's
    mean minus the second's.
    """
    names = list(groups)
    first, second = (sample_of(moments) for moments in groups.values())
    n_free = first.n + second.n - 2
    check_df(n_free, least_df)
    squares = (first.n - 1) * first.variance + (second.n - 1) * second.variance
    pooled = squares / n_free
    part_1, part_2 = first.variance / first.n, second.variance / second.n
    if equal_var:
        part_1, part_2 = pooled / first.n, pooled / second.n
        df = float(n_free)
    else:
        _check_varies(part_1 + part_2)
        spread = part_1**2 / (first.n - 1) + part_2**2 / (second.n - 1)
        df = (part_1 + part_2) ** 2 / spread
    _check_varies(part_1 + part_2)
    error = math.sqrt(part_1 + part_2)
    difference = first.mean - second.mean
    found = _t_quantities(difference, error, df, "difference")
    found.append(("cohen_d", difference / math.sqrt(pooled)))
    for name, sample in zip(names, (first, second), strict=True):
        found += [(f"n[{name}]", sample.n), (f"mean[{name}]", sample.mean)]
        found.append((f"sd[{name}]", math.sqrt(sample.variance)))
    return found


def paired_t_test(differences: Moments, *, least_df: int) -> Quantities:
    """Of the differences of pairs: t = mean / (s / sqrt(n)), df = n - 1; d = mean / s."""
    sample = sample_of(differences)
    check_df(sample.n - 1, least_df)
    _check_varies(sample.variance)
    error = math.sqrt(sample.variance / sample.n)
    found = _t_quantities(sample.mean, error, sample.n - 1, "mean")
    found.append(("cohen_d", sample.mean / math.sqrt(sample.variance)))
    found.append(("n", sample.n))
    return found


def _t_quantities(estimate: float, error: float, df: float, name: str) -> Quantities:
    t = estimate / error
    half = float(stats.t.ppf(LEVEL, df)) * error
    return [
        ("t", t),
        ("df", df),
        ("p", 2 * float(stats.t.sf(abs(t), df))),
        (name, estimate),
        ("low", estimate - half),
        ("high", estimate + half),
    ]


def anova(
    groups: Mapping[str, Moments], *, equal_var: bool, least_df: int
) -> Quantities:
    """One-way: F = (between / (k - 1)) / (within / (n - k)), or without equal_var Welch's
    F (Biometrika 1951); eta2 = between / (between + within).
    """
    samples = [sample_of(moments) for moments in groups.values()]
    n = np.array([sample.n for sample in samples], dtype=np.float64)
    means = np.array([sample.mean for sample in samples])
    variances = np.array([sample.variance for sample in samples])
    n_groups = len(samples)
    n_free = int(n.sum()) - n_groups
    check_df(n_free, least_df)
    between = float((n * (means - (n * means).sum() / n.sum()) ** 2).sum())
    within = float(((n - 1) * variances).sum())
    _check_varies(within)
    df, df_within = float(n_groups - 1), float(n_free)
    f = between / df / (within / df_within)
    if not equal_var:
        _check_varies(float(variances.min()))
        weights = n / variances
        total = weights.sum()
        mean = (weights * means).sum() / total
        spread = float((((1 - weights / total) ** 2) / (n - 1)).sum())
        above = float((weights * (means - mean) ** 2).sum()) / df
        f = above / (1 + 2 * (n_groups - 2) / (n_groups**2 - 1) * spread)
        df_within = (n_groups**2 - 1) / (3 * spread)
    found: Quantities = [
        ("F", f),
        ("df", df),
        ("df_within", df_within),
        ("p", float(stats.f.sf(f, df, df_within))),
        ("eta2", between / (between + within)),
    ]
    for name, sample in zip(groups, samples, strict=True):
        found += [(f"n[{name}]", sample.n), (f"mean[{name}]", sample.mean)]
        found.append((f"sd[{name}]", math.sqrt(sample.variance)))
    return found


def chi_squared(
    table: Floats, names: Sequence[Sequence[str]], *, correction: bool
) -> Quantities:
    """Pearson's test of independence; a table of two by two is corrected for continuity
    (Yates) unless `correction` is false, and has Fisher's p (two-sided, by
    probabilities) and the odds ratio ad / bc with Woolf's interval.

    table: float64 (rows, columns), counts; names: of its rows and of its columns. Cramer's
    V is of the statistic without correction.
    """
    is_small = table.shape == (2, 2)
    tested = stats.chi2_contingency(table, correction=correction and is_small)
    plain = stats.chi2_contingency(table, correction=False)
    n = float(table.sum())
    found: Quantities = [
        ("chi2", float(tested.statistic)),
        ("df", float(tested.dof)),
        ("p", float(tested.pvalue)),
        ("cramer_v", math.sqrt(plain.statistic / (n * (min(table.shape) - 1)))),
        ("n", n),
    ]
    if is_small:
        found += _odds(table)
    for i, row in enumerate(names[0]):
        for j, column in enumerate(names[1]):
            found.append((f"n[{row}, {column}]", float(table[i, j])))
            expected = float(tested.expected_freq[i, j])
            found.append((f"expected[{row}, {column}]", expected))
    return found


def _odds(table: Floats) -> Quantities:
    found: Quantities = [("fisher_p", float(stats.fisher_exact(table).pvalue))]
    # With an empty cell neither the ratio nor its interval is finite.
    if (table > 0).all():
        (a, b), (c, d) = table.tolist()
        log_ratio = math.log(a * d / (b * c))
        half = float(stats.norm.ppf(LEVEL)) * math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
        found.append(("odds_ratio", a * d / (b * c)))
        found.append(("low", math.exp(log_ratio - half)))
        found.append(("high", math.exp(log_ratio + half)))
    return found


def trend(table: Floats, scores: Floats) -> Quantities:
    """Cochran and Armitage's test of a trend of shares over scores, as R's
    prop.trend.test: chi2 of one degree of freedom.

    table: float64 (k, 2), of each score the counts of the two outcomes. With n_i rows,
    r_i of the second outcome, p the share of all: z = sum s_i (r_i - n_i p) /
    sqrt(p (1 - p) (sum n_i s_i^2 - (sum n_i s_i)^2 / n)). The slope is the rise of the
    share for a score, by weighted least squares.
    """
    of_score = table.sum(axis=1)
    n = float(of_score.sum())
    share = float(table[:, 1].sum()) / n
    centred = scores - float((of_score * scores).sum()) / n
    spread = float((of_score * centred**2).sum())
    _check_varies(spread * share * (1 - share))
    moved = float((centred * table[:, 1]).sum())
    z = moved / math.sqrt(share * (1 - share) * spread)
    return [
        ("chi2", z**2),
        ("df", 1.0),
        ("p", float(stats.chi2.sf(z**2, 1))),
        ("z", z),
        ("slope", moved / spread),
        ("n", n),
    ]


def mann_whitney(table: Floats, names: tuple[str, str]) -> Quantities:
    """Mann and Whitney's test of two groups from how often each has each value.

    table: float64 (k, 2), the values rising. U of the first group is the number of pairs
    in which its value is the larger one, equal ones a half. With n1 and n2 rows, N of
    both and t_i rows of a value, U has the mean n1 n2 / 2 and the variance n1 n2 / 12
    (N + 1 - sum (t_i^3 - t_i) / (N (N - 1))); z is corrected for continuity, p is the
    normal's, as SciPy's asymptotic one. `probability` is U / (n1 n2).
    """
    first, second = table[:, 0], table[:, 1]
    n1, n2 = float(first.sum()), float(second.sum())
    n = n1 + n2
    below = np.cumsum(second) - second
    u = float((first * (below + second / 2)).sum())
    of_value = table.sum(axis=1)
    ties = float((of_value**3 - of_value).sum())
    variance = n1 * n2 / 12 * (n + 1 - ties / (n * (n - 1)))
    _check_varies(variance)
    away = max(abs(u - n1 * n2 / 2) - 0.5, 0.0)
    z = math.copysign(away / math.sqrt(variance), u - n1 * n2 / 2)
    return [
        ("U", u),
        ("z", z),
        ("p", float(min(2 * stats.norm.sf(abs(z)), 1.0))),
        ("probability", u / (n1 * n2)),
        *[(f"n[{name}]", n_rows) for name, n_rows in zip(names, (n1, n2), strict=True)],
        ("n", n),
    ]


def kruskal(table: Floats, names: Sequence[str]) -> Quantities:
    """Kruskal and Wallis's test of groups from how often each has each value.

    table: float64 (k, n_groups), the values rising. With N rows, n_j of a group, R_j the
    sum of its ranks, ties at their mean, and t_i rows of a value: H = (12 / (N (N + 1))
    sum R_j^2 / n_j - 3 (N + 1)) / (1 - sum (t_i^3 - t_i) / (N^3 - N)), with p of chi2.
    epsilon2 is H / (N - 1).
    """
    of_value = table.sum(axis=1)
    n = float(of_value.sum())
    ties = float((of_value**3 - of_value).sum())
    spread = 1 - ties / (n**3 - n)
    _check_varies(spread)
    ranks = np.cumsum(of_value) - (of_value - 1) / 2
    of_group = table.sum(axis=0)
    # About the mean rank, so that large numbers do not cancel.
    centred = ((ranks - (n + 1) / 2)[:, None] * table).sum(axis=0)
    h = 12 / (n * (n + 1)) * float((centred**2 / of_group).sum()) / spread
    df = len(names) - 1
    return [
        ("H", h),
        ("df", float(df)),
        ("p", float(stats.chi2.sf(h, df))),
        ("epsilon2", h / (n - 1)),
        *[(f"n[{name}]", float(k)) for name, k in zip(names, of_group, strict=True)],
        ("n", n),
    ]


def correlation_test(moments: JointMoments, *, least_df: int) -> Quantities:
    """Pearson's r against 0: t = r sqrt((n - 2) / (1 - r^2)); the interval is Fisher's,
    tanh(atanh r -+ z / sqrt(n - 3)).
    """
    df = moments.n - 2
    check_df(df, least_df)
    r = exact.correlation(moments)
    if r is None:
        raise ValueError(
            "A column does not vary, so that its correlation has no value."
        )
    if df < 2 or abs(r) == 1:
        raise ValueError("The rows lie on one line, so that a test has no value.")
    t = r * math.sqrt(df / ((1 - r) * (1 + r)))
    half = float(stats.norm.ppf(LEVEL)) / math.sqrt(df - 1)
    return [
        ("t", t),
        ("df", float(df)),
        ("p", 2 * float(stats.t.sf(abs(t), df))),
        ("r", r),
        ("low", math.tanh(math.atanh(r) - half)),
        ("high", math.tanh(math.atanh(r) + half)),
        ("n", float(moments.n)),
    ]


def check_df(df: int, least: int) -> None:
    """ValueError where so few degrees of freedom are left that rows could be told."""
    if df < least:
        raise ValueError(
            f"A test of fewer than {least} degrees of freedom is not given, as the policies' min_rows says."
        )


def _check_varies(spread: float) -> None:
    if not spread > 0:
        raise ValueError("The values do not vary, so that a test has no value.")
