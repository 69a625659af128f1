//! `mcpgate call`: one call of a tool, through a running gateway or without one, and its answer as JSON.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;

use crate::{
    access::{Access, Principal},
    api::{Answer, Api, Caller, Way},
    cli::{CallArgs, trust},
    config::{Config, ExecutionMode, Live, ServerSpec, servers},
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
    let api = Api::start(Live::new(config), &specs, access)?;
    let client = Arc::new(Mailbox::default());
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
    let answer = api.call_tool(tool, body.as_bytes(), &caller);
    // Nobody closes the mailbox, so there is always an answer.
    let Answer { status, body, .. } = answer.unwrap_or_else(|| Answer::empty(500));
    Ok((status, body))
}

/// Asks a gateway that is running.
fn through_gateway(config: &Config, args: &CallArgs, body: &str) -> Result<(u16, Vec<u8>), Error> {
    let (is_https, address) = match &args.url {
        Some(url) => parse_url(url)?,
        None => (config.tls_cert.is_some(), config.listen.to_string()),
    };
    let tls = if is_https { Some(trust::client(config.tls_cert.as_deref(), &args.trust)?) } else { None };
    let no_gateway = |cause: io::Error| {
        if let Some(cause) = cause.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()) {
            return failed(format!("no TLS with what answers at `{address}`: {cause}"), trust::way_out(cause));
        }
        failed(
            format!("no gateway answers at `{address}`: {cause}"),
            "start one with `mcpgate`, name it with `--url`, or use `--direct`",
        )
    };
    let tcp = TcpStream::connect(&address).map_err(no_gateway)?;
    tcp.set_read_timeout(Some(config.call_time_max + ANSWER_MARGIN)).map_err(no_gateway)?;
    let tool = utf8_percent_encode(&args.tool, NON_ALPHANUMERIC);
    let key = if config.api_key.is_empty() { String::new() } else { format!("X-API-Key: {}\r\n", config.api_key) };
    let length = body.len();
    let request = format!(
        "POST /tools/{tool} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{key}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = match tls {
        None => exchange(tcp, &request),
        Some(tls) => trust::over(tls, &address, tcp).and_then(|stream| exchange(stream, &request)),
    };
    let answer = answer.map_err(no_gateway)?;
    split_answer(&answer).ok_or_else(|| failed(format!("what answers at `{address}` is no gateway"), ""))
}

/// Whether it is for TLS, and the address with its port.
fn parse_url(url: &str) -> Result<(bool, String), Error> {
    let wrong = || {
        failed(format!("`--url`: expected an address, got `{url}`"), "write http://127.0.0.1:8000 or https://box.local")
    };
    let (is_https, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(wrong()),
    };
    let address = rest.trim_end_matches('/');
    let is_address = !address.is_empty() && !address.contains(['/', '?', '#', '@']);
    if !is_address {
        return Err(wrong());
    }
    // The colons of an address in brackets belong to it.
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let port = if is_https { 443 } else { 80 };
    Ok((is_https, if has_port { address.to_owned() } else { format!("{address}:{port}") }))
}

/// Sends a request and takes everything that comes.
fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // TLS without a goodbye. What has come says itself whether it is whole.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(answer),
        read => read.map(|_| answer),
    }
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
    fn an_address_has_the_port_of_its_scheme() {
        for (url, expected) in [
            ("http://box:8000", (false, "box:8000")),
            ("http://box/", (false, "box:80")),
            ("https://box", (true, "box:443")),
            ("https://[::1]", (true, "[::1]:443")),
            ("https://[::1]:8443/", (true, "[::1]:8443")),
        ] {
            assert_eq!(parse_url(url), Ok((expected.0, expected.1.to_owned())), "{url}");
        }
        for url in ["box:8000", "ftp://box", "https://", "http://box/mcp", "http://me@box", "https://box?x"] {
            assert!(parse_url(url).is_err(), "{url}");
        }
    }

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
