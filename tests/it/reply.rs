//! What a gateway says: its log, collected as it comes, and its answers with the checks a test makes on them.
//!
//! A failed check prints what was asked, what was expected, what came, and the log.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, value::RawValue};

use crate::{http::Answer, process::holds_within};

/// What a gateway writes on stderr, collected as it comes.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Mutex<LogState>>);

#[derive(Debug, Default)]
struct LogState {
    text: String,
    is_complete: bool,
}

impl Log {
    pub(crate) fn of(stderr: impl Read + Send + 'static) -> Log {
        let log = Log(Arc::default());
        let theirs = log.clone();
        spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n_read| 0 < n_read) {
                theirs.state().text.push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
            theirs.state().is_complete = true;
        });
        log
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn text(&self) -> String {
        self.state().text.clone()
    }

    pub(crate) fn wait_for_end(&self) {
        holds_within(Duration::from_secs(2), || self.state().is_complete);
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let text = self.text();
        let (_, rest) = text.split_once("listening on http")?;
        let (_, rest) = rest.split_once("://")?;
        let (address, _) = rest.split_once(|it: char| it.is_whitespace() || it == '/' || it == '"')?;
        address.parse().ok()
    }

    pub(crate) fn framed(&self) -> String {
        format!("--- log of the gateway ---\n{}--- end of log ---", self.text())
    }
}

fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::spawn(body)
}

pub(crate) fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    spawn(move || {
        let mut bytes = Vec::new();
        // Half an output shows in the comparison that follows.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// An answer with what is needed to explain a failed expectation.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) request: String,
    pub(crate) answer: Answer,
    pub(crate) log: Log,
}

impl std::ops::Deref for Reply {
    type Target = Answer;

    fn deref(&self) -> &Answer {
        &self.answer
    }
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(cause) => self.fail(&format!("a JSON body ({cause})")),
        }
    }

    /// A field of the body, byte for byte as it came.
    #[track_caller]
    pub(crate) fn raw(&self, field: &str) -> String {
        match raw_field(&self.text(), field) {
            Some(raw) => raw,
            None => self.fail(&format!("a field `{field}`")),
        }
    }

    /// Fails the test: prints what was asked, what was expected, what came, and the gateway's log.
    #[track_caller]
    pub(crate) fn fail(&self, expected: &str) -> ! {
        panic!(
            "request: {}\nexpected: {expected}\nactual: {} {}\n{}",
            self.request,
            self.status,
            shortened(&self.body),
            self.log.framed()
        );
    }

    #[track_caller]
    pub(crate) fn expect(&self, is_as_expected: bool, expected: &str) -> &Reply {
        if !is_as_expected {
            self.fail(expected);
        }
        self
    }

    #[track_caller]
    pub(crate) fn expect_status(&self, status: u16) -> &Reply {
        self.expect(self.status == status, &format!("status {status}"))
    }

    #[track_caller]
    pub(crate) fn expect_header(&self, name: &str, value: &str) -> &Reply {
        self.expect(self.header(name) == Some(value), &format!("header `{name}: {value}`, got {:?}", self.header(name)))
    }

    /// A successful call whose `data` is this value.
    #[track_caller]
    pub(crate) fn expect_data(&self, data: &Value) -> &Reply {
        self.expect_status(200);
        let body = self.json();
        let is_as_expected = body["status"] == "success" && body["data"] == *data;
        self.expect(is_as_expected, &format!("status success with data {data}"))
    }

    /// A successful call whose `field` is exactly these bytes.
    #[track_caller]
    pub(crate) fn expect_raw(&self, field: &str, raw: &str) -> &Reply {
        self.expect_status(200);
        self.expect(self.raw(field) == raw, &format!("`{field}` to be exactly {}", shortened(raw.as_bytes())))
    }

    /// The `data` of a successful call.
    #[track_caller]
    pub(crate) fn data(&self) -> Value {
        self.expect_status(200);
        self.json()["data"].take()
    }

    /// A failure in the one shape every surface has; `text` stands in its message or its hint.
    #[track_caller]
    pub(crate) fn expect_error(&self, status: u16, code: &str, text: &str) -> &Reply {
        let expected = format!("{status}, error.code `{code}`, with {text:?} in its message or hint");
        self.expect(self.status == status, &expected);
        let body = self.json();
        let error = &body["error"];
        let says = |field: &str| error[field].as_str().is_some_and(|it| it.contains(text));
        self.expect(body["status"] == "error" && error["code"] == code, &expected);
        self.expect(says("message") || says("hint"), &expected);
        self.expect(body["request_id"].is_string(), "a request_id in the body")
    }
}

/// The field of a JSON object, byte for byte.
pub(crate) fn raw_field(object: &str, field: &str) -> Option<String> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object).ok()?;
    fields.get(field).map(|raw| raw.get().to_owned())
}

pub(crate) fn shortened(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let is_long = 2000 < text.len();
    if is_long {
        format!("{}... ({} bytes)", text.chars().take(2000).collect::<String>(), bytes.len())
    } else {
        text.into_owned()
    }
}
