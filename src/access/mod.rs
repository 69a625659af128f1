//! Who may call: keys.

pub mod keyfile;
