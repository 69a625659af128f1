//! From text to a value: one function for each kind of setting, which says what it expected instead.
//!
//! No function here knows the name of a setting; the table of settings adds it, and the loader adds the origin.

use std::{num::NonZeroU32, ops::RangeInclusive, path::PathBuf, time::Duration};

use crate::{
    access::{
        browser::ANY_ORIGIN,
        limiter::{RATE_MAX, RATE_MIN},
    },
    config::{AccessLog, Concurrency, ExecutionMode, Listen, LogFormat},
};

/// Most that may come at once.
const BURST_MAX: u32 = 1_000_000;

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

/// What a setting takes, for a reader who gave something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Follows the word "expected": `seconds`.
    pub what: String,
    /// What to write instead, one sentence without a final period; may be empty.
    pub hint: &'static str,
}

impl Expected {
    pub(super) fn new(what: impl Into<String>, hint: &'static str) -> Expected {
        Expected { what: what.into(), hint }
    }
}

/// Seconds with or without a fraction, as in `30` or `0.25`.
pub(super) fn seconds(text: &str, range: RangeInclusive<f64>) -> Result<Duration, Expected> {
    let hint = "write 30 or 30.0";
    let Ok(number) = text.parse::<f64>() else {
        return Err(Expected::new("seconds", hint));
    };
    let bounds = || Expected::new(format!("seconds from {} to {}", range.start(), range.end()), hint);
    // A NaN is in no range, and what is in the range fits a `Duration`.
    let is_allowed = range.contains(&number);
    if !is_allowed {
        return Err(bounds());
    }
    Duration::try_from_secs_f64(number).map_err(|_| bounds())
}

/// Bytes, or with a suffix units of 1024 (`k`) or 1024 x 1024 (`M`) bytes.
pub(super) fn size(text: &str, range: RangeInclusive<usize>) -> Result<usize, Expected> {
    let hint = "write bytes, or a number with `k` (1024 bytes) or `M` (1024 k), as in 16k or 4M";
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], KIB),
        Some(b'm' | b'M') => (&text[..text.len() - 1], MIB),
        _ => (text, 1),
    };
    let Ok(number) = digits.parse::<usize>() else {
        return Err(Expected::new("a size", hint));
    };
    number.checked_mul(unit).filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        Expected::new(format!("a size from {} to {}", size_text(*range.start()), size_text(*range.end())), hint)
    })
}

/// A whole number.
pub(super) fn number(text: &str, range: RangeInclusive<usize>) -> Result<usize, Expected> {
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        Expected::new(format!("a whole number from {} to {}", range.start(), range.end()), "write digits only")
    })
}

/// What a limit says whose 0 means that there is none.
pub(super) fn unless_zero(number: usize) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| 0 < *number)
}

/// `auto`, or a whole number.
pub(super) fn concurrency(text: &str, range: RangeInclusive<usize>) -> Result<Concurrency, Expected> {
    if text == "auto" {
        return Ok(Concurrency::Auto);
    }
    let fixed = number(text, range).map(Concurrency::Fixed);
    fixed.map_err(|Expected { what, hint }| Expected::new(format!("`auto` or {what}"), hint))
}

/// So many a second; `off` means any number.
pub(super) fn rate(text: &str) -> Result<Option<f64>, Expected> {
    if is_off(text) {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
    let expected = || {
        Expected::new(
            format!("`off`, or a number from one in a day to {RATE_MAX}"),
            "write 5, or 0.5 for one in two seconds",
        )
    };
    number.map(Some).ok_or_else(expected)
}

/// So many at once; `off` means that nobody says.
pub(super) fn burst(text: &str) -> Result<Option<NonZeroU32>, Expected> {
    if is_off(text) {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|burst: &NonZeroU32| burst.get() <= BURST_MAX);
    number.map(Some).ok_or_else(|| Expected::new(format!("`off` or a whole number from 1 to {BURST_MAX}"), ""))
}

fn is_off(text: &str) -> bool {
    matches!(text, "off" | "0")
}

/// How log lines are written.
pub(super) fn log_format(text: &str) -> Result<LogFormat, Expected> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(Expected::new("`text` or `json`", "")),
    }
}

/// Where the access log goes.
pub(super) fn access_log(text: &str) -> Result<AccessLog, Expected> {
    let expected =
        || Expected::new("`off`, `stderr` or a path", "name the file with a slash if it is called so: ./off");
    match text {
        "off" => Ok(AccessLog::Off),
        "stderr" => Ok(AccessLog::Stderr),
        _ => optional_path(text).ok().flatten().map(AccessLog::File).ok_or_else(expected),
    }
}

/// `true` or `false`.
pub(super) fn flag(text: &str) -> Result<bool, Expected> {
    text.parse().map_err(|_| Expected::new("`true` or `false`", ""))
}

/// A path; empty means that there is none.
pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, Expected> {
    let is_set = !text.is_empty();
    if is_set { path(text).map(Some) } else { Ok(None) }
}

/// A path.
pub(super) fn path(text: &str) -> Result<PathBuf, Expected> {
    let is_path = !text.is_empty() && !text.contains('\0');
    if is_path { Ok(PathBuf::from(text)) } else { Err(Expected::new("a path", "")) }
}

/// A key that can arrive in a header as it is; empty means that there is none.
pub(super) fn api_key(text: &str) -> Result<String, Expected> {
    let arrives_unchanged = text.trim() == text && !text.chars().any(char::is_control);
    if !arrives_unchanged {
        return Err(Expected::new(
            "a key without control characters or outer spaces",
            "`openssl rand -hex 32` makes a good one",
        ));
    }
    Ok(text.to_owned())
}

/// `HOST:PORT`, with an IPv6 address in brackets.
pub(super) fn listen(text: &str) -> Result<Listen, Expected> {
    let expected = || {
        Expected::new(
            "HOST:PORT",
            "write 127.0.0.1:8000, 0.0.0.0:8000 for every IPv4 address, or [::1]:8000 for an IPv6 address",
        )
    };
    let (host_text, port_text) = text.rsplit_once(':').ok_or_else(expected)?;
    // An IPv6 address without brackets would lose its last group to the port.
    let has_bare_colons = host_text.contains(':') && !host_text.starts_with('[');
    if has_bare_colons {
        return Err(expected());
    }
    let port_digits_only = port_text.bytes().all(|byte| byte.is_ascii_digit());
    let port = port_text.parse().ok().filter(|_| port_digits_only).ok_or_else(expected)?;
    let host = host(host_text).map_err(|_| expected())?;
    Ok(Listen { host, port })
}

/// A host name or address. Brackets around an IPv6 address are taken off.
pub(crate) fn host(text: &str) -> Result<String, Expected> {
    let expected = || Expected::new("a host name or address", "write 127.0.0.1, localhost, 0.0.0.0 or ::1");
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|inner| inner.contains(':')).ok_or_else(expected)?,
        None => text,
    };
    let is_host = !bare.is_empty()
        && bare.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '.' | '-' | '_' | ':' | '%'));
    if is_host { Ok(bare.to_owned()) } else { Err(expected()) }
}

/// Host names separated by commas, in lower case. A port or a scheme is not part of a name.
pub(super) fn hosts(text: &str) -> Result<Vec<String>, Expected> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|part| {
            let name = part.trim();
            let is_ipv6_address = name.starts_with('[') && name.ends_with(']');
            let is_host_name =
                !name.is_empty() && name.chars().all(|letter| letter.is_alphanumeric() || "._-".contains(letter));
            let is_name = is_ipv6_address || is_host_name;
            if !is_name {
                return Err(Expected::new(
                    "host names separated by commas",
                    "write names without scheme or port, as in gateway.local,box.example.org",
                ));
            }
            Ok(name.to_ascii_lowercase())
        })
        .collect()
}

/// Origins separated by commas, as browsers write them; `*` for any.
pub(super) fn origins(text: &str) -> Result<Vec<String>, Expected> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let is_scheme = |scheme: &str| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "+.-".contains(letter);
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.chars().all(is_letter)
    };
    let is_authority = |authority: &str| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "._-:[]".contains(letter);
        !authority.is_empty() && authority.chars().all(is_letter)
    };
    text.split(',')
        .map(|part| {
            let origin = part.trim().to_ascii_lowercase();
            let parts = origin.split_once("://");
            let is_origin = parts.is_some_and(|(scheme, authority)| is_scheme(scheme) && is_authority(authority));
            if origin != ANY_ORIGIN && !is_origin {
                return Err(Expected::new(
                    "origins separated by commas",
                    "write scheme, host and perhaps port, without a path, as in https://app.example,http://localhost:3000",
                ));
            }
            // Browsers leave the usual port out.
            let usual_port = if origin.starts_with("https:") { ":443" } else { ":80" };
            let is_web = origin.starts_with("https:") || origin.starts_with("http:");
            Ok(origin.strip_suffix(usual_port).filter(|_| is_web).map_or(origin.clone(), str::to_owned))
        })
        .collect()
}

/// A command split into words as a shell would; empty means that there is none.
pub(super) fn shell_words(text: &str) -> Result<Vec<String>, Expected> {
    let words = shlex::split(text)
        .ok_or_else(|| Expected::new("a command in shell words", "close every quote, and end with no backslash"))?;
    let has_empty_program = words.first().is_some_and(String::is_empty);
    if has_empty_program {
        return Err(Expected::new("a command in shell words", "start with the program"));
    }
    Ok(words)
}

/// One of the words for [`ExecutionMode`].
pub(super) fn execution_mode(text: &str) -> Result<ExecutionMode, Expected> {
    match text {
        "subprocess" => Ok(ExecutionMode::Subprocess),
        "direct" => Ok(ExecutionMode::Direct),
        _ => Err(Expected::new("`subprocess` or `direct`", "")),
    }
}

/// A log level in capital or small letters.
pub(super) fn log_level(text: &str) -> Result<log::LevelFilter, Expected> {
    match text.to_ascii_uppercase().as_str() {
        "ERROR" => Ok(log::LevelFilter::Error),
        "WARNING" | "WARN" => Ok(log::LevelFilter::Warn),
        "INFO" => Ok(log::LevelFilter::Info),
        "DEBUG" => Ok(log::LevelFilter::Debug),
        "TRACE" => Ok(log::LevelFilter::Trace),
        _ => Err(Expected::new("ERROR, WARNING, INFO, DEBUG or TRACE", "")),
    }
}

fn size_text(bytes: usize) -> String {
    match bytes {
        _ if bytes != 0 && bytes.is_multiple_of(MIB) => format!("{}M", bytes / MIB),
        _ if bytes != 0 && bytes.is_multiple_of(KIB) => format!("{}k", bytes / KIB),
        _ => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(seconds("0.25", 0.001..=10.0), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("10", 0.001..=10.0), Ok(Duration::from_secs(10)));
    }

    #[test]
    fn seconds_are_finite_and_in_range() {
        for text in ["0", "-1", "1e-9", "10.1", "inf", "-inf", "NaN"] {
            let expected = seconds(text, 0.001..=10.0).expect_err(text);
            assert_eq!(expected.what, "seconds from 0.001 to 10", "{text}");
        }
        for text in ["", "30s", "1,5", " 1", "0x10"] {
            assert_eq!(seconds(text, 0.001..=10.0).expect_err(text).what, "seconds", "{text}");
        }
    }

    #[test]
    fn sizes_count_in_units_of_1024() {
        assert_eq!(size("100", 1..=MIB), Ok(100));
        assert_eq!(size("16k", 1..=MIB), Ok(16 * 1024));
        assert_eq!(size("1M", 1..=MIB), Ok(1024 * 1024));
    }

    #[test]
    fn a_size_that_is_none_or_out_of_range_says_so() {
        for text in ["", "k", "M", "1.5M", "4MB", "4G", "-1", "µ"] {
            assert_eq!(size(text, 1..=MIB).expect_err(text).what, "a size", "{text}");
        }
        for text in ["0", "2M", "18446744073709551615k"] {
            assert_eq!(size(text, 1..=MIB).expect_err(text).what, "a size from 1 to 1M", "{text}");
        }
    }

    #[test]
    fn a_worker_has_as_many_calls_as_it_can_take_or_as_was_said() {
        assert_eq!(concurrency("auto", 1..=8), Ok(Concurrency::Auto));
        assert_eq!(concurrency("8", 1..=8), Ok(Concurrency::Fixed(8)));
    }

    #[test]
    fn an_address_to_listen_on_has_a_host_and_a_port() {
        let listen_on = |host: &str, port| Ok(Listen { host: host.to_owned(), port });
        assert_eq!(listen("127.0.0.1:8000"), listen_on("127.0.0.1", 8000));
        assert_eq!(listen("localhost:0"), listen_on("localhost", 0));
        assert_eq!(listen("[::1]:80"), listen_on("::1", 80));
        for text in
            ["", "8000", ":8000", "::1", "::1:80", "host:", "host:65536", "host:+1", "*:1", "http://a:1", "[a]:1"]
        {
            assert_eq!(listen(text).expect_err(text).what, "HOST:PORT", "{text}");
        }
    }

    #[test]
    fn host_names_are_compared_in_lower_case() {
        assert_eq!(hosts(" Box.local, [::1] "), Ok(vec!["box.local".to_owned(), "[::1]".to_owned()]));
        assert_eq!(hosts(""), Ok(vec![]));
        for text in ["a,,b", "http://a", "a:80", "a b"] {
            assert!(hosts(text).is_err(), "{text}");
        }
    }

    #[test]
    fn origins_are_as_browsers_write_them() {
        let list = |origins: &[&str]| Ok(origins.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(
            origins("HTTPS://App.example:443, http://localhost:3000,http://[::1]:80,https://a:80"),
            list(&["https://app.example", "http://localhost:3000", "http://[::1]", "https://a:80"])
        );
        assert_eq!(origins("*"), list(&["*"]));
        assert_eq!(origins("chrome-extension://abc"), list(&["chrome-extension://abc"]));
        assert_eq!(origins(" "), list(&[]));
    }

    #[test]
    fn a_limit_is_a_number_or_off() {
        assert_eq!([rate("off"), rate("0"), rate("2.5")], [Ok(None), Ok(None), Ok(Some(2.5))]);
        assert_eq!([burst("off"), burst("7")], [Ok(None), Ok(NonZeroU32::new(7))]);
    }

    #[test]
    fn a_command_is_split_as_a_shell_would() {
        assert_eq!(shell_words("npx -y 'my server'"), Ok(["npx", "-y", "my server"].map(str::to_owned).to_vec()));
        assert_eq!(shell_words(" "), Ok(vec![]));
        assert!(shell_words("npx 'oops").is_err());
        assert!(shell_words("'' x").is_err());
    }
}
