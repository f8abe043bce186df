"""`make demo`: a chat server with memory from a fresh checkout, without an account or a GPU.

Both models come from Python wheels, so the demo needs only the package index that installed it.
``run`` is the command; ``model`` and ``embedder`` prepare the models; ``server`` owns the child
process; ``snippets`` holds the requests to paste, ``link`` opens the console.
"""
