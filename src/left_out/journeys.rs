//! Stands in for `journeys` in a build without that feature: there is no bundled server.
//!
//! Settings that name no server stop the start of such a build (`config/check.rs`).

use std::{io, path::Path};

use crate::error::Error;

/// Fails.
pub fn serve(_: &Path, _: impl io::BufRead, _: impl io::Write + Send + 'static) -> Result<(), Error> {
    Err(missing())
}

/// Fails.
pub fn serve_stdio(_: &Path) -> Result<(), Error> {
    Err(missing())
}

fn missing() -> Error {
    Error::Failed {
        what: "this mcpgate was built without the bundled server".to_owned(),
        hint: "build it with the feature `journeys`".to_owned(),
    }
}
