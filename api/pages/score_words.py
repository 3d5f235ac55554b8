"""What each score is called, what it sees and what it cannot see, for people who are no
data scientists (docs/scores.md has the formulas).
"""

from __future__ import annotations

from dataclasses import dataclass

from api.pages.visit import Visit


@dataclass(frozen=True)
class Score:
    """What a score takes, and what it can and cannot see (docs/scores.md)."""

    title: str
    address: str  # of the API
    takes: dict[
        str, str
    ]  # its arguments, each with the report's name for the value used without it
    sees: str
    misses: str


SCORES = {
    "krum": Score(
        "Far from its nearest",
        "/anomaly/krum",
        {"k": "k"},
        "Who is far from its k nearest.",
        "k + 1 attackers who agree: to each other they are near. k must be larger than their number.",
    ),
    "foolsgold": Score(
        "Another direction than its nearest",
        "/anomaly/foolsgold",
        {"k": "k"},
        "Who points in another direction than its k nearest.",
        "Length: who sends ten times its gradient looks honest. And k + 1 attackers who agree.",
    ),
    "zeno": Score(
        "Much change, little gain",
        "/anomaly/zeno",
        {"p": "zeno_weight"},
        "Whose loss fell little while its gradient changed much since the round before.",
        "Direction, and an attack that goes on as before. Losses are those that hospitals report.",
    ),
    "auror": Score(
        "Far from its group",
        "/anomaly/auror",
        {"k": "clusters"},
        "Who is far from the middle of the group it is counted to.",
        "Attackers who get a group of their own: a low score is no sign of health. k = 1 has no such blind spot.",
    ),
    "sniper": Score(
        "Outside the majority",
        "/anomaly/sniper",
        {"p": "p"},
        "Who is not in the majority: 0 within, 1 outside.",
        "Attackers, where p of all is more than there are honest ones.",
    ),
    "pca": Score(
        "Off the common directions",
        "/anomaly/pca",
        {"k": "components"},
        "Who is not described by the directions in which most differ.",
        "A strong attacker: the directions then point at it. A low score is no sign of health.",
    ),
    "true_krum": Score(
        "Far from its neighbours",
        "/anomaly/true_krum",
        {"n_attackers": "n_attackers"},
        "Who is far from its neighbours; with a proof, for few enough attackers.",
        "Attackers who keep their length, where honest hospitals have very different rows.",
    ),
    "multi_krum": Score(
        "Would be left out",
        "/anomaly/multi_krum",
        {"n_attackers": "n_attackers"},
        "Whom the aggregation multi_krum would leave out: 1, others 0.",
        "The same as true_krum; where rows differ it leaves out honest hospitals too.",
    ),
    "geometric_median": Score(
        "Far from the middle",
        "/anomaly/geometric_median",
        {},
        "Who is far from a middle that fewer than half cannot move.",
        "Attackers who keep their length, where honest hospitals have very different rows.",
    ),
    "foolsgold_weight": Score(
        "Same direction as another",
        "/anomaly/foolsgold_weight",
        {},
        "Who points the same way as another: the same attacker under several names.",
        "Everything else; and honest hospitals that agree very well look the same.",
    ),
    "grad_diff": Score(
        "Contribution: pull on the model",
        "/contribution/grad_diff",
        {},
        "How far a hospital pulls away from where the model was going.",
        "Whether that is good: an attacker who sends a large vector contributes most.",
    ),
    "perf_diff": Score(
        "Contribution: what its rows add",
        "/contribution/perf_diff",
        {},
        "How much worse the model is without the hospital; below 0 it is better without.",
        "What test rows do not show. In sealed orders each hospital measures it itself.",
    ),
}


ARGUMENTS = {
    "k": {
        "krum": "k: how many nearest",
        "foolsgold": "k: how many nearest",
        "auror": "k: how many groups",
        "pca": "k: how many directions",
    },
    "p": {
        "zeno": "p: weight of the change",
        "sniper": "p: share of a majority",
    },
    "n_attackers": {
        "true_krum": "n_attackers: how many are assumed",
        "multi_krum": "n_attackers: how many are assumed",
    },
}
"""By argument, what it is for each score that takes it."""

CAUTION = (
    "In each round of a training every hospital computes a gradient: the direction in which its rows pull the model. A "
    "score says how unlike the others one of them is. It is no verdict on a hospital: one with rare patients is unlike "
    "the others, too, and an attacker who knows a score can look like them. Look at several rounds and several scores."
)
NONE_YET = (
    "No training has scores yet. They come with a training, round by round, where the policies of its hospitals let "
    "the coordinator learn lengths and angles of gradients (scoring round or full). Studies have none."
)
NONE_HERE = (
    "This order has no scores: a study never has, nor has an order without scoring, and one that has just begun has "
    "none before its first round."
)


def score_name(visit: Visit, score: str) -> str:
    """The title with the API's name."""
    return f"{visit.t(SCORES[score].title)} ({score})"
