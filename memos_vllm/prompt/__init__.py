"""The prompt: text of chat messages, quoted memory, and the layout of both."""
