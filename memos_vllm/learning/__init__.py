"""Make a turn memory: job queue, remembering, reading, consolidation, feedback, lifecycle."""
