//! `mcpgate call`: one call of a tool, through a running gateway or without one, and its answer as JSON.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;

use crate::{
    access::{Access, Principal},
    api::{Answer, Api, Caller},
    cli::CallArgs,
    config::{Config, ExecutionMode, ServerSpec, servers},
    error::Error,
    worker::mailbox::Mailbox,
};

/// Time for the gateway to answer, beyond what it gives the call itself.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Carries the call out and prints the answer to `out`. Fails when the call did.
pub fn run(args: &CallArgs, env: impl Fn(&str) -> Option<OsString>, out: &mut dyn Write) -> Result<(), Error> {
    let (config, _) = Config::read(&args.config.flags(), env)?;
    let arguments: &RawValue = serde_json::from_str(&args.arguments)
        .map_err(|cause| Error::InvalidJson { what: "the arguments", cause: cause.to_string() })?;
    let body = format!(r#"{{"arguments":{arguments}}}"#);
    let (status, answer) =
        if args.direct { directly(config, &args.tool, &body)? } else { through_gateway(&config, args, &body)? };
    out.write_all(&answer)
        .and_then(|()| out.write_all(b"\n"))
        .map_err(|cause| failed(format!("cannot print the answer: {cause}"), ""))?;
    if status == 200 { Ok(()) } else { Err(failed(format!("the call ended with status {status}"), "")) }
}

/// Runs the server for this one call.
fn directly(mut config: Config, tool: &str, body: &str) -> Result<(u16, Vec<u8>), Error> {
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
    let config = Arc::new(config);
    let api = Api::start(Arc::clone(&config), &specs, access)?;
    let client = Arc::new(Mailbox::default());
    let principal = Principal::anybody();
    let caller = Caller { scope: None, principal: &principal, session: None, client: &client, request_id: "call" };
    let answer = api.call_tool(tool, body.as_bytes(), &caller);
    // Nobody closes the mailbox, so there is always an answer.
    let Answer { status, body, .. } = answer.unwrap_or_else(|| Answer::empty(500));
    Ok((status, body))
}

/// Asks a gateway that is running.
fn through_gateway(config: &Config, args: &CallArgs, body: &str) -> Result<(u16, Vec<u8>), Error> {
    let address = match &args.url {
        Some(url) => url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/').to_owned())
            .filter(|rest| !rest.is_empty() && !rest.contains('/'))
            .ok_or_else(|| {
                failed(format!("`--url`: expected an address, got `{url}`"), "write http://127.0.0.1:8000")
            })?,
        None => config.listen.to_string(),
    };
    let no_gateway = |cause: io::Error| {
        failed(
            format!("no gateway answers at `{address}`: {cause}"),
            "start one with `mcpgate`, name it with `--url`, or use `--direct`",
        )
    };
    let mut stream = TcpStream::connect(&address).map_err(no_gateway)?;
    stream.set_read_timeout(Some(config.call_time_max + ANSWER_MARGIN)).map_err(no_gateway)?;
    let tool = utf8_percent_encode(&args.tool, NON_ALPHANUMERIC);
    let key = if config.api_key.is_empty() { String::new() } else { format!("X-API-Key: {}\r\n", config.api_key) };
    let length = body.len();
    let request = format!(
        "POST /tools/{tool} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{key}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).map_err(no_gateway)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(no_gateway)?;
    split_answer(&answer).ok_or_else(|| failed(format!("what answers at `{address}` is no gateway"), ""))
}

/// Status and body of an answer that ended with its connection.
fn split_answer(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_end) = response.parse(bytes).ok()? else { return None };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    let body = bytes.get(head_end..head_end.checked_add(length)?)?;
    Some((response.code?, body.to_vec()))
}

fn failed(what: String, hint: &str) -> Error {
    Error::Failed { what, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_only_when_it_is_whole() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(split_answer(answer), Some((200, b"{}".to_vec())));
        for cut in 0..answer.len() {
            assert_eq!(split_answer(&answer[..cut]), None, "cut at {cut}");
        }
        assert_eq!(split_answer(b"SSH-2.0-OpenSSH\r\n"), None);
    }
}
