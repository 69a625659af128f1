//! What MCP says: vocabulary without I/O, and the small server side.

pub mod content;
pub mod envelope;
pub mod eras;
pub mod id_scanner;
pub mod incoming;
pub mod message;
pub mod raw;
pub mod revision;
pub mod server;
pub mod skim;
pub mod trace;
