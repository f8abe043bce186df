"""Signatures of publishers: DSSE envelopes (securesystemslib) under Ed25519 keys, checked without a network."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey

from memos_vllm import strict_json
from memos_vllm.cube.ids import sha256
from memos_vllm.errors import BadRequest, Conflict, Forbidden, Unprocessable

ENVELOPE_BYTES = 4 << 20
_MOST_SIGNATURES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class PublicKey:
    """A publisher's public key."""

    hex: str
    """64 hex digits."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key, 64 hex digits: what a publisher prints beside its address."""
        return sha256(bytes.fromhex(self.hex))

    def to_sslib(self) -> SSlibKey:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.hex))
        return SSlibKey.from_crypto(public, keyid=self.fingerprint)

    def pem(self) -> str:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.hex))
        encoded = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return encoded.decode()


class PublisherKey:
    """A publisher's private key, in a file that its owner alone may read."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @property
    def public(self) -> PublicKey:
        raw = self._private.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        return PublicKey(raw.hex())

    @classmethod
    def create(cls, path: Path) -> PublisherKey:
        """Make a key, and write it and, beside it, its public half (`.pub`). Raises Conflict, OSError."""
        key = cls(Ed25519PrivateKey.generate())
        data = key._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            with os.fdopen(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as file:
                file.write(data)
        except FileExistsError as error:
            raise Conflict(f"{path} exists already: a key is never overwritten") from error
        path.with_name(path.name + ".pub").write_text(key.public.pem())
        return key

    @classmethod
    def load(cls, path: Path) -> PublisherKey:
        """Raises BadRequest: no such file, or no private Ed25519 key in PEM."""
        try:
            found = serialization.load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadRequest(f"{path}: no private key: `memos store keys new` makes one") from error
        if not isinstance(found, Ed25519PrivateKey):
            raise BadRequest(f"{path}: the key is not an Ed25519 key")
        return cls(found)

    def sign(self, data: bytes, media_type: str) -> bytes:
        """A DSSE envelope of the data, JSON."""
        envelope = Envelope(data, media_type, {})
        envelope.sign(CryptoSigner(self._private, self.public.to_sslib()))
        return json.dumps(envelope.to_dict()).encode()


def read_public(text: str) -> PublicKey:
    """A public key, as PEM or 64 hex digits. Raises BadRequest."""
    text = text.strip()
    with contextlib.suppress(ValueError):
        if len(text) == 64 and len(raw := bytes.fromhex(text)) == 32:
            return PublicKey(raw.hex())
    try:
        found = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadRequest(
            "no public key: the `.pub` file of `memos store keys new`, or 64 hex digits",
            param="key",
        ) from error
    if not isinstance(found, Ed25519PublicKey):
        raise BadRequest("the key is not an Ed25519 key", param="key")
    raw = found.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return PublicKey(raw.hex())


def opened(
    data: bytes, media_type: str, trusted: Iterable[PublicKey], what: str
) -> tuple[bytes, PublicKey]:
    """The content of an envelope, and the trusted key that signed it.

    Raises:
        Unprocessable: no envelope of this type, or nothing signed it.
        Forbidden: the key is not trusted, or the signature does not fit.
    """
    envelope = _envelope(data, what)
    if envelope.payload_type != media_type:
        raise Unprocessable(f"{what}: signed is {envelope.payload_type!r}, not {media_type!r}")
    if not envelope.signatures:
        raise Unprocessable(f"{what}: it is not signed, and unsigned bundles are not installed")
    for key in trusted:
        with contextlib.suppress(VerificationError):
            envelope.verify([key.to_sslib()], 1)
            return envelope.payload, key
    signers = ", ".join(sorted(str(key)[:64] for key in envelope.signatures))
    raise Forbidden(
        f"{what}: no trusted publisher signed it (it names {signers}): check the fingerprint with the publisher, "
        "then `memos store keys trust`"
    )


def _envelope(data: bytes, what: str) -> Envelope:
    try:
        value = strict_json.parse(data, what=what, most_bytes=ENVELOPE_BYTES)
        if len(value["signatures"]) > _MOST_SIGNATURES:
            raise ValueError("too many signatures")
        return Envelope.from_dict(value)
    # The library raises these for what is no envelope; which ones is not documented.
    except (KeyError, TypeError, ValueError, AttributeError, BadRequest) as error:
        raise Unprocessable(f"{what}: no DSSE envelope ({error})") from error
