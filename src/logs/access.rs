//! The access log: a line for each request, when `ACCESS_LOG` says where.
//!
//! As text in the Combined Log Format of web servers, with three fields behind it: seconds, request id, trace id. As JSON one
//! object a line. The user is the name of the key. A key in the query is not written.
//!
//! **End.** A request is written when it has been answered, a stream or WebSocket when it has ended.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::{
    Sink,
    file::LogFile,
    json::{time_text, write_line},
    milliseconds, stderr,
};
use crate::{
    config::{AccessLog as Place, Config, LogFormat},
    error::Error,
};

/// Status of a request whose client went away before there was an answer, as web servers write it.
const CLIENT_GONE: u16 = 499;

/// The time as web servers write it.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

/// See the module.
pub struct AccessLog {
    format: LogFormat,
    sink: Mutex<Sink>,
}

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Where the client is.
    pub client: IpAddr,
    /// Name of the key, once it is known.
    pub key: Option<&'a str>,
    /// What was asked for. `None` for what could not be understood.
    pub asked: Option<Asked<'a>>,
    /// HTTP status; `None` when the client went away before there was one.
    pub status: Option<u16>,
    /// Bytes of the answer, its head included.
    pub bytes: u64,
    /// From the end of its head to the end of its answer.
    pub duration: Duration,
    /// The id in the answer's `X-Request-Id`.
    pub request_id: &'a str,
    /// The trace that the client says it belongs to.
    pub trace_id: Option<&'a str>,
}

/// What a request's head says.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Major and minor.
    pub version: (u8, u8),
    pub referer: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

impl AccessLog {
    /// The one of the settings, if there is one. Fails when it cannot be written.
    pub fn open(config: &Config) -> Result<Option<Arc<AccessLog>>, Error> {
        let sink = match &config.access_log {
            Place::Off => return Ok(None),
            Place::Stderr => stderr(),
            Place::File(path) => LogFile::open("ACCESS_LOG", path)?,
        };
        Ok(Some(Arc::new(AccessLog { format: config.log_format, sink: Mutex::new(sink) })))
    }

    /// Writes a line.
    pub fn write(&self, entry: &Entry<'_>) {
        match self.format {
            LogFormat::Json => write_line(&self.sink, &entry.object()),
            LogFormat::Text => {
                let line = entry.text(OffsetDateTime::now_utc());
                let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
                // Nobody could be told that it failed.
                let _ = sink.write_all(line.as_bytes());
            }
        }
    }
}

/// An entry as JSON.
#[derive(Serialize)]
struct Object<'a> {
    time: String,
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    /// With its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

impl Entry<'_> {
    fn object(&self) -> Object<'_> {
        let Entry { client, key, asked, bytes, request_id, trace_id, .. } = *self;
        Object {
            time: time_text(),
            client,
            key,
            method: asked.map(|asked| asked.method),
            path: asked.map(|asked| asked.target()),
            status: self.status.unwrap_or(CLIENT_GONE),
            bytes,
            duration_ms: milliseconds(self.duration),
            request_id,
            trace_id,
            referer: asked.and_then(|asked| asked.referer),
            user_agent: asked.and_then(|asked| asked.user_agent),
        }
    }

    fn text(&self, now: OffsetDateTime) -> String {
        let Entry { client, bytes, request_id, .. } = self;
        let time = now.format(TIME).unwrap_or_default();
        let request = self.asked.map_or("-".to_owned(), |asked| {
            let (major, minor) = asked.version;
            quotable(&format!("{} {} HTTP/{major}.{minor}", asked.method, asked.target()))
        });
        let header = |of: fn(&Asked<'_>) -> Option<String>| self.asked.as_ref().and_then(of).unwrap_or("-".to_owned());
        format!(
            "{client} - {} [{time}] \"{request}\" {} {bytes} \"{}\" \"{}\" {:.6} {request_id} {}\n",
            self.key.unwrap_or("-"),
            self.status.unwrap_or(CLIENT_GONE),
            header(|asked| asked.referer.map(quotable)),
            header(|asked| asked.user_agent.map(quotable)),
            self.duration.as_secs_f64(),
            self.trace_id.unwrap_or("-"),
        )
    }
}

impl Asked<'_> {
    /// Path and query as they were sent, without the key.
    fn target(&self) -> String {
        let Some(query) = self.query else { return self.path.to_owned() };
        let is_key =
            |pair: &str| form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(name, _)| name == "api_key");
        let pairs = query.split('&').map(|pair| if is_key(pair) { "api_key=***" } else { pair });
        format!("{}?{}", self.path, pairs.collect::<Vec<_>>().join("&"))
    }
}

/// Text that can stand in quotes on one line.
fn quotable(text: &str) -> String {
    let mut quotable = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quotable.extend(['\\', letter]),
            // Also those that a terminal would obey.
            letter if letter.is_control() => {
                // Writing into memory has no way to fail.
                let _ = write!(quotable, "\\u{{{:x}}}", u32::from(letter));
            }
            letter => quotable.push(letter),
        }
    }
    quotable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(query: Option<&'a str>, user_agent: Option<&'a str>) -> Asked<'a> {
        Asked { method: "GET", path: "/tools", query, version: (1, 1), referer: None, user_agent }
    }

    fn entry(asked: Option<Asked<'_>>) -> Entry<'_> {
        Entry {
            client: [127, 0, 0, 1].into(),
            key: Some("ci"),
            asked,
            status: Some(200),
            bytes: 512,
            duration: Duration::from_micros(1_500),
            request_id: "id-1",
            trace_id: None,
        }
    }

    #[track_caller]
    fn check_text(entry: &Entry<'_>, line: &str) {
        assert_eq!(entry.text(OffsetDateTime::UNIX_EPOCH), format!("{line}\n"));
    }

    #[test]
    fn a_line_is_as_web_servers_write_it() {
        check_text(
            &entry(Some(asked(Some("a=1"), Some("curl/8 \"x\"\u{1b}[1m")))),
            concat!(
                r#"127.0.0.1 - ci [01/Jan/1970:00:00:00 +0000] "GET /tools?a=1 HTTP/1.1" 200 512 "-" "#,
                r#""curl/8 \"x\"\u{1b}[1m" 0.001500 id-1 -"#
            ),
        );
        check_text(
            &Entry { key: None, status: None, trace_id: Some("4bf9"), ..entry(None) },
            r#"127.0.0.1 - - [01/Jan/1970:00:00:00 +0000] "-" 499 512 "-" "-" 0.001500 id-1 4bf9"#,
        );
    }

    #[test]
    fn a_key_in_the_query_is_not_written_however_it_was() {
        for query in ["api_key=s3", "api%5Fkey=s3", "%61pi_key=s3&", "x=1&api_key=s3&api_key=s3", "api_key=s3=s3"] {
            let target = asked(Some(query), None).target();
            assert!(!target.contains("s3") && target.contains("api_key=***"), "{target}");
        }
        assert_eq!(asked(Some("x=api_key&y"), None).target(), "/tools?x=api_key&y");
    }

    #[test]
    fn as_json_it_has_what_it_knows() {
        let object = serde_json::to_value(entry(Some(asked(None, Some("curl/8")))).object()).unwrap();
        let expected = serde_json::json!({
            "time": object["time"], "client": "127.0.0.1", "key": "ci", "method": "GET", "path": "/tools", "status": 200,
            "bytes": 512, "duration_ms": 1.5, "request_id": "id-1", "user_agent": "curl/8",
        });
        assert_eq!(object, expected);
    }
}
