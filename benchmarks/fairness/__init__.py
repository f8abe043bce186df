"""Time to first token of a tenant beside another one at full load."""
