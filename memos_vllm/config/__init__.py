"""The configuration tree and its loader."""
