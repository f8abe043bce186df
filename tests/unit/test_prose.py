"""The check of the house's prose: what it finds, and what overrules it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "prose.py"


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prose", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("word", ["nobody", "Somebody", "whoever", "EVERYBODY", "anybody"])
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.py", "x = 1  # {}'s\n"),
        ("a.py", '"""{} asks."""\n'),
        ("a.py", "raise ValueError('{} asks')\n"),
        ("a.py", "raise ValueError(f'{} asks {{x}}')\n"),
        ("a.md", "Read by {}.\n"),
        ("a.yaml", "key: 1  # for {}\n"),
        ("a.toml", 'name = "{}"\n'),
    ],
)
def test_a_pronoun_in_place_of_a_noun_is_found(
    prose: ModuleType, path: str, text: str, word: str
) -> None:
    assert prose.check(path, text.format(word)) == [(1, word)]


def test_a_finding_names_its_own_line_inside_a_long_string(prose: ModuleType) -> None:
    text = '"""First.\n\nHeld by whoever works.\n"""\n'
    assert prose.check("a.py", text) == [(3, "whoever")]


@pytest.mark.parametrize(
    "text",
    [
        '"""Args: x: of the thing."""\n',
        'def f(x):\n    """Raises: ValueError: it is not one."""\n',
        'def f(x):\n    """Open it. Args: x: of the thing."""\n',
        'class A:\n    """Open it.\n\n    Args: x: of the thing.\n    """\n',
        'X = 1\n"""Args: x: of the thing."""\n',
    ],
)
def test_arguments_on_one_line_of_a_docstring_are_found(prose: ModuleType, text: str) -> None:
    (finding,) = prose.check("a.py", text)
    assert finding[1] == prose.LISTED


@pytest.mark.parametrize(
    "text",
    [
        'def f(x):\n    """Open it.\n\n    Args:\n        x: of the thing.\n\n    Raises:\n        ValueError: no.\n    """\n',
        'def f(x):\n    """Open it. Raises ValueError."""\n',
        'x = "Args: of a string that is no docstring"\n',
        "nobody = 1\n",
        'x = {"somebody_else": 1}\n',
        'x = re.compile(r"\\bnobody\\b")\n',
    ],
)
def test_blocks_identifiers_and_patterns_pass(prose: ModuleType, text: str) -> None:
    assert prose.check("a.py", text) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.py", 'x = "nobody asks"  # prose: what a person says\n'),
        ("a.py", 'x = """one\nnobody\n"""  # prose: what a person says\n'),
        ("a.py", '"""Args: x: y."""  # prose: an example of the habit\n'),
        ("a.md", '"Nobody asks." <!-- prose: a quotation -->\n'),
        ("a.yaml", "name: nobody  # prose: a user of the system\n"),
    ],
)
def test_an_override_with_a_reason_passes(prose: ModuleType, path: str, text: str) -> None:
    assert prose.check(path, text) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.py", 'x = "nobody asks"  # prose:\n'),
        ("a.md", "Nobody asks. <!-- prose: -->\n"),
        ("a.yaml", "name: nobody  # prose:  \n"),
    ],
)
def test_an_override_without_a_reason_is_refused(prose: ModuleType, path: str, text: str) -> None:
    assert (1, prose.NO_REASON) in prose.check(path, text)


def test_an_override_holds_for_its_own_line_only(prose: ModuleType) -> None:
    text = 'x = 1  # prose: elsewhere\ny = "nobody"\n'
    assert prose.check("a.py", text) == [(2, "nobody")]


def test_an_override_inside_a_string_is_no_override(prose: ModuleType) -> None:
    text = 'x = "nobody  # prose: said inside"\n'
    assert prose.check("a.py", text) == [(1, "nobody")]


def test_data_files_pass_and_each_has_a_reason(prose: ModuleType) -> None:
    assert prose.check("CHANGELOG.md", "Nobody.\n") == []
    assert all(reason.strip() for reason in prose.DATA.values())


def test_the_command_prints_places_and_the_way_out(
    prose: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = tmp_path / "bad.md", tmp_path / "good.md"
    bad.write_text("One.\nFor nobody.\n", encoding="utf-8")
    good.write_text("For no person.\n", encoding="utf-8")
    assert prose.main([str(good)]) == 0
    assert capsys.readouterr().out == ""
    assert prose.main([str(good), str(bad)]) == 1
    out = capsys.readouterr().out
    assert f"{bad.as_posix()}:2: nobody" in out
    assert "# prose: <reason>" in out


def test_the_check_reads_files_that_git_tracks(prose: ModuleType) -> None:
    names = {path.name for path in prose.tracked()}
    assert {"README.md", "pyproject.toml", "cpu.yaml", "pipeline.py"} <= names
