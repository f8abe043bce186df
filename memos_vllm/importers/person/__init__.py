"""A whole person as one file: profile, facts, conversations, documents and adapters, with their history.

JSON lines. The first one says what the file is, the last one that it is whole:

    {"format": "memos-person", "version": 1, "person": …, "exported": …}
    {"record": "cube", "id": …, "name": …, "state": …, "access": …, "grants": […], …}
    {"record": "items", "items": […]}            its items, of all versions, each once
    {"record": "versions", "versions": […]}      with the numbers of their items
    {"record": "file", "sha256": …, "data": …}   a part of an adapter's file, base64
    {"record": "turn", "body": {…}}              a turn that is not yet memory
    {"record": "end", "cubes": N, "turns": N, "sha256": …, "left_out": […]}

KV and vectors are in no archive: the server that imports computes them with its own model and embedder.
"""
