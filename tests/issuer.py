"""An OIDC issuer on loopback, with real keys: RSA, EC and Ed25519."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from memos_vllm.config.oidc import OidcIssuer
from memos_vllm.governance.oidc import OidcIssuers

AUDIENCE = "memos"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = {
    "rsa": (RSA, "RS256"),
    "ec": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
    "ed": (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
}
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(private, algorithm, kid, **more):
    found = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    return {**found, "kid": kid, "use": "sig", **more}


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """A server of keys; `keys`, `status` and `delay` can be changed while it runs."""

    def __init__(self):
        self.keys = [jwk(private, algorithm, kid) for kid, (private, algorithm) in KEYS.items()]
        self.status, self.fetches, self.body = 200, 0, None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/keys":
                    outer.fetches += 1
                    found = {"keys": outer.keys}
                else:
                    found = {"issuer": outer.url, "jwks_uri": f"{outer.url}/keys"}
                body = outer.body or json.dumps(found).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, kid="rsa", key=None, algorithm=None, headers=None, **claims):
        private, usual = KEYS.get(kid, KEYS["rsa"])
        name = algorithm or usual
        body = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "iat": time.time()}
        body |= {"exp": time.time() + 300} | claims
        body = {name: value for name, value in body.items() if value is not None}
        header = {"alg": name, "typ": "JWT", "kid": kid, **(headers or {})}
        head = {field: value for field, value in header.items() if value is not None}
        text = ".".join(encoded(json.dumps(part).encode()) for part in (head, body))
        signature = jwt.get_algorithm_by_name(name).sign(text.encode(), key or private)
        return f"{text}.{encoded(signature)}"

    def config(self, **more):
        tree = {"issuer": self.url, "audience": (AUDIENCE,), "tenant": "acme", "leeway_seconds": 0}
        if "tenant_claim" in more:
            del tree["tenant"]
        return OidcIssuer.model_validate(tree | more)

    def issuers(self, **more):
        return OidcIssuers([self.config(**more)])

    def close(self):
        self.server.shutdown()
        self.server.server_close()
