"""Data files inside an installed wheel, located without importing its package.

Importing the package would run code that the demo does not need, and would fail without its
dependencies.
"""

import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from memos_vllm.errors import ConfigError


def wheel_paths() -> list[str]:
    """Search path of wheels: the environment, then the separate folder of `make venv`."""
    return [*sys.path, str(Path(sys.prefix) / "share" / "memos-demo")]


def find_in_wheel(name: str, file: str, *, install: str) -> Path:
    """Path of a file in an installed distribution.

    Args:
        name: the distribution.
        file: path relative to the wheel's root.
        install: command for the error message.

    Raises:
        ConfigError: the distribution is not installed, or its file is missing.
    """
    found: Distribution | None = next(iter(distributions(name=name, path=wheel_paths())), None)
    if found is None:
        raise ConfigError(f"the demo needs the package {name}: run `{install}`")
    path = Path(str(found.locate_file(PurePosixPath(file))))
    if not path.is_file():
        raise ConfigError(
            f"{name} {found.version} is installed, but {path} is missing: run `{install}`"
        )
    return path
