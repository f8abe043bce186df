"""Benchmarks as records: `python -m benchmarks.<name>` measures and writes `results/<name>.json`."""
