//! Every failure once: its wording, its way out, and what it is to a shell, an HTTP client and a JSON-RPC client.
//!
//! `Display` is the whole story on one line: lower case, no final period, values in backticks. [`Error::hint`] is what
//! to do about it, when there is something. [`Error::code`] is the `error.code` of an answer (`DESIGN.md` section 2).

use std::{fmt, time::Duration};

/// What went wrong, with the values a reader needs. Fields named `raw_*` hold JSON text as a server sent it.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "`Display` is the documentation of each variant")]
pub enum Error {
    // --- a request that cannot be served as it is ---
    BadRequest { what: String },
    InvalidJson { what: &'static str, cause: String },
    InvalidArguments { tool: String, what: String },
    Unauthorized { reason: &'static str },
    Forbidden { what: String, hint: &'static str },
    UnknownTool { name: String, close: Vec<String> },
    NotFound { path: String },
    Unknown { what: &'static str, name: String, hint: String },
    MethodNotAllowed { method: String, path: String, allow: &'static str },
    UpgradeRequired { what: &'static str },
    RequestTimeout { part: &'static str, after: Duration },
    RateLimited { what: String, hint: &'static str, retry_after: Duration },
    BodyTooLarge { bytes_max: usize },
    HeadTooLarge { what: String },
    PlainHttp,

    // --- a call that did not succeed ---
    ToolError { tool: String, message: String, raw_content: String },
    WorkerError { worker: String, rpc_code: i64, message: String, raw_data: Option<String> },
    WorkerAnswer { worker: String, what: String },
    InputRequested { worker: String },
    WorkerCrashed { worker: String, cause: String, stderr: Vec<String> },
    LineTooLong { worker: String, bytes_max: usize },
    Overloaded { what: String, hint: &'static str, retry_after: Duration },
    NoWorker { server: String, reason: String, retry_after: Duration },
    BreakerOpen { server: String, failures: u32, reason: String, stderr: Vec<String>, retry_after: Duration },
    Timeout { what: String, after: Duration },
    Internal { what: String },

    // --- the gateway cannot start, or a command cannot be carried out ---
    WorkerStart { program: String, cause: String },
    Listen { address: String, cause: String },
    Setting { origin: String, key: String, expected: String, got: String, hint: String },
    UnknownSetting { origin: String, key: String, close: Vec<String> },
    Settings { what: String, hint: String },
    Failed { what: String, hint: String },
    Interrupted,
}

/// What an HTTP client may be answered instead of what it wanted: `error.code`, status, and when.
pub const ANSWERS: &[(&str, u16, &str)] = &[
    ("bad_request", 400, "a body or parameter is not what it should be"),
    ("invalid_json", 400, "a body or parameter is not JSON"),
    ("invalid_arguments", 400, "the arguments do not fit the tool's `inputSchema`; the message names path and rule"),
    ("unauthorized", 401, "no key, or a wrong or expired one"),
    ("forbidden", 403, "the key is not for this, or `Host` or `Origin` are not the gateway's own"),
    ("unknown_tool", 404, "there is no such tool; the hint has close names"),
    ("not_found", 404, "there is nothing at this path, or no such resource, prompt, worker or server"),
    ("method_not_allowed", 405, "the path does not take the method; see `Allow`"),
    ("request_timeout", 408, "the request came too slowly"),
    ("body_too_large", 413, "the body is larger than `BODY_BYTES_MAX`"),
    ("tool_error", 422, "the tool ran and says that it failed; `content` is what it says"),
    ("rate_limited", 429, "more than the key or the address may ask for; see `Retry-After`"),
    ("upgrade_required", 426, "the path is for WebSockets"),
    ("head_too_large", 431, "the head is larger than `HEAD_BYTES_MAX`, or has more than 100 headers"),
    ("internal", 500, "the gateway itself failed"),
    ("worker_error", 502, "the server answered with a JSON-RPC error, or not with MCP"),
    ("worker_crashed", 502, "the server's process died during the call"),
    ("overloaded", 503, "too many calls or connections at this moment; see `Retry-After`"),
    ("no_worker", 503, "no worker of the server is ready; see `Retry-After`"),
    ("breaker_open", 503, "the server keeps dying; see `Retry-After`"),
    ("worker_start", 503, "the server's program does not start"),
    ("timeout", 504, "no answer in time; the message says how long and for what was waited"),
];

/// Most names that are suggested for one that is not there.
const CLOSE_NAMES_MAX: usize = 3;

/// Least likeness of a name that is suggested, from 0 to 1.
const CLOSE_NAME_LIKENESS: f64 = 0.7;

/// What an [`Error`] is to each kind of reader.
struct Class {
    code: &'static str,
    http_status: u16,
    exit_code: u8,
}

impl Error {
    /// The `error.code` of an answer: a word that does not change between versions.
    pub fn code(&self) -> &'static str {
        self.class().code
    }

    /// The HTTP status of an answer with this error.
    pub fn http_status(&self) -> u16 {
        self.class().http_status
    }

    /// When trying again may help, as far as that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::RateLimited { retry_after, .. }
            | Error::Overloaded { retry_after, .. }
            | Error::NoWorker { retry_after, .. }
            | Error::BreakerOpen { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// The exit code of a command that ends with this error: 1 failure, 2 usage or settings, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        self.class().exit_code
    }

    fn class(&self) -> Class {
        let (code, http_status, exit_code) = match self {
            Error::BadRequest { .. } | Error::PlainHttp => ("bad_request", 400, 1),
            Error::InvalidJson { .. } => ("invalid_json", 400, 1),
            Error::InvalidArguments { .. } => ("invalid_arguments", 400, 1),
            Error::Unauthorized { .. } => ("unauthorized", 401, 1),
            Error::Forbidden { .. } => ("forbidden", 403, 1),
            Error::UnknownTool { .. } => ("unknown_tool", 404, 1),
            Error::NotFound { .. } | Error::Unknown { .. } => ("not_found", 404, 1),
            Error::MethodNotAllowed { .. } => ("method_not_allowed", 405, 1),
            Error::RequestTimeout { .. } => ("request_timeout", 408, 1),
            Error::UpgradeRequired { .. } => ("upgrade_required", 426, 1),
            Error::RateLimited { .. } => ("rate_limited", 429, 1),
            Error::BodyTooLarge { .. } => ("body_too_large", 413, 1),
            Error::HeadTooLarge { .. } => ("head_too_large", 431, 1),
            Error::ToolError { .. } => ("tool_error", 422, 1),
            Error::WorkerError { .. }
            | Error::WorkerAnswer { .. }
            | Error::InputRequested { .. }
            | Error::LineTooLong { .. } => ("worker_error", 502, 1),
            Error::WorkerCrashed { .. } => ("worker_crashed", 502, 1),
            Error::Overloaded { .. } => ("overloaded", 503, 1),
            Error::NoWorker { .. } => ("no_worker", 503, 1),
            Error::BreakerOpen { .. } => ("breaker_open", 503, 1),
            Error::Timeout { .. } => ("timeout", 504, 1),
            Error::Internal { .. } => ("internal", 500, 1),
            Error::WorkerStart { .. } => ("worker_start", 503, 2),
            Error::Listen { .. } => ("listen", 500, 1),
            Error::Setting { .. } | Error::UnknownSetting { .. } | Error::Settings { .. } => ("settings", 500, 2),
            Error::Failed { .. } => ("failed", 500, 1),
            Error::Interrupted => ("interrupted", 500, 130),
        };
        Class { code, http_status, exit_code }
    }

    /// The last lines on stderr of the process that failed, the newest last.
    pub fn stderr(&self) -> &[String] {
        match self {
            Error::WorkerCrashed { stderr, .. } | Error::BreakerOpen { stderr, .. } => stderr,
            _ => &[],
        }
    }

    /// What to do about it, one sentence without a final period, when there is something to do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::InvalidJson { .. } => "send one JSON object, like {\"arguments\": {\"name\": \"value\"}}",
            Error::Unauthorized { .. } => {
                "send the key as `X-API-Key: KEY`, `Authorization: Bearer KEY` or `?api_key=KEY`"
            }
            Error::Forbidden { hint, .. } | Error::RateLimited { hint, .. } | Error::Overloaded { hint, .. } => hint,
            Error::Unknown { hint, .. } => hint,
            Error::UnknownTool { close, .. } if close.is_empty() => "`GET /tools` lists the tools",
            Error::UnknownTool { close, .. } => {
                return Some(format!("did you mean {}", in_backticks(close)));
            }
            Error::NotFound { .. } => "`GET /` lists the endpoints",
            Error::MethodNotAllowed { allow, .. } => return Some(format!("use {allow}")),
            Error::UpgradeRequired { .. } => "connect with a WebSocket client",
            Error::RequestTimeout { .. } => "send the request without pauses",
            Error::BodyTooLarge { .. } => "send less, or raise `BODY_BYTES_MAX`",
            Error::HeadTooLarge { .. } => "send fewer or shorter headers, or raise `HEAD_BYTES_MAX`",
            Error::PlainHttp => "use an address that begins with `https://` (or `wss://`)",
            Error::InputRequested { .. } => "call it with an MCP client, at `/mcp`",
            Error::WorkerCrashed { .. } => "the worker is being replaced; if the call is safe to repeat, try again",
            Error::LineTooLong { .. } => "ask the tool for less, or raise `WORKER_LINE_MAX`",
            Error::NoWorker { .. } => "`GET /health` shows the state of every server",
            Error::BreakerOpen { server, .. } => {
                return Some(format!(
                    "it is tried again by itself; `POST /admin/servers/{server}/restart` tries at once"
                ));
            }
            Error::Timeout { .. } => "raise `MCP_REQUEST_TIMEOUT` if the tool needs longer",
            Error::Internal { .. } => "please report this with the gateway's log",
            Error::WorkerStart { .. } => "give its full path, or add its folder to `PATH`",
            Error::Listen { .. } => "choose another port with `--port`, or stop the program that has it",
            Error::UnknownSetting { close, .. } if close.is_empty() => "`mcpgate --help` lists the settings",
            Error::UnknownSetting { close, .. } => {
                return Some(format!("did you mean {}", in_backticks(close)));
            }
            Error::Setting { hint, .. } | Error::Settings { hint, .. } | Error::Failed { hint, .. }
                if !hint.is_empty() =>
            {
                hint
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BadRequest { what } => f.write_str(what),
            Error::InvalidJson { what, cause } => write!(f, "{what} is not valid JSON: {cause}"),
            Error::InvalidArguments { tool, what } => write!(f, "arguments of `{tool}`: {what}"),
            Error::Unauthorized { reason } => f.write_str(reason),
            Error::Forbidden { what, .. } => f.write_str(what),
            Error::UnknownTool { name, .. } => write!(f, "there is no tool `{name}`"),
            Error::NotFound { path } => write!(f, "there is nothing at `{path}`"),
            Error::Unknown { what, name, .. } => write!(f, "there is no {what} `{name}`"),
            Error::MethodNotAllowed { method, path, .. } => write!(f, "`{path}` does not take `{method}`"),
            Error::UpgradeRequired { what } => f.write_str(what),
            Error::RequestTimeout { part, after } => {
                write!(f, "the {part} of the request was not complete within {}", Seconds(*after))
            }
            Error::RateLimited { what, .. } => f.write_str(what),
            Error::BodyTooLarge { bytes_max } => write!(f, "the body is larger than {bytes_max} bytes"),
            Error::HeadTooLarge { what } => f.write_str(what),
            Error::PlainHttp => f.write_str("this port speaks HTTPS, and the request came in plain HTTP"),
            Error::ToolError { tool, message, .. } => write!(f, "`{tool}` failed: {message}"),
            Error::WorkerError { worker, rpc_code, message, .. } => {
                write!(f, "worker `{worker}` answered with error {rpc_code}: {message}")
            }
            Error::WorkerAnswer { worker, what } => {
                write!(f, "worker `{worker}` gave an answer that is not MCP: {what}")
            }
            Error::InputRequested { worker } => {
                write!(f, "worker `{worker}` asks for input, which this client cannot give")
            }
            Error::WorkerCrashed { worker, cause, stderr } => {
                write!(f, "worker `{worker}` died during the call: {cause}")?;
                if let Some(line) = stderr.last() {
                    write!(f, "; its last line on stderr: `{line}`")?;
                }
                Ok(())
            }
            Error::LineTooLong { worker, bytes_max } => {
                write!(f, "the answer of worker `{worker}` is longer than {bytes_max} bytes")
            }
            Error::Overloaded { what, .. } => f.write_str(what),
            Error::NoWorker { server, reason, .. } => write!(f, "server `{server}` has no worker: {reason}"),
            Error::BreakerOpen { server, failures, reason, .. } => {
                let times = if *failures == 1 { "once".to_owned() } else { format!("{failures} times in a row") };
                write!(f, "server `{server}` keeps dying ({times}): {reason}")
            }
            Error::Timeout { what, after } => write!(f, "{what} within {}", Seconds(*after)),
            Error::Internal { what } => f.write_str(what),
            Error::WorkerStart { program, cause } => write!(f, "cannot start worker `{program}`: {cause}"),
            Error::Listen { address, cause } => write!(f, "cannot listen on `{address}`: {cause}"),
            Error::Setting { origin, key, expected, got, .. } => {
                write!(f, "{origin}: `{key}`: expected {expected}, got `{got}`")
            }
            Error::UnknownSetting { origin, key, .. } => write!(f, "{origin}: there is no setting `{key}`"),
            Error::Settings { what, .. } | Error::Failed { what, .. } => f.write_str(what),
            Error::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

/// A duration as a reader says it: `250 ms` below a second, else `1.5 s`.
pub struct Seconds(
    /// The duration to show.
    pub Duration,
);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_short = self.0 < Duration::from_secs(1);
        if is_short { write!(f, "{} ms", self.0.as_millis()) } else { write!(f, "{} s", self.0.as_secs_f64()) }
    }
}

/// Names that somebody may have meant by `name`, the most likely first.
pub fn close_names(name: &str, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let likely = names.into_iter().map(|it| (strsim::jaro_winkler(&it, name), it));
    let mut close: Vec<_> = likely.filter(|(likeness, _)| CLOSE_NAME_LIKENESS <= *likeness).collect();
    close.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    close.truncate(CLOSE_NAMES_MAX);
    close.into_iter().map(|(_, name)| name).collect()
}

/// Names as a sentence shows them.
pub fn in_backticks(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_an_answer_is_told_with_its_status() {
        // The table of classes, as it stands above.
        let (_, table) = include_str!("error.rs").split_once("fn class").unwrap();
        let (table, _) = table.split_once("Class { code").unwrap();
        let classes = table.lines().filter_map(|line| {
            let (code, rest) = line.split_once("(\"")?.1.split_once("\", ")?;
            Some((code, rest.split_once(',')?.0.parse::<u16>().ok()?))
        });
        // Those that only commands end with.
        let answered: Vec<_> =
            classes.filter(|(code, _)| !["listen", "settings", "failed", "interrupted"].contains(code)).collect();
        assert!(20 < answered.len(), "{answered:?}");
        for (code, status) in &answered {
            assert!(ANSWERS.iter().any(|it| (it.0, it.1) == (*code, *status)), "{code} {status}");
        }
        for (code, status, when) in ANSWERS {
            assert!(answered.contains(&(code, *status)) && !when.ends_with('.'), "{code} {status}");
        }
    }

    #[test]
    fn an_open_breaker_says_what_keeps_failing_and_how_to_try_at_once() {
        let open = |failures| Error::BreakerOpen {
            server: "helper".to_owned(),
            failures,
            reason: "exited with code 3".to_owned(),
            stderr: Vec::new(),
            retry_after: Duration::from_millis(2500),
        };
        let error = open(5);
        assert_eq!(error.to_string(), "server `helper` keeps dying (5 times in a row): exited with code 3");
        assert_eq!((error.code(), error.http_status(), error.exit_code()), ("breaker_open", 503, 1));
        assert_eq!(
            error.hint().unwrap(),
            "it is tried again by itself; `POST /admin/servers/helper/restart` tries at once"
        );
        assert_eq!(error.retry_after(), Some(Duration::from_millis(2500)));
        assert_eq!(open(1).to_string(), "server `helper` keeps dying (once): exited with code 3");
    }
}
