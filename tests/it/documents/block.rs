//! A document as the tests see it: blocks of code below headings, and the output shown below the code.

use std::{fs, net::SocketAddr};

use crate::support::root;

/// The document of plain HTTP clients.
pub(crate) const STREAMING: &str = "docs/streaming.md";

/// The document of MCP clients.
pub(crate) const MCP: &str = "docs/mcp.md";

/// Where the examples expect the gateway.
pub(crate) const ADDRESS: &str = "localhost:8000";

/// Languages in which what is run is written.
const RUNNABLE: &[&str] = &["sh", "python", "js", "html"];

/// Languages in which an output is shown.
const OUTPUT: &[&str] = &["text", "json"];

/// Values that are different each time.
const CHANGING: &[&str] = &["request_id", "duration_ms", "worker"];

/// A block of code.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    pub(crate) file: &'static str,
    pub(crate) heading: String,
    pub(crate) language: String,
    pub(crate) code: String,
    /// The paragraph right before it.
    pub(crate) lead: String,
    /// The block of text right below it.
    output: Option<String>,
    /// It is such a block itself.
    pub(crate) is_output: bool,
    line: usize,
}

impl Example {
    /// The code, for a gateway at `address`; nothing else is changed.
    #[track_caller]
    pub(crate) fn at(&self, address: SocketAddr) -> String {
        assert!(self.code.contains(ADDRESS), "`{}` does not call {ADDRESS}", self.heading);
        self.code.replace(ADDRESS, &address.to_string())
    }

    /// The program wrote what the document shows.
    #[track_caller]
    pub(crate) fn check_output(&self, actual: &str) {
        let shown = self.output.as_ref().unwrap_or_else(|| panic!("{} shows no output", self.place()));
        shown_as(&shown.lines().collect::<Vec<&str>>(), actual);
    }

    pub(crate) fn output(&self) -> Option<&str> {
        self.output.as_deref()
    }

    /// Where it stands, for people.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// The file that a reader is to save it as: the last one that the paragraph before it names.
    pub(crate) fn file_name(&self) -> Option<&str> {
        const ENDINGS: &[&str] = &[".json", ".conf", ".py", ".mjs", ".html", ".yml"];
        let quoted = self.lead.split('`').skip(1).step_by(2);
        quoted.filter(|it| ENDINGS.iter().any(|ending| it.ends_with(ending)) && !it.contains(' ')).last()
    }
}

/// The last block in this language below this heading of the document.
#[track_caller]
pub(crate) fn example(heading: &str, language: &str) -> Example {
    let mut found = examples(STREAMING, &[language]);
    // What is to be installed comes first, the example after it.
    let last = found.iter().rposition(|it| it.heading == heading);
    found.swap_remove(last.unwrap_or_else(|| panic!("{STREAMING} has no `{language}` below `{heading}`")))
}

/// All blocks of a file in these languages, in its order.
pub(crate) fn examples(file: &'static str, languages: &[&str]) -> Vec<Example> {
    let mut all = blocks(file);
    all.retain(|it| languages.contains(&it.language.as_str()));
    all
}

/// All blocks of a file.
pub(crate) fn blocks(file: &'static str) -> Vec<Example> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let mut all: Vec<Example> = Vec::new();
    let (mut heading, mut lead) = (String::new(), String::new());
    // Whether a block has ended and nothing but empty lines came since.
    let mut follows_block = false;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title.to_owned();
        }
        let Some(language) = line.strip_prefix("```") else {
            assert!(!line.trim_start().starts_with("```"), "{file}:{}: a block that is not at the margin", number + 1);
            follows_block &= line.is_empty();
            match line.is_empty() {
                true if lead.ends_with('\n') => lead.push('\0'),
                true => {}
                // A paragraph after an empty line is a new one.
                false if lead.ends_with('\0') => lead = format!("{line}\n"),
                false => lead.push_str(&format!("{line}\n")),
            }
            continue;
        };
        let code = lines.by_ref().map(|(_, it)| it).take_while(|it| *it != "```").flat_map(|it| [it, "\n"]).collect();
        let before = all.last_mut().filter(|it: &&mut Example| {
            follows_block && OUTPUT.contains(&language) && RUNNABLE.contains(&it.language.as_str())
        });
        let is_output = before.is_some();
        if let Some(example) = before {
            example.output = Some(String::clone(&code));
        }
        let lead = std::mem::take(&mut lead).replace('\0', "");
        let (heading, language) = (heading.clone(), language.to_owned());
        all.push(Example { file, heading, language, code, lead, output: None, is_output, line: number + 1 });
        follows_block = true;
    }
    all
}

/// Each line is as it is shown, where `...` stands for anything, and alone on its line for any lines.
#[track_caller]
pub(crate) fn shown_as(shown: &[&str], actual: &str) {
    let lines: Vec<&str> = actual.lines().collect();
    let loose: Vec<String> = shown.iter().map(|line| loosened(line)).collect();
    assert!(lines_fit(&loose, &lines), "the document shows:\n{}\nactual:\n{actual}", shown.join("\n"));
}

fn lines_fit(shown: &[String], lines: &[&str]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any == "..." => (0..=lines.len()).any(|at| lines_fit(rest, &lines[at..])),
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, more)| fits(first, line) && lines_fit(rest, more))
        }
    }
}

/// The line with `...` for the values that are different each time.
fn loosened(shown: &str) -> String {
    CHANGING.iter().fold(shown.to_owned(), |line, field| {
        let name = format!("\"{field}\":");
        let Some((before, after)) = line.split_once(&name) else { return line };
        let after = after.trim_start();
        let end = match after.strip_prefix('"') {
            Some(text) => text.find('"').map(|at| at + 2),
            None => after.find([',', '}']),
        };
        let Some(end) = end else { return line };
        format!("{before}{name}...{}", &after[end..])
    })
}

fn fits(shown: &str, line: &str) -> bool {
    let separators = [' ', ','];
    let pieces: Vec<&str> = shown.split("...").map(|piece| piece.trim_end_matches(separators)).collect();
    let (first, [between @ .., last]) = (pieces[0], &pieces[1..]) else { return shown == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for piece in between {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    // What follows the last `...` stands at the end of the line, maybe not for the first time.
    rest.ends_with(last)
}

#[test]
fn three_dots_stand_for_anything() {
    assert!(fits(r#"chunk {"a":1, ...}"#, r#"chunk {"a":1,"b":{"c":2}}"#));
    assert!(fits(r#"{"a":[...],"b":1, ...}"#, r#"{"a":[2],"b":1,"c":3}"#));
    assert!(fits(r#"{"a":{...}}"#, r#"{"a":{"b":{}}}"#));
    assert!(fits("same", "same") && fits("", ""));
    assert!(!fits("same", "same and more") && !fits("same", "not the same"));
    assert!(!fits(r#"{"a":1, ...}"#, r#"{"a":2,"b":1}"#) && !fits(r#"{"a":1, ...}]"#, r#"{"a":1,"b":1}"#));
}

#[test]
fn what_changes_each_time_is_not_compared() {
    let shown = r#"{"a":1,"worker":"w-1","duration_ms":0.4,"request_id":"x"}"#;
    shown_as(&[shown], r#"{"a":1,"worker":"w-2","duration_ms":12,"request_id":"y"}"#);
    assert!(!fits(&loosened(shown), r#"{"a":2,"worker":"w-1","duration_ms":0.4,"request_id":"x"}"#));
}

#[test]
fn three_dots_alone_stand_for_any_lines() {
    shown_as(&["a", "...", "d"], "a\nb\nc\nd");
    shown_as(&["...", "d", "..."], "d");
}
