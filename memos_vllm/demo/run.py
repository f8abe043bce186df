"""`python -m memos_vllm.demo.run`: start a chat server with memory from a fresh checkout.

Four steps: the models, the configuration, the key (each reused by a second start), the server. All
files are below ``--home``; deleting that folder deletes the demo's data.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import yaml
from rich.console import Console
from rich.markup import escape

from memos_vllm.demo import snippets
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.demo.link import SECONDS, console_link
from memos_vllm.demo.model import is_prepared, prepare_chat_model
from memos_vllm.demo.server import STOP_SECONDS, DemoServer, ServerFailed, require_free_port
from memos_vllm.errors import ConfigError

HOST = "127.0.0.1"
TENANT = "demo"
SERVE_SCRIPT = Path(__file__).resolve().parents[2] / "serve.py"
SERVER_ARGS = (
    "--served-model-name",
    snippets.MODEL,
    "--max-model-len",
    "8192",
    "--block-size",
    "32",
    "--enforce-eager",
    "--enable-prompt-tokens-details",
)
SERVER_ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
}
"""Defaults; the caller's environment wins."""

LOG_PREFIX = re.compile(r"^(\([^)]*pid=\d+\) )?(\w+ [\d-]+ [\d:]+ \[[^]]*\] )?")
"""`(EngineCore pid=12) INFO 11-20 06:27:07 [core.py:402] `: cut off beside a spinner."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo until it is interrupted, and return the exit code."""
    options = _parse(argv)
    console = Console(highlight=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # stop cleanly, as on Ctrl-C
    try:
        _run(console, options.home.expanduser().resolve(), options.port)
    except KeyboardInterrupt:
        return 0
    except (ConfigError, ServerFailed) as error:
        console.print(f"[red]demo:[/red] {escape(str(error))}", soft_wrap=True)
        return 1
    return 0


def _run(console: Console, home: Path, port: int) -> None:
    require_free_port(HOST, port)
    home.mkdir(parents=True, exist_ok=True)
    config = _write_config(home)
    model = _prepare_model(console, home / "models")
    key = _tenant_key(console, home, config)
    server = _start(config, model, home / "server.log", port)
    try:
        _wait_until_ready(console, server)
        _require_valid_key(server, key, home)
        _print_snippets(console, server, key)
        server.wait()
    finally:
        console.print(f"Stopping the server (up to {STOP_SECONDS:.0f} s) ...")
        gentle = server.stop()
        console.print("Stopped." if gentle else "It did not stop in time and was killed.")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m memos_vllm.demo.run", description="A chat server with memory, on the CPU."
    )
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument(
        "--home",
        type=Path,
        default=Path("~/.memos/demo"),
        help="folder of models, memory, key and log (default: %(default)s)",
    )
    return parser.parse_args(argv)


def _prepare_model(console: Console, cache_dir: Path) -> Path:
    if not is_prepared(cache_dir):
        console.print("Converting the chat model for vLLM, once (about 20 s) ...")
        return prepare_chat_model(cache_dir)
    with console.status("Verifying the chat model ..."):
        return prepare_chat_model(cache_dir)


def _write_config(home: Path) -> Path:
    path = home / "demo.yaml"
    # The demo's chat model is too small to read; its exam would cost the first minutes of both cores.
    reader = {"mode": "fast"}
    config = {
        "home": str(home),
        "embedder": {"model": str(demo_embedder_path())},
        "reader": reader,
    }
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def _tenant_key(console: Console, home: Path, config: Path) -> str:
    """The demo tenant's key, from a file that the first start writes: the vault has only its digest."""
    path = home / "demo.key"
    if path.exists() and (key := path.read_text(encoding="utf-8").strip()):
        return key
    with console.status(f"Creating a key for the tenant {TENANT} ..."):
        key = _create_key(config)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{key}\n")
    return key


def _create_key(config: Path) -> str:
    command = [sys.executable, "-m", "memos_vllm.cli.main", "keys", "create", "--tenant", TENANT]
    command += ["--role", "admin", "--config", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"cannot create a key: {done.stderr.strip() or done.stdout.strip()}")
    return str(json.loads(done.stdout)["key"])


def _require_valid_key(server: DemoServer, key: str, home: Path) -> None:
    """Raise ConfigError if the vault does not know the stored key."""
    headers = {"Authorization": f"Bearer {key}"}
    reply = httpx.get(f"{server.url}/v1/models", headers=headers, timeout=30.0, trust_env=False)
    if reply.status_code == httpx.codes.UNAUTHORIZED:
        raise ConfigError(f"the vault does not know the key in {home / 'demo.key'}: delete it")


def _start(config: Path, model: Path, log: Path, port: int) -> DemoServer:
    if not SERVE_SCRIPT.is_file():
        raise ConfigError(f"the demo runs from a checkout of the repository: no {SERVE_SCRIPT}")
    command = [sys.executable, str(SERVE_SCRIPT), "--config", str(config), str(model)]
    command += ["--host", HOST, "--port", str(port), *SERVER_ARGS]
    return DemoServer(command, SERVER_ENV | os.environ, log, f"http://{HOST}:{port}")


def _wait_until_ready(console: Console, server: DemoServer) -> None:
    console.print(f"Starting vLLM (20 to 60 s on a CPU); its log: {server.log}", soft_wrap=True)
    with console.status("Starting ...") as status:

        def show(seconds: float, line: str) -> None:
            message = LOG_PREFIX.sub("", line)[: max(20, console.width - 12)]
            status.update(f"{seconds:3.0f} s  [dim]{escape(message)}[/dim]")

        server.wait_until_ready(show)


def _print_snippets(console: Console, server: DemoServer, key: str) -> None:
    base_url = f"{server.url}/v1"
    console.print(f"\n[green]Ready:[/green] {server.url}  (interactive docs: {server.url}/docs)")
    console.print(f"Memory console: {server.url}/memory  (sign in with the key)", soft_wrap=True)
    console.print(f"Key: {key}", markup=False, soft_wrap=True)
    if (link := console_link(server.url, key)) is not None:
        minutes = SECONDS // 60
        console.print(f"Memory of {snippets.PERSON} in it, signed in, for {minutes} minutes:")
        console.print(link, markup=False, soft_wrap=True)
    for title, text in (
        ("In a shell", snippets.curl_snippet(base_url, key)),
        ("In Python", snippets.python_snippet(base_url, key)),
    ):
        console.print(f"\n[bold]{title}[/bold]\n")
        # No wrapping and no markup: users paste this text.
        console.print(text, markup=False, soft_wrap=True)
    console.print()
    console.print("Ctrl-C stops the server.")


if __name__ == "__main__":
    sys.exit(main())
