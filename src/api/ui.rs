//! `/ui`: the dashboard's files, and what a browser is told to do with them.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use super::{Answer, Request};
use crate::{
    error::Error,
    ui::{ASSETS, Asset, PAGE},
};

/// What a page of ours may load and do: its own files, requests to where it came from, pictures and sounds inside results.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; media-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Changes with every change of a file, so that a browser may keep what it has.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    [&PAGE].into_iter().chain(ASSETS).for_each(|asset| hash.update(asset.text));
    format!("\"{}\"", data_encoding::HEXLOWER.encode(&hash.finalize()[..8]))
});

/// The page.
pub(super) fn page(request: &Request<'_>) -> Answer {
    // The page's own links are relative to the path without a slash at its end.
    if request.path().ends_with('/') {
        let headers = vec![("Location", "../ui".to_owned())];
        return Answer { headers, ..Answer::empty(308) };
    }
    file(&PAGE, request)
}

/// One of its files. Fails with [`Error::NotFound`].
pub(super) fn asset(name: &str, request: &Request<'_>) -> Result<Answer, Error> {
    let asset = ASSETS.iter().find(|asset| asset.name == name);
    asset.map(|asset| file(asset, request)).ok_or_else(|| Error::NotFound { path: request.path().to_owned() })
}

fn file(asset: &Asset, request: &Request<'_>) -> Answer {
    let is_known = request.header("If-None-Match").is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == *TAG));
    let mut answer = if is_known { Answer::empty(304) } else { Answer::text(asset.content_type, asset.text) };
    answer.headers.extend([
        ("ETag", TAG.clone()),
        // Asked for again each time, which costs a 304: after an upgrade nobody is left with old scripts.
        ("Cache-Control", "no-cache".to_owned()),
        ("Content-Security-Policy", POLICY.to_owned()),
        ("Cross-Origin-Opener-Policy", "same-origin".to_owned()),
    ]);
    answer
}
