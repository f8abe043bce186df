"""The error tree of memos_vllm, with the HTTP status of each error.

    MemosError                  500  internal error
    ├── ConfigError             500  invalid configuration; raised at start, never at run time
    ├── BadRequest              400  malformed request; `param` names the field
    ├── Unauthorized            401  missing, unknown, expired or revoked key
    ├── Forbidden               403  valid key without the permission
    ├── NotFound                404  absent, or of another owner: not distinguished
    ├── Conflict                409  concurrent change; the message names the current version
    │   └── Erased                   work for a person that began before they were erased
    ├── RequestTimeout          408  the request's body comes too slowly
    ├── TooLarge                413  over a configured limit
    ├── Unprocessable           422  well-formed, but cannot be processed
    ├── RateLimited             429  over a limit of its tenant or person; `retry_after_seconds` says when
    │   ├── RequestsLimited          requests a minute, or at a time
    │   ├── TokensLimited            tokens a minute
    │   └── QuotaExceeded            what is stored or trained; waiting alone does not help
    ├── NotBuilt                501  kind of memory that this server does not support
    ├── DamagedPayload          500  stored bytes do not match their checksum
    └── Unavailable             503  a component of memory is unavailable
        ├── Overloaded               more requests wait than the server takes
        ├── VaultUnavailable         the vault's database
        ├── IndexUnavailable         Chroma
        ├── EmbedderUnavailable      the embedding model
        ├── SegmentsUnavailable      the folder of stored KV
        ├── AdapterUnavailable       an adapter, or the engine that attaches it
        ├── WriterUnavailable        the model that reads turns
        ├── AuditUnavailable         the audit log's journal, or the URL of its checkpoints
        ├── IdentityUnavailable      the keys of an OIDC issuer
        └── MemoryTimeout            memory exceeded its deadline

The HTTP edge turns each into the OpenAI error envelope (`envelope`).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar


class MemosError(Exception):
    """Base of the tree: status, OpenAI error type, and the field at fault (`param`)."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "memory_error"
    retry_after_seconds: float | None = None
    """When the same request may succeed; None: not known, or never."""

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


class Erased(Conflict):
    code = "memory_erased"

    def __init__(self) -> None:
        super().__init__(
            "this work began before the person was erased, and is not stored: send the request again if "
            "the person's memory begins anew"
        )


class RequestTimeout(MemosError):
    status, type, code = 408, "invalid_request_error", "request_timeout"


class TooLarge(MemosError):
    status, type, code = 413, "invalid_request_error", "memory_too_large"


class Unprocessable(MemosError):
    status, type, code = 422, "invalid_request_error", "memory_unprocessable"


class RateLimited(MemosError):
    """Types and codes are those of OpenAI's API."""

    status, code = 429, "rate_limit_exceeded"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.retry_after_seconds = retry_after_seconds


class RequestsLimited(RateLimited):
    type = "requests"


class TokensLimited(RateLimited):
    type = "tokens"


class QuotaExceeded(RateLimited):
    type, code = "insufficient_quota", "insufficient_quota"


class NotBuilt(MemosError):
    status, type, code = 501, "not_implemented_error", "memory_not_implemented"


class DamagedPayload(MemosError):
    code = "memory_damaged_payload"


class Unavailable(MemosError):
    status, type, code = 503, "service_unavailable_error", "memory_unavailable"
    reason: str = "memory"
    """Label for `x-memos-degraded` and the metric."""


class Overloaded(Unavailable):
    type, code = "server_error", "overloaded"
    reason = "overloaded"

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


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


class AuditUnavailable(Unavailable):
    reason = "audit"


class IdentityUnavailable(Unavailable):
    reason = "identity"


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


def headers_of(error: MemosError) -> dict[str, str]:
    """Headers of an error's reply: `Retry-After`, whole seconds, and what OpenAI's clients read."""
    headers = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, QuotaExceeded):
        headers["x-should-retry"] = "false"
    return headers


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_type(status: int) -> str:
    """Anthropic's type of an error with an HTTP status."""
    return _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def envelope_on(path: str, error: MemosError) -> dict[str, Any]:
    """The envelope of an error in the protocol of a route: Anthropic's below `/v1/messages`."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        told = {"type": anthropic_type(error.status), "message": error.message}
        return {"type": "error", "error": told}
    return envelope(error)
