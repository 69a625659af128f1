//! Stands in for `cli/trust.rs` in a build without the feature `tls`: no gateway can be called over https.

use std::{io, net::TcpStream, path::Path, sync::Arc};

use crate::{cli::TrustArgs, error::Error};

/// There is none.
#[derive(Debug)]
pub(super) enum ClientConfig {}

/// Fails.
pub(super) fn client(_: Option<&Path>, _: &TrustArgs) -> Result<Arc<ClientConfig>, Error> {
    Err(Error::Settings {
        what: "this mcpgate was built without TLS, so it cannot call an https address".to_owned(),
        hint: "build it with the feature `tls`".to_owned(),
    })
}

pub(super) fn over(config: Arc<ClientConfig>, _: &str, _: TcpStream) -> io::Result<TcpStream> {
    match *config {}
}

pub(super) fn failure(_: &io::Error) -> Option<(String, &'static str)> {
    None
}
