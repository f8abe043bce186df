"""Presidio as a recogniser: without a model, with one, without the package, and never a download."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from memos_vllm.cli import checks
from memos_vllm.cli.main import app
from memos_vllm.cli.redaction_check import check_redaction
from memos_vllm.cli.vault import administrator
from memos_vllm.config.load import load_config
from memos_vllm.config.policies import TenantPolicy
from memos_vllm.config.redaction import RedactionConfig, RedactionPolicy
from memos_vllm.config.tree import Config
from memos_vllm.cube.model import CubePatch, ExplicitPayload, NewCube, NewMeta
from memos_vllm.errors import BadRequest, ConfigError
from memos_vllm.governance.redaction import recognisers
from memos_vllm.governance.redaction.redactor import Redactor, Redactors
from memos_vllm.learning.redact_stored import redact_stored
from memos_vllm.system import MemorySystem

spacy = pytest.importorskip("spacy", reason="the extra `presidio` is not installed")
pytest.importorskip("presidio_analyzer", reason="the extra `presidio` is not installed")

PASSPORTS = {"kinds": ["secrets", "email", "phone", "national id", "network address"]}
NAMES = {"kinds": ["secrets", "person", "location"]}
CARD = "4111 1111 1111 1111"


def config_of(**tree: Any) -> RedactionConfig:
    return RedactionConfig.model_validate({"recognisers": "presidio", **tree})


def redactor_of(config: RedactionConfig) -> Redactor:
    return Redactors(config).of("acme")


@pytest.fixture(scope="module")
def blank() -> Redactor:
    return redactor_of(config_of(**PASSPORTS, presidio={"languages": ["en", "es"]}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spaCy model whose names are those of a list."""
    made = spacy.blank("en")
    ruler = made.add_pipe("entity_ruler")
    names = {"PERSON": ("Ann Lee", "Bo"), "GPE": ("Springfield",)}
    ruler.add_patterns([{"label": k, "pattern": each} for k, v in names.items() for each in v])
    folder = tmp_path_factory.mktemp("model") / "en_names"
    made.to_disk(folder)
    return folder


def names_of(model: Path, **tree: Any) -> RedactionConfig:
    return config_of(**{**NAMES, **tree}, presidio={"models": {"en": str(model)}})


@pytest.mark.parametrize(
    ("text", "found", "label"),
    [
        ("The server is 10.20.30.40 now.", "10.20.30.40", "network address"),
        ("My ITIN, the tax payer id: 911-70-1234.", "911-70-1234", "national id"),
        ("call me on my cell 0161 496 0000 tonight", "0161 496 0000", "phone number"),
    ],
)
def test_without_a_model_its_patterns_add_to_ours(
    blank: Redactor, text: str, found: str, label: str
) -> None:
    ours = Redactor(RedactionConfig(kinds=("secrets", "email", "phone", "national id")))
    redacted = blank.text(text)
    assert f"[{label} removed]" in redacted.text
    assert found not in redacted.text
    assert blank.holds_any(text)
    assert (found in ours.text(text).text) == (label != "phone number")


def test_our_recognisers_always_run(blank: Redactor) -> None:
    redacted = blank.text(f"Card {CARD}, password: hunter22, ann@mail.example, CPF 529.982.247-25.")
    assert redacted.text == (
        "Card [card number removed], password: [password removed], [e-mail address removed], CPF "
        "[national id removed]."
    )


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_is_redacted_without_an_error(blank: Redactor, text: str) -> None:
    assert blank.text(blank.text(text).text).count == 0


def test_names_are_found_by_the_model_and_a_mark_is_none(model: Path) -> None:
    redactor = redactor_of(names_of(model))
    redacted = redactor.text(f"Ann Lee and Bo live in Springfield and pay with {CARD}.")
    assert redacted.text == (
        "[person removed] and [person removed] live in [location removed] and pay with "
        "[card number removed]."
    )
    assert dict(redacted.kinds) == {"card number": 1, "person": 2, "location": 1}
    assert redactor.text(redacted.text).count == 0
    removed = redactor_of(names_of(model, mode="remove")).text("Bo left.")
    assert removed.text == " left."


def test_a_long_text_is_read_to_its_end_and_across_the_borders_of_windows(model: Path) -> None:
    redactor = redactor_of(names_of(model))
    for shift in range(0, 60, 7):
        text = "x" * shift + " word" * 190 + " Ann Lee " + "word " * 500 + "Ann Lee"
        assert redactor.text(text).kinds["person"] == 2, shift


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(spacy.cli, "download", refuse)
    redactor = redactor_of(names_of(model, kinds=["secrets", "email", "person"]))
    assert redactor.text("Bo: bo@mail.example, https://www.mail.example/x").count == 2
    with pytest.raises(ConfigError, match="python -m spacy download en_core_web_none"):
        redactor_of(names_of(Path("en_core_web_none")))


@pytest.mark.parametrize(
    ("presidio", "message"),
    [
        ({"languages": ["qq"]}, "no pipeline for the language 'qq'"),
        ({"models": {"en": "en_core_web_none"}}, "'en_core_web_none' .* is not installed"),
    ],
)
def test_a_language_or_a_model_that_is_missing_is_an_error_at_the_start(
    tmp_path: Path, presidio: dict[str, Any], message: str
) -> None:
    tree = {"recognisers": "presidio", "presidio": presidio}
    overrides = {"home": str(tmp_path), "governance": {"redaction": tree}}
    with pytest.raises(ConfigError, match=message):
        MemorySystem(load_config(overrides=overrides))


def test_a_model_of_another_language_is_an_error(model: Path) -> None:
    config = config_of(presidio={"languages": ["de"], "models": {"de": str(model)}})
    with pytest.raises(ConfigError, match="is of 'en', not of 'de'"):
        redactor_of(config)


def test_without_the_package_the_error_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recognisers, "find_spec", lambda _: None)
    overrides = {"home": str(tmp_path), "governance": {"redaction": {"recognisers": "presidio"}}}
    with pytest.raises(ConfigError, match=r"pip install 'memos-vllm\[presidio\]'"):
        MemorySystem(load_config(overrides=overrides))


@pytest.mark.parametrize(
    "tree",
    [
        {"kinds": ["person"]},
        {"kinds": ["network address"]},
        {"recognisers": "presidio", "kinds": ["person"]},
        {"tenants": {"acme": {"kinds": ["location"]}}},
    ],
)
def test_a_kind_that_nothing_finds_is_an_error_at_the_start(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"needs `governance.redaction.recognisers: presidio`"):
        load_config(overrides={"governance": {"redaction": tree}})


def test_a_tenants_policy_may_not_name_a_kind_that_nothing_finds(
    system: MemorySystem, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="redaction of person needs"):
        system.policies.put(administrator("acme"), {"redaction": {"kinds": ["person"]}})
    file = tmp_path / "policies.yaml"
    file.write_text(yaml.safe_dump({"tenants": {"acme": {"redaction": {"kinds": ["person"]}}}}))
    overrides = {"home": str(tmp_path), "governance": {"policies": str(file)}}
    with pytest.raises(ConfigError, match=r"policies .* redaction of person needs"):
        MemorySystem(load_config(overrides=overrides))


def test_a_policy_of_before_whose_recogniser_is_gone_is_logged(caplog) -> None:
    policy = TenantPolicy(redaction=RedactionPolicy(kinds=("secrets", "person")))
    redactor = Redactors(RedactionConfig(), policy_of=lambda _: policy).of("acme")
    assert redactor.text(CARD).count == 1
    assert "the policy of acme keeps out person, which no recogniser finds" in caplog.text


def test_presidio_is_not_imported_where_it_is_not_configured() -> None:
    code = "import sys, memos_vllm.system; print('presidio_analyzer' in sys.modules, 'spacy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_what_is_stored_is_searched_with_it_too(system: MemorySystem, model: Path) -> None:
    admin, alice = administrator("acme"), administrator("acme", "alice")
    content = ExplicitPayload(content="Ann Lee likes tea.")
    cube = system.create(alice, [NewCube(meta=NewMeta(person="alice"), payload=content)])[0]
    system.redactors = system.vault._redactors = Redactors(names_of(model))
    (found,) = redact_stored(system, admin, apply=False)
    assert (found.cube, dict(found.kinds), found.done) == (cube.meta.id, {"person": 1}, False)
    assert [each.done for each in redact_stored(system, admin, apply=True)] == [True]
    assert system.vault.get(alice, cube.meta.id).items[0].text == "[person removed] likes tea."
    patch = CubePatch(payload=ExplicitPayload(content="Bo likes it."))
    system.update(alice, cube.meta.id, patch)
    assert system.vault.get(alice, cube.meta.id).items[0].text == "[person removed] likes it."


def test_doctor_says_what_is_missing(model: Path) -> None:
    def check(**tree: Any) -> checks.Check:
        return check_redaction(Config.model_validate({"governance": {"redaction": tree}}))

    assert check().status == "ok"
    patterns = check(recognisers="presidio", presidio={"languages": ["en", "de"]})
    assert patterns.status == "note"
    assert "en: patterns, de: patterns" in patterns.found
    assert "spacy download" in patterns.remedy
    models = {"models": {"en": str(model)}}
    assert check(recognisers="presidio", presidio=models).status == "ok"
    broken = check(recognisers="presidio", presidio={"models": {"en": "en_core_web_none"}})
    assert broken.status == "broken"
    assert "not installed" in broken.found


def test_doctor_reports_a_missing_model_beside_the_other_checks(tmp_path: Path) -> None:
    presidio = {"models": {"en": "en_core_web_none"}}
    tree = {"redaction": {"recognisers": "presidio", "presidio": presidio}}
    file = tmp_path / "memos.yaml"
    file.write_text(yaml.safe_dump({"home": str(tmp_path / "home"), "governance": tree}))
    result = CliRunner().invoke(app, ["doctor", "--json", "--config", str(file)])
    assert result.exit_code == 1
    found = {check["subject"]: check for check in json.loads(result.stdout)["checks"]}
    assert found["redaction"]["status"] == "broken"
    assert "reader" in found
