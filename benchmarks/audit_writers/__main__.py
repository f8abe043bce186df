"""`python -m benchmarks.audit_writers [--seconds 8] [--quick]`: adding by 1, 4 and 16 writers of one tenant.

Each writer is a thread and a person of its own, all in one tenant; each adds cubes of one item to the
vault, without the index.  `shards`: the audit log as it is, a chain for each writer at once.  `one chain`:
the design before, in which every write of a tenant waits for the head of its one chain; only the choice of
the chain is replaced.  Both designs take turns on new databases, and each row is the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import psycopg
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from benchmarks.record import Record, output_arguments
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import AuditShardRow
from memos_vllm.vault.vault import MemVault

WRITERS = (1, 4, 16)
POSTGRES = os.environ.get("MEMOS_TEST_POSTGRES", "postgresql://127.0.0.1:5432/postgres")
DESIGNS = ("one chain", "shards")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    output_arguments(parser)
    arguments = parser.parse_args()
    seconds, rounds, writers = arguments.seconds, arguments.rounds, WRITERS
    if arguments.quick:
        seconds, rounds, writers = 0.5, 1, WRITERS[:2]
    config = {"seconds": seconds, "rounds": rounds, "tenants": 1, "items_per_cube": 1}
    record = Record("audit_writers", config=config)
    for database in ("postgres", "sqlite"):
        for count in writers:
            record.rows += rows(database, count, seconds, rounds)
    for row in record.rows:
        if row["design"] == "shards":
            name = f"{row['database']}_adds_per_second_{row['writers']}_writers"
            record.headline[name] = row["adds_per_second"]
            record.headline[f"{name}_over_one_chain"] = row["over_one_chain"]
    record.finish(quick=arguments.quick, out=arguments.out)


def rows(database: str, writers: int, seconds: float, rounds: int) -> list[dict[str, object]]:
    rates: dict[str, list[float]] = {design: [] for design in DESIGNS}
    for number in range(rounds):
        for design in DESIGNS if number % 2 == 0 else DESIGNS[::-1]:
            chosen = mock.patch.object(audit, "_shard", _one_chain)
            with chosen if design == "one chain" else nullcontext():
                rates[design].append(adds_per_second(database, writers, seconds))
    before = statistics.median(rates["one chain"])
    return [
        {
            "database": database,
            "writers": writers,
            "design": design,
            "adds_per_second": round(statistics.median(rates[design]), 1),
            "by_round": [round(rate, 1) for rate in rates[design]],
            "over_one_chain": round(statistics.median(rates[design]) / before, 2),
        }
        for design in DESIGNS
    ]


def adds_per_second(kind: str, writers: int, seconds: float) -> float:
    with tempfile.TemporaryDirectory() as folder, url_of(kind, Path(folder)) as url:
        database = Database(url, None, AuditKeys(Path(folder) / "keys"))
        database.migrate()
        vault = MemVault(database, PayloadStore(f"{folder}/payloads"))
        counts = [0] * writers
        errors: list[BaseException] = []
        start, stop = threading.Barrier(writers + 1), threading.Event()

        def write(number: int) -> None:
            person = PersonId(f"person{number}")
            who = Principal(TenantId("acme"), Role.WRITER, "bench", person)
            try:
                vault.create(who, cube())  # the first write makes the chain and the owner
                start.wait()
                while not stop.is_set():
                    vault.create(who, cube())
                    counts[number] += 1
            except BaseException as error:
                errors.append(error)
                start.abort()
                raise

        threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
        for thread in threads:
            thread.start()
        start.wait()
        began = time.perf_counter()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - began
        database.dispose()
        if errors:
            raise errors[0]
        return sum(counts) / elapsed


def cube() -> NewCube:
    text = f"The parcel {uuid.uuid4().hex[:8]} stands in the hall."
    return NewCube(meta=NewMeta(), payload=ExplicitPayload(content=[Item(text=text)]))


def _one_chain(session: Session, tenant: TenantId) -> AuditShardRow:
    """The tenant's only chain, for which all of its writers wait."""
    held: dict[str, AuditShardRow] = session.info.setdefault("audit_shards", {})
    if tenant not in held:
        name = f"only {tenant}"[:32]
        if session.get(AuditShardRow, name, with_for_update=True) is None:
            _make_chain(session, name, tenant)
        query = select(AuditShardRow).where(AuditShardRow.shard == name).with_for_update()
        held[tenant] = session.scalars(query.execution_options(populate_existing=True)).one()
    return held[tenant]


def _make_chain(session: Session, name: str, tenant: str) -> None:
    """Make the chain; of two writers at once one does."""
    kind = session.get_bind().dialect.name
    insert = sqlite.insert if kind == "sqlite" else postgresql.insert
    values = {"shard": name, "tenant": tenant, "count": 0, "at_us": 0, "head": ""}
    made = insert(AuditShardRow).values(values)
    session.execute(made.on_conflict_do_nothing(index_elements=["shard"]))


@contextmanager
def url_of(kind: str, folder: Path) -> Iterator[str]:
    """A new database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'vault.sqlite'}"
        return
    name = f"memos_bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        info = connection.info
        try:
            yield f"postgresql+psycopg://{info.user}@{info.host}:{info.port}/{name}"
        finally:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


if __name__ == "__main__":
    main()
