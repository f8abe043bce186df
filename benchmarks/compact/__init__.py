"""Compacts: what they cost, and what they keep."""
