//! `/docs`: a page that shows the document and tries it out. It holds no data: it asks for the key and reads `/openapi.json` itself.

use std::sync::LazyLock;

use data_encoding::BASE64;
use sha2::{Digest as _, Sha256};

use crate::api::Answer;

const PAGE: &str = include_str!("docs.html");

/// Only the script and the style of the page itself run, and they reach nothing but the gateway.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        fingerprint("script"),
        fingerprint("style")
    )
});

/// The page.
pub(in crate::api) fn docs() -> Answer {
    let headers = [
        ("Content-Security-Policy", POLICY.as_str()),
        ("Cache-Control", "no-cache"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    ];
    let headers = headers.map(|(name, value)| (name, value.to_owned())).to_vec();
    Answer { headers, ..Answer::text("text/html; charset=utf-8", PAGE) }
}

/// The hash of what stands in the page's only element of this name (Content Security Policy 3, 2.3.1).
fn fingerprint(element: &str) -> String {
    let inside =
        PAGE.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    let text = inside.map_or("", |(text, _)| text);
    format!("sha256-{}", BASE64.encode(&Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_one_style_and_nothing_from_elsewhere() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert_eq!(PAGE.matches(&format!("<{element}>")).count(), 1, "{element}");
            assert_ne!(fingerprint(element), fingerprint("nothing"));
        }
        for outside in ["src=", "http://", "https://", "@import", "url(", "innerHTML", " style=", " onclick="] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
    }
}
