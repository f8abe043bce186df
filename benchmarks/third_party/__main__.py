"""`python -m benchmarks.third_party [--quick]`: TTFT measured by vLLM's own load generator.

The functions of `vllm bench serve` against vLLM alone (the memory is the beginning of each prompt) and
against memos_vllm (the same text is a cube that the requests name), each right after a start, one request
at a time.  The first request of a run shows the cost of a restart, the others the steady state.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import Record, output_arguments
from benchmarks.ttft.chat import Bench
from memos_vllm.demo.model import prepare_chat_model
from tests.engine.harness import MODEL, MODEL_CACHE, Server

FLAGS = ("--max-model-len", "8192")
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "2", "MEMOS__PROMPT__CONTEXT_SHARE": "1"}
QUESTION = 40
MEMORY = 5
TOOL = """
import json, sys
from vllm.benchmarks import serve
from vllm.benchmarks.datasets import SampleRequest
from vllm.utils.argparse_utils import FlexibleArgumentParser

prompts = json.load(open(sys.argv.pop(1)))
serve.get_samples = lambda args, tokenizer: [
    SampleRequest(prompt=p, prompt_len=len(tokenizer.encode(p)), expected_output_len=1, request_id=str(i))
    for i, p in enumerate(prompts)
]
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""
"""`vllm bench serve` with our prompts: its command fails where vLLM is installed under another name, and
its random tokens are not natural text."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    output_arguments(parser)
    arguments = parser.parse_args()
    sizes = (1024,) if arguments.quick else (1024, 4096)
    requests = 4 if arguments.quick else 20
    record = Record("third_party", config={"requests": requests, "question_tokens": QUESTION})
    with tempfile.TemporaryDirectory() as name:
        for size in sizes:
            folder = Path(name) / str(size)
            folder.mkdir()
            for way in ("vLLM", "memos_vllm"):
                print(f"{size} tokens, {way}", file=sys.stderr)
                seen = measure(folder, way == "memos_vllm", size, requests)
                record.rows.append({"memory_tokens": size, "way": way} | seen)
            alone, ours = record.rows[-2:]
            for which in ("first", "median"):
                record.headline[f"{which}_ttft_over_vllm_{size}"] = round(
                    ours[f"ttft_ms_{which}"] / alone[f"ttft_ms_{which}"], 3
                )
    record.finish(quick=arguments.quick, out=arguments.out)


def measure(folder: Path, is_ours: bool, tokens: int, requests: int) -> dict[str, Any]:
    home = folder / "home" if is_ours else None
    server = Server(folder, home=home, flags=FLAGS, environment=ENVIRONMENT)
    with server.running() as running:
        bench, extra, memory_text = Bench(running), {}, ""
        if is_ours:
            cube = bench.cube(tokens, MEMORY)
            bench.ask("person", "Which number is it?", [cube], max_tokens=1)
            bench.wait_until_kept(cube)
            bench.restart()
            time.sleep(5)
            memory = {"cubes": [cube], "retrieve": False, "write": False, "budget_tokens": 8000}
            extra = {"memory": memory}
        else:
            # A request with another prompt takes the other costs of a first request.
            bench.ask("person", bench.text(tokens, MEMORY + 1), [], max_tokens=1)
            memory_text = bench.text(tokens - 30, MEMORY) + "\n\n"
        questions = [bench.text(QUESTION, 100 + number) for number in range(requests + 1)]
        prompts = [f"{memory_text}{question} Which number is it?" for question in questions]
        seen = run_tool(folder, running, prompts[:-1], extra)
        return seen | {"computed_tokens": computed_tokens(bench, prompts[-1], extra)}


def computed_tokens(bench: Bench, prompt: str, extra: dict[str, Any]) -> int:
    """Prompt tokens that the engine computes when the memory is cached."""
    message = {"role": "user", "content": prompt}
    body = {"model": MODEL, "messages": [message], "max_tokens": 1, "temperature": 0, **extra}
    reply = bench.http.post("/v1/chat/completions", json=body)
    reply.raise_for_status()
    usage = reply.json()["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return int(usage["prompt_tokens"]) - int(cached)


def run_tool(
    folder: Path, server: Server, prompts: list[str], extra: dict[str, Any]
) -> dict[str, Any]:
    result, data, requests = folder / "result.json", folder / "prompts.json", len(prompts)
    data.write_text(json.dumps(prompts))
    command = [
        *(sys.executable, "-c", TOOL, str(data)),
        *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
        *("--base-url", server.url, "--model", MODEL),
        *("--tokenizer", str(prepare_chat_model(MODEL_CACHE))),
        *("--num-prompts", str(requests), "--max-concurrency", "1"),
        *("--save-result", "--save-detailed", "--result-filename", str(result)),
        *("--extra-body", json.dumps({**extra, "temperature": 0}), "--disable-tqdm"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the tool failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    seen = json.loads(result.read_text())
    if seen["completed"] != requests:
        raise RuntimeError(f"{seen['completed']} of {requests} requests were answered")
    return {
        "ttft_ms_first": round(1000 * seen["ttfts"][0], 2),
        "ttft_ms_median": round(seen["median_ttft_ms"], 2),
        "ttft_ms_p99": round(seen["p99_ttft_ms"], 2),
        "input_tokens_sent": seen["total_input_tokens"],
        "requests": requests,
    }


if __name__ == "__main__":
    main()
