"""The error tree of memos_vllm, with the HTTP status of each error.

    MemosError                  500  internal error
    ├── ConfigError             500  invalid configuration; raised at start, never at run time
    ├── BadRequest              400  malformed request; `param` names the field
    ├── Unauthorized            401  missing, unknown, expired or revoked key
    ├── Forbidden               403  valid key without the permission
    ├── NotFound                404  absent, or of another owner: not distinguished
    ├── Conflict                409  concurrent change; the message names the current version
    ├── TooLarge                413  over a configured limit
    ├── Unprocessable           422  well-formed, but cannot be processed
    ├── NotBuilt                501  kind of memory that this server does not support
    ├── DamagedPayload          500  stored bytes do not match their checksum
    └── Unavailable             503  a component of memory is unavailable
        ├── VaultUnavailable         the vault's database
        ├── IndexUnavailable         Chroma
        ├── EmbedderUnavailable      the embedding model
        ├── SegmentsUnavailable      the folder of stored KV
        ├── AdapterUnavailable       an adapter, or the engine that attaches it
        ├── WriterUnavailable        the model that reads turns
        └── MemoryTimeout            memory exceeded its deadline

The HTTP edge turns each into the OpenAI error envelope (`envelope`).
"""

from __future__ import annotations

from typing import Any, ClassVar


class MemosError(Exception):
    """Base of the tree: status, OpenAI error type, and the field at fault (`param`)."""

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
    reason: str = "memory"
    """Label for `x-memos-degraded` and the metric."""


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
    def __init__(self, step: str) -> None:
        """
        Args:
            step: of the pipeline, the one that was late.
        """
        super().__init__(f"memory took longer than its deadline, in the step {step!r}")
        self.reason = f"timeout:{step}"


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
