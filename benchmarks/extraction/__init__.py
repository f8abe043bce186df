"""What a person waits while the served model reads memory out of what others said."""
