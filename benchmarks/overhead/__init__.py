"""What the plugin costs a request that has nothing to remember, against the same server without it."""
