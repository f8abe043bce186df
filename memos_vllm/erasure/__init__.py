"""Erasure of a person everywhere, as a durable job with a signed receipt."""
