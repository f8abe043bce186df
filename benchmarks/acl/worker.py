"""One tenant of many cubes, filled and read in this process; also with code from before grants.

Only what both versions have is imported; `memos_vllm` is the one on the path.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from memos_vllm.config.retrieval import RetrievalConfig
from memos_vllm.cube.ids import PersonId, TenantId, now_us
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.plaintext.search.search import MemOperator
from memos_vllm.vault import tables
from memos_vllm.vault.database import Database
from memos_vllm.vault.views import CubeFilter, VaultViews

TENANT = TenantId("acme")
QUESTION = "When does the boat of the red house leave?"
WORDS = [
    "boat",
    "house",
    "garden",
    "market",
    "winter",
    "river",
    "letter",
    "music",
    "bread",
    "window",
]
READ_AND_USE = 3


def main() -> None:
    order = json.loads(sys.argv[1])
    folder = Path(order["folder"])
    is_new = not (folder / "vault.sqlite").exists()
    database = Database(f"sqlite:///{folder / 'vault.sqlite'}")
    if is_new:
        database.migrate()
        fill(database, order)
        print(json.dumps({}))
        return
    views = VaultViews(database)
    # The lexical part alone: no vector is given, so the index of vectors is not read.
    operator = MemOperator(RetrievalConfig(), views, cast(Any, None))
    people = [principal(f"p{number}") for number in range(order["rounds"])]
    search = lambda who: operator.search(who, QUESTION, None, 8)  # noqa: E731
    print(
        json.dumps(
            {
                "list_ms": timed(lambda who: views.page(who, CubeFilter(), None, 50), people),
                "prompt_ms": timed(lambda who: (views.owners(who), views.stable(who, ())), people),
                "first_search_ms": timed(search, people),
                "search_ms": timed(search, people),
                "cubes_in_reach": len(readable(views, people[0])),
            }
        )
    )


def timed(action: Callable[[Principal], object], people: list[Principal]) -> float:
    """Median over people, milliseconds."""
    taken = []
    for who in people:
        started = time.perf_counter()
        action(who)
        taken.append((time.perf_counter() - started) * 1000)
    return round(statistics.median(taken), 3)


def readable(views: VaultViews, who: Principal) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        headers, cursor = views.page(who, CubeFilter(), cursor, 5000)
        found += [header.id for header in headers]
        if cursor is None:
            return found


def principal(name: str) -> Principal:
    return Principal(TENANT, Role.WRITER, "bench", PersonId(name))


def fill(database: Database, order: dict[str, Any]) -> None:
    """The tenant's shared cubes, each person's, and, if ordered, groups with a grant on each of the latter."""
    people, moment = order["people"], now_us()
    cubes = []
    for number in range(order["cubes"]):
        person = "" if number < order["shared"] else f"p{number % people}"
        cubes.append((f"cube_{number:06d}", person, number))
    rows: dict[Any, list[dict[str, Any]]] = {
        tables.CubeRow: [_cube(*cube, moment) for cube in cubes],
        tables.VersionRow: [_version(cube, moment) for cube, _, _ in cubes],
        tables.ItemRow: [_item(*cube) for cube in cubes],
        tables.OwnerRow: [
            {"tenant": TENANT, "person": person, "revision": 1, "items": 1, "cubes": 1}
            for person in sorted({person for _, person, _ in cubes})
        ],
    }
    if order["groups"]:
        rows |= _grants(order, cubes, moment)
    with database.write() as session:
        for row, values in rows.items():
            columns = set(row.__table__.columns.keys())
            known = [{k: v for k, v in each.items() if k in columns} for each in values]
            session.execute(row.__table__.insert(), known)


def _cube(cube: str, person: str, number: int, moment: int) -> dict[str, Any]:
    return {
        "id": cube,
        "tenant": TENANT,
        "person": person,
        "name": None,
        "kind": "explicit",
        "state": "activated",
        "placement": "stable" if number % 500 == 0 else "retrieved",
        "priority": 0,
        "tags": [],
        "access": {"readers": None, "writers": "admin"},
        "is_open": not person,
        "head_version": f"v_{cube}",
        "head_sequence": 1,
        "created_us": moment + number,
        "updated_us": moment + number,
        "reads": 0,
        "stale": [],
    }


def _version(cube: str, moment: int) -> dict[str, Any]:
    return {
        "id": f"v_{cube}",
        "cube_id": cube,
        "sequence": 1,
        "author": "bench",
        "action": "create",
        "created_us": moment,
        "provenance": {"origin": "bench"},
        "payload_sha256": "0" * 64,
        "payload_bytes": 1,
    }


def _item(cube: str, person: str, number: int) -> dict[str, Any]:
    words = " ".join(WORDS[(number * step) % len(WORDS)] for step in (1, 3, 7))
    return {
        "id": f"item_{cube}",
        "cube_id": cube,
        "tenant": TENANT,
        "person": person,
        "ordinal": 0,
        "type": "fact",
        "text": f"Note {number}: the {words} leave in the year {1000 + number}.",
    }


def _grants(
    order: dict[str, Any], cubes: list[tuple[str, str, int]], moment: int
) -> dict[Any, list[dict[str, Any]]]:
    count, people = order["groups"], order["people"]
    groups = [
        {"id": f"g{n}", "tenant": TENANT, "name": f"g{n}", "created_us": 0} for n in range(count)
    ]
    members = [
        {
            "group_id": f"g{n}",
            "person": f"p{(n + people // order['members'] * m) % people}",
            "tenant": TENANT,
        }
        for n in range(count)
        for m in range(order["members"])
    ]
    given = [
        {
            "id": f"grant_{cube}",
            "cube_id": cube,
            "tenant": TENANT,
            "kind": "group",
            "subject": f"g{number % count}",
            "group_id": f"g{number % count}",
            "effect": "allow",
            "permissions": READ_AND_USE,
            "origin": "grant",
            "created_us": moment,
        }
        for cube, person, number in cubes
        if person
    ]
    found: dict[Any, list[dict[str, Any]]] = {}
    for name, values in (("GroupRow", groups), ("GroupMemberRow", members), ("GrantRow", given)):
        found[getattr(tables, name)] = values
    return found


if __name__ == "__main__":
    main()
