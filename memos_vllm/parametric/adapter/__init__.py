"""Adapters: upload format, packed files, folders for the engine, merging, use counts."""
