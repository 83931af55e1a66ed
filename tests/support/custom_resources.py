"""The fields of others' custom resources that the Helm chart uses, as their Go types define them.

- JobSet: kubernetes-sigs/jobset, api/jobset/v1alpha2/jobset_types.go;
- ServiceMonitor: prometheus-operator, pkg/apis/monitoring/v1/servicemonitor_types.go and types.go.

Their whole schemas have ten thousand lines. A field that is not here has to be looked up there
first: a cluster drops or refuses what it does not know. Templates of jobs are validated by
Kubernetes' own schema.
"""

from __future__ import annotations

from typing import Any

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
LABELS = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}
DURATION = {"type": "string", "pattern": r"^(\d+(y|w|d|h|m|s|ms))+$"}


def _of(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def _list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _resource(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return _of(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=_of(("name",), name=NAME, labels=LABELS),
        spec=spec,
    )


SCHEMAS: dict[str, dict[str, Any]] = {
    "JobSet": _resource(
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
        _of(
            successPolicy=_of(
                ("operator",),
                operator={"enum": ["All", "Any"]},
                targetReplicatedJobs=_list_of(NAME),
            ),
            failurePolicy=_of(maxRestarts=COUNT),
            replicatedJobs=_list_of(
                _of(("name", "template"), name=NAME, replicas=COUNT, template={"type": "object"})
            ),
        ),
    ),
    "ServiceMonitor": _resource(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        _of(
            ("selector", "endpoints"),
            selector=_of(matchLabels=LABELS),
            endpoints=_list_of(_of(port={"type": "string"}, interval=DURATION)),
        ),
    ),
}
"""JSON schemas by kind."""
