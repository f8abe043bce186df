"""Time to first token by vLLM's own load generator, on vLLM alone and on memos_vllm."""
