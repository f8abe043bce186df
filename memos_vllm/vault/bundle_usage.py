"""Metering of bundles: requests and prompt tokens by day."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from sqlalchemy import select

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.vault.bundle_tables import BundleCubeRow, BundleRow, BundleUsageRow
from memos_vllm.vault.database import Database
from memos_vllm.vault.upsert import insert_absent


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    bundle: str
    version: str
    day: str
    """UTC, ISO 8601."""
    requests: int
    tokens: int


class BundleUsage:
    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self, tokens: Mapping[str, int]) -> None:
        """Count one request for every bundle whose cubes are in its prompt.

        Args:
            tokens: of each cube in the prompt, by its id.
        """
        if not tokens:
            return
        query = (
            select(BundleCubeRow.cube_id, BundleRow.tenant, BundleRow.name, BundleRow.version)
            .join(BundleRow, BundleRow.id == BundleCubeRow.bundle_id)
            .where(BundleCubeRow.cube_id.in_(tokens))
        )
        by_bundle: Counter[tuple[str, str, str]] = Counter()
        with self._database.read() as session:
            for cube, tenant, name, version in session.execute(query):
                by_bundle[tenant, name, version] += tokens[cube]
        if not by_bundle:
            return
        day = to_datetime(now_us()).date().isoformat()
        with self._database.write() as session:
            for (tenant, name, version), used in sorted(by_bundle.items()):
                key = {"tenant": tenant, "bundle": name, "version": version, "day": day}
                insert_absent(session, BundleUsageRow, **key, requests=0, tokens=0)
                row = session.get_one(BundleUsageRow, key, with_for_update=True)
                row.requests, row.tokens = row.requests + 1, row.tokens + used

    def by_day(self, tenant: str, since: str = "") -> list[Usage]:
        """Usage of a tenant's bundles, also of those that were uninstalled.

        Args:
            since: first day, ISO 8601.
        """
        query = select(BundleUsageRow).where(
            BundleUsageRow.tenant == tenant, BundleUsageRow.day >= since
        )
        with self._database.read() as session:
            rows = session.scalars(query.order_by(BundleUsageRow.day, BundleUsageRow.bundle)).all()
        return [Usage(row.bundle, row.version, row.day, row.requests, row.tokens) for row in rows]
