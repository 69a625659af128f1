//! Log lines for collectors: one JSON object each, with time (RFC 3339, UTC), level, message, and the fields that the line has.
//!
//! simplelog's layout is fixed, and it knows no fields; so this stands beside it.

use std::{sync::Mutex, time::SystemTime};

use log::{
    Log, Metadata, Record,
    kv::{self, Key, VisitSource},
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Sink;

/// See the module.
pub(super) struct JsonLog {
    sink: Mutex<Sink>,
}

/// A line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'a str,
    message: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl JsonLog {
    pub(super) fn new(sink: Sink) -> JsonLog {
        JsonLog { sink: Mutex::new(sink) }
    }
}

impl Log for JsonLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            write_line(&self.sink, &line_of(record));
        }
    }

    fn flush(&self) {}
}

/// Writes one line. Nobody could be told that it failed.
pub(super) fn write_line(sink: &Mutex<Sink>, line: &impl Serialize) {
    let Ok(mut bytes) = serde_json::to_vec(line) else { return };
    bytes.push(b'\n');
    let mut sink = sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _ = sink.write_all(&bytes);
}

/// The time of a line, in milliseconds.
pub(super) fn time_text() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn line_of<'a>(record: &Record<'a>) -> Line<'a> {
    let mut fields = Fields(Map::new());
    // It has no way to fail: ours does not.
    let _ = record.key_values().visit(&mut fields);
    let level = match record.level() {
        log::Level::Error => "error",
        log::Level::Warn => "warn",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    };
    Line { time: time_text(), level, message: record.args().to_string(), fields: fields.0 }
}

/// The fields of a line, those left out that say nothing.
struct Fields(Map<String, Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let json = if let Some(text) = value.to_borrowed_str() {
            text.into()
        } else if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(number) = value.to_f64() {
            number.into()
        } else {
            // An optional field that says nothing shows itself so and in no other way.
            match value.to_string() {
                text if text == "None" => return Ok(()),
                text => text.into(),
            }
        };
        self.0.insert(key.as_str().to_owned(), json);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_fields_with_their_types() {
        let absent: Option<&str> = None;
        let fields = [
            ("key", kv::Value::from("a \"b\"\n")),
            ("n", kv::Value::from(7_u64)),
            ("duration_ms", kv::Value::from(1.5)),
            ("worker", kv::ToValue::to_value(&absent)),
            ("trace_id", kv::ToValue::to_value(&Some("x"))),
        ];
        let args = format_args!("it has\nhappened");
        let record = Record::builder().args(args).level(log::Level::Warn).key_values(&fields).build();
        let line = serde_json::to_value(line_of(&record)).unwrap();
        let time = line["time"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok() && time.len() == 24, "{time}");
        let expected = serde_json::json!({
            "time": time, "level": "warn", "message": "it has\nhappened",
            "key": "a \"b\"\n", "n": 7, "duration_ms": 1.5, "trace_id": "x",
        });
        assert_eq!(line, expected);
    }
}
