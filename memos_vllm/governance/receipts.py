"""Signed receipts of erasures and probes, which anyone with the public key checks offline.

A receipt is one JSON object.  Its signature (Ed25519) covers all other fields in canonical form.  The person
of an erasure stands in it as `subject`, an HMAC of tenant and name under a key that belongs to the receipt:
who knows the name and has that key recomputes it, and the receipt alone does not confirm a guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

from memos_vllm.cube.ids import canonical_json
from memos_vllm.governance.audit_keys import AuditKey, is_signed
from memos_vllm.governance.salt import joined

FORMAT = "memos-erasure-receipt-1"
PROBE_FORMAT = "memos-probe-receipt-1"
"""Of `memos doctor --probe`."""
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


def subject_key(secret: bytes, erasure: str) -> str:
    """Key of one receipt's `subject`, 64 hex digits, for those who may ask for it."""
    return hmac.new(secret, joined("memos-receipt-key-1", erasure), hashlib.sha256).hexdigest()


def subject_of(key: str, tenant: str, person: str) -> str:
    return hmac.new(
        bytes.fromhex(key), joined("memos-receipt-subject-1", tenant, person), hashlib.sha256
    ).hexdigest()


def fingerprint(public: str) -> str:
    """SHA-256 of a public key, 64 hex digits. Raises ValueError: it is not hexadecimal."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()


def signed(key: AuditKey, content: Mapping[str, Any], form: str = FORMAT) -> dict[str, Any]:
    receipt = {"format": form, **content, "key_id": key.id, "public_key": key.public}
    return {**receipt, "signature": key.sign(_message(receipt, form))}


def problems(
    receipt: Mapping[str, Any],
    *,
    public: str | None = None,
    pinned: str | None = None,
    person: tuple[str, str] | None = None,
) -> list[str]:
    """What is wrong with a receipt; empty: the key signed it, and it says that all is erased.

    Args:
        public: the public key, 64 hex digits; None: that in the receipt, which then must be `pinned`.
        pinned: fingerprint that the key must have.
        person: (name, key of the subject), to check whose receipt it is.
    """
    if receipt.get("format") != FORMAT:
        return [f"it is no receipt of the form {FORMAT}"]
    found = signature_problems(receipt, FORMAT, public=public, pinned=pinned)
    if not receipt.get("complete"):
        found.append("it says that the erasure is not complete: see `held` and `stores`")
    if person is not None:
        name, subject_key_hex = person
        try:
            own = subject_of(subject_key_hex, str(receipt.get("tenant")), name)
        except ValueError:
            own = ""
        if not hmac.compare_digest(own, str(receipt.get("subject"))):
            found.append("it is the receipt of another person, or the key of the subject is wrong")
    return found


def probe_problems(
    receipt: Mapping[str, Any], *, public: str | None = None, pinned: str | None = None
) -> list[str]:
    """What is wrong with a signed probe; empty: the key signed it, and it says that nothing leaks."""
    if receipt.get("format") != PROBE_FORMAT:
        return [f"it is no receipt of the form {PROBE_FORMAT}"]
    found = signature_problems(receipt, PROBE_FORMAT, public=public, pinned=pinned)
    if not receipt.get("passed"):
        found.append("it says that a probe found a leak, or was not conclusive: see `findings`")
    return found


def signature_problems(
    receipt: Mapping[str, Any], form: str, *, public: str | None, pinned: str | None
) -> list[str]:
    """What is wrong with key and signature; the arguments are those of `problems`."""
    found: list[str] = []
    chosen = public if public is not None else str(receipt.get("public_key"))
    try:
        if pinned is not None and fingerprint(chosen) != pinned.lower():
            found.append("its key is not the pinned one")
    except ValueError:
        return ["its public key is malformed"]
    if public is None and pinned is None:
        found.append("no key is given to check it with")
    key, signature = str(receipt.get("key_id")), str(receipt.get("signature"))
    if not _SIGNATURE.fullmatch(signature):
        return [*found, "its signature is malformed"]
    unsigned = {name: value for name, value in receipt.items() if name != "signature"}
    if not is_signed({key: chosen}, key, _message(unsigned, form), signature):
        found.append("the signature does not fit: it was changed, or another key signed it")
    return found


def _message(receipt: Mapping[str, Any], form: str) -> bytes:
    return canonical_json([form, dict(receipt)])
