"""Requests of a person behind a router: do they reach the replica where the person's KV is warm?"""
