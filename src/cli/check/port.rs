//! Where the gateway would listen: whether the port is free, and who has it when not.

use std::{net::ToSocketAddrs as _, time::Duration};

use serde_json::Value;

use super::{
    holder,
    report::{Report, Section},
};
use crate::{
    cli::{TrustArgs, client::Client},
    config::Config,
    error::Error,
    http::Bound,
};

/// How long whoever has the port may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Tries the address of `LISTEN`.
pub(super) fn examine(config: &Config, report: &mut Report<'_>) -> Result<(), Error> {
    let listen = &config.listen;
    let whom = if listen.is_loopback() { "this machine only" } else { "every machine that has a way here" };
    let error = match Bound::new(config) {
        Ok(_) if listen.port == 0 => {
            return report.good(Section::Listening, format!("`{listen}`: a port that is free is taken, for {whom}"));
        }
        Ok(_) => return report.good(Section::Listening, format!("`{listen}` is free, for {whom}")),
        Err(error) => error,
    };
    let is_taken = listen.port != 0 && (&*listen.host, listen.port).to_socket_addrs().is_ok();
    let holder = is_taken.then(|| holder::of_port(listen.port)).flatten();
    let process =
        holder.as_ref().map_or(String::new(), |holder| format!(", process {} (`{}`)", holder.pid, holder.name));
    let version = is_taken.then(|| version_of_gateway(config)).flatten();
    let is_gateway = version.is_some() || holder.as_ref().is_some_and(|holder| holder.name == "mcpgate");
    if is_gateway {
        let version = version.map_or(String::new(), |version| format!(" (mcpgate {version})"));
        return report.warn(
            Section::Listening,
            format!("`{listen}` is in use by a gateway that is running{version}{process}"),
            "this is as it should be if that is the gateway of these settings; for another one choose another port",
        );
    }
    match (error, holder) {
        (Error::Listen { address, cause }, Some(holder)) => {
            let cause = format!("{cause}; process {} (`{}`) has it", holder.pid, holder.name);
            report.bad(Section::Listening, &Error::Listen { address, cause })
        }
        (error, _) => report.bad(Section::Listening, &error),
    }
}

/// The version of the gateway that answers there, if it is one. It is sent no key: it may be anybody.
fn version_of_gateway(config: &Config) -> Option<String> {
    let client = Client::new(config, None, &TrustArgs::default()).ok()?.without_key();
    let body = client.ask("/", None, PATIENCE).ok()?.whole(ANSWER_BYTES_MAX).ok()?;
    let about: Value = serde_json::from_slice(&body).ok()?;
    if about["name"] == "mcpgate" { about["version"].as_str().map(str::to_owned) } else { None }
}
