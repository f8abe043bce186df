"""Time to first token of requests without memory, over the same server without the plugin."""
