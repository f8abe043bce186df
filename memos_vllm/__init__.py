"""memos_vllm: memory as a first-class resource of the vLLM inference engine.

An implementation of the Memory OS (MemOS, arXiv 2507.03724).  Nothing happens at import time:
vLLM finds the extension through the entry points declared in ``pyproject.toml``.
"""

__version__ = "0.1.0"
