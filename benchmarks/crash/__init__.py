"""A server under a mixed load, one of whose processes is killed: what it acknowledged, and what it has then."""
