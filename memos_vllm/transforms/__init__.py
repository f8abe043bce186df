"""Transforms between the kinds of memory, as jobs with provenance (Figure 5 of MemOS)."""
