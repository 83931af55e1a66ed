"""Ask PyTorch for its cards and compute on each; prints a `CardProbe` as JSON.

A process of its own: importing PyTorch takes seconds, and a broken driver may end the process.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Print how many cards PyTorch sees, and a line for each on which it cannot compute."""
    import torch

    faults = []
    seen = torch.cuda.device_count()
    for card in range(seen):
        try:
            torch.ones(2, device=f"cuda:{card}").sum().item()
        except Exception as error:  # noqa: BLE001 - whatever PyTorch raises is what is reported
            reason = str(error).strip().splitlines() or [type(error).__name__]
            faults.append(f"card {card}: {reason[0]}")
    json.dump({"seen": seen, "faults": faults}, sys.stdout)


if __name__ == "__main__":
    main()
