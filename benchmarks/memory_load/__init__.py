"""Adding and searching at fixed rates: memos_vllm, Mem0, and MemOS's reference implementation."""
