//! `mcpgate call`: one call of a tool, through a running gateway or without one, and its answer as one line of JSON.
//!
//! Either way the call is told as an event stream. Standard output gets the answer and nothing else; whoever waits at a terminal sees on
//! standard error how far it is (`bar.rs`).
//!
//! | Thread | Takes from | Gives to | Ends when |
//! | --- | --- | --- | --- |
//! | `call` | the gateway's answer, or the API in this process | main | the call has ended, or the process |
//! | `signals` | SIGINT, SIGTERM, SIGHUP | main | the process ends |
//!
//! **Limit.** `MCP_CALL_TIME_MAX` and a few seconds without a word from the gateway. **End.** An interrupt takes the call back: the connection ends
//! with the process, and a server that runs for this one call is told and stopped.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _, Write},
    sync::Arc,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, tick};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;

use crate::{
    access::{Access, Principal},
    api::{Answer, Api, Caller, Way},
    cli::{
        CallArgs,
        client::{self, Client},
        interrupts,
    },
    config::{Config, ExecutionMode, Live, ServerSpec, servers},
    error::Error,
    threads,
    worker::mailbox::Mailbox,
};

mod bar;
mod events;

use bar::{Bar, Progress};
use events::EventReader;

/// Time for the gateway to answer, beyond what it gives the call itself.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Longest answer that is no stream.
const REFUSAL_BYTES_MAX: usize = 1024 * 1024;

/// Events that wait to be shown.
const EVENTS_MAX: usize = 64;

/// What is heard of the call.
enum Heard {
    Progress(Progress),
    Item,
    /// The answer, JSON.
    Success(String),
    /// Why there is none, JSON as a gateway writes it.
    Refusal(String),
    /// It ended without a word.
    Failed(Error),
}

/// Carries the call out and prints the answer to `out`. Fails when the call did.
pub fn run(args: &CallArgs, env: impl Fn(&str) -> Option<OsString>, out: &mut dyn Write) -> Result<(), Error> {
    let (config, _) = Config::read(&args.config.flags(), env)?;
    let arguments: &RawValue = serde_json::from_str(&args.arguments)
        .map_err(|cause| Error::InvalidJson { what: "the arguments", cause: cause.to_string() })?;
    let body = format!(r#"{{"arguments":{arguments}}}"#);
    let interrupts = interrupts::listen()?;
    let (tell, told) = bounded(EVENTS_MAX);
    let no_thread = |cause: io::Error| failed(format!("cannot start a thread: {cause}"));
    if args.direct {
        let call = Direct::new(config, &args.tool, body)?;
        let client = Arc::clone(&call.client);
        let thread = threads::spawn("call", move || call.run(&tell)).map_err(no_thread)?;
        let answered = wait(&told, &interrupts, out);
        // Takes the call back if it still runs, and frees a thread that tells in vain; the server is stopped before the thread ends.
        client.close();
        drop(told);
        drop(thread);
        answered
    } else {
        let client = Client::new(&config, args.url.as_deref(), &args.trust)?;
        let path = format!("/tools/{}/stream", utf8_percent_encode(&args.tool, NON_ALPHANUMERIC));
        let patience = config.call_time_max + ANSWER_MARGIN;
        let body = move || follow(&client, &path, &body, patience, &tell);
        threads::spawn_detached("call", body).map_err(no_thread)?;
        wait(&told, &interrupts, out)
    }
}

/// Shows what is heard until the call has ended, and prints the answer.
fn wait(told: &Receiver<Heard>, interrupts: &Receiver<()>, out: &mut dyn Write) -> Result<(), Error> {
    let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    let has_bar = io::stderr().is_terminal() && !is_dumb;
    let ticks = if has_bar { tick(bar::INTERVAL) } else { never() };
    let mut bar = Bar::new();
    let mut print = |answer: &str| {
        let printed = out.write_all(answer.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
        printed.map_err(|cause| failed(format!("cannot print the answer: {cause}")))
    };
    let end = loop {
        select! {
            recv(told) -> heard => match heard {
                Ok(Heard::Progress(progress)) => bar.advance(progress),
                Ok(Heard::Item) => bar.count_item(),
                Ok(end) => break end,
                Err(_) => break Heard::Failed(failed("the call ended without an answer".to_owned())),
            },
            recv(ticks) -> _ => bar.draw(),
            recv(interrupts) -> _ => break Heard::Failed(Error::Interrupted),
        }
    };
    bar.wipe();
    match end {
        Heard::Success(answer) => print(&answer),
        Heard::Refusal(answer) => {
            print(&answer)?;
            Err(client::reason_of(&answer).unwrap_or_else(|| failed("the call failed".to_owned())))
        }
        Heard::Failed(error) => Err(error),
        // These do not end a call.
        Heard::Progress(_) | Heard::Item => Ok(()),
    }
}

/// Tells of one event; whether it is the last.
fn tell_event(name: &str, data: &str, tell: &Sender<Heard>) -> bool {
    let heard = match name {
        "progress" => match serde_json::from_str(data) {
            Ok(progress) => Heard::Progress(progress),
            Err(_) => return false,
        },
        "chunk" => Heard::Item,
        "result" => Heard::Success(data.to_owned()),
        "error" => Heard::Refusal(data.to_owned()),
        "done" => Heard::Failed(failed("the gateway stopped before the call had ended".to_owned())),
        _ => return false,
    };
    let is_last = !matches!(heard, Heard::Progress(_) | Heard::Item);
    // Nobody listens any more when the command was interrupted.
    tell.send(heard).is_err() || is_last
}

/// Asks a gateway that is running.
fn follow(client: &Client, path: &str, body: &str, patience: Duration, tell: &Sender<Heard>) {
    let followed = || {
        let mut answer = client.ask(path, Some(body), patience)?;
        let cut_off = |cause: io::Error| client.failure(&cause);
        if answer.status != 200 {
            let refusal = answer.whole(REFUSAL_BYTES_MAX).map_err(cut_off)?;
            let refusal = String::from_utf8_lossy(&refusal).into_owned();
            // It is ours if it is JSON; a proxy has pages.
            let is_ours = serde_json::from_str::<&RawValue>(&refusal).is_ok();
            return if is_ours { Ok(Heard::Refusal(refusal)) } else { Err(client.foreign()) };
        }
        let mut reader = EventReader::default();
        let (mut bytes, mut is_over) = (Vec::new(), false);
        while !is_over && answer.read(&mut bytes).map_err(cut_off)? {
            reader.feed(&bytes, &mut |name, data| is_over = is_over || tell_event(name, data, tell));
            bytes.clear();
        }
        reader.feed(&bytes, &mut |name, data| is_over = is_over || tell_event(name, data, tell));
        match is_over {
            // Nobody reads beyond the first end.
            true => Ok(Heard::Item),
            false => Err(client.foreign()),
        }
    };
    // Fails when nobody listens any more.
    let _ = tell.send(followed().unwrap_or_else(Heard::Failed));
}

/// A server that runs for one call.
struct Direct {
    api: Api,
    tool: String,
    body: String,
    client: Arc<Mailbox>,
}

impl Direct {
    fn new(mut config: Config, tool: &str, body: String) -> Result<Direct, Error> {
        let is_bundled = config.mcp_command.is_empty() && config.mcp_servers.is_none();
        if is_bundled {
            config.execution_mode = ExecutionMode::Direct;
        }
        let (specs, _) = servers::list(&config)?;
        let specs: Vec<_> = specs.into_iter().map(|spec| ServerSpec { min_workers: 1, ..spec }).collect();
        for spec in &specs {
            spec.resolve_program()?;
        }
        let access = Access::new(&config)?;
        // Nobody is cut off: what is told is taken at once, or nobody takes it any more.
        let client = Arc::new(Mailbox::new(config.stream_queue_bytes, || {}));
        let api = Api::start(Live::new(config), &specs, access)?;
        Ok(Direct { api, tool: tool.to_owned(), body, client })
    }

    /// Carries the call out, and stops the server.
    fn run(self, tell: &Sender<Heard>) {
        let Direct { api, tool, body, client } = self;
        let principal = Principal::anybody();
        let caller = Caller {
            scope: None,
            principal: &principal,
            session: None,
            client: &client,
            way: Way::Http,
            request_id: "call",
            trace: None,
        };
        match api.stream_tool(&tool, body.as_bytes(), &caller) {
            Ok(stream) => {
                let mut reader = EventReader::default();
                let mut is_over = false;
                let mut hear = |bytes: &[u8]| {
                    reader.feed(bytes, &mut |name, data| is_over = is_over || tell_event(name, data, tell));
                    Ok(())
                };
                // Fails when the call was taken back, and then nobody listens.
                let _ = stream.run(&mut hear).and_then(|last| hear(&last));
            }
            Err(error) => {
                let answer = Answer::error(&error, caller.request_id).body;
                let _ = tell.send(Heard::Refusal(String::from_utf8_lossy(&answer).into_owned()));
            }
        }
        api.stop();
    }
}

fn failed(what: String) -> Error {
    Error::Failed { what, hint: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_of_a_stream_is_its_end() {
        let (tell, told) = bounded(8);
        assert!(!tell_event("progress", r#"{"progress":1,"message":"m"}"#, &tell));
        assert!(!tell_event("progress", "nonsense", &tell) && !tell_event("log", "{}", &tell));
        assert!(!tell_event("chunk", r#"{"index":0,"data":1}"#, &tell));
        assert!(tell_event("result", "{}", &tell));
        assert!(tell_event("done", r#"{"status":"cancelled"}"#, &tell));
        assert_eq!(told.len(), 4);
        drop(told);
        assert!(tell_event("progress", r#"{"progress":1}"#, &tell), "nobody listens");
    }
}
