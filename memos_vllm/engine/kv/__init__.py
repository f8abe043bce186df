"""The KV connector: activation memory inside vLLM's engine."""
