"""A turn becomes memory: remembering, reading, consolidation, feedback, lifecycle."""
