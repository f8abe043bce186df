"""The chat handler of vLLM with memory in front: requests, streams, people, adapters by name."""
