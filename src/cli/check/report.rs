//! What was found, said line by line as it is found, or as one JSON object at the end.

use std::{fmt, io::Write};

use serde::Serialize;
use serde_json::Value;

use crate::{error::Error, json::json};

/// How it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Lines for people.
    #[allow(missing_docs)]
    Text { is_coloured: bool },
    /// One object for programs.
    Json,
}

/// What a finding is about. In the order in which they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Section {
    Settings,
    Files,
    Listening,
    Keys,
    Tls,
    Servers,
}

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Warning,
    Error,
}

/// One thing that was found.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    pub(super) section: Section,
    pub(super) verdict: Verdict,
    /// The whole of it in one sentence.
    pub(super) what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) hint: String,
    /// The server it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<String>,
    /// Last lines of that server on stderr.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) stderr: Vec<String>,
    /// What was measured, by name.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(super) figures: Value,
}

/// See the module.
pub(super) struct Report<'a> {
    out: &'a mut dyn Write,
    form: Form,
    findings: Vec<Finding>,
    n_errors: usize,
    n_warnings: usize,
    /// Whether one of the errors is one of settings.
    has_wrong_settings: bool,
}

impl Finding {
    pub(super) fn new(section: Section, verdict: Verdict, what: impl Into<String>) -> Finding {
        let (what, hint) = (what.into(), String::new());
        Finding { section, verdict, what, hint, server: None, stderr: Vec::new(), figures: Value::Null }
    }

    /// What went wrong.
    pub(super) fn of(section: Section, error: &Error) -> Finding {
        let hint = error.hint().unwrap_or_default();
        Finding { hint, ..Finding::new(section, Verdict::Error, error.to_string()) }
    }
}

impl Report<'_> {
    pub(super) fn new(out: &mut dyn Write, form: Form) -> Report<'_> {
        Report { out, form, findings: Vec::new(), n_errors: 0, n_warnings: 0, has_wrong_settings: false }
    }

    /// Something is as it should be.
    pub(super) fn good(&mut self, section: Section, what: impl Into<String>) -> Result<(), Error> {
        self.add(Finding::new(section, Verdict::Ok, what))
    }

    /// Something works, and the operator should know more about it.
    pub(super) fn warn(
        &mut self,
        section: Section,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Result<(), Error> {
        self.add(Finding { hint: hint.into(), ..Finding::new(section, Verdict::Warning, what) })
    }

    /// Something would keep the gateway from serving.
    pub(super) fn bad(&mut self, section: Section, error: &Error) -> Result<(), Error> {
        self.has_wrong_settings |= error.exit_code() == 2;
        self.add(Finding::of(section, error))
    }

    /// The same of a server that cannot even be started.
    pub(super) fn bad_server(&mut self, server: &str, error: &Error) -> Result<(), Error> {
        self.has_wrong_settings |= error.exit_code() == 2;
        self.add(Finding { server: Some(server.to_owned()), ..Finding::of(Section::Servers, error) })
    }

    /// Says a finding. Fails when it cannot be printed.
    pub(super) fn add(&mut self, finding: Finding) -> Result<(), Error> {
        self.n_errors += usize::from(finding.verdict == Verdict::Error);
        self.n_warnings += usize::from(finding.verdict == Verdict::Warning);
        if let Form::Text { is_coloured } = self.form {
            let is_first = self.findings.last().is_none_or(|last| last.section != finding.section);
            let heading = if is_first { format!("{}\n", finding.section) } else { String::new() };
            self.print(&format!("{heading}{}", text(&finding, is_coloured)))?;
        }
        self.findings.push(finding);
        Ok(())
    }

    /// Says what it comes to, and fails when there were errors.
    pub(super) fn end(mut self) -> Result<(), Error> {
        let (n_errors, n_warnings) = (self.n_errors, self.n_warnings);
        let summary = format!("{}, {}", counted(n_errors, "error"), counted(n_warnings, "warning"));
        match self.form {
            Form::Text { .. } => self.print(&format!("{summary}\n"))?,
            Form::Json => {
                let all = json!({ "errors": n_errors, "warnings": n_warnings, "findings": self.findings });
                self.print(&format!("{all}\n"))?;
            }
        }
        let what = format!("the check found {summary}");
        match n_errors {
            0 => Ok(()),
            _ if self.has_wrong_settings => Err(Error::Settings { what, hint: String::new() }),
            _ => Err(Error::Failed { what, hint: String::new() }),
        }
    }

    fn print(&mut self, text: &str) -> Result<(), Error> {
        self.out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
            .map_err(|cause| Error::Failed { what: format!("cannot print the report: {cause}"), hint: String::new() })
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Section::Settings => "Settings",
            Section::Files => "Files",
            Section::Listening => "Listening",
            Section::Keys => "Keys",
            Section::Tls => "TLS",
            Section::Servers => "Servers",
        })
    }
}

/// A finding as people read it.
fn text(finding: &Finding, is_coloured: bool) -> String {
    const INDENT: &str = "           ";
    let (mark, colour) = match finding.verdict {
        Verdict::Ok => ("ok", "32"),
        Verdict::Warning => ("warning", "33"),
        Verdict::Error => ("error", "31"),
    };
    // Padded before it is coloured, which takes no room.
    let mark = format!("{mark:<7}");
    let mark = if is_coloured { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark };
    let server = finding.server.as_ref().map_or(String::new(), |server| format!("`{server}`: "));
    let mut text = format!("  {mark}  {server}{}\n", finding.what);
    finding.stderr.iter().for_each(|line| text.push_str(&format!("{INDENT}stderr: {line}\n")));
    if !finding.hint.is_empty() {
        text.push_str(&format!("{INDENT}hint: {}\n", finding.hint));
    }
    text
}

fn counted(n: usize, what: &str) -> String {
    match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(form: Form) -> (String, Result<(), Error>) {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, form);
        report.good(Section::Settings, "all is well").unwrap();
        report.warn(Section::Keys, "a short key", "take a longer one").unwrap();
        report.warn(Section::Keys, "an old key", "").unwrap();
        let stderr = vec!["no database".to_owned()];
        let failed = Finding::new(Section::Servers, Verdict::Error, "exited");
        report.add(Finding { server: Some("s".to_owned()), stderr, ..failed }).unwrap();
        let end = report.end();
        (String::from_utf8(out).unwrap(), end)
    }

    #[test]
    fn people_read_sections_marks_and_hints() {
        let (text, end) = report(Form::Text { is_coloured: false });
        assert_eq!(
            text,
            "Settings\n  ok       all is well\n\
             Keys\n  warning  a short key\n           hint: take a longer one\n  warning  an old key\n\
             Servers\n  error    `s`: exited\n           stderr: no database\n1 error, 2 warnings\n"
        );
        assert_eq!(end.unwrap_err().exit_code(), 1);
        assert!(report(Form::Text { is_coloured: true }).0.contains("  \x1b[31merror  \x1b[0m  `s`: exited\n"));
    }

    #[test]
    fn programs_read_one_object() {
        let (text, _) = report(Form::Json);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["errors"], &value["warnings"]), (&json!(1), &json!(2)));
        assert_eq!(
            value["findings"][1],
            json!({ "section": "keys", "verdict": "warning", "what": "a short key", "hint": "take a longer one" })
        );
        assert_eq!(value["findings"][3]["stderr"], json!(["no database"]));
    }

    #[test]
    fn a_wrong_setting_ends_with_2() {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, Form::Json);
        report.bad(Section::Tls, &Error::Settings { what: "no".to_owned(), hint: String::new() }).unwrap();
        assert_eq!(report.end().unwrap_err().exit_code(), 2);
    }
}
