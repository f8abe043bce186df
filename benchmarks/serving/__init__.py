"""Multi-tenant chat under load: memory served by the engine against memory pasted by the client."""
