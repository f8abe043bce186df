"""Compacts: the KV of a text in fewer places than the text has tokens."""
