"""Redaction: what a tenant's policy keeps out of memory, found before anything is stored."""
