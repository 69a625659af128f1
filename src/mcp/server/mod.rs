//! The server side of MCP, small and synchronous: tools with handlers, served over one pair of streams.
//!
//! [`Server`] is a list of tools, and [`serve`] speaks MCP with one client until the input ends, in the era its first
//! request chose (see `session`). It knows nothing of processes: the streams may be stdin and stdout or a pair of
//! pipes within one process, and several clients may be served from one `Arc<Server>`. What tools do is their own;
//! resources, prompts, logging and requests to the client are left out.
//!
//! | Thread                | Takes from               | Gives to           | Ends when                         |
//! | --------------------- | ------------------------ | ------------------ | --------------------------------- |
//! | the caller of `serve` | the input                | queue, the output  | end of the input, or output broken |
//! | `mcp-call-1` to `-4`  | the queue                | the output         | the queue is closed and empty     |
//!
//! **Limit.** A message has at most [`LINE_BYTES_MAX`] bytes, `CALL_THREADS` calls run at a time and `CALLS_QUEUED_MAX` wait;
//! a call beyond that is refused at once, so that the reader always gets to cancellations and pings. A client that
//! does not read its answers holds up its own connection, reader included, and no other.
//!
//! **End.** At the end of the input the calls that were sent before it are run to their end, then [`serve`] returns.

mod calls;
mod context;
mod lines;
mod message;
mod outbox;
mod session;
#[cfg(test)]
mod tests;
mod tool;

use std::{
    io::{self, BufRead, Write},
    sync::Arc,
};

use serde_json::Value;

use crate::json::json;

pub use context::{CHUNK_KEY, Context};
pub use lines::LINE_BYTES_MAX;
pub use tool::{Annotations, Arguments, ERROR_KEY, Tool, ToolError};

use lines::Lines;
use outbox::Outbox;
use session::Session;
use tool::Registered;

/// A named set of tools.
pub struct Server {
    info: Value,
    instructions: &'static str,
    tools: Vec<Registered>,
}

impl Server {
    /// A server without tools. `instructions` tell a model, in a sentence or two, what the server is good for.
    pub fn new(name: &str, title: &str, version: &str, instructions: &'static str) -> Server {
        let info = json!({"name": name, "title": title, "version": version});
        Server { info, instructions, tools: Vec::new() }
    }

    /// Adds a tool. Its `handler` runs on one of several threads, also for several calls at the same time.
    ///
    /// A handler that panics costs only its call, which is answered with an internal error.
    pub fn tool(
        mut self,
        tool: Tool,
        handler: impl Fn(&Context, Arguments) -> Result<Value, ToolError> + Send + Sync + 'static,
    ) -> Server {
        self.tools.push(Registered { tool, handler: Box::new(handler) });
        self
    }
}

/// Speaks MCP with one client until `input` ends and the calls in flight have ended.
///
/// Every message is written to `output` as one line with one write, and flushed. Fails when a stream fails or when
/// there is no room for the threads that run the calls.
pub fn serve(server: Arc<Server>, input: impl BufRead, output: impl Write + Send + 'static) -> io::Result<()> {
    let outbox = Arc::new(Outbox::new(output));
    let mut session = Session::start(server, Arc::clone(&outbox))?;
    let mut lines = Lines::new(input);
    while let Some(line) = lines.next_line()? {
        session.receive(line);
        if outbox.has_failed() {
            break;
        }
    }
    // Closes the queue and waits for the threads, which first run what is in it.
    drop(session);
    outbox.result()
}
