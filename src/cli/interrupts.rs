//! Signals that end a command, told on a channel, so that it can end in order.
//!
//! The first is told, the second ends the process at once, as with a gateway.
//!
//! | Thread | Takes from | Gives to | Ends when |
//! | --- | --- | --- | --- |
//! | `signals` | SIGINT, SIGTERM, SIGHUP | whoever waits | the process ends |

use std::process;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{error::Error, threads};

/// Where the first signal of this process is told from now on. It stays told: the channel is then closed.
pub(super) fn listen() -> Result<Receiver<()>, Error> {
    let fail =
        |cause: std::io::Error| Error::Failed { what: format!("cannot handle signals: {cause}"), hint: String::new() };
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(fail)?;
    let (tell, told) = bounded(1);
    let mut tell = Some(tell);
    let body = move || {
        for _ in signals.forever() {
            if tell.take().is_none() {
                process::exit(Error::Interrupted.exit_code().into());
            }
        }
    };
    threads::spawn_detached("signals", body).map_err(fail)?;
    Ok(told)
}
