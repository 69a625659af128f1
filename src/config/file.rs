//! Reads `gateway.conf`: `KEY=VALUE` lines that mean the same to us, to systemd and to a shell.
//!
//! One parser serves three readers, so this one takes only what all three agree on: what systemd's `EnvironmentFile=`
//! or a shell's `.` would read differently is an error that says how to write it. That leaves comments and blank lines,
//! bare values of harmless characters, and values in single or double quotes that end on their line.
//!
//! Bytes in, lines out; the caller reads the file and takes the values.

use crate::{
    config::settings::{self, SETTINGS, Setting},
    error::Error,
};

/// A line that gives a setting its value.
#[derive(Debug)]
pub struct Line {
    /// Counted from 1.
    pub number: usize,
    /// The row of the table.
    pub setting: &'static Setting,
    /// The value without its quotes.
    pub value: String,
}

/// All settings in `bytes`, in their order. `name` is what errors call the file.
///
/// The first line that cannot be read, an unknown key and a second line for one key end it with an error.
pub fn parse(bytes: &[u8], name: &str) -> Result<Vec<Line>, Error> {
    let mut lines: Vec<Line> = Vec::new();
    for (index, line_bytes) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let origin = origin(name, number);
        let (key, value) = match read_line(line_bytes) {
            Ok(Some(pair)) => pair,
            Ok(None) => continue,
            Err(Unreadable { what, hint }) => {
                return Err(Error::Settings { what: format!("{origin}: {what}"), hint: hint.to_owned() });
            }
        };
        let Some(setting) = settings::find(key) else {
            return Err(Error::UnknownSetting { origin, key: key.to_owned(), close: close_keys(key) });
        };
        if let Some(earlier) = lines.iter().find(|line| line.setting.key == key) {
            let what = format!("{origin}: `{key}` has its value already from line {}", earlier.number);
            return Err(Error::Settings { what, hint: "keep one of the two lines".to_owned() });
        }
        lines.push(Line { number, setting, value });
    }
    Ok(lines)
}

/// What errors call a line: `gateway.conf line 12`.
pub fn origin(name: &str, number: usize) -> String {
    format!("{name} line {number}")
}

/// Why a line cannot be read. The caller knows file and line.
struct Unreadable {
    what: String,
    hint: &'static str,
}

fn unreadable(what: impl Into<String>, hint: &'static str) -> Unreadable {
    Unreadable { what: what.into(), hint }
}

/// Key and value of a line; nothing for a comment or a blank line.
fn read_line(bytes: &[u8]) -> Result<Option<(&str, String)>, Unreadable> {
    let Ok(text) = str::from_utf8(bytes) else {
        return Err(unreadable("the line is not UTF-8 text", "save the file as UTF-8"));
    };
    if text.ends_with('\r') {
        return Err(unreadable(
            "the line ends with CR LF, which a shell takes into the value",
            "save the file with LF line ends, for example with `sed -i 's/\\r$//' FILE`",
        ));
    }
    let line = text.trim_matches([' ', '\t']);
    if line.is_empty() {
        return Ok(None);
    }
    if line.starts_with('#') {
        let swallows_next_line = line.ends_with('\\');
        if swallows_next_line {
            return Err(unreadable(
                "the comment ends with a backslash, by which systemd takes the next line for a comment too",
                "take the backslash away",
            ));
        }
        return Ok(None);
    }
    if line.chars().any(|letter| letter.is_control() && letter != '\t') {
        return Err(unreadable("the line has a control character", "save the file as plain text"));
    }
    let (key, raw_value) = split_pair(line)?;
    let value = match raw_value.chars().next() {
        Some('\'') => single_quoted(&raw_value[1..])?,
        Some('"') => double_quoted(&raw_value[1..])?,
        _ => bare(raw_value)?,
    };
    Ok(Some((key, value)))
}

fn split_pair(line: &str) -> Result<(&str, &str), Unreadable> {
    let not_a_pair = || {
        unreadable(
            "expected KEY=VALUE",
            "start a comment with `#`; a key has only capital letters, digits and underscores",
        )
    };
    let has_export = line.starts_with("export ");
    if has_export {
        return Err(unreadable("`export` is not understood by systemd", "write KEY=VALUE without `export`"));
    }
    let (key, raw_value) = line.split_once('=').ok_or_else(not_a_pair)?;
    let has_spaces_around = key.ends_with([' ', '\t']) || raw_value.starts_with([' ', '\t']);
    if has_spaces_around {
        return Err(unreadable("there are spaces around the `=`", "write KEY=VALUE without them"));
    }
    let is_key =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if is_key { Ok((key, raw_value)) } else { Err(not_a_pair()) }
}

/// A value without quotes: characters that no shell gives a meaning.
fn bare(raw_value: &str) -> Result<String, Unreadable> {
    let Some(at) = raw_value.find(|letter: char| letter.is_whitespace() || "$`\"'\\;&|<>()~".contains(letter)) else {
        return Ok(raw_value.to_owned());
    };
    let is_comment = raw_value[at..].trim_start().starts_with('#');
    if is_comment {
        return Err(unreadable("there is a comment behind the value", "put the comment on a line of its own"));
    }
    let found = raw_value[at..].chars().next().unwrap_or(' ');
    let what = match found {
        _ if found.is_whitespace() => "a value with spaces must be quoted".to_owned(),
        _ => format!("a value with `{found}` must be quoted"),
    };
    Err(unreadable(what, "write KEY='VALUE'"))
}

/// The rest of a line after a single quote: everything counts as it is, up to the next one.
fn single_quoted(rest: &str) -> Result<String, Unreadable> {
    let (value, behind) = rest.split_once('\'').ok_or_else(|| no_closing("'"))?;
    nothing_behind(behind)?;
    Ok(value.to_owned())
}

/// The rest of a line after a double quote. A backslash takes the meaning from the four characters that have one.
fn double_quoted(rest: &str) -> Result<String, Unreadable> {
    let mut value = String::new();
    let mut letters = rest.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                nothing_behind(&rest[at + 1..])?;
                return Ok(value);
            }
            '$' | '`' => {
                return Err(unreadable(
                    format!("a shell would expand the `{letter}` in double quotes"),
                    "write the value in single quotes",
                ));
            }
            '\\' => match letters.next_if(|(_, next)| matches!(next, '"' | '\\' | '$' | '`')) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            _ => value.push(letter),
        }
    }
    Err(no_closing("\""))
}

fn no_closing(quote: &str) -> Unreadable {
    unreadable(format!("the closing {quote} is missing"), "a value ends on its line, with the quote it began with")
}

fn nothing_behind(behind: &str) -> Result<(), Unreadable> {
    if behind.is_empty() {
        return Ok(());
    }
    Err(unreadable("there is text behind the closing quote", "put the whole value into one pair of quotes"))
}

/// Keys that `key` may have been meant to be, the closest first.
fn close_keys(key: &str) -> Vec<String> {
    let wanted = key.to_ascii_uppercase();
    let mut close: Vec<(f64, &str)> = SETTINGS
        .iter()
        .map(|setting| (strsim::jaro_winkler(&wanted, setting.key), setting.key))
        .filter(|(likeness, _)| 0.9 < *likeness)
        .collect();
    close.sort_by(|one, other| other.0.total_cmp(&one.0));
    close.into_iter().take(3).map(|(_, key)| key.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# a comment

  LISTEN=127.0.0.1:9000
API_KEY='it is $ecret; \\ # really'
MCP_COMMAND=\"npx -y \\\"my server\\\" \\$x \\n\"\t
LOG_FILE=
\t# indented, with ünïcode
DATA_DIR=/var/lib/mcpgate/ünï
MIN_WORKERS=\"3\"";

    #[track_caller]
    fn check_value(line: &str, value: &str) {
        let lines = parse(line.as_bytes(), "gateway.conf").expect(line);
        assert_eq!(lines.len(), 1, "{line}");
        assert_eq!(lines[0].value, value, "{line}");
    }

    #[track_caller]
    fn check_error(bytes: impl AsRef<[u8]>, message: &str, hint: &str) {
        let error = parse(bytes.as_ref(), "gateway.conf").expect_err(message);
        assert_eq!(error.to_string(), message);
        assert_eq!(error.hint().unwrap_or_default(), hint);
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_good_file_gives_keys_values_and_line_numbers() {
        let lines = parse(GOOD.as_bytes(), "gateway.conf").expect("it parses");
        let seen: Vec<_> = lines.iter().map(|line| (line.number, line.setting.key, line.value.as_str())).collect();
        let expected = [
            (3, "LISTEN", "127.0.0.1:9000"),
            (4, "API_KEY", "it is $ecret; \\ # really"),
            (5, "MCP_COMMAND", "npx -y \"my server\" $x \\n"),
            (6, "LOG_FILE", ""),
            (8, "DATA_DIR", "/var/lib/mcpgate/ünï"),
            (9, "MIN_WORKERS", "3"),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_value_is_bare_or_quoted() {
        check_value("LOG_FILE=a#b=c*", "a#b=c*");
        check_value("LOG_FILE=a  ", "a");
        check_value("LOG_FILE=''", "");
        check_value("LOG_FILE=\"it's\"", "it's");
        check_value("LOG_FILE='say \"a\"'", "say \"a\"");
    }

    #[test]
    fn what_systemd_and_a_shell_read_differently_is_refused() {
        check_error("LOG_FILE=a b", "gateway.conf line 1: a value with spaces must be quoted", "write KEY='VALUE'");
        check_error("LOG_FILE=$HOME/a", "gateway.conf line 1: a value with `$` must be quoted", "write KEY='VALUE'");
        check_error("LOG_FILE=~/a", "gateway.conf line 1: a value with `~` must be quoted", "write KEY='VALUE'");
        check_error(
            "\nLOG_FILE=a # why",
            "gateway.conf line 2: there is a comment behind the value",
            "put the comment on a line of its own",
        );
        check_error(
            "LOG_FILE=\"$HOME/a\"",
            "gateway.conf line 1: a shell would expand the `$` in double quotes",
            "write the value in single quotes",
        );
        check_error(
            "export LOG_FILE=a",
            "gateway.conf line 1: `export` is not understood by systemd",
            "write KEY=VALUE without `export`",
        );
        for line in ["LOG_FILE = a", "LOG_FILE= a", "LOG_FILE =a"] {
            check_error(line, "gateway.conf line 1: there are spaces around the `=`", "write KEY=VALUE without them");
        }
        for line in ["LOG_FILE='a'b", "LOG_FILE='a' # b", "LOG_FILE=\"a\"\"b\""] {
            check_error(
                line,
                "gateway.conf line 1: there is text behind the closing quote",
                "put the whole value into one pair of quotes",
            );
        }
        check_error(
            "# a \\\nLOG_FILE=b",
            "gateway.conf line 1: the comment ends with a backslash, by which systemd takes the next line for a \
             comment too",
            "take the backslash away",
        );
    }

    #[test]
    fn a_quote_must_be_closed_on_its_line() {
        let hint = "a value ends on its line, with the quote it began with";
        check_error("LOG_FILE='a\nb'", "gateway.conf line 1: the closing ' is missing", hint);
        check_error("LOG_FILE=\"a\\\"", "gateway.conf line 1: the closing \" is missing", hint);
    }

    #[test]
    fn windows_line_ends_are_refused_with_the_way_out() {
        check_error(
            "LOG_LEVEL=INFO\r\nMIN_WORKERS=2\r\n",
            "gateway.conf line 1: the line ends with CR LF, which a shell takes into the value",
            "save the file with LF line ends, for example with `sed -i 's/\\r$//' FILE`",
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_close_names() {
        check_error(
            "\n\nMIN_WORKER=2",
            "gateway.conf line 3: there is no setting `MIN_WORKER`",
            "did you mean `MIN_WORKERS`",
        );
        check_error(
            "log_level=INFO",
            "gateway.conf line 1: there is no setting `log_level`",
            "did you mean `LOG_LEVEL`",
        );
        check_error(
            "COLOUR=red",
            "gateway.conf line 1: there is no setting `COLOUR`",
            "`mcpgate --help` lists the settings",
        );
    }

    #[test]
    fn a_second_line_for_one_key_is_refused() {
        check_error(
            "MIN_WORKERS=2\nMAX_WORKERS=3\nMIN_WORKERS=2",
            "gateway.conf line 3: `MIN_WORKERS` has its value already from line 1",
            "keep one of the two lines",
        );
    }

    #[test]
    fn text_that_is_no_pair_is_refused() {
        let hint = "start a comment with `#`; a key has only capital letters, digits and underscores";
        for line in ["[section]", "; note", "=a", "LOG FILE=a", "\u{feff}LOG_FILE=a"] {
            check_error(line, "gateway.conf line 1: expected KEY=VALUE", hint);
        }
        check_error(b"# \xff", "gateway.conf line 1: the line is not UTF-8 text", "save the file as UTF-8");
        check_error(
            "LOG_FILE=a\0b",
            "gateway.conf line 1: the line has a control character",
            "save the file as plain text",
        );
    }

    #[test]
    fn no_prefix_of_a_file_and_no_bad_byte_ends_in_a_panic() {
        for end in 0..=GOOD.len() {
            let _ = parse(&GOOD.as_bytes()[..end], "gateway.conf");
        }
        for at in 0..GOOD.len() {
            for byte in [0x00, b'\'', b'"', b'\\', b'=', b'\n', b'\r', 0x80, 0xff] {
                let mut bytes = GOOD.as_bytes().to_vec();
                bytes[at] = byte;
                let _ = parse(&bytes, "gateway.conf");
            }
        }
    }
}
