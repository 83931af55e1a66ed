"""The sections of the report of one run: what each of them says, shows and tabulates."""

__all__ = [
    "answers",
    "confirmation",
    "details",
    "front",
    "layers",
    "model",
    "progress",
    "summary",
]
