"""What the load generator of vLLM sees, against vLLM alone and against ours."""
