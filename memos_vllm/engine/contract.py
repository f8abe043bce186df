"""Checks of the vLLM surfaces that we use, without an engine: `python -m memos_vllm.engine.contract`.

Each check names one surface.  With a vLLM that changed, the command prints the broken ones with what
was found instead, and the exit status is 1.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

from memos_vllm.engine.patches import cpu_lora


class Broken(Exception):
    """A surface differs; the message says what was found."""


@dataclasses.dataclass(frozen=True)
class Surface:
    name: str
    check: Callable[[], None]


def broken_surfaces() -> dict[str, str]:
    """Name of each broken surface → what was found."""
    broken = {}
    for surface in SURFACES:
        try:
            surface.check()
        except (Broken, ImportError, AttributeError) as error:
            broken[surface.name] = f"{type(error).__name__}: {error}"
    return broken


def _attribute(path: str) -> Any:
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _callable(path: str, positional: Sequence[str]) -> Surface:
    """A callable whose first parameters have these names and can be given by position."""

    def check() -> None:
        parameters = list(inspect.signature(_attribute(path)).parameters.values())
        names = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        names = names[1:] if names[:1] == ["self"] else names
        if names[: len(positional)] != list(positional):
            raise Broken(f"{path}{inspect.signature(_attribute(path))}")
        extra = parameters[len(positional) + (len(names) < len(parameters)) :]
        required = [
            p.name
            for p in extra
            if p.default is inspect.Parameter.empty
            and p.name not in positional
            and p.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        ]
        if required:
            raise Broken(f"{path} now needs {', '.join(required)} too")

    return Surface(path, check)


def _model(path: str, fields: Sequence[str]) -> Surface:
    """A pydantic model with these fields that lets further ones through."""

    def check() -> None:
        model = _attribute(path)
        missing = [field for field in fields if field not in model.model_fields]
        if missing:
            raise Broken(f"{path} has no {', '.join(missing)}")
        if model.model_config.get("extra") != "allow":
            raise Broken(f"{path} refuses extra fields, so `memory` cannot pass")

    return Surface(path, check)


def _parameters(path: str, names: Sequence[str]) -> Surface:
    """A class or function that takes these parameters, in any order."""

    def check() -> None:
        missing = [n for n in names if n not in inspect.signature(_attribute(path)).parameters]
        if missing:
            raise Broken(f"{path} takes no {', '.join(missing)}")

    return Surface(path, check)


def _says(path: str, text: str) -> Surface:
    """A function whose source contains this text: for attributes, which have no signature."""

    def check() -> None:
        if text not in inspect.getsource(_attribute(path)):
            raise Broken(f"{path} does not say {text!r}")

    return Surface(f"{path} ({text})", check)


def _module(name: str) -> Surface:
    def check() -> None:
        if importlib.util.find_spec(name) is None:
            raise Broken(f"there is no module {name}")

    return Surface(name, check)


def _salt_fits() -> None:
    """Our salt passes vLLM's rule, where this version has one."""
    try:
        validate = _attribute("vllm.entrypoints.generate.base.protocol:validate_cache_salt")
    except (ImportError, AttributeError):
        return
    try:
        validate("f" * 64)
    except ValueError as error:
        raise Broken(f"a salt of 64 hex characters is refused: {error}") from error


def _prompt_dict_carries_salt() -> None:
    prompt = _attribute("vllm.inputs.engine:tokens_input")([1, 2], cache_salt="s")
    if prompt.get("cache_salt") != "s" or prompt.get("prompt_token_ids") != [1, 2]:
        raise Broken(f"a prompt is {prompt}")


def _refusal_is_an_exception() -> None:
    if not issubclass(_attribute("vllm.exceptions:VLLMValidationError"), _attribute(_CLIENT_ERROR)):
        raise Broken("a prompt that is too long is refused with another error")


_CLIENT_ERROR = "vllm.exceptions:VLLMClientError"
_CONNECTOR = "vllm.distributed.kv_transfer.kv_connector.v1.base"
_MULTI = "vllm.distributed.kv_transfer.kv_connector.v1.multi_connector:MultiConnector"
_MODELS = "vllm.entrypoints.openai.models.serving:OpenAIServingModels"
_CHAT = "vllm.entrypoints.openai.chat_completion"
SURFACES: tuple[Surface, ...] = (
    _module("vllm.entrypoints.openai.api_server"),
    _parameters("vllm.plugins:load_endpoint_plugins", ["supported_tasks"]),
    _callable("vllm.plugins.endpoint_plugins.interface:EndpointPlugin.attach_router", ["app"]),
    _callable(
        "vllm.plugins.endpoint_plugins.interface:EndpointPlugin.init_state",
        ["engine_client", "state", "args"],
    ),
    _callable(f"{_CHAT}.serving:OpenAIServingChat.render_chat_request", ["request"]),
    _callable(
        f"{_CHAT}.serving:OpenAIServingChat.create_chat_completion", ["request", "raw_request"]
    ),
    _says(f"{_CHAT}.serving:OpenAIServingChat", "self.render_chat_request(request)"),
    _says(f"{_CHAT}.serving:OpenAIServingChat", "self.engine_client.generate("),
    _says(f"{_CHAT}.serving:OpenAIServingChat", "self.renderer.tokenizer"),
    _says(f"{_CHAT}.api_router:create_chat_completion", "handler.create_chat_completion("),
    _says("vllm.entrypoints.generate.api_router:init_generate_state", "state.openai_serving_chat"),
    _model(
        f"{_CHAT}.protocol:ChatCompletionRequest",
        [
            "messages",
            "model",
            "user",
            "n",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "truncate_prompt_tokens",
            "request_id",
            "cache_salt",
            "kv_transfer_params",
        ],
    ),
    _model(f"{_CHAT}.protocol:ChatCompletionResponse", ["id", "choices", "usage"]),
    _callable(
        "vllm.entrypoints.openai.completion.serving:OpenAIServingCompletion.create_completion",
        ["request", "raw_request"],
    ),
    _callable(
        "vllm.entrypoints.openai.completion.serving:OpenAIServingCompletion.render_completion_request",
        ["request"],
    ),
    _says(
        "vllm.entrypoints.openai.completion.serving:OpenAIServingCompletion",
        "self.render_completion_request(request)",
    ),
    _says(
        "vllm.entrypoints.anthropic.serving:AnthropicServingMessages.create_messages",
        "self.create_chat_completion(",
    ),
    _callable(
        "vllm.entrypoints.openai.responses.serving:OpenAIServingResponses.create_responses",
        ["request", "raw_request"],
    ),
    _callable(
        "vllm.entrypoints.anthropic.serving:AnthropicServingMessages.create_messages",
        ["request", "raw_request"],
    ),
    _callable(
        f"{_CHAT}.batch_serving:OpenAIServingChatBatch.create_batch_chat_completion",
        ["request", "raw_request"],
    ),
    _callable(
        "vllm.v1.engine.async_llm:AsyncLLM.generate", ["prompt", "sampling_params", "request_id"]
    ),
    _callable(
        "vllm.v1.engine.async_llm:AsyncLLM.encode", ["prompt", "pooling_params", "request_id"]
    ),
    _parameters("vllm.v1.engine.async_llm:AsyncLLM.generate", ["priority", "lora_request"]),
    _callable("vllm.v1.engine.async_llm:AsyncLLM.add_lora", ["lora_request"]),
    _callable("vllm.v1.engine.async_llm:AsyncLLM.remove_lora", ["lora_id"]),
    _callable("vllm.v1.engine.async_llm:AsyncLLM.pin_lora", ["lora_id"]),
    _parameters("vllm.lora.request:LoRARequest", ["lora_name", "lora_int_id", "lora_path"]),
    _callable(f"{_MODELS}.show_available_models", []),
    _callable(f"{_MODELS}.is_base_model", ["model_name"]),
    _callable(f"{_MODELS}.model_name", ["lora_request"]),
    _says(_MODELS, "self.lora_requests: dict"),
    *(
        _parameters(
            f"vllm.lora.ops.torch_ops:{ours.__name__}", list(inspect.signature(ours).parameters)
        )
        for ours in cpu_lora.REPLACEMENTS
    ),
    _says("vllm.v1.worker.gpu_model_runner:GPUModelRunner", "self._sample("),
    _says("vllm.v1.worker.gpu_model_runner:GPUModelRunner", "self._bookkeeping_sync("),
    _says(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner._bookkeeping_sync",
        "self.discard_request_mask.np[:num_reqs]",
    ),
    _parameters("vllm.outputs:RequestOutput", ["prompt_token_ids", "num_cached_tokens"]),
    _parameters("vllm:SamplingParams", ["extra_args"]),
    _says("vllm.v1.engine.input_processor:InputProcessor", 'get("cache_salt")'),
    Surface("vllm.inputs.engine:tokens_input", _prompt_dict_carries_salt),
    Surface("cache_salt", _salt_fits),
    Surface(_CLIENT_ERROR, _refusal_is_an_exception),
    _module("vllm.envs"),
    _callable("vllm.entrypoints.cli.serve:ServeSubcommand.cmd", ["args"]),
    _callable("vllm.entrypoints.cli.serve:ServeSubcommand.validate", ["args"]),
    _callable("vllm.entrypoints.cli.serve:ServeSubcommand.subparser_init", ["subparsers"]),
    _callable("vllm.v1.engine.async_llm:AsyncLLM.is_sleeping", []),
    _callable("vllm.v1.engine.async_llm:AsyncLLM.shutdown", []),
    _says("vllm.v1.engine.async_llm:AsyncLLM.errored.fget", "engine_dead"),
    _says("vllm.v1.request:Request", "extra_args.get("),
    _says("vllm.v1.request:Request", "self.mm_features"),
    *(
        _callable(f"{_CONNECTOR}:KVConnectorBase_V1.{method}", parameters)
        for method, parameters in {
            "get_num_new_matched_tokens": ["request", "num_computed_tokens"],
            "update_state_after_alloc": ["request", "blocks", "num_external_tokens"],
            "build_connector_meta": ["scheduler_output"],
            "request_finished": ["request", "block_ids"],
            "update_connector_output": ["connector_output"],
            "register_kv_caches": ["kv_caches"],
            "start_load_kv": ["forward_context"],
            "get_finished": ["finished_req_ids"],
            "get_block_ids_with_load_errors": [],
            "get_kv_connector_stats": [],
            "build_connector_worker_meta": [],
        }.items()
    ),
    _callable(f"{_MULTI}.get_num_new_matched_tokens", ["request", "num_computed_tokens"]),
    _says(_MULTI, "in enumerate(self._connectors)"),
    _says(_MULTI, "self._requests_to_connector[request.request_id] = "),
    _callable(f"{_CONNECTOR}:SupportsHMA.request_finished_all_groups", ["request", "block_ids"]),
    _callable(
        "vllm.v1.attention.backends.cpu_attn:CPUAttentionBackendImpl.do_kv_cache_update",
        ["layer", "key", "value", "kv_cache", "slot_mapping"],
    ),
    _callable(
        "vllm.v1.attention.backends.flash_attn:FlashAttentionImpl.do_kv_cache_update",
        ["layer", "key", "value", "kv_cache", "slot_mapping"],
    ),
    _parameters(
        "vllm.config:KVTransferConfig",
        ["kv_connector", "kv_connector_module_path", "kv_role", "kv_load_failure_policy"],
    ),
)


def main() -> int:
    broken = broken_surfaces()
    version = _attribute("vllm:__version__")
    for name, found in broken.items():
        print(f"BROKEN {name}\n       {found}")
    print(f"vLLM {version}: {len(SURFACES) - len(broken)} of {len(SURFACES)} surfaces hold")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
