"""Draws hypervolume against evaluations, for some methods on each pair of models.

    python -m benchmarks.real_merges.hypervolume_curves --out docs/real-merges.svg

Each line is the mean over the seeds of `searches.py`, from the end of the initial design on. The
band of `ap-bmm-plus` is its 95 % interval (Student's t). The campaigns are those of
`benchmarks/results`, or of `--pair`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from apbmm.report.charts.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    Chart,
    ReportFigure,
    data,
    draw,
)
from benchmarks.real_merges.report import FIRST, INITIAL, by_hypervolume, by_method, complete
from benchmarks.real_merges.searches import BUDGET, lines_of
from benchmarks.tables import half_width

RESULTS = Path(__file__).parent.parent / "results"
PAIRS = (
    ("the demo's pair", RESULTS / "real_merges_campaigns.jsonl"),
    ("second pair", RESULTS / "second_pair_campaigns.jsonl"),
)
LOOKS = {
    FIRST: ("ap-bmm-plus", BLUE, [1, 0]),
    "optuna-tpe,references": ("Optuna's TPE, told the references", ORANGE, [1, 0]),
    "optuna-gp,references": ("Optuna's GP sampler, told the references", PURPLE, [1, 0]),
    "qnehvi": ("qnehvi", VERMILION, [1, 0]),
    "ap-bmm": ("ap-bmm", SKY, [1, 0]),
    "sobol": ("Sobol points", GREY, [4, 3]),
    "uniform": ("one weight for all layers", BLACK, [4, 3]),
    "botorch,references": ("BoTorch, told the references", GREEN, [1, 0]),
}
"""Of each method that is drawn: its name, colour and dashes."""


def curves(campaigns: Path) -> Iterator[dict[str, Any]]:
    """The points of all lines of a pair: means after each evaluation, and their 95 % intervals."""
    kept = by_method(each for each in lines_of(campaigns) if each["method"] in LOOKS)
    drawn = by_hypervolume(complete(kept))  # over the same seeds
    for method, (name, _, _) in LOOKS.items():
        runs = [run.volumes[:BUDGET] for run in drawn.get(method, ())]
        if not runs:
            continue
        for number in range(INITIAL, BUDGET + 1):
            values = np.array([run[number - 1] for run in runs])
            half = half_width(values) if len(runs) > 1 else 0.0
            mean = float(values.mean())
            yield {
                "method": name, "x": number, "y": mean, "low": mean - half, "high": mean + half,
                "about": f"{name}: {mean:.3f} after {number} evaluations, {len(runs)} searches",
            }  # fmt: skip


def panel(title: str, campaigns: Path) -> Chart:
    """One pair's lines."""
    rows = list(curves(campaigns))
    names, colours, dashes = (list(column) for column in zip(*LOOKS.values(), strict=True))
    x = alt.X("x:Q", title="evaluations", scale=alt.Scale(domain=[INITIAL, BUDGET]))
    y = alt.Y("y:Q", title="hypervolume", scale=alt.Scale(zero=False))
    colour = alt.Color("method:N", title=None, scale=alt.Scale(domain=names, range=colours))
    dash = alt.StrokeDash("method:N", title=None, scale=alt.Scale(domain=names, range=dashes))
    first = alt.Chart(data(row for row in rows if row["method"] == LOOKS[FIRST][0]))
    band = first.mark_area(color=BLUE, opacity=0.18).encode(x=x, y="low:Q", y2="high:Q")
    lines = alt.Chart(data(rows)).mark_line(strokeWidth=2)
    thick = first.mark_line(strokeWidth=3.5).encode(x=x, y=y, color=colour)
    dots = first.mark_circle(color=BLUE, size=30).encode(x=x, y=y, description="about:N")
    layers = [band, lines.encode(x=x, y=y, color=colour, strokeDash=dash), thick, dots]
    drawn: Chart = alt.LayerChart(layer=layers).properties(title=title, width=WIDTH, height=HEIGHT)
    return drawn


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pair", nargs=2, action="append", metavar=("TITLE", "FILE"),
        help="a pair's title and campaigns.jsonl; may be given again",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="an SVG file")
    options = parser.parse_args()
    pairs = [(title, Path(file)) for title, file in options.pair or PAIRS]
    chart: alt.HConcatChart = alt.hconcat(*(panel(title, file) for title, file in pairs))
    title = "Hypervolume of real merges, means over searches; the band is a 95 % interval"
    figure = ReportFigure("real-merges", title, "", chart)
    options.out.write_bytes(draw(figure, "svg", rehearsal=False))


if __name__ == "__main__":
    main()
