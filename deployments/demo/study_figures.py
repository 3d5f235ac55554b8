"""The study's forest plot and survival curves as the client draws them, with the numbers
that are drawn: `./run demo --study --figures FOLDER`, which made those of docs/images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from api.client.study_pictures import (
    forest,
    forest_numbers,
    kaplan_meier,
    kaplan_meier_numbers,
)

# The same picture from the same numbers: no date, and no identifiers by chance. Texts
# stay texts, which are smaller than their outlines.
_RC: dict[Any, Any] = {"svg.hashsalt": "consilium", "svg.fonttype": "none"}
_NO_DATE = {"Date": None}


def draw_forest(folder: Path, report: pd.DataFrame) -> None:
    """study-forest.svg, and its numbers as study-forest.csv."""
    import matplotlib
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    forest_numbers(report).to_csv(folder / "study-forest.csv")
    # No window's figure: the study runs beside the main thread.
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    with matplotlib.rc_context(_RC):
        forest(report, figure.subplots(), title="Progression above the median")
        figure.savefig(folder / "study-forest.svg", metadata=_NO_DATE)


def draw_survival(folder: Path, curves: pd.DataFrame) -> None:
    """study-survival.svg, and its numbers as study-survival.csv."""
    import matplotlib
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    kaplan_meier_numbers(curves).to_csv(folder / "study-survival.csv", index=False)
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    with matplotlib.rc_context(_RC):
        kaplan_meier(curves, figure.subplots(), title="Survival by arm")
        figure.savefig(folder / "study-survival.svg", metadata=_NO_DATE)
