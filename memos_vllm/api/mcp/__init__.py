"""The MCP server at `/mcp`: memory as tools and resources of the Model Context Protocol."""
