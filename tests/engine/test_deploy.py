"""Queries of the dashboard and of the alerts, against the metrics that the real server has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
_METRIC = re.compile(r"\b(?:memos_|vllm:)[a-z0-9_]+")


def queries() -> list[str]:
    panels = json.loads((DEPLOY / "grafana" / "memos.json").read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return found + [rule["expr"] for group in groups for rule in group["rules"]]


def test_every_query_names_metrics_and_labels_that_the_server_has(server, keys):
    with server.http(keys.operator) as operator:
        text = operator.get("/metrics").text
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    known = {f"{name}_bucket" for name, kind in types.items() if kind == "histogram"}
    known |= {name for name, kind in types.items() if kind != "histogram"}
    asked = {name for query in queries() for name in _METRIC.findall(query)}
    assert len(asked) > 20
    assert asked - known == set()
