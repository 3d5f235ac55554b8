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
    mean = exact.mean(moments)
    variance = exact.variance(moments)
    if mean is None or variance is None:
        raise ValueError("A group of a single value has no variance.")
    return Sample(
        n=moments.n,
        mean=float(mean),
        variance=float(variance),
    )


def t_test(
    groups: Mapping[str, Moments],
    *,
    equal_var: bool,
    least_df: int,
) -> Quantities:
    """Two groups: t = (m1 - m2) / sqrt(s1^2 / n1 + s2^2 / n2) with Welch's degrees of
    freedom, or with equal_var Student's, of the pooled variance.

    Cohen's d is of the pooled standard deviation. The difference is the first group's
    mean minus the second's.
    """
    samples = {}
    for group_name, moments in groups.items():
        samples[group_name] = sample_of(moments)
    first, second = samples.values()
    n_free = first.n + second.n - 2
    check_df(n_free, least_df)
    n_free_1 = first.n - 1
    n_free_2 = second.n - 1

    squares_1 = n_free_1 * first.variance
    squares_2 = n_free_2 * second.variance
    pooled = (squares_1 + squares_2) / n_free
    if equal_var:
        part_1 = pooled / first.n
        part_2 = pooled / second.n
        df = float(n_free)
    else:
        part_1 = first.variance / first.n
        part_2 = second.variance / second.n
        # First, since the degrees of freedom of no variance are 0 / 0.
        _check_varies(part_1 + part_2)
        spread_1 = part_1**2 / n_free_1
        spread_2 = part_2**2 / n_free_2
        spread = spread_1 + spread_2
        df = (part_1 + part_2) ** 2 / spread
    _check_varies(part_1 + part_2)

    error = math.sqrt(part_1 + part_2)
    difference = first.mean - second.mean
    quantities = _t_quantities(
        estimate=difference,
        error=error,
        df=df,
        name="difference",
    )
    cohen_d = difference / math.sqrt(pooled)
    quantities.append(("cohen_d", cohen_d))
    for group_name, sample in samples.items():
        quantities += _described(group_name, sample)
    return quantities


def _described(name: str, sample: Sample) -> Quantities:
    deviation = math.sqrt(sample.variance)
    return [
        (f"n[{name}]", sample.n),
        (f"mean[{name}]", sample.mean),
        (f"sd[{name}]", deviation),
    ]


def paired_t_test(differences: Moments, *, least_df: int) -> Quantities:
    """Of the differences of pairs: t = mean / (s / sqrt(n)), df = n - 1; d = mean / s."""
    sample = sample_of(differences)
    df = sample.n - 1
    check_df(df, least_df)
    _check_varies(sample.variance)

    of_mean = sample.variance / sample.n
    error = math.sqrt(of_mean)
    quantities = _t_quantities(
        estimate=sample.mean,
        error=error,
        df=df,
        name="mean",
    )
    deviation = math.sqrt(sample.variance)
    cohen_d = sample.mean / deviation
    quantities.append(("cohen_d", cohen_d))
    quantities.append(("n", sample.n))
    return quantities


def _t_quantities(
    estimate: float,
    error: float,
    df: float,
    name: str,
) -> Quantities:
    t = estimate / error
    quantile = stats.t.ppf(LEVEL, df)
    half_width = float(quantile) * error
    return [
        ("t", t),
        ("df", df),
        ("p", _p_of_t(t, df)),
        (name, estimate),
        ("low", estimate - half_width),
        ("high", estimate + half_width),
    ]


def _p_of_t(t: float, df: float) -> float:
    size = abs(t)
    # The upper tail itself: 1 - cdf is 0 where p is below 1e-16.
    tail = stats.t.sf(size, df)
    return 2 * float(tail)


def anova(
    groups: Mapping[str, Moments],
    *,
    equal_var: bool,
    least_df: int,
) -> Quantities:
    """One-way: F = (between / (k - 1)) / (within / (n - k)), or without equal_var Welch's
    F (Biometrika 1951); eta2 = between / (between + within).
    """
    samples = [sample_of(moments) for moments in groups.values()]
    sample_sizes = [sample.n for sample in samples]
    n = np.array(sample_sizes, dtype=np.float64)
    means = np.array([sample.mean for sample in samples])
    variances = np.array([sample.variance for sample in samples])
    n_groups = len(samples)
    n_free = int(n.sum()) - n_groups
    check_df(n_free, least_df)

    grand_sum = (n * means).sum()
    grand_mean = grand_sum / n.sum()
    squares = n * (means - grand_mean) ** 2
    between = float(squares.sum())
    within_each = (n - 1) * variances
    within = float(within_each.sum())
    _check_varies(within)

    df = float(n_groups - 1)
    if equal_var:
        df_within = float(n_free)
        f = between / df / (within / df_within)
    else:
        f, df_within = _welch(n, means, variances)
    tail = stats.f.sf(f, df, df_within)
    eta2 = between / (between + within)
    quantities: Quantities = [
        ("F", f),
        ("df", df),
        ("df_within", df_within),
        ("p", float(tail)),
        ("eta2", eta2),
    ]
    for group_name, sample in zip(groups, samples, strict=True):
        quantities += _described(group_name, sample)
    return quantities


def _welch(
    n: Floats,
    means: Floats,
    variances: Floats,
) -> tuple[float, float]:
    """Welch's F and its degrees of freedom within the groups."""
    _check_varies(float(variances.min()))
    n_groups = len(n)
    weights = n / variances
    total_weight = weights.sum()
    mean = (weights * means).sum() / total_weight
    shares = weights / total_weight
    lacking = (1 - shares) ** 2
    spread = float((lacking / (n - 1)).sum())

    df = float(n_groups - 1)
    squares = weights * (means - mean) ** 2
    above = float(squares.sum()) / df
    n_pairs = n_groups**2 - 1
    excess = 2 * (n_groups - 2) / n_pairs * spread
    df_within = n_pairs / (3 * spread)
    f = above / (1 + excess)
    return f, df_within


def chi_squared(
    table: Floats,
    names: Sequence[Sequence[str]],
    *,
    correction: bool,
) -> Quantities:
    """Pearson's test of independence; a table of two by two is corrected for continuity
    (Yates) unless `correction` is false, and has Fisher's p (two-sided, by
    probabilities) and the odds ratio ad / bc with Woolf's interval.

    table: float64 (rows, columns), counts; names: of its rows and of its columns. Cramer's
    V is of the statistic without correction.
    """
    is_small = table.shape == (2, 2)
    is_corrected = correction and is_small
    tested = stats.chi2_contingency(table, correction=is_corrected)
    plain = stats.chi2_contingency(table, correction=False)
    n = float(table.sum())
    n_fewest = min(table.shape)
    largest_statistic = n * (n_fewest - 1)
    cramer_v = math.sqrt(plain.statistic / largest_statistic)
    quantities: Quantities = [
        ("chi2", float(tested.statistic)),
        ("df", float(tested.dof)),
        ("p", float(tested.pvalue)),
        ("cramer_v", cramer_v),
        ("n", n),
    ]
    if is_small:
        quantities += _odds(table)
    for i, row in enumerate(names[0]):
        for j, column in enumerate(names[1]):
            cell_name = f"[{row}, {column}]"
            observed = float(table[i, j])
            expected = float(tested.expected_freq[i, j])
            quantities.append((f"n{cell_name}", observed))
            quantities.append((f"expected{cell_name}", expected))
    return quantities


def _odds(table: Floats) -> Quantities:
    fisher = stats.fisher_exact(table)
    quantities: Quantities = [("fisher_p", float(fisher.pvalue))]
    # With an empty cell neither the ratio nor its interval is finite.
    if (table > 0).all():
        (a, b), (c, d) = table.tolist()
        ratio = a * d / (b * c)
        log_ratio = math.log(ratio)
        quantile = stats.norm.ppf(LEVEL)
        variance = 1 / a + 1 / b + 1 / c + 1 / d
        half_width = float(quantile) * math.sqrt(variance)
        low = math.exp(log_ratio - half_width)
        high = math.exp(log_ratio + half_width)
        quantities += [
            ("odds_ratio", ratio),
            ("low", low),
            ("high", high),
        ]
    return quantities


def trend(table: Floats, scores: Floats) -> Quantities:
    """Cochran and Armitage's test of a trend of shares over scores, as R's
    prop.trend.test: chi2 of one degree of freedom.

    table: float64 (k, 2), of each score the counts of the two outcomes. With n_i rows,
    r_i of the second outcome, p the share of all: z = sum s_i (r_i - n_i p) /
    sqrt(p (1 - p) (sum n_i s_i^2 - (sum n_i s_i)^2 / n)). The slope is the rise of the
    share for a score, by weighted least squares.
    """
    of_score = table.sum(axis=1)
    of_second = table[:, 1]
    n = float(of_score.sum())
    second_share = float(of_second.sum()) / n
    weighted = of_score * scores
    mean_score = float(weighted.sum()) / n
    # About the mean score: the difference of two large sums would lose digits.
    centred = scores - mean_score
    squares = of_score * centred**2
    spread = float(squares.sum())
    _check_varies(spread * second_share * (1 - second_share))

    products = centred * of_second
    moved = float(products.sum())
    variance = second_share * (1 - second_share) * spread
    z = moved / math.sqrt(variance)
    chi2 = z**2
    tail = stats.chi2.sf(chi2, 1)
    slope = moved / spread
    return [
        ("chi2", chi2),
        ("df", 1.0),
        ("p", float(tail)),
        ("z", z),
        ("slope", slope),
        ("n", n),
    ]


def mann_whitney(
    table: Floats,
    names: tuple[str, str],
) -> Quantities:
    """Mann and Whitney's test of two groups from how often each has each value.

    table: float64 (k, 2), the values rising. U of the first group is the number of pairs
    in which its value is the larger one, equal ones a half. With n1 and n2 rows, N of
    both and t_i rows of a value, U has the mean n1 n2 / 2 and the variance n1 n2 / 12
    (N + 1 - sum (t_i^3 - t_i) / (N (N - 1))); z is corrected for continuity, p is the
    normal's, as SciPy's asymptotic one. `probability` is U / (n1 n2).
    """
    first_counts = table[:, 0]
    second_counts = table[:, 1]
    n1 = float(first_counts.sum())
    n2 = float(second_counts.sum())
    n = n1 + n2
    second_below = np.cumsum(second_counts) - second_counts
    pairs_won = first_counts * (second_below + second_counts / 2)
    u = float(pairs_won.sum())

    of_value = table.sum(axis=1)
    # In float64: the cube of some 2.1 million rows is beyond int64.
    tied = of_value**3 - of_value
    ties = float(tied.sum())
    tied_share = ties / (n * (n - 1))
    variance = n1 * n2 / 12 * (n + 1 - tied_share)
    _check_varies(variance)

    deviation = u - n1 * n2 / 2
    # At most to 0: the correction must not turn the sign.
    away = max(abs(deviation) - 0.5, 0.0)
    size = away / math.sqrt(variance)
    z = math.copysign(size, deviation)
    tail = stats.norm.sf(abs(z))
    p = min(2 * tail, 1.0)
    n_pairs = n1 * n2
    first_name, second_name = names
    return [
        ("U", u),
        ("z", z),
        ("p", float(p)),
        ("probability", u / n_pairs),
        (f"n[{first_name}]", n1),
        (f"n[{second_name}]", n2),
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
    of_group = table.sum(axis=0)
    n = float(of_value.sum())
    tied = of_value**3 - of_value
    ties = float(tied.sum())
    spread = 1 - ties / (n**3 - n)
    _check_varies(spread)

    half_tied = (of_value - 1) / 2
    ranks = np.cumsum(of_value) - half_tied
    # About the mean rank, so that large numbers do not cancel.
    away = ranks - (n + 1) / 2
    of_rows = away[:, None] * table
    centred = of_rows.sum(axis=0)
    squares = centred**2 / of_group
    between = float(squares.sum())
    factor = 12 / (n * (n + 1))
    h = factor * between / spread
    epsilon2 = h / (n - 1)
    df = len(names) - 1
    tail = stats.chi2.sf(h, df)
    quantities: Quantities = [
        ("H", h),
        ("df", float(df)),
        ("p", float(tail)),
        ("epsilon2", epsilon2),
    ]
    for group_name, n_rows in zip(names, of_group, strict=True):
        quantities.append((f"n[{group_name}]", float(n_rows)))
    quantities.append(("n", n))
    return quantities


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
    # Of three rows Fisher's interval would divide by 0, as t does where |r| is 1.
    if df < 2 or abs(r) == 1:
        raise ValueError("The rows lie on one line, so that a test has no value.")

    # Not 1 - r^2, which loses digits where r is near 1.
    unexplained = (1 - r) * (1 + r)
    t = r * math.sqrt(df / unexplained)
    quantile = stats.norm.ppf(LEVEL)
    half_width = float(quantile) / math.sqrt(df - 1)
    middle = math.atanh(r)
    low = math.tanh(middle - half_width)
    high = math.tanh(middle + half_width)
    return [
        ("t", t),
        ("df", float(df)),
        ("p", _p_of_t(t, df)),
        ("r", r),
        ("low", low),
        ("high", high),
        ("n", float(moments.n)),
    ]


def check_df(df: int, least: int) -> None:
    """ValueError where so few degrees of freedom are left that rows could be told."""
    if df < least:
        raise ValueError(
            f"A test of fewer than {least} degrees of freedom is not given, as the policies' min_rows says."
        )


def _check_varies(spread: float) -> None:
    # Not `<= 0`, which NaN would pass.
    if not spread > 0:
        raise ValueError("The values do not vary, so that a test has no value.")
