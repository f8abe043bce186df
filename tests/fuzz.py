"""Fuzzing of every parser of outside data: `python -m tests.fuzz [TARGET ...] [--seconds N] [--seed N]`.

With atheris, inputs are chosen by coverage of our own code; the targets are those of the seeded part that the
unit tests run.  Whatever a parser does with its input, it returns, or raises a MemosError, in time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch

from memos_vllm import strict_json
from memos_vllm.config.redaction import RedactionPolicy
from memos_vllm.cube.model import Item, ItemType, MemCube
from memos_vllm.errors import MemosError
from memos_vllm.governance.redaction.redactor import Redactor
from memos_vllm.importers.bundle import bundle_source
from memos_vllm.importers.jsonl import jsonl_source
from memos_vllm.importers.locomo import locomo_source
from memos_vllm.importers.openai_chat import openai_chat_source
from memos_vllm.importers.source import ImportSource
from memos_vllm.parametric.adapter.packed import unpack, upload_of_folder
from memos_vllm.parametric.adapter.peft_config import read_config
from memos_vllm.plaintext.documents.read import read_document
from memos_vllm.plaintext.reader.by_rules import read_claims
from memos_vllm.plaintext.reader.forgetting import read_orders
from memos_vllm.plaintext.reader.query import read_text
from tests.adapters import config_of, read_upload, small, tensors_of

SLOWEST_SECONDS = 2.0  # of one input of at most 16 KiB
_LONGEST = 16 << 10
_ONE = {"model.layers.0.self_attn.q_proj": (8, 16)}
_FOLDER = Path(tempfile.gettempdir())

Target = Callable[[bytes], object]


def _document(name: str) -> Target:
    return lambda data: read_document(name, data, _LONGEST)


def _importer(read: Callable[[Path], ImportSource]) -> Target:
    def run(data: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=_FOLDER, suffix=".json") as file:
            file.write(data)
            file.flush()
            for cube in read(Path(file.name)).cubes():
                assert cube.new.items is not None

    return run


def _adapter_folder(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=_FOLDER) as folder:
        half = len(data) // 2
        (Path(folder) / "adapter_config.json").write_bytes(data[:half])
        (Path(folder) / "adapter_model.safetensors").write_bytes(data[half:])
        read_upload(upload_of_folder(Path(folder)), 1 << 20)


def _text(read: Callable[[str], object]) -> Target:
    return lambda data: read(data.decode("utf-8", "replace"))


def _said(text: str) -> object:
    said = text.replace("\x00", "") or "x"
    return read_claims([Item(type=ItemType.EPISODE, text=said, speaker="Ann")], "Ann")


def _cube(data: bytes) -> object:
    try:
        return MemCube.model_validate(strict_json.parse(data))
    except ValueError:  # pydantic's, which the route turns into a 400
        return None


_REDACTOR = Redactor(RedactionPolicy(kinds=("secrets", "email", "phone", "national id")))
TARGETS: dict[str, Target] = {
    "html": _document("a.html"),
    "markdown": _document("a.md"),
    "pdf": _document("a.pdf"),
    "text": _document("a.txt"),
    "json": strict_json.parse,
    "cube": _cube,
    "bundle": _importer(bundle_source),
    "jsonl": _importer(lambda path: jsonl_source(path, "ann", 10)),
    "openai-chat": _importer(lambda path: openai_chat_source(path, "ann", 10)),
    "locomo": _importer(locomo_source),
    "packed adapter": unpack,
    "adapter folder": _adapter_folder,
    "adapter config": lambda data: read_config(strict_json.parse(data)),
    "redaction": _text(_REDACTOR.text),
    "claims": _text(_said),
    "orders": _text(read_orders),
    "question": _text(read_text),
}


def seeds() -> dict[str, list[bytes]]:
    """Well-formed inputs, which mutations begin with."""
    config = json.dumps(config_of()).encode()
    weights = safetensors.torch.save(tensors_of(_ONE))
    packed = read_upload(small(), 1 << 20).pack()
    header = b'{"format": "memos-cubes", "version": 1, "cubes": 1}\n'
    cube = (
        b'{"meta": {"id": "cube_0123456789abcdef", "tenant": "t", "kind": "explicit", "state": "activated"},'
        b' "payload": {"type": "explicit", "format": "text", "content": [{"text": "Tea."}]}}\n'
    )
    chat = b'[{"id": "c", "messages": [{"role": "user", "content": "Hi"}], "created": 1}]'
    tree = (
        b'[{"mapping": {"a": {"parent": null, "children": ["b"]}, "b": {"parent": "a", "children": [],'
        b' "message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["Hi"]}}}},'
        b' "current_node": "b"}]'
    )
    talk = (
        b'[{"sample_id": "x", "conversation": {"speaker_a": "A", "speaker_b": "B", "session_1_date_time":'
        b' "1:56 pm on 8 May, 2023", "session_1": [{"speaker": "A", "dia_id": "D1:1", "text": "Hi"}]}}]'
    )
    said = (
        b"My password is hunter2x, card 4111 1111 1111 1111. I live in Oslo since 2019. Forget it."
    )
    return {
        "html": [
            b"<h1 hidden>a</h1><p style='display:none'>b<table><td>c<!-- d --><script>e</script>"
        ],
        "markdown": [b"# A\n\n- b\n> c\n```\nd\n```\n<div>\n\n| a |\n|-|\n[a]: b\n"],
        "pdf": [
            b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\ntrailer << /Root 1 0 R >>"
        ],
        "bundle": [header + cube],
        "cube": [cube],
        "jsonl": [b'{"text": "a", "person": "b", "time": "2024-01-01", "tags": ["x"]}\n'],
        "openai-chat": [chat, tree],
        "locomo": [talk],
        "packed adapter": [packed],
        "adapter folder": [config + weights],
        "adapter config": [config],
        "json": [cube, b'["\\ud800", 1e9, -1, {"a": {}}]'],
        "redaction": [said],
        "claims": [said],
        "orders": [said],
        "question": [said],
        "text": [said],
    }


def try_one(target: Target, data: bytes) -> None:
    """Run a target on one input. Raises what is a defect: any other error, or too long a time."""
    begun = time.process_time()
    with contextlib.suppress(MemosError):
        target(data)
    took = time.process_time() - begun
    if took > SLOWEST_SECONDS:
        raise AssertionError(f"{took:.1f} s for {len(data)} bytes: {data[:200]!r}")


_PIECES = (
    *(
        b"\x00",
        b"\xff",
        b"{",
        b"[",
        b'"',
        b"<",
        b"</",
        b"<!--",
        b"\n",
        b"NaN",
        b"1e999",
        b"-",
        b"9" * 30,
    ),
    *(
        b'"a":',
        b"\\ud800",
        b"\\",
        b"null",
        b"true",
        b"<div>",
        b"<p hidden>",
        b"`",
        b"> ",
        b"|",
        b"%PDF-",
    ),
    *(
        b"obj",
        b"endobj",
        b"stream",
        b"<<",
        b">>",
        b"/Kids",
        b"1 0 R",
        b"4111",
        b"password: ",
        b"@a.b",
    ),
)


def mutated(data: bytes, dice: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        place = dice.randint(0, len(made))
        match dice.randrange(6):
            case 0:
                made[place:place] = dice.choice(_PIECES)
            case 1:
                made[place:place] = dice.choice(_PIECES) * dice.choice((2, 50, 1000))
            case 2:
                del made[place : place + dice.choice((1, 4, 40))]
            case 3 if place < len(made):
                made[place] = dice.randrange(256)
            case 4:
                start = dice.randint(0, len(made))
                made[place:place] = made[start : start + dice.choice((8, 64))]
            case _:
                made = made[:place] if dice.random() < 0.2 else made
    return bytes(made[:_LONGEST])


def run_seeded(name: str, seconds: float, seed: int) -> int:
    """Mutations of the seeds for some seconds; the number of inputs."""
    dice, target, known = random.Random(f"{name}{seed}"), TARGETS[name], seeds()[name]
    count, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        data = mutated(dice.choice(known), dice)
        try_one(target, data)
        if dice.random() < 0.1:
            known.append(data)
        count += 1
    return count


def run_covered(name: str, seconds: float, seed: int) -> None:
    """As `run_seeded`, guided by coverage (atheris); it ends this process."""
    import atheris

    for module in [m for n, m in sys.modules.items() if n.startswith("memos_vllm")]:
        for each in vars(module).values():
            if (
                callable(each)
                and getattr(each, "__module__", "").startswith("memos_vllm")
                and hasattr(each, "__code__")
            ):
                atheris.instrument_func(each)
    folder = tempfile.mkdtemp(dir=_FOLDER)
    for number, data in enumerate(seeds()[name]):
        (Path(folder) / str(number)).write_bytes(data)
    limits = [f"-max_total_time={seconds:.0f}", f"-seed={seed}", f"-max_len={_LONGEST}"]
    atheris.Setup([name, *limits, folder], lambda data: try_one(TARGETS[name], data))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="mutations without atheris")
    given = parser.parse_args()
    failed = []
    for name in given.targets or TARGETS:
        run = run_seeded if given.plain else run_covered
        child = multiprocessing.get_context("spawn").Process(
            target=run, args=(name, given.seconds, given.seed)
        )
        child.start()
        child.join()
        print(
            f"{name}: {'ok' if child.exitcode == 0 else f'FAILED ({child.exitcode})'}", flush=True
        )
        failed += [name] if child.exitcode else []
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
