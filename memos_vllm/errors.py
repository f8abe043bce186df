"""Every error that memos_vllm raises on purpose, with the HTTP status that it becomes.

    MemosError                  500  something of ours went wrong
    ├── ConfigError             500  a configuration that cannot work; said at start, never at run time
    ├── BadRequest              400  the request cannot be understood; `param` names the field
    ├── Unauthorized            401  no key, an unknown, an expired or a revoked one
    ├── Forbidden               403  the key is known and may not do this
    ├── NotFound                404  absent, or not yours: the two look the same
    ├── Conflict                409  somebody was faster; the message names the current version
    ├── TooLarge                413  over a limit of the configuration
    ├── Unprocessable           422  well-formed and still impossible
    ├── NotBuilt                501  a kind of memory that this version does not serve
    ├── DamagedPayload          500  stored bytes do not match their checksum
    └── Unavailable             503  a part that memory needs does not answer
        ├── VaultUnavailable         the vault's database
        ├── IndexUnavailable         Chroma
        ├── EmbedderUnavailable      the embedding model
        ├── SegmentsUnavailable      the folder that KV is kept in
        ├── AdapterUnavailable       an adapter, or the engine that should attach it
        ├── WriterUnavailable        the model that reads turns for us
        └── MemoryTimeout            memory took longer than its deadline

At the edge each one becomes the OpenAI error envelope (see `envelope`).
"""

from __future__ import annotations

from typing import Any, ClassVar


class MemosError(Exception):
    """Base of the tree: carries the status, OpenAI's error type, and the field at fault."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "memory_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ConfigError(MemosError):
    code = "memory_config"


class BadRequest(MemosError):
    status, type, code = 400, "invalid_request_error", "memory_bad_request"


class Unauthorized(MemosError):
    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(MemosError):
    status, type, code = 403, "permission_error", "memory_forbidden"


class NotFound(MemosError):
    status, type, code = 404, "not_found_error", "memory_not_found"


class Conflict(MemosError):
    status, type, code = 409, "conflict_error", "memory_conflict"


class TooLarge(MemosError):
    status, type, code = 413, "invalid_request_error", "memory_too_large"


class Unprocessable(MemosError):
    status, type, code = 422, "invalid_request_error", "memory_unprocessable"


class NotBuilt(MemosError):
    status, type, code = 501, "not_implemented_error", "memory_not_implemented"


class DamagedPayload(MemosError):
    code = "memory_damaged_payload"


class Unavailable(MemosError):
    status, type, code = 503, "service_unavailable_error", "memory_unavailable"
    reason: ClassVar[str] = "memory"
    """Short word for `x-memos-degraded` and the metric's label."""


class VaultUnavailable(Unavailable):
    reason = "vault"


class IndexUnavailable(Unavailable):
    reason = "index"


class EmbedderUnavailable(Unavailable):
    reason = "embedder"


class SegmentsUnavailable(Unavailable):
    reason = "kv"


class AdapterUnavailable(Unavailable):
    reason = "adapter"


class WriterUnavailable(Unavailable):
    reason = "writer"


class MemoryTimeout(Unavailable):
    reason = "timeout"


def envelope(error: MemosError) -> dict[str, Any]:
    """The OpenAI error envelope: `{"error": {"message", "type", "param", "code"}}`."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }
