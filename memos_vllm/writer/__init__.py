"""A model that writes text for the memory system: the served one, or one behind a URL."""
