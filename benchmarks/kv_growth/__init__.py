"""What activation memory costs as it grows, without an engine."""
