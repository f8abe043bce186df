"""Recall of adapters that were trained from cubes of text."""
