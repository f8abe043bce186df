"""Requests that the demo prints for pasting: alice states a fact in one session, asks in another.

Plain strings with real values, so that a paste works without an edit.
"""

import json

MODEL = "demo"
PERSON = "alice"
FACT = "My cat is called Miso."
QUESTION = "What is the name of my cat?"


def curl_snippet(base_url: str, key: str) -> str:
    """Two curl requests; the pause waits for the first turn, which is stored after its reply."""
    return "\nsleep 2\n".join(_curl(base_url, key, session, text) for session, text in _turns())


def python_snippet(base_url: str, key: str) -> str:
    """The same two turns with the `openai` client."""
    return f"""\
import time
from openai import OpenAI

client = OpenAI(base_url={base_url!r}, api_key={key!r})
for session, text in {list(_turns())!r}:
    reply = client.chat.completions.create(
        model={MODEL!r}, user={PERSON!r}, messages=[{{"role": "user", "content": text}}],
        max_tokens=64, temperature=0, extra_headers={{"X-Session-ID": session}})
    print(reply.choices[0].message.content)
    time.sleep(2)  # a turn is stored after its reply
"""


def _turns() -> tuple[tuple[str, str], ...]:
    return ("monday", FACT), ("tuesday", QUESTION)


def _curl(base_url: str, key: str, session: str, text: str) -> str:
    body = {
        "model": MODEL,
        "user": PERSON,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 64,
        "temperature": 0,
    }
    return (
        f"curl -s {base_url}/chat/completions \\\n"
        f"  -H 'Authorization: Bearer {key}' \\\n"
        f"  -H 'X-Session-ID: {session}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d '{json.dumps(body)}'; echo"
    )
