"""One configuration tree: unknown keys are errors, sources have an order."""

from __future__ import annotations

import pytest

from memos_vllm.config.load import load_config
from memos_vllm.errors import ConfigError


def test_an_unknown_key_names_the_nearest_valid_one(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("retrieval: {topk: 3}\n")
    with pytest.raises(ConfigError, match=r"`retrieval.topk`; did you mean `retrieval.top_k`"):
        load_config(file)


def test_a_bad_value_names_its_key(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("chroma: {port: 99999}\n")
    with pytest.raises(ConfigError, match=r"chroma\.port"):
        load_config(file)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words"])
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mapping|YAML"):
        load_config(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "absent.yaml")


def test_the_environment_wins_over_the_file_and_overrides_over_both(tmp_path, monkeypatch):
    file = tmp_path / "c.yaml"
    file.write_text("retrieval: {top_k: 3, candidates: 30}\nhome: /somewhere\n")
    monkeypatch.setenv("MEMOS__RETRIEVAL__TOP_K", "5")
    monkeypatch.setenv("MEMOS_CONFIG", str(file))
    config = load_config(overrides={"retrieval": {"candidates": 50}})
    assert (config.retrieval.top_k, config.retrieval.candidates) == (5, 50)
    assert str(config.root) == "/somewhere"


def test_the_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_config().home = "/elsewhere"
