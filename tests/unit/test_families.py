"""Families and links against statsmodels'."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from analytics.arrays import Floats
from analytics.training import families, pairs
from analytics.training.pairs import LINKS as ALL_LINKS
from analytics.training.pairs import Pair

# Of negative_binomial: test_negative_binomial.py.
LINKS = {
    family: links
    for family, links in ALL_LINKS.items()
    if family != "negative_binomial"
}
PAIRS = [Pair(family, link) for family, links in LINKS.items() for link in links]

_FAMILIES = {
    "gaussian": sm.families.Gaussian,
    "binomial": sm.families.Binomial,
    "poisson": sm.families.Poisson,
    "gamma": sm.families.Gamma,
    "inverse_gaussian": sm.families.InverseGaussian,
}
_LINKS = {
    "identity": sm.families.links.Identity,
    "log": sm.families.links.Log,
    "inverse": sm.families.links.InversePower,
    "inverse_squared": sm.families.links.InverseSquared,
    "sqrt": sm.families.links.Sqrt,
    "logit": sm.families.links.Logit,
    "probit": sm.families.links.Probit,
    "cloglog": sm.families.links.CLogLog,
}


def reference(pair: Pair) -> sm.families.Family:
    return _FAMILIES[pair.family](link=_LINKS[pair.link]())


def made_labels(pair: Pair) -> tuple[Floats, Floats]:
    """Means that the family knows, and labels."""
    rng = np.random.default_rng(3)
    if pair.is_binary:
        return rng.uniform(0.02, 0.98, 50), (np.arange(50) % 2).astype(float)
    mu = rng.uniform(0.3, 4, 50)
    if pair.family == "poisson":
        return mu, rng.poisson(mu).astype(float)
    return mu, rng.gamma(2, mu / 2)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_pair_is_statsmodels(pair: Pair) -> None:
    mu, y = made_labels(pair)
    family = reference(pair)
    eta = families.predictor_of(pair, mu)
    assert eta == pytest.approx(family.link(mu), rel=1e-12)
    at = families.means(pair, eta)
    assert at.mu == pytest.approx(mu, rel=1e-12)
    assert at.slope == pytest.approx(family.link.inverse_deriv(eta), rel=1e-9)
    assert families.is_valid(pair, at)
    assert families.variances(pair, at) == pytest.approx(family.variance(mu))
    d = families.unit_deviances(pair, y, at)
    assert d.sum() == pytest.approx(family.deviance(y, mu), rel=1e-12)
    pearson = families.pearson_residuals(pair, y, at)
    assert pearson == pytest.approx((y - mu) / np.sqrt(family.variance(mu)))


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_start_is_a_valid_mean(pair: Pair) -> None:
    _, y = made_labels(pair)
    at = families.start_means(pair, y)
    assert families.is_valid(pair, at)
    assert np.isfinite(families.unit_deviances(pair, y, at)).all()


def test_the_first_link_of_a_family_is_canonical() -> None:
    """Newton's and Fisher's weights are then one: W is the slope of mu."""
    for family in LINKS:
        pair = pairs.canonical_pair(family)
        mu, _ = made_labels(pair)
        at = families.means(pair, families.predictor_of(pair, mu))
        ratio = at.slope / families.variances(pair, at)
        assert ratio == pytest.approx(np.full(50, ratio[0]), rel=1e-9)


@pytest.mark.parametrize("family", ["poisson", "gamma", "inverse_gaussian", "gaussian"])
def test_a_log_likelihood_is_that_of_the_densities(family: str) -> None:
    pair = pairs.canonical_pair(family)
    mu, y = made_labels(pair)
    at = families.means(pair, families.predictor_of(pair, mu))
    deviance = float(families.unit_deviances(pair, y, at).sum())
    found = families.log_likelihood(
        pair,
        deviance=deviance,
        remainder=float(
            families.row_remainders(pair, y, np.ones(50), are_counts=False).sum()
        ),
        n=50,
    )
    scale = 1.0 if family == "poisson" else deviance / 50
    assert found == pytest.approx(reference(pair).loglike(y, mu, scale=scale))


@pytest.mark.parametrize("family", list(LINKS))
def test_a_null_deviance_is_that_of_the_mean(family: str) -> None:
    pair = pairs.canonical_pair(family)
    _, y = made_labels(pair)
    m = np.arange(50.0) % 4
    if family == "gaussian":
        y = 1e9 + y
    terms = families.null_terms(pair, y, m, center=y[0])
    sums = families.NullTerms(*(float(np.sum(term)) for term in terms))
    mean = np.full(50, np.average(y, weights=m))
    expected = reference(pair).deviance(y, mean, freq_weights=m)
    assert families.null_deviance(pair, sums) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("pair", "eta"),
    [
        (Pair("gamma", "inverse"), 0.0),
        (Pair("gamma", "inverse"), -1.0),
        (Pair("inverse_gaussian", "inverse_squared"), -1.0),
        (Pair("poisson", "sqrt"), -0.5),
        (Pair("poisson", "identity"), 0.0),
        (Pair("binomial", "log"), 0.1),
        (Pair("gaussian", "inverse"), 0.0),
    ],
    ids=str,
)
def test_a_mean_that_the_family_does_not_know(pair: Pair, eta: float) -> None:
    assert not families.is_valid(pair, families.means(pair, np.array([eta])))


@pytest.mark.parametrize("link", LINKS["binomial"][:3])
def test_a_probability_near_1_keeps_its_digits(link: str) -> None:
    pair = Pair("binomial", link)
    at = families.means(pair, np.array([-900.0, 2.9, 900.0]))
    assert families.is_valid(pair, at)
    d = families.unit_deviances(pair, np.array([0.0, 0, 1]), at)
    assert np.isfinite(d).all()
    assert d[1] == pytest.approx(-2 * np.log(at.complement[1]))
    assert d[0] == pytest.approx(0, abs=1e-200)


def test_others_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="gamma has no link logit"):
        Pair("gamma", "logit")


@pytest.mark.parametrize(
    ("family", "bad", "n_bad"),
    [
        ("binomial", [0, 1, 0.5], 1),
        ("poisson", [0, 3, -1, 2.5], 2),
        ("gamma", [1, 0, -1], 2),
        ("inverse_gaussian", [0.0], 1),
        ("gaussian", [-1, 0], 0),
    ],
)
def test_labels_that_a_family_does_not_know(
    family: str, bad: list[float], n_bad: int
) -> None:
    pair = pairs.canonical_pair(family)
    found, _ = families.label_problem(pair, np.array(bad, dtype=float))
    assert found.sum() == n_bad
