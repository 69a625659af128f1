//! Reads `gateway.conf`.
