//! The pages that tell where things are: every link to a file in them leads to one.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, like the tests")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The targets of Markdown links, without anchors, that are no web addresses.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .map(|target| target.split('#').next().unwrap_or(""))
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

#[test]
fn every_link_of_every_page_leads_to_a_file() {
    let root = root();
    let mut all: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|page| root.join(page)).into();
    pages(&root.join("docs"), &mut all);
    let mut dead = Vec::new();
    let mut followed = 0;
    for page in all {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            followed += 1;
            if !page.parent().unwrap().join(link).exists() {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(followed > 30, "only {followed} links were found: the pages are read wrongly");
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}
