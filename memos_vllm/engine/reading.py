"""The models that read turns and write questions out, as the configuration says."""

from __future__ import annotations

from memos_vllm.engine.chat.renderer import PromptRenderer
from memos_vllm.engine.chat.writer import EngineWriter
from memos_vllm.engine.lora.attached import EngineModel
from memos_vllm.errors import ConfigError
from memos_vllm.learning.examine import Examiner
from memos_vllm.learning.extract import Extractor
from memos_vllm.plaintext.reader.rewrite import Rewriter
from memos_vllm.system import MemorySystem
from memos_vllm.writer.base import Writer
from memos_vllm.writer.openai import OpenAIWriter


def examiner(
    system: MemorySystem, own: EngineWriter, renderer: PromptRenderer, served: EngineModel
) -> Examiner:
    """The exam of the model that is to read turns: the served one, or that of `reader.url`.

    Raises:
        ConfigError: `reader.url` is set without `reader.model`.
    """
    reader = system.config.reader
    writer: Writer = own
    model = served.fingerprint
    if reader.url is not None and reader.mode != "fast":
        if reader.model is None:
            raise ConfigError("`reader.url` is set: name the model there, `reader.model`")
        writer = OpenAIWriter(
            reader.url, model=reader.model, api_key=reader.api_key, timeout=reader.timeout_seconds
        )
        model = f"{reader.url} {reader.model}"
    return Examiner(
        reader,
        system.config.exams_path,
        writer,
        renderer.tokenizer.escape,
        model,
        continues=reader.continued and reader.url is None,
    )


def extractor(
    system: MemorySystem, examiner: Examiner, own: EngineWriter, renderer: PromptRenderer
) -> Extractor | None:
    """A model that reads turns in the background; None: rules alone read them."""
    if system.config.reader.mode == "fast":
        return None
    return Extractor(
        system,
        examiner.writer,
        renderer.tokenizer.escape,
        reads=lambda: examiner.status,
        continues=own.continues,
    )


def rewriter(
    system: MemorySystem, writer: EngineWriter, renderer: PromptRenderer
) -> Rewriter | None:
    reader = system.config.reader
    if not reader.rewrite:
        return None
    return Rewriter(writer.now, renderer.tokenizer.escape, reader.rewrite_seconds)
