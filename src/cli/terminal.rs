//! What a terminal shows: how much has room on it, and how wide a text is there.
//!
//! Values in, values out, but for [`size`]. Nothing that comes from a server reaches a terminal unchanged: control characters could steer it.

use std::{borrow::Cow, os::fd::AsFd};

use rustix::termios::tcgetwinsize;
use unicode_width::UnicodeWidthChar as _;

/// Rows and columns where nobody says how many there are.
const USUAL_SIZE: Size = Size { rows: 24, columns: 80 };

/// How large a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// How large the window is now.
pub(super) fn size(terminal: impl AsFd) -> Size {
    let Ok(size) = tcgetwinsize(terminal) else { return USUAL_SIZE };
    let (rows, columns) = (usize::from(size.ws_row), usize::from(size.ws_col));
    // A serial line says 0.
    Size {
        rows: if rows == 0 { USUAL_SIZE.rows } else { rows },
        columns: if columns == 0 { USUAL_SIZE.columns } else { columns },
    }
}

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

fn width_of(letter: char) -> usize {
    letter.width().unwrap_or(1)
}

/// The text on one line and without what a terminal would obey.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    // The last two turn the direction of writing.
    let is_unfit = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.contains(is_unfit) {
        true => Cow::Owned(text.replace(is_unfit, " ")),
        false => Cow::Borrowed(text),
    }
}

/// As much of a text as has room in so many columns.
pub(super) fn cut(text: &str, columns: usize) -> &str {
    let mut taken = 0;
    let end = text.char_indices().find(|(_, letter)| {
        taken += width_of(*letter);
        columns < taken
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// The text in exactly so many columns; one that is cut ends with `~`.
pub(super) fn padded(text: &str, columns: usize) -> String {
    let wide = width(text);
    if wide <= columns {
        return format!("{text}{}", " ".repeat(columns - wide));
    }
    let kept = cut(text, columns.saturating_sub(1));
    let end = if columns == 0 { "" } else { "~" };
    let blanks = columns - width(kept) - width(end);
    format!("{kept}{end}{}", " ".repeat(blanks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_by_the_columns_it_takes() {
        for (text, columns, expected) in [
            ("abc", 5, "abc"),
            ("abc", 3, "abc"),
            ("abc", 2, "ab"),
            ("日本", 3, "日"),
            ("e\u{301}x", 1, "e\u{301}"),
            ("a", 0, ""),
        ] {
            assert_eq!(cut(text, columns), expected, "{text} {columns}");
        }
    }

    #[test]
    fn a_padded_text_takes_all_its_columns_and_no_more() {
        for (text, columns, expected) in [
            ("abc", 5, "abc  "),
            ("abc", 3, "abc"),
            ("abcd", 3, "ab~"),
            ("日本語", 5, "日本~"),
            ("日本語", 4, "日~ "),
            ("a", 0, ""),
        ] {
            assert_eq!(padded(text, columns), expected, "{text} {columns}");
            assert_eq!(width(&padded(text, columns)), columns);
        }
    }

    #[test]
    fn what_steers_a_terminal_does_not_reach_it() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{202e}d\u{9b}e"), "a [2Jb  c d e");
        assert!(matches!(printable("Loading — 日本"), Cow::Borrowed(_)));
    }
}
