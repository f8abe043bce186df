"""The `memos` command line: keys, cubes, search, import, export, reindex."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from memos_vllm.cli.keys import parse_duration
from memos_vllm.cli.main import app
from memos_vllm.cli.terminal import printable
from memos_vllm.config.load import load_config
from memos_vllm.config.tree import Config
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.errors import BadRequest
from memos_vllm.plaintext.search.vector_store import VectorIndex
from tests.adapters import small
from tests.unit.test_importers import locomo_conversation, write, write_lines

Memos = Callable[..., Result]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "memos.yaml"
    tree = {
        "home": str(tmp_path / "home"),
        "embedder": {"model": str(demo_embedder_path()), "processes": 0},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def memos(settings: Path) -> Memos:
    def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, [*arguments, "--config", str(settings)], input=stdin)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def server_holds_index(settings: Path) -> Iterator[Config]:
    config = load_config(settings)
    index = VectorIndex(config)
    assert index.claim()
    yield config
    index.close()


def _create(memos: Memos, *arguments: str) -> dict[str, Any]:
    return dict(json.loads(memos("cubes", "create", *arguments, "--json").stdout))


# -- keys -----------------------------------------------------------------------------------------


def test_key_is_shown_once_and_listed_without_its_secret(memos: Memos) -> None:
    made = json.loads(
        memos("keys", "create", "--tenant", "acme", "--expires-in", "30d", "--json").stdout
    )
    assert set(made) == {"id", "key", "tenant", "role", "expires"}
    assert (made["tenant"], made["role"]) == ("acme", "writer")
    listed = memos("keys", "list").stdout
    assert made["id"] in listed
    assert made["key"] not in listed
    assert "active" in listed
    memos("keys", "revoke", made["id"])
    assert "revoked" in memos("keys", "list", "--tenant", "acme").stdout
    assert "there is no key" in memos("keys", "list", "--tenant", "absent").stderr


def test_key_without_json_is_the_only_line_on_stdout(memos: Memos) -> None:
    result = memos("keys", "create", "--tenant", "acme", "--role", "admin")
    assert result.stdout.startswith("sk-memos-")
    assert len(result.stdout.splitlines()) == 1
    assert "only time" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--tenant", "a b"), "a tenant is named by"),
        (
            ("--tenant", "a", "--expires-in", "soon"),
            "--expires-in 'soon': give a number and a unit",
        ),
        (("--tenant", "a", "--label", "x" * 201), "at most 200 characters"),
    ],
)
def test_an_invalid_key_request_is_one_line_on_stderr(
    memos: Memos, arguments: tuple[str, ...], expected: str
) -> None:
    result = memos("keys", "create", *arguments, code=1)
    assert expected in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_unknown_key_cannot_be_revoked(memos: Memos) -> None:
    assert "there is no key nix" in memos("keys", "revoke", "nix", code=1).stderr


@pytest.mark.parametrize(("text", "seconds"), [("30d", 2592000), ("12h", 43200), ("3600s", 3600)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-1d", "1.5h", "30", "999999999w"])
def test_invalid_durations(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_duration(text)


# -- cubes, beside a server -----------------------------------------------------------------------


@pytest.mark.usefixtures("server_holds_index")
def test_one_cube_is_merged_into_another(memos: Memos) -> None:
    for name, text in (("old", "Miso is a cat."), ("new", "Rex is a dog.")):
        memos("cubes", "create", "--text", text, "--name", name, "--person", "ann")
    memos("cubes", "merge", "old", "new", "--person", "ann")
    shown = memos("cubes", "show", "new", "--person", "ann").stdout
    assert "Miso is a cat." in shown
    assert "Rex is a dog." in shown
    (listed,) = json.loads(memos("cubes", "list", "--state", "merged", "--json").stdout)
    assert listed["name"] == "old"
    assert "itself" in memos("cubes", "merge", "new", "new", "--person", "ann", code=1).stderr


@pytest.mark.usefixtures("server_holds_index")
def test_cube_is_created_listed_shown_rolled_back_and_deleted(memos: Memos) -> None:
    result = memos(
        "cubes", "create", "--text", "Miso is a cat.", "--name", "pets", "--person", "ann"
    )
    assert "a running server holds the index" in result.stderr
    cube_id = result.stdout.strip()
    (listed,) = json.loads(memos("cubes", "list", "--person", "ann", "--json").stdout)
    assert listed["id"] == cube_id
    assert cube_id in memos("cubes", "list").stdout
    assert "Miso is a cat." in memos("cubes", "show", "pets", "--person", "ann").stdout
    version = listed["version"]
    memos("cubes", "rollback", cube_id, version)
    history = json.loads(memos("cubes", "history", cube_id, "--json").stdout)
    assert [entry["action"] for entry in history] == ["rollback", "create"]
    assert "the same items" in memos("cubes", "diff", cube_id, version).stderr
    memos("cubes", "delete", cube_id)
    assert "there is no cube" in memos("cubes", "show", cube_id, code=1).stderr
    assert "has no such cube" in memos("cubes", "list").stderr


@pytest.mark.usefixtures("server_holds_index")
def test_cubes_of_a_tenant_are_invisible_to_another(memos: Memos) -> None:
    made = _create(memos, "--text", "secret", "--tenant", "acme")
    memos("cubes", "show", made["meta"]["id"], code=1)
    memos("cubes", "delete", made["meta"]["id"], "--tenant", "other", code=1)


@pytest.mark.usefixtures("server_holds_index")
def test_cube_text_from_stdin_and_a_file(memos: Memos, tmp_path: Path) -> None:
    memos("cubes", "create", "--file", "-", "--name", "a", stdin="from stdin")
    (tmp_path / "t.txt").write_text("from a file")
    memos("cubes", "create", "--file", str(tmp_path / "t.txt"), "--name", "b")
    assert "from stdin" in memos("cubes", "show", "a").stdout
    assert "from a file" in memos("cubes", "show", "b").stdout


@pytest.mark.usefixtures("server_holds_index")
def test_an_adapter_that_peft_saved_is_stored_exported_and_stored_again(
    memos: Memos, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    content = small()
    (folder / "adapter_config.json").write_text(json.dumps(content["adapter_config"]))
    weights = base64.b64decode(content["adapter_model"])
    (folder / "adapter_model.safetensors").write_bytes(weights)
    _create(memos, "--adapter", str(folder), "--name", "style")
    shown = json.loads(memos("cubes", "show", "style", "--json").stdout)
    assert shown["payload"]["content"]["rank"] == 4
    assert "rank" in memos("cubes", "show", "style").stdout
    assert "not both" in memos(
        "cubes", "create", "--adapter", str(folder), "--text", "x", code=1
    ).output.replace("\n", " ")
    bundle = tmp_path / "all.jsonl"
    memos("export", str(bundle))
    memos("import", "cubes", str(bundle), "--tenant", "other")
    again = json.loads(memos("cubes", "show", "style", "--tenant", "other", "--json").stdout)
    assert again["payload"] == shown["payload"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give the text with --text"),
        (("--text", "a", "--file", "b"), "give the text with --text"),
        (("--text", "  "), "the text is empty"),
        (("--file", "absent"), "cannot read absent"),
        (("--text", "a", "--name", "a/b"), "`name`"),
        (("--text", "a", "--priority", "9999"), "`priority`"),
        (("--text", "a", "--person", "a\x07b"), "printable characters"),
    ],
)
@pytest.mark.usefixtures("server_holds_index")
def test_an_invalid_cube_is_refused_with_the_reason(
    memos: Memos, arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in memos("cubes", "create", *arguments, code=1).stderr


@pytest.mark.usefixtures("server_holds_index")
def test_escape_sequences_in_memory_do_not_reach_the_terminal(memos: Memos) -> None:
    made = _create(memos, "--text", "red \x1b[31m [bold]alert[/bold]")
    shown = memos("cubes", "show", made["meta"]["id"]).stdout
    assert "\x1b" not in shown
    assert "[bold]alert[/bold]" in shown
    assert printable("a\tb\nc\x1b") == "a\tb\nc\N{REPLACEMENT CHARACTER}"


# -- search, import, export, reindex --------------------------------------------------------------


def test_imported_conversation_is_found_by_meaning_and_by_words(
    memos: Memos, settings: Path, tmp_path: Path
) -> None:
    talk = locomo_conversation("conv-1", "Ann", "Bob", sessions=1)
    talk["conversation"]["session_1"][1]["text"] = "I adopted a kitten called Miso."
    file = write(tmp_path / "l.json", [talk])
    imported = memos("import", "locomo", str(file))
    assert "persons: Ann, Bob" in imported.stderr
    assert "2 cubes created" in imported.stderr
    assert "not indexed yet" not in imported.stderr
    found = json.loads(
        memos(
            "search", "Which pet does he own?", "--person", "Bob", "--top-k", "1", "--json"
        ).stdout
    )
    assert found["degraded"] is None
    assert found["results"][0]["item"]["source"] == "D1:2"
    assert "6 items indexed" in memos("reindex").stderr

    config = load_config(settings)
    index = VectorIndex(config)
    assert index.claim()
    try:
        by_words = memos("search", "kitten Miso", "--person", "Bob")
        assert "I adopted a kitten" in by_words.stdout
        assert "lexical search only: a running server holds the index" in by_words.stderr
        refused = memos("reindex", code=1)
        assert "stop the server" in refused.stderr
    finally:
        index.close()

    settings.write_text(settings.read_text().replace("memos-demo-models", "./memos-demo-models"))
    assert "memos reindex" in memos("search", "Miso", code=1).stderr


@pytest.mark.usefixtures("server_holds_index")
def test_a_finished_import_runs_again_only_on_request(memos: Memos, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "n.jsonl", {"text": "a", "person": "ann"})
    first = memos("import", "jsonl", str(file))
    assert "1 cubes created" in first.stderr
    assert "a running server holds the index" in first.stderr
    assert "is imported already" in memos("import", "jsonl", str(file)).stderr
    assert (
        "0 cubes created, 0 extended, 1 already"
        in memos("import", "jsonl", str(file), "--again").stderr
    )
    assert "1 cubes created" in memos("import", "jsonl", str(file), "--tenant", "other").stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "memos.yaml", "n.jsonl"]


@pytest.mark.usefixtures("server_holds_index")
def test_chats_without_a_person_need_person_or_shared(memos: Memos, tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", [{"messages": [{"role": "user", "content": "hi"}]}])
    refused = memos("import", "openai-chat", str(file), code=1)
    assert "--person NAME, or --shared" in refused.stderr
    assert "1 cubes created" in memos("import", "openai-chat", str(file), "--person", "ann").stderr
    assert "1 cubes created" in memos("import", "openai-chat", str(file), "--shared").stderr
    memos("import", "openai-chat", str(file), "--shared", "--person", "ann", code=1)


@pytest.mark.usefixtures("server_holds_index")
def test_an_export_is_imported_into_another_tenant(memos: Memos, tmp_path: Path) -> None:
    _create(memos, "--text", "be kind", "--name", "rules")
    bundle = tmp_path / "b.jsonl"
    assert "1 cubes of tenant local" in memos("export", str(bundle)).stderr
    assert "--force" in memos("export", str(bundle), code=1).stderr
    memos("import", "cubes", str(bundle), "--tenant", "other")
    assert "be kind" in memos("cubes", "show", "rules", "--tenant", "other").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("import", "jsonl", "absent"), "cannot read absent"),
        (("import", "locomo", "absent"), "cannot read absent"),
        (("import", "cubes", "memos.yaml"), "not valid JSON"),
        (("import", "jsonl", "x", "--person", "a\nb"), "printable characters"),
    ],
)
def test_a_failed_import_is_one_line(
    memos: Memos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = memos(*arguments, code=1)
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_search_takes_filters_and_refuses_bad_ones(memos: Memos, tmp_path: Path) -> None:
    talk = locomo_conversation("conv-1", "Ann", "Bob", sessions=2)
    memos("import", "locomo", str(write(tmp_path / "l.json", [talk])))

    def sessions(*options: str) -> set[str]:
        found = memos("search", "conv", "--person", "Bob", "--top-k", "20", "--json", *options)
        return {hit["item"]["session"] for hit in json.loads(found.stdout)["results"]}

    both = sessions()
    assert len(both) == 2
    one = min(both)
    assert sessions("--session", one) == {one}
    assert sessions("--session", one, "--session", max(both)) == both
    assert sessions("--session", one, "--tag", "absent") == set()
    assert sessions("--said-until", "1990-01-01") == set()
    bad = memos("search", "conv", "--person", "Bob", "--said-from", "soon", code=1)
    assert "said_from" in bad.stderr
