"""The configuration with which mergekit makes the same merge."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yaml import safe_dump  # type: ignore[import-untyped]

from apbmm_common.checkpoint.headers import DTYPE_CODES, layer_of
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.checkpoint.vocabularies import vocabulary_size
from apbmm_common.merge_methods import METHODS
from apbmm_common.merge_methods.density import DENSITY
from apbmm_common.run_file import RunSpec
from apbmm_worker.merging.planning.plan import ModelLevelMerge, TensorPlan, WeightedSum

if TYPE_CHECKING:
    from apbmm_worker.merging.sources import VerifiedSources

_THEIR_NAMES = {"dare": "dare_linear"}
"""Where mergekit has another name for a method."""
_DTYPES = {code: name for name, code in DTYPE_CODES.items()}
Config = dict[str, Any]
Shares = dict[Path, float]
"""The weights of the sources in a tensor, by their folders."""


@dataclass(frozen=True, slots=True)
class MergekitConfig:
    """A configuration, and what in it differs from the merge."""

    config: Config
    differences: tuple[str, ...] = ()

    def text(self, heading: str) -> str:
        """As a YAML file; ``heading`` and the differences stand in comments at its top."""
        lines = [line for part in (heading, *self.differences) for line in part.splitlines()]
        comments = "".join(f"# {line}\n" for line in lines)
        return comments + str(safe_dump(self.config, sort_keys=False, width=120))


def mergekit_config(
    plans: Sequence[TensorPlan],
    sources: VerifiedSources,
    names: Mapping[str, str],
    spec: RunSpec,
) -> MergekitConfig:
    """What mergekit has to do to make the tensors of ``plans``, which are of the run ``spec``.

    ``names``: what the file calls each source, a folder or an id on the Hub. Sums are taken in
    float32, as apbmm takes them; mergekit's own default is less exact. Of a random method mergekit
    makes another draw.
    """
    stored = {plan.dtype for plan in plans if plan.layout.is_float}
    shared: Config = {"dtype": "float32", "out_dtype": _DTYPES.get(min(stored), "float32")}
    differences = []
    if len(stored) > 1:
        differences.append(f"mergekit stores all tensors as {shared['out_dtype']}")
    template = spec.generation.template_from
    if spec.merge.vocabulary == "common":
        size = vocabulary_size(sources.checkpoints[template])
        differences.append(
            f"the sources have vocabularies of several sizes, and the merge has {size} rows: "
            "vocab_size in config.json has to say so"
        )
    whole = next((p.rule for p in plans if isinstance(p.rule, ModelLevelMerge)), None)
    if whole is None:
        named = {sources.checkpoints[role].path: name for role, name in names.items()}
        linear = _linear(plans, named, names[template])
        return MergekitConfig(linear | shared, tuple(differences))
    differences.append("the last bit of some elements may differ: mergekit's sums are float32")
    method = METHODS[whole.method]
    if method.random:
        differences.append(f"{whole.method} draws at random, and mergekit draws otherwise")
    elif whole.parameters.get(DENSITY.name, 1.0) < 1.0:
        differences.append(
            "of elements that are equal in magnitude at the edge of the density, mergekit may keep "
            "others"
        )
    if any(isinstance(p.rule, WeightedSum) and p.layout.is_float for p in plans):
        differences.append("tensors that follow one source are not told apart here")
    return MergekitConfig(_model_level(whole, sources, names) | shared, tuple(differences))


def _linear(plans: Sequence[TensorPlan], named: Mapping[Path, str], template: str) -> Config:
    """A weighted sum: tensors are told apart by parts of their names, where weights differ."""
    used = dict.fromkeys(source.file.parent for plan in plans for source in plan.sources)
    weights = dict(_filters({plan.name: _shares(plan) for plan in sorted(plans, key=_place)}))
    return {
        "merge_method": "linear",
        "base_model": template,
        "models": [
            {
                "model": named[folder],
                "parameters": {
                    "weight": [
                        {"filter": part, "value": shares.get(folder, 0.0)}
                        for part, shares in weights.items()
                    ]
                },
            }
            for folder in used
        ],
        "parameters": {"normalize": False},
    }


def _model_level(
    rule: ModelLevelMerge, sources: VerifiedSources, names: Mapping[str, str]
) -> Config:
    return {
        "merge_method": _THEIR_NAMES.get(rule.method, rule.method),
        "base_model": names[BASE_ROLE],
        "models": [
            {"model": names[role], "parameters": {"weight": 1.0, **rule.parameters}}
            for role in _moved(sources)
        ],
        "parameters": {"lambda": rule.weight},
    }


def _moved(sources: VerifiedSources) -> Iterator[str]:
    """The sources that are not the base, and so have a task vector."""
    base = sources.checkpoints[BASE_ROLE].path.resolve()
    for role, checkpoint in sources.checkpoints.items():
        if checkpoint.path.resolve() != base:
            yield role


def _place(plan: TensorPlan) -> tuple[int, str]:
    """Layers by their numbers, then what belongs to no layer."""
    layer = layer_of(plan.name)
    return (sys.maxsize, plan.name) if layer is None else (layer, "")


def _shares(plan: TensorPlan) -> Shares:
    assert isinstance(plan.rule, WeightedSum)
    pairs = zip(plan.sources, plan.rule.weights, strict=True)
    return {source.file.parent: share for source, share in pairs}


def _filters(shares: Mapping[str, Shares]) -> Iterator[tuple[str, Shares]]:
    """Texts that mergekit's filter looks for in names, and the weights of what it finds by them.

    All tensors of a layer with the same weights have one. The point at its end tells layer 1 from
    layer 10.
    """
    layers: dict[str, list[str]] = {}
    for name in shares:
        layer = layer_of(name)
        part = name if layer is None else f".{layer}."
        layers.setdefault(name[: name.index(part) + len(part)], []).append(name)
    for begin, names in layers.items():
        yield from _within(begin, names, shares)


def _within(
    begin: str, names: Sequence[str], shares: Mapping[str, Shares]
) -> Iterator[tuple[str, Shares]]:
    """The filters of tensors whose names begin so: one, or those of each next part of the names."""
    if all(shares[name] == shares[names[0]] for name in names):
        yield begin, shares[names[0]]
        return
    nexts: dict[str, list[str]] = {}
    for name in names:
        part, point, _ = name[len(begin) :].partition(".")
        nexts.setdefault(begin + part + point, []).append(name)
    # A name may be the beginning of a longer one, and the first filter that fits counts.
    for longer in sorted(nexts, key=len, reverse=True):
        yield from _within(longer, nexts[longer], shares)
