"""TTFT with reads of memory recorded before the reply."""
