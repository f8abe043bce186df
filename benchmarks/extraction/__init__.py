"""Time to first token of a person while the served model reads memory out of other turns."""
