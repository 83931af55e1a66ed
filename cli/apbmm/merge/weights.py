"""The weights of a merge, from a number or a JSON file.

A file holds a list with one entry for each layer: a number (the weight of the first source of two,
or of the only one), or a list with a weight for each source. An object says more:

    {"layers": [...]}      the same list
    {"blocks": [...]}      one entry for each block, of as many contiguous blocks of layers
    {"sticks": [...]}      numbers in [0, 1] by stick-breaking, one fewer a layer than sources
    "outside": ...         beside any of these: "mean" (the default), the name of a source to
                           follow, or an object with an entry for each of "embeddings", "norm"
                           and "head", or some of them
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.checkpoint.tensor_groups import OUTSIDE_GROUPS
from apbmm_common.errors import EvaluationError, UsageError
from apbmm_common.run_file import block_of
from apbmm_common.simplex import Row
from apbmm_worker.merging.source_weights import (
    SourceWeights,
    outside_rows,
    simplex_row,
    stick_breaking,
)

_KINDS = ("layers", "blocks", "sticks")
_FORMS = "[0.2, 0.9] is a list for two sources of 2 layers, [[0.2, 0.3, 0.5], [0, 0, 1]] for three"
_BEYOND = "a linear merge's weights are in [0, 1] and sum to 1; task_arithmetic takes any"


@dataclass(frozen=True, slots=True)
class WeightsReader:
    """Reads weights for a number of ``layers`` and for sources of these names.

    With ``simplex`` the weights are in [0, 1] and sum to 1 over the sources, and a number x for two
    sources means x and 1 - x. Without it they are factors of task vectors: any finite numbers.
    """

    layers: int
    names: tuple[str, ...]
    simplex: bool

    def number(self, weight: float, outside: str) -> SourceWeights:
        """One number for all layers. Raises `UsageError`."""
        self._row(weight, "--weight")
        return self._weights([weight] * self.layers, outside, "--weight")

    def file(self, path: Path, outside: str | None) -> SourceWeights:
        """The weights in a JSON file; an ``outside`` that is not None replaces the file's.

        Raises `UsageError` naming the file and the entry at fault.
        """
        value = _read_json(path)
        table = value if isinstance(value, dict) else {"layers": value}
        kinds = [kind for kind in _KINDS if kind in table]
        unknown = sorted(table.keys() - {*_KINDS, "outside"})
        if len(kinds) != 1 or unknown:
            raise UsageError(
                f"{path}: " + (f"unknown key {unknown[0]}" if unknown else "no list of weights"),
                f'a list, or an object with one of {", ".join(_KINDS)}, and "outside"',
            )
        entries = table[kinds[0]]
        if not isinstance(entries, list):
            raise UsageError(
                f"{path}: {kinds[0]}: not a list", f"--weight takes one number; {_FORMS}"
            )
        rule = outside if outside is not None else table.get("outside", "mean")
        return self._weights(self._spread(kinds[0], entries, path), rule, str(path))

    def _spread(self, kind: str, entries: list[Any], path: Path) -> list[Any]:
        """One entry for each layer."""
        if kind == "blocks":
            if not 1 <= len(entries) <= self.layers:
                raise UsageError(
                    f"{path}: {self.layers} layers cannot be cut into {len(entries)} blocks",
                    f"give 1 to {self.layers} entries",
                )
            return [entries[block] for block in block_of(self.layers, len(entries))]
        if kind == "sticks":
            if not self.simplex or not all(_is_number(entry) for entry in entries):
                raise UsageError(
                    f"{path}: sticks are numbers, and for a linear merge",
                    "other methods take layers or blocks, with a weight for each source",
                )
            try:
                rows = stick_breaking(entries, self.layers, len(self.names))
            except EvaluationError as error:
                fewer = max(len(self.names) - 1, 1)
                raise UsageError(
                    f"{path}: {error.message}",
                    f"{fewer} in [0, 1] for each layer, one after another",
                ) from None
            return [list(row) for row in rows]
        if len(entries) != self.layers:
            raise UsageError(
                f"{path}: {len(entries)} entries, the sources have {self.layers} layers",
                '{"blocks": [...]} takes fewer entries than layers',
            )
        return entries

    def _weights(
        self, entries: Sequence[Any], outside: str | Mapping[str, Any], origin: str
    ) -> SourceWeights:
        rows = tuple(
            self._row(entry, f"{origin}: layer {layer}") for layer, entry in enumerate(entries)
        )
        rule: str | dict[str, Row]
        if isinstance(outside, str):
            rule = self._followed(outside, origin)
        elif isinstance(outside, dict) and outside.keys() <= set(OUTSIDE_GROUPS):
            rule = {g: self._row(entry, f"{origin}: {g}") for g, entry in outside.items()}
        else:
            raise UsageError(
                f'{origin}: "outside" is neither "mean", the name of a source nor an object',
                f"the object's keys are {', '.join(OUTSIDE_GROUPS)}",
            )
        try:
            return SourceWeights(rows, outside_rows(rule, self.names, rows))
        except EvaluationError as error:
            raise UsageError(f"{origin}: {error.message}", error.hint) from None

    def _followed(self, rule: str, origin: str) -> str:
        # The base is followed by the weight 0 for every task vector.
        allowed = ("mean", *self.names) if self.simplex else ("mean", *self.names, BASE_ROLE)
        if rule not in allowed:
            raise UsageError(
                f"{origin}: outside the layers: no source is called {rule}",
                f"one of {', '.join(allowed)}",
            )
        return rule

    def _row(self, entry: Any, where: str) -> Row:
        free = len(self.names) - 1 if self.simplex else len(self.names)
        if self.simplex and isinstance(entry, int | float) and not 0 <= entry <= 1:
            raise UsageError(f"{where}: {entry} is not a number in [0, 1]", _BEYOND)
        if _is_number(entry):
            if free != 1:
                raise UsageError(
                    f"{where}: one number for {len(self.names)} sources",
                    "give a list with a weight for each source",
                )
            entry = [entry, 1.0 - entry] if self.simplex else [entry]
        if not isinstance(entry, list) or not all(_is_number(weight) for weight in entry):
            raise UsageError(f"{where}: neither a number nor a list of numbers", _FORMS)
        if len(entry) != len(self.names):
            raise UsageError(
                f"{where}: {len(entry)} weights for {len(self.names)} sources",
                f"one for each, in this order: {', '.join(self.names)}",
            )
        if not self.simplex:
            return tuple(float(weight) for weight in entry)
        try:
            return simplex_row(entry, where)
        except EvaluationError as error:
            raise UsageError(error.message, _BEYOND) from None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # also false for a NaN, and whole numbers of any size


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file of weights", "--weight takes a number") from None
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}", "may this user read it?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON: {error}", _FORMS) from None
