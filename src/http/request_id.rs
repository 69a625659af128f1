//! What a request is called in answers and logs.

/// Longest one that is taken from a client.
const LETTERS_MAX: usize = 128;

/// The client's own, if it is a sane one; else `numbers`, which are another request's in no case, in hexadecimal.
pub(super) fn of(given: Option<&str>, numbers: [u64; 3]) -> String {
    let is_sane = |id: &&str| {
        let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        !id.is_empty() && id.len() <= LETTERS_MAX && is_plain
    };
    if let Some(id) = given.filter(is_sane) {
        return id.to_owned();
    }
    let mut id = String::with_capacity(32);
    for number in numbers {
        if !id.is_empty() {
            id.push('-');
        }
        push_hex(&mut id, number);
    }
    id
}

/// As `{number:x}`: every request needs it, and formatting takes several times as long.
fn push_hex(text: &mut String, number: u64) {
    let n_digits = number.checked_ilog(16).unwrap_or_default() + 1;
    text.extend((0..n_digits).rev().filter_map(|at| char::from_digit((number >> (4 * at)) as u32 & 15, 16)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_names_its_request_if_it_does_so_plainly() {
        assert_eq!(of(Some("a-b_c.d:9"), [1, 2, 3]), "a-b_c.d:9");
        for id in [None, Some(""), Some("a b"), Some("a\"b"), Some("\u{e9}"), Some(&*"a".repeat(129))] {
            assert_eq!(of(id, [0xdead_beef, 0, 16]), "deadbeef-0-10", "{id:?}");
        }
    }

    #[test]
    fn numbers_are_written_as_they_are_formatted() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, u64::MAX / 3, u64::MAX] {
            let mut text = "-".to_owned();
            push_hex(&mut text, number);
            assert_eq!(text, format!("-{number:x}"));
        }
    }
}
