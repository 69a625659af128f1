//! Links between documents: each leads to a file that is there, and to a heading that it has.

use std::{collections::HashMap, fs, path::Path};

use super::DOCUMENTS;
use crate::support::root;

/// Documents beside those that are followed.
const OTHERS: &[&str] = &["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];

#[test]
fn every_link_leads_somewhere() {
    let mut n_links = 0;
    for file in DOCUMENTS.iter().map(|(file, _)| *file).chain(OTHERS.iter().copied()) {
        let text = read(Path::new(file));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            n_links += 1;
            let (name, anchor) = link.split_once('#').map_or((link, None), |(name, anchor)| (name, Some(anchor)));
            let folder = Path::new(file).parent().unwrap();
            let target = if name.is_empty() { Path::new(file).to_owned() } else { folder.join(name) };
            assert!(root().join(&target).exists(), "{file}: `{link}` leads to no file");
            if let Some(anchor) = anchor {
                assert!(anchors(&read(&target)).contains(&anchor.to_owned()), "{file}: `{link}` leads to no heading");
            }
        }
    }
    assert!(20 < n_links, "{n_links}");
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|cause| panic!("{}: {cause}", file.display()))
}

/// The headings as hosts of Markdown name them: the second of one name has a number.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut is_code = false;
    let mut all = Vec::new();
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        if is_code || !line.starts_with('#') {
            continue;
        }
        let kept = |it: &char| it.is_alphanumeric() || matches!(it, '_' | '-' | ' ');
        let heading = line.trim_start_matches('#').trim();
        let anchor: String = heading.chars().filter(kept).collect::<String>().to_lowercase().replace(' ', "-");
        let n_before = seen.entry(anchor.clone()).or_default();
        all.push(if *n_before == 0 { anchor.clone() } else { format!("{anchor}-{n_before}") });
        *n_before += 1;
    }
    all
}

#[test]
fn headings_have_the_names_that_links_use() {
    let text = "# One\n## A `/b/{c}`: d\n```sh\n# no heading\n```\n## One\n";
    assert_eq!(anchors(text), ["one", "a-bc-d", "one-1"]);
}
