"""Write the measured table of the model card from `measured.json`.

    python examples/demo_pair/card.py

replaces what stands between the two marks in `README.md`, so that card and measurement agree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from scores import Json

BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"


def measured_table(report: Json) -> str:
    """The uniform line in steps of 0.1, as a Markdown table."""
    rows = [
        "| weight of thinking | accuracy | tokens | `chain_arithmetic` | `treasure_trail` |",
        "|---|---|---|---|---|",
    ]
    for weight, each in report["tenths"].items():
        benchmarks = " | ".join(
            f"{100 * entry['accuracy']:.1f} %, {entry['tokens']:.1f}"
            for entry in each["by_benchmark"].values()
        )
        name = {"0.0": " (instruct)", "1.0": " (thinking)"}.get(weight, "")
        rows.append(
            f"| {weight}{name}"
            f" | {100 * each['accuracy']:.1f} ± {100 * each['accuracy_error']:.1f} %"
            f" | {each['tokens']:.2f} ± {each['tokens_error']:.2f} | {benchmarks} |"
        )
    return "\n".join(rows)


def measured_facts(report: Json) -> str:
    """The conditions that the pair was built for, with what was measured."""
    line, merges, third = report["line"], report["random_merges"], report["line"]["last_third"]
    ratios = " and ".join(f"{ratio:.1f}" for ratio in report["token_ratio"].values())
    confirmed = [each for each in report["dominating"] if each["dominates_on_fresh"]]
    weights = ", ".join(f"{each['line_weight']}" for each in confirmed) or "none"
    volumes = report["uniform_hypervolume"]
    return "\n".join(
        [
            f"- Thinking generates {ratios} times the tokens of instruct (benchmark by benchmark).",
            f"- {line['interior_points_that_differ_from_both_ends']} of the 9 interior points"
            " differ from both ends by more than two standard errors in accuracy or tokens.",
            f"- From weight 0.7 to 1 accuracy rises by {line['gain_from_0.7_to_1']} standard"
            " errors,"
            f" over the last third of the tokens (from weight {third['from_weight']}) by"
            f" {third['gain']}.",
            f"- {100 * merges['well_formed']:.2f} % of the answers of {merges['count']} random"
            " layer-wise merges are well-formed"
            f" (worst merge {100 * merges['least_well_formed']:.1f} %).",
            f"- Layer-wise merges found by {report['search']['evaluations']} evaluations (the"
            " random ones and a plain evolutionary search) dominate the line's points at these"
            " weights, by"
            f" more than two standard errors, on fresh problems as well: {weights}.",
            f"- Hypervolume (reference point -0.2, -0.2): {volumes['interior']['24']} by 24 equally"
            f" spaced uniform merges, {volumes['interior']['48']} by 48,"
            f" {report['search']['hypervolume']} by the layer-wise merges of that search.",
        ]
    )


def main() -> None:
    """Rewrite the card's measured part."""
    here = Path(__file__).parent
    report = json.loads((here / "measured.json").read_text(encoding="utf-8"))
    card = here / "README.md"
    text = card.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    body = f"{measured_table(report)}\n\n{measured_facts(report)}"
    card.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
