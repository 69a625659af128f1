//! The bundled MCP server.
