//! That the list is sound, and that what names its metrics elsewhere names them right.

use std::{collections::BTreeSet, fs, path::Path};

use super::*;

#[test]
fn every_metric_is_named_as_prometheus_wants_it_and_has_a_sentence() {
    let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len(), "each is there once");
    for Metric { name, kind, unit, labels, about, .. } in METRICS {
        assert!(name.starts_with("mcpgate_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|it| it.is_ascii_lowercase() || it == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_info"), *kind == Kind::Info, "{name}");
        let base = name.strip_suffix("_total").unwrap_or(name);
        let suffix = [Unit::Seconds, Unit::Bytes].into_iter().find(|unit| base.ends_with(unit.suffix()));
        assert_eq!(suffix, *unit, "{name}");
        assert!(about.ends_with('.') && !about.contains(['\n', '\\', '"']), "{name}: {about}");
        assert!(labels.iter().all(|label| !["le", "job", "instance"].contains(label)), "{name}");
    }
}

/// The table of `docs/metrics.md`.
fn rows() -> String {
    let row = |metric: &Metric| {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let unit = metric.unit.map_or("", |unit| &unit.suffix()[1..]);
        format!("| `{}` | {kind} | {unit} | {} | {} |\n", metric.name, metric.labels.join(", "), metric.about)
    };
    METRICS.iter().map(row).collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .unwrap_or_else(|cause| panic!("{name}: {cause}"))
}

#[test]
fn the_document_lists_what_the_table_lists() {
    const HEAD: &str = "| --- | --- | --- | --- | --- |\n";
    let document = read("docs/metrics.md");
    let (before, rest) = document.split_once(HEAD).expect("the table has a head");
    let end = rest.find("\n\n").map_or(rest.len(), |end| end + 1);
    if std::env::var_os("MCPGATE_WRITE_CONF").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        fs::write(path, format!("{before}{HEAD}{}{}", rows(), &rest[end..])).unwrap();
        return;
    }
    assert_eq!(&rest[..end], rows(), "run the tests once with MCPGATE_WRITE_CONF=1 to write docs/metrics.md anew");
}

/// The names of metrics in an expression; those of a histogram without what its series end in.
fn names_in(text: &str) -> BTreeSet<String> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_letter(letter));
    let names = words.filter(|word| word.starts_with("mcpgate_") || word.starts_with("process_"));
    let whole = |name: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let is_histogram =
            |base: &&str| METRICS.iter().any(|metric| metric.name == *base && metric.kind == Kind::Histogram);
        base.filter(is_histogram).unwrap_or(name).to_owned()
    };
    names.map(whole).collect()
}

#[track_caller]
fn check_names(file: &str) -> BTreeSet<String> {
    let names = names_in(&read(file));
    assert!(!names.is_empty(), "{file}");
    for name in &names {
        assert!(METRICS.iter().any(|metric| metric.name == *name), "{file} uses `{name}`, which there is not");
    }
    names
}

#[test]
fn the_dashboard_and_the_rules_use_what_there_is() {
    check_names("scripts/alerts.yml");
    check_names("scripts/alerts_test.yml");
    check_names("docs/metrics.md");
    let shown = check_names("scripts/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&read("scripts/grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(targets.iter().all(|target| target["expr"].is_string()), "{}", panel["title"]);
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
    }
    assert!(20 < shown.len(), "{shown:?}");
}
