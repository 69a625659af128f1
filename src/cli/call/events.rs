//! Reads an event stream as a gateway writes it: `event:` and `data:`, each on one line, then an empty one.
//!
//! Values in, values out. What is no such event (signs of life, for example) is passed over.
//!
//! **Limit.** Whatever one event takes; a result may be of any length.

use memchr::memmem;

/// What ends an event.
const END: &[u8] = b"\n\n";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    bytes: Vec<u8>,
    /// So many of them hold no end.
    n_looked_at: usize,
}

impl EventReader {
    /// Takes the bytes that come next, and hands out each event that is whole: its name and its data.
    pub(super) fn feed(&mut self, bytes: &[u8], take: &mut dyn FnMut(&str, &str)) {
        self.bytes.extend_from_slice(bytes);
        let mut begin = 0;
        while let Some(at) = memmem::find(&self.bytes[self.n_looked_at..], END) {
            let end = self.n_looked_at + at;
            if let Ok(event) = std::str::from_utf8(&self.bytes[begin..end]) {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    take(name, data);
                }
            }
            begin = end + END.len();
            self.n_looked_at = begin;
        }
        self.bytes.drain(..begin);
        // The end may have come by half.
        self.n_looked_at = self.bytes.len().saturating_sub(END.len() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_were_cut() {
        const STREAM: &str =
            "event: progress\ndata: {\"progress\":1}\n\n: keep-alive\n\nevent: result\ndata: \"é\"\n\nevent: d";
        for cut in 0..STREAM.len() {
            let mut events = Vec::new();
            let mut reader = EventReader::default();
            let mut take = |name: &str, data: &str| events.push(format!("{name}={data}"));
            reader.feed(&STREAM.as_bytes()[..cut], &mut take);
            reader.feed(&STREAM.as_bytes()[cut..], &mut take);
            assert_eq!(events, ["progress={\"progress\":1}", "result=\"é\""], "cut at {cut}");
        }
    }
}
