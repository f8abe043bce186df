"""`python serve.py MODEL …` is `memos serve MODEL …`, from a checkout."""

import sys

from memos_vllm.cli.main import app

if __name__ == "__main__":
    app(["serve", *sys.argv[1:]], prog_name="memos")
