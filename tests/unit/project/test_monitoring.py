"""The alert rules and the dashboard of Grafana: whole, and naming only metrics that are served."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from apbmm_master.followers.metrics.families import families
from commands import REPOSITORY, environment
from protocol_world import World
from served_world import Served, status_of

MONITORING = REPOSITORY / "systemd" / "monitoring"
SELECTOR = re.compile(r"\b(apbmm_\w+)(?:\{([^}]*)\})?")
OF_EVERY_TARGET = {"instance", "job"}


def served() -> dict[str, set[str]]:
    """Every metric that a master with a worker serves, with its labels."""
    world = World()
    world.join("a")
    world.exchange()
    found: dict[str, set[str]] = {}
    for family in families(status_of(Served(world)), 1.0):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    return found


def expressions() -> Iterator[str]:
    """Every expression of the rules and the dashboard."""
    yield from (rule["expr"] for rule in rules())
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_every_metric_and_label_that_is_named_is_served() -> None:
    known = served()
    named = [found for text in expressions() for found in SELECTOR.findall(text)]
    assert len({name for name, _ in named}) >= 14
    for name, selector in named:
        assert name in known
        labels = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", selector))
        assert labels <= known[name] | OF_EVERY_TARGET, (name, labels)


def test_every_label_that_a_text_shows_is_served() -> None:
    for rule in rules():
        (metric, *_) = SELECTOR.findall(rule["expr"])[0]
        text = " ".join(rule["annotations"].values())
        shown = set(re.findall(r"\$labels\.(\w+)", text))
        assert shown <= served()[metric] | OF_EVERY_TARGET, rule["alert"]


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    found = dashboard()
    variables = {variable["name"] for variable in found["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 12
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(panels)))
    assert used <= variables
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "two panels overlap"
    assert max(x for x, _ in cells) < 24


def promtool(*arguments: str) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed here (package prometheus)")
    ran = subprocess.run(
        ["promtool", *arguments],
        capture_output=True, text=True, cwd=MONITORING, env=environment(), check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_prometheus_takes_the_rules_and_they_fire_when_they_should() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
    tried = (MONITORING / "alerts_test.yml").read_text()
    assert all(f"alertname: {rule['alert']}\n" in tried for rule in rules())


def test_prometheus_takes_the_dashboards_expressions() -> None:
    texts = [
        {"record": f"panel:{n}", "expr": text.replace("$instance", ".*")}
        for n, text in enumerate(expressions())
    ]
    given = yaml.safe_dump({"groups": [{"name": "panels", "rules": texts}]})
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed here (package prometheus)")
    ran = subprocess.run(
        ["promtool", "check", "rules", "/dev/stdin"],
        input=given, capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
