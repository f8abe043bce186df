"""Check of `memos doctor`: the recognisers of redaction are installed, and which have a language model."""

from __future__ import annotations

from memos_vllm.cli.checks import Check
from memos_vllm.config.tree import Config
from memos_vllm.errors import ConfigError
from memos_vllm.governance.redaction.recognisers import recogniser_of

_SUBJECT = "redaction"


def check_redaction(config: Config) -> Check:
    chosen = config.redaction
    if chosen.recognisers == "built-in":
        return Check(_SUBJECT, "ok", "built-in recognisers")
    try:
        recogniser_of(chosen)
    except ConfigError as error:
        return Check(
            _SUBJECT,
            "broken",
            error.message,
            "install it, or set `governance.redaction.recognisers: built-in`",
        )
    models, languages = chosen.presidio.models, chosen.presidio.languages
    shown = ", ".join(f"{each}: {models.get(each, 'patterns')}" for each in languages)
    if set(languages) <= set(models):
        return Check(_SUBJECT, "ok", f"built-in recognisers and Presidio ({shown})")
    return Check(
        _SUBJECT,
        "note",
        f"built-in recognisers and Presidio ({shown}); names of people, locations and organisations are not "
        "found where there is no model",
        "install a spaCy model (`python -m spacy download en_core_web_sm`) and name it in "
        "`governance.redaction.presidio.models`",
    )
