//! What a worker's threads read and hand over, for `crate::benching`.

#![allow(clippy::unwrap_used, reason = "whoever measures wants to see it fail")]

use std::{
    hint::black_box,
    io::{self, Write as _},
    sync::Arc,
    time::Instant,
};

use serde_json::value::RawValue;

use super::{
    mailbox::{Ended, Event, Mailbox, Wake},
    pipe::Pipe,
};

/// A hundred lines that come in one go through a pipe.
pub(crate) fn lines(times: u32) {
    let text =
        format!("{{\"jsonrpc\":\"2.0\",\"id\":17,\"result\":{{\"text\":\"{}\"}}}}\n", "a".repeat(300)).repeat(100);
    for _ in 0..times {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        drop(writer);
        let mut n_lines = 0;
        Pipe::new(reader.into()).read_lines(1024 * 1024, |line| {
            black_box(line);
            n_lines += 1;
        });
        assert_eq!(n_lines, 100);
    }
}

/// The end of a call, put into a mailbox and taken out.
pub(crate) fn mailbox(times: u32) {
    let mailbox = Mailbox::new(1024 * 1024, || {});
    let worker: Arc<str> = "s-1".into();
    let result = RawValue::from_string(r#"{"content":[]}"#.to_owned()).unwrap();
    let now = Instant::now();
    for _ in 0..times {
        let tag = mailbox.next_tag();
        mailbox.put_end(Ended { tag, worker: Some(Arc::clone(&worker)), outcome: Ok(result.clone()) });
        let Wake::Event(Event::Ended(ended)) = mailbox.wait(now) else { panic!("nothing came") };
        black_box(ended);
    }
}
