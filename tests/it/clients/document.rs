//! `docs/streaming.md` and `docs/mcp.md` as the tests see them: code blocks below headings, and the output shown below the code.

use std::{fs, net::SocketAddr};

use crate::support::root;

/// The document of plain HTTP clients.
pub(super) const STREAMING: &str = "docs/streaming.md";

/// The document of MCP clients.
pub(super) const MCP: &str = "docs/mcp.md";

/// Where the document's examples expect the gateway.
pub(super) const ADDRESS: &str = "localhost:8000";

/// A block of code.
#[derive(Debug)]
pub(super) struct Example {
    pub(super) heading: String,
    pub(super) language: String,
    pub(super) code: String,
    /// The block of text that follows it below the same heading.
    output: Option<String>,
}

impl Example {
    /// The code, for a gateway at `address`; nothing else is changed.
    #[track_caller]
    pub(super) fn at(&self, address: SocketAddr) -> String {
        assert!(self.code.contains(ADDRESS), "`{}` does not call {ADDRESS}", self.heading);
        self.code.replace(ADDRESS, &address.to_string())
    }

    /// The program wrote what the document shows.
    #[track_caller]
    pub(super) fn check_output(&self, actual: &str) {
        let shown = self.output.as_ref().unwrap_or_else(|| panic!("`{}` shows no output", self.heading));
        shown_as(&shown.lines().collect::<Vec<&str>>(), actual);
    }
}

/// The last block in this language below this heading of the document.
#[track_caller]
pub(super) fn example(heading: &str, language: &str) -> Example {
    let mut found = examples(STREAMING, &[language]);
    // What is to be installed comes first, the example after it.
    let last = found.iter().rposition(|it| it.heading == heading);
    found.swap_remove(last.unwrap_or_else(|| panic!("{STREAMING} has no `{language}` below `{heading}`")))
}

/// All blocks of a file in these languages, in its order.
pub(super) fn examples(file: &str, languages: &[&str]) -> Vec<Example> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let mut all: Vec<Example> = Vec::new();
    let mut heading = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title.to_owned();
        }
        let Some(language) = line.strip_prefix("```") else { continue };
        let code: String = lines.by_ref().take_while(|it| *it != "```").flat_map(|it| [it, "\n"]).collect();
        let before = all.last_mut().filter(|it| language == "text" && it.heading == heading);
        if let Some(example) = before {
            example.output = Some(code.clone());
        }
        all.push(Example { heading: heading.clone(), language: language.to_owned(), code, output: None });
    }
    all.retain(|it| languages.contains(&it.language.as_str()));
    all
}

/// Each line is as it is shown, where `...` stands for anything.
#[track_caller]
pub(super) fn shown_as(shown: &[&str], actual: &str) {
    let lines: Vec<&str> = actual.lines().collect();
    let is_as_shown = lines.len() == shown.len() && shown.iter().zip(&lines).all(|(shown, line)| fits(shown, line));
    assert!(is_as_shown, "the document shows:\n{}\nactual:\n{actual}", shown.join("\n"));
}

fn fits(shown: &str, line: &str) -> bool {
    let separators = [' ', ','];
    let mut pieces = shown.split("...").map(|piece| piece.trim_end_matches(separators));
    let Some(mut rest) = pieces.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut last = None;
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
        last = Some(piece);
    }
    // What follows the last `...` stands at the end of the line, maybe not for the first time.
    rest.is_empty() || last.is_some_and(|piece| rest.ends_with(piece))
}

#[test]
fn three_dots_stand_for_anything() {
    assert!(fits(r#"chunk {"a":1, ...}"#, r#"chunk {"a":1,"b":{"c":2}}"#));
    assert!(fits(r#"{"a":[...],"b":1, ...}"#, r#"{"a":[2],"b":1,"c":3}"#));
    assert!(fits("same", "same") && fits("", ""));
    assert!(!fits("same", "same and more") && !fits("same", "not the same"));
    assert!(!fits(r#"{"a":1, ...}"#, r#"{"a":2,"b":1}"#) && !fits(r#"{"a":1, ...}]"#, r#"{"a":1,"b":1}"#));
}
