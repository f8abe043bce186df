"""Limits of tenants and people, and fairness between tenants."""
