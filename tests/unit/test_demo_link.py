"""The demo prints the console's address and a link that opens it signed in, without the key in it."""

from __future__ import annotations

import io
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from memos_vllm.demo import link
from memos_vllm.demo.link import console_link
from memos_vllm.demo.run import _print_snippets
from memos_vllm.errors import ConfigError
from memos_vllm.governance.principal import Role
from tests.console import console_app, key_of
from tests.http_server import served
from tests.unit.test_console_view import opened


@pytest.fixture
def app(system):
    return console_app(system)


def test_the_link_opens_the_persons_view_and_holds_a_token_that_ends(system, app):
    key = key_of(system)
    with served(app) as url:
        found = console_link(url, key)
    assert found.startswith(f"{url}/memory/view?token=pt-memos-")
    assert urlsplit(found).hostname == "127.0.0.1"
    assert key not in found
    parts = urlsplit(found)
    browser = opened(app, f"{parts.path}?{parts.query}")
    page = browser.get("person").text
    assert "own view" in page
    assert "/memory/try" in page
    (token,) = system.keys.tokens.of_person(system.keys.authenticate(key), "alice")
    assert 0 <= link.SECONDS - (token.expires_us - token.created_us) / 1_000_000 < 1


def test_the_demo_prints_the_consoles_address_and_the_link_in_one_line(system, app):
    key = key_of(system)
    printed = io.StringIO()
    with served(app) as url:
        _print_snippets(Console(file=printed, width=60), SimpleNamespace(url=url), key)
    lines = printed.getvalue().splitlines()
    assert any(f"{url}/memory " in line for line in lines)
    (found,) = [line for line in lines if line.startswith(f"{url}/memory/view?token=")]
    assert key not in found
    assert "60 minutes" in printed.getvalue()


def test_a_key_that_makes_no_link_is_an_error_with_its_reason(system, app):
    with served(app) as url, pytest.raises(ConfigError, match="writer"):
        console_link(url, key_of(system, Role.READER))
