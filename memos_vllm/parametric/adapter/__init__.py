"""Adapters: upload format, packed files, folders for the engine, merging, locks of adapters in use."""
