"""Every query of memory passes the one rule of who sees it, or is named here with the reason why not.

A static test: it reads the sources of the vault.  A query is a call of `select`, `update`, `delete` or
`Session.get` that names a table with memory; it passes when its function uses `records.visible_to`,
`records.all_visible_to` or `records.granted_to`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import memos_vllm.vault

VAULT = Path(memos_vllm.vault.__file__).parent
MEMORY = {"CubeRow", "VersionRow", "ItemRow", "MentionRow", "PlanRow", "PendingTurnRow"}
MEMORY |= {"_INDEXED_COLUMNS", "TransformRow", "TransformSourceRow", "DerivedRow", "IdempotencyRow"}
QUERIES = {"select", "update", "delete", "get", "insert"}
FILTERS = {"visible_to", "all_visible_to", "granted_to"}

OF_A_ROW = "of a cube that the caller has found by the rule, or makes"
INDEX = "builds indexes, of whole owners; results are looked up by the rule"
JOBS = "work of the server itself: acts for the owner of the memory"
ERASED = "erases a person, or what was deleted: an admin, or the person"
OWN = "the condition is the caller's own person and tenant"
ALLOWED = {
    "bundle_gates.queue": OF_A_ROW,
    "ageing.Ageing._pages": JOBS,
    "ageing.Ageing.drop_versions": JOBS,
    "ageing.Ageing.stored_before": JOBS,
    "ageing.Ageing.tenants": JOBS,
    "ageing._version_at": JOBS,
    "audit_reads._has_plan": JOBS,
    "erasing._chosen": ERASED,
    "erasing._drop_owner": ERASED,
    "erasing._drop_rows": ERASED,
    "erasing._lists_with": ERASED,
    "erasing._turns": ERASED,
    "erasing._unname": ERASED,
    "erasing._written_by": ERASED,
    "erasing.counts": ERASED,
    "bundles.Bundles.count": "a number, for the receipt of an uninstallation",
    "derived.made_from": "what follows from a change of a source, of any owner",
    "derived._sources_of": "what a cube was made from, of any owner",
    "derived._same_payload": OF_A_ROW,
    "derived.orphan": OF_A_ROW,
    "lineage.Lineage.below": "ids of what was made from cubes of the caller's own, which views filter",
    "filters.ItemFilters.matching": "of the cubes that `_cubes` has found by the rule",
    "forgotten.ForgottenStore.recording": OWN,
    "forgotten.ForgottenStore.purge": JOBS,
    "forgotten.ForgottenStore.undoable": OWN,
    "grants.settle_all": "what follows from a change of a grant",
    "groups._affected": "ids of cubes, for what follows from a change of the group",
    "idempotency.recall": OWN,
    "idempotency.remember": "deletes what is too old",
    "index_state.IndexState.count": INDEX,
    "index_state.IndexState.cubes": INDEX,
    "items.cube_keys": INDEX,
    "items.load_cubes": INDEX,
    "items.load_items": INDEX,
    "items.load_rows": "takes the condition from its caller",
    "items._add_mentions": OF_A_ROW,
    "items.drop_cube": OF_A_ROW,
    "items.sync_items": OF_A_ROW,
    "knowledge.Knowledge.owner": JOBS,
    "outbox.Outbox.pending": INDEX,
    "outbox.Outbox.refill": INDEX,
    "owners.hidden_texts": "for the leak check of training: what readers may not read",
    "past.PastVault.of_person": OWN,
    "past.PastVault.row": OWN,
    "person_archive.PersonArchive.cube": OWN,
    "person_archive.PersonArchive.cubes": OWN,
    "person_archive.PersonArchive.turns": OWN,
    "person_archive._origin": OWN,
    "person_archive._provenance": OWN,
    "person_archive._versions": OF_A_ROW,
    "person_restore.PersonRestore.link": OWN,
    "person_restore._is_taken": OF_A_ROW,
    "person_restore._local": OWN,
    "person_restore._version": OWN,
    "plans.forget_cubes": ERASED,
    "plans.PlanStore._put": "deletes the oldest",
    "plans.PlanStore.get": OWN,
    "plans.PlanStore.page": OWN,
    "set_aside.SetAside.page": "the tenant's failed jobs, without text, for its admin",
    "set_aside.SetAside.tenant_of": "the name of a tenant, for the operator's command",
    "set_aside._find": "a failed job of the tenant, without text, for its admin",
    "then._is_behind": OF_A_ROW,
    "then._known": "texts of one owner, for what was forgotten of the rows that the caller has found",
    "then.versions_at": OF_A_ROW,
    "traces.repeats": ERASED,
    "transform_records.Transforms.claim": JOBS,
    "transform_records.Transforms.count_open": "a number, for the tenant's limit",
    "transform_records.Transforms.page": OWN,
    "transform_records.Transforms._find": OWN,
    "transform_records.Transforms.end": JOBS,
    "transform_records.Transforms._check_running": JOBS,
    "transform_records.Transforms.forget_ended": JOBS,
    "transform_records.Transforms.ids": JOBS,
    "transform_records.Transforms.promotable": JOBS,
    "transform_rows.forget_jobs_of": OF_A_ROW,
    "transform_records._requeue": JOBS,
    "transform_records._set_aside": JOBS,
    "transform_records._model": "of a job that the caller has found",
    "turns.PendingTurns.drop": JOBS,
    "turns.PendingTurns.get": JOBS,
    "turns.PendingTurns.done": JOBS,
    "turns.PendingTurns.deletion_of": JOBS,
    "turns.PendingTurns.waiting": JOBS,
    "turns.PendingTurns.waiting_of": OWN,
    "turns.PendingTurns.said_since": OWN,
    "turns._is_stored": JOBS,
    "vault.MemVault.history": OF_A_ROW,
    "vault.MemVault._version": OF_A_ROW,
    "views.VaultViews.adapter_payloads": JOBS,
    "views.VaultViews.count_reads": JOBS,
    "views.VaultViews.learnt_together": "the condition is in `_adapters_for`; the rest is of its rows",
    "views._head_versions": OF_A_ROW,
    "views._stable": OF_A_ROW,
}


def functions(tree: ast.AST, name: str):
    """(qualified name, node) of each function, the inner ones as parts of the outer."""
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{name}.{node.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}.{node.name}", node


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def unfiltered(source: str, module: str) -> set[str]:
    """Functions that query memory without the rule."""
    found = set()
    tree = ast.parse(source)
    tables = MEMORY | {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in MEMORY and alias.asname
    }
    for name, function in functions(tree, module):
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        queries = any(called(call) in QUERIES for call in calls)
        is_of_memory = any(names(statement) & tables for statement in function.body)
        if queries and is_of_memory and not any(called(call) in FILTERS for call in calls):
            found.add(name)
    return found


def all_unfiltered() -> set[str]:
    return {
        name
        for path in sorted(VAULT.glob("*.py"))
        if path.stem not in ("tables", "records", "legacy_jobs")
        for name in unfiltered(path.read_text("utf-8"), path.stem)
    }


def test_each_query_of_memory_passes_the_rule_or_is_named():
    assert all_unfiltered() - set(ALLOWED) == set(), (
        "a new query of memory: filter it by `records.visible_to`, or name it with its reason"
    )
    assert set(ALLOWED) - all_unfiltered() == set(), "names without such a query"


def test_only_the_vault_knows_its_tables():
    package = VAULT.parent
    outside = [path for path in package.rglob("*.py") if VAULT not in path.parents]
    for path in outside:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "memos_vllm.vault.tables", path


def test_only_one_place_sets_what_decides_about_access():
    """`access`, `is_open` and grants change together: other code would leave one of them behind."""
    places = set()
    for path in VAULT.glob("*.py"):
        for name, function in functions(ast.parse(path.read_text("utf-8")), path.stem):
            for node in ast.walk(function):
                if isinstance(node, ast.Assign):
                    places |= {
                        name
                        for target in node.targets
                        if isinstance(target, ast.Attribute)
                        and target.attr in ("access", "is_open")
                    }
                if isinstance(node, ast.Call) and called(node) == "GrantRow":
                    places.add(name)
    assert places == {
        "grants.set_access",
        "grants._settle",
        "grants._put",
        "derived.narrow",
        "derived._list_readers",
        "erasing._unname",  # makes the grants of the list again
    }


def test_a_query_without_the_rule_is_found():
    planted = """
def leak(session, cube):
    return session.scalar(select(ItemRow.text).where(ItemRow.cube_id == cube))
class Views:
    def fine(self, session, principal):
        return session.scalars(select(CubeRow).where(records.visible_to(principal)))
    def by_id(self, session, ref):
        def inner():
            return session.get(CubeRow, ref)
        return inner()
"""
    assert unfiltered(planted, "planted") == {"planted.leak", "planted.Views.by_id"}
