//! What MCP says: vocabulary without I/O, and the small server side.

pub mod revision;
pub mod server;
