//! What keys mean that somebody presses.
//!
//! Values in, values out: bytes as a terminal sends them become [`Key`]s.

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    /// Put it aside, as Ctrl-Z does.
    Suspend,
    Pause,
    /// The order turned round.
    Reverse,
    Left,
    Right,
    Up,
    Down,
    PageUp,
    PageDown,
    /// Everything drawn anew, as Ctrl-L does.
    Redraw,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct KeyReader {
    /// Bytes of a key that have come so far.
    begun: Vec<u8>,
}

impl KeyReader {
    /// Takes bytes, and gives the keys that are whole and mean something.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        bytes.iter().filter_map(|byte| self.take(*byte)).collect()
    }

    fn take(&mut self, byte: u8) -> Option<Key> {
        const ESCAPE: u8 = 0x1b;
        if byte == ESCAPE {
            self.begun = vec![byte];
            return None;
        }
        if self.begun.is_empty() {
            return plain(byte);
        }
        // The escape key by itself, and then another one.
        if self.begun.len() == 1 && !matches!(byte, b'[' | b'O') {
            self.begun.clear();
            return plain(byte);
        }
        self.begun.push(byte);
        let is_whole = 2 < self.begun.len() && matches!(byte, 0x40..=0x7e);
        if !is_whole {
            // Nobody has keys that long.
            self.begun.truncate(16);
            return None;
        }
        let sequence = std::mem::take(&mut self.begun);
        match &sequence[2..] {
            b"A" => Some(Key::Up),
            b"B" => Some(Key::Down),
            b"C" => Some(Key::Right),
            b"D" => Some(Key::Left),
            b"5~" => Some(Key::PageUp),
            b"6~" => Some(Key::PageDown),
            _ => None,
        }
    }
}

fn plain(byte: u8) -> Option<Key> {
    match byte {
        // Ctrl-C, Ctrl-D.
        b'q' | b'Q' | 3 | 4 => Some(Key::Quit),
        b'p' | b'P' | b' ' => Some(Key::Pause),
        b'r' | b'R' => Some(Key::Reverse),
        b'h' | b'<' => Some(Key::Left),
        b'l' | b'>' => Some(Key::Right),
        b'k' => Some(Key::Up),
        b'j' => Some(Key::Down),
        // Ctrl-L, Ctrl-Z.
        12 => Some(Key::Redraw),
        26 => Some(Key::Suspend),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_however_they_were_cut() {
        const BYTES: &[u8] = b"q\x1b[Ap\x1bOD\x1b[5~x\x1b[1;5Cr\x1bq";
        let expected = [Key::Quit, Key::Up, Key::Pause, Key::Left, Key::PageUp, Key::Reverse, Key::Quit];
        for cut in 0..BYTES.len() {
            let mut reader = KeyReader::default();
            let keys = [reader.feed(&BYTES[..cut]), reader.feed(&BYTES[cut..])].concat();
            assert_eq!(keys, expected, "cut at {cut}");
        }
    }

    #[test]
    fn nonsense_takes_no_room_and_comes_to_an_end() {
        let mut reader = KeyReader::default();
        assert_eq!(reader.feed(b"\x1b["), []);
        assert_eq!(reader.feed(&[b'1'; 1000]), []);
        assert!(reader.begun.len() <= 16);
        assert_eq!(reader.feed(b"~q"), [Key::Quit]);
    }
}
