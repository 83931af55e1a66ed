"""The weights of a merge, from a number or a JSON file.

A file holds a list with one entry for each layer: a number (the weight of the first source of two,
or of the only one), or a list with a weight for each source. An object says more:

    {"layers": [...]}      the same list
    {"blocks": [...]}      one entry for each block, of as many contiguous blocks of layers; beside
                           it "borders" may say where all blocks but the first begin
    {"parts": {...}}       such a list for each of "attention" and "mlp" of the layers, and for
                           "experts" where these are apart
    {"filters": [...]}     objects with "tensors", a text or texts of which tensors' names hold one,
                           and "layers", such a list; what no filter fits has their mean
    {"sticks": [...]}      numbers in [0, 1] by stick-breaking, one fewer a layer than sources
    "outside": ...         beside any of these: "mean" (the default), the name of a source to
                           follow, or an object with an entry for each of "embeddings", "norm"
                           and "head", or some of them
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apbmm_common.checkpoint.layer_parts import (
    ATTENTION,
    EXPERTS,
    MLP,
    filtered_parts,
    natural_parts,
)
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.checkpoint.tensor_groups import OUTSIDE_GROUPS
from apbmm_common.errors import EvaluationError, UsageError
from apbmm_common.run_file import block_by_borders, block_of
from apbmm_common.simplex import Row
from apbmm_worker.merging.planning.source_weights import (
    SourceWeights,
    outside_rows,
    simplex_row,
    stick_breaking,
)

_KINDS = ("layers", "blocks", "sticks", "parts", "filters")
_FORMS = "[0.2, 0.9] is a list for two sources of 2 layers, [[0.2, 0.3, 0.5], [0, 0, 1]] for three"
_BEYOND = "a linear merge's weights are in [0, 1] and sum to 1; task_arithmetic takes any"


@dataclass(frozen=True, slots=True)
class WeightsReader:
    """Reads weights for a number of ``layers`` and for sources of these names.

    ``tensors``: the names of a source's tensors, which parts and filters choose from.
    With ``simplex`` the weights are in [0, 1] and sum to 1 over the sources, and a number x for two
    sources means x and 1 - x. Without it they are factors of task vectors: any finite numbers.
    """

    layers: int
    names: tuple[str, ...]
    simplex: bool
    tensors: Collection[str] = ()

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
        beside = {"outside", "borders"} if "blocks" in table else {"outside"}
        unknown = sorted(table.keys() - {*_KINDS, *beside})
        if len(kinds) != 1 or unknown:
            raise UsageError(
                f"{path}: " + (f"unknown key {unknown[0]}" if unknown else "no list of weights"),
                f'a list, or an object with one of {", ".join(_KINDS)}, and "outside"',
            )
        entries = table[kinds[0]]
        rule = outside if outside is not None else table.get("outside", "mean")
        if kinds[0] in ("parts", "filters"):
            part_of, parts = self._of_parts(kinds[0], entries, path)
            return self._with_parts(part_of, parts, rule, str(path))
        if not isinstance(entries, list):
            raise UsageError(
                f"{path}: {kinds[0]}: not a list", f"--weight takes one number; {_FORMS}"
            )
        borders = table.get("borders", [])
        return self._weights(self._spread(kinds[0], entries, borders, path), rule, str(path))

    def _of_parts(
        self, kind: str, entries: Any, path: Path
    ) -> tuple[dict[str, str], dict[str, list[Any]]]:
        """The part of each tensor, and the list of entries of each part."""
        if kind == "parts":
            allowed = [{ATTENTION, MLP}, {ATTENTION, MLP, EXPERTS}]
            if not isinstance(entries, dict) or entries.keys() not in allowed:
                raise UsageError(
                    f"{path}: parts: not an object with lists for {ATTENTION} and {MLP}",
                    f"and one for {EXPERTS}, where the experts of a mixture are apart",
                )
            part_of, parts = natural_parts(self.tensors, experts_apart=EXPERTS in entries), entries
        else:
            filters, parts = _filters(entries, path)
            part_of = filtered_parts(self.tensors, filters)
        for part, found in parts.items():
            if part not in part_of.values():
                raise UsageError(
                    f"{path}: {kind}: {part} fits no tensor of the layers",
                    "the first filter that fits a tensor's name has it",
                )
            if not isinstance(found, list) or len(found) != self.layers:
                raise UsageError(
                    f"{path}: {part}: not a list of {self.layers} entries, one for each layer",
                    _FORMS,
                )
        return part_of, parts

    def _with_parts(
        self,
        part_of: Mapping[str, str],
        parts: Mapping[str, Sequence[Any]],
        outside: str | Mapping[str, Any],
        origin: str,
    ) -> SourceWeights:
        """The weights of parts of layers; what is in none of them gets their mean in its layer."""
        rows = {
            part: tuple(
                self._row(entry, f"{origin}: {part}: layer {layer}")
                for layer, entry in enumerate(entries)
            )
            for part, entries in parts.items()
        }
        means = [
            [math.fsum(column) / len(rows) for column in zip(*of_layer, strict=True)]
            for of_layer in zip(*rows.values(), strict=True)
        ]
        return replace(self._weights(means, outside, origin), parts=rows, part_of=part_of)

    def _spread(self, kind: str, entries: list[Any], borders: Any, path: Path) -> list[Any]:
        """One entry for each layer; ``borders`` as the file has them."""
        if kind == "blocks" and borders:
            return [entries[block] for block in self._block_by_borders(entries, borders, path)]
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

    def _block_by_borders(self, entries: list[Any], borders: Any, path: Path) -> Sequence[int]:
        """The block of each layer."""
        if (
            not isinstance(borders, list)
            or not all(isinstance(border, int) and border >= 1 for border in borders)
            or borders != sorted(set(borders))
            or borders[-1] >= self.layers
            or len(borders) != len(entries) - 1
        ):
            raise UsageError(
                f"{path}: borders: not the first layers of all {len(entries)} blocks but the first",
                f"increasing numbers from 1 to {self.layers - 1}, one fewer than blocks",
            )
        return block_by_borders(self.layers, borders)

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


def _filters(entries: Any, path: Path) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The texts of each filter, and its entries, by the texts as one."""
    texts: dict[str, list[str]] = {}
    parts: dict[str, Any] = {}
    for entry in entries if isinstance(entries, list) and entries else [{}]:
        table = entry if isinstance(entry, dict) else {}
        tensors = table.get("tensors")
        tensors = [tensors] if isinstance(tensors, str) else tensors
        if (
            not isinstance(tensors, list)
            or not tensors
            or not all(isinstance(text, str) and text for text in tensors)
            or table.keys() != {"tensors", "layers"}
        ):
            raise UsageError(
                f'{path}: filters: not a list of objects with "tensors" and "layers"',
                'as in [{"tensors": "self_attn", "layers": [0.2, 0.9]}]',
            )
        name = " ".join(tensors)
        if name in texts:
            raise UsageError(
                f"{path}: filters: two have the same tensors: {name}", "the first has them all"
            )
        texts[name], parts[name] = tensors, table["layers"]
    return texts, parts


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
