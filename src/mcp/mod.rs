//! What MCP says: vocabulary without I/O, and the small server side.
