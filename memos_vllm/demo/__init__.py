"""`make demo`: a chat server with memory from a fresh checkout, without an account or a GPU.

Both models come out of Python wheels, so the demo needs the package index that installed it and
nothing else. ``run`` is the command; ``model`` and ``embedder`` prepare what it serves; ``server``
owns the child process; ``snippets`` holds the lines to paste.
"""
