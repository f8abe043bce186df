"""Two servers that start on a new database make its first rows at the same time, and both start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event

from memos_vllm.cube.ids import TenantId
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault.audit_trees import AuditTrees
from memos_vllm.vault.database import Database
from memos_vllm.vault.index_state import IndexState, Serving
from memos_vllm.vault.outbox import Outbox
from memos_vllm.vault.person_tokens import PersonTokens
from memos_vllm.vault.quotas import Quotas

TENANT, SERVERS = TenantId("acme"), 4
WRITER = Principal(TENANT, Role.WRITER, "key-1")
FIRST: dict[str, Callable[[Database], Any]] = {
    "secret": lambda database: database.secret("cache_salt"),
    "index": lambda database: IndexState(database).serve(Serving("granite")),
    "signature": lambda database: Outbox(database).set_index_signature("granite"),
    "token": lambda database: PersonTokens(database).create(WRITER, "ann", ["chat"], 60)[0].person,
    "checkpoint": lambda database: AuditTrees(database).delivered(TENANT, 1),
    "training": lambda database: Quotas.trained(database, TENANT, 5.0),
}


def pause(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    """Let every other server look before this one inserts."""
    if statement.startswith("INSERT"):
        time.sleep(0.2)


@pytest.fixture
def servers(database_url: str) -> Iterator[list[Database]]:
    made = [Database(database_url) for _ in range(SERVERS)]
    made[0].migrate()
    for each in made:
        event.listen(each.engine, "before_cursor_execute", pause)
        with each.read():  # it is connected
            pass
    yield made
    for each in made:
        each.dispose()


@pytest.mark.parametrize("name", FIRST)
def test_the_second_server_finds_the_row_of_the_first(servers, name):
    barrier = threading.Barrier(SERVERS)

    def begin(database: Database) -> Any:
        barrier.wait(10)
        return FIRST[name](database)

    with ThreadPoolExecutor(SERVERS) as pool:
        found = list(pool.map(begin, servers))
    assert len(set(found)) == 1
    assert FIRST[name](servers[0]) == found[0]
