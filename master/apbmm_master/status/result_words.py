"""What a search has found, in words."""

from __future__ import annotations


def front_in_words(hypervolume: float, members: int) -> str:
    """As in ``hypervolume 0.8291, 7 on the front``; says so where no member counts in it."""
    unseen = " (none is above the reference point in every objective)"
    return (
        f"hypervolume {hypervolume:.4f}, {members} on the front"
        f"{unseen if members and not hypervolume else ''}"
    )
