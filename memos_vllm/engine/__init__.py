"""Where memos_vllm meets vLLM. Only this package (and `memos_vllm.cli.serve`) may import it."""
