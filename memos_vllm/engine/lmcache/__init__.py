"""The tier for conversations: LMCache's server, behind a connector that never lets it stop the engine."""
