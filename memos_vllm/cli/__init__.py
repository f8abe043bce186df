"""The `memos` command line: serve, keys, cubes, search, import, export, reindex, doctor."""
