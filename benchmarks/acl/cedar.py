"""The same decisions by Cedar (`cedarpy`): is a person allowed to use each of the cubes?"""

from __future__ import annotations

import json
import statistics
import time
from importlib.metadata import version
from typing import Any

POLICIES = """
permit(principal, action == Action::"use", resource) when { resource.owner == principal };
permit(principal, action == Action::"use", resource) when { resource.open };
permit(principal, action == Action::"use", resource) when { principal in resource.users };
forbid(principal, action == Action::"use", resource) when { principal in resource.denied };
"""


def measure(cubes: int, shared: int, people: int, groups: int, members: int) -> dict[str, Any]:
    """Raises ImportError: `cedarpy` is not installed."""
    import cedarpy

    started = time.perf_counter()
    policies = cedarpy.PolicySet.from_str(POLICIES)
    entities = cedarpy.Entities.from_json_str(
        json.dumps(_entities(cubes, shared, people, groups, members))
    )
    built = time.perf_counter() - started
    requests = [
        {"principal": 'User::"p0"', "action": 'Action::"use"', "resource": f'Cube::"{number}"'}
        for number in range(cubes)
    ]
    taken, allowed = [], 0
    for _ in range(3):
        started = time.perf_counter()
        answers = cedarpy.is_authorized_batch(requests, policies, entities)
        taken.append((time.perf_counter() - started) * 1000)
        allowed = sum(answer.allowed for answer in answers)
    return {
        "part": "cedar",
        "cedarpy": version("cedarpy"),
        "build_ms": round(built * 1000, 1),
        "decide_all_ms": round(statistics.median(taken), 1),
        "cubes_in_reach": allowed,
    }


def _entities(
    cubes: int, shared: int, people: int, groups: int, members: int
) -> list[dict[str, Any]]:
    def uid(kind: str, name: object) -> dict[str, str]:
        return {"type": kind, "id": str(name)}

    of_person: dict[str, list[dict[str, str]]] = {f"p{n}": [] for n in range(people)}
    for n in range(groups):
        for m in range(members):
            of_person[f"p{(n + people // members * m) % people}"].append(uid("Group", f"g{n}"))
    found: list[dict[str, Any]] = [
        {"uid": uid("User", name), "attrs": {}, "parents": parents}
        for name, parents in of_person.items()
    ]
    found += [{"uid": uid("Group", f"g{n}"), "attrs": {}, "parents": []} for n in range(groups)]
    for n in range(cubes):
        is_shared = n < shared
        owner = {"__entity": uid("User", "" if is_shared else f"p{n % people}")}
        users = [] if is_shared else [{"__entity": uid("Group", f"g{n % groups}")}]
        attrs = {"owner": owner, "open": is_shared, "users": users, "denied": []}
        found.append({"uid": uid("Cube", n), "attrs": attrs, "parents": []})
    return found
