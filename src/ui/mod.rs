//! The dashboard `/ui`, as the files a browser asks for: one page, its style and its scripts, all inside the binary.
//!
//! They hold no data and ask for nothing outside the gateway; everything shown comes from the API with the key that was
//! entered. What each script is for stands in its first lines.

/// One file of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Its name below `/ui/`.
    pub name: &'static str,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The page itself.
pub const PAGE: Asset = Asset { name: "", content_type: HTML, text: include_str!("page.html") };

/// What the page asks for.
pub const ASSETS: &[Asset] = &[
    Asset { name: "style.css", content_type: "text/css; charset=utf-8", text: include_str!("style.css") },
    Asset { name: "icon.svg", content_type: "image/svg+xml", text: include_str!("icon.svg") },
    script("main.js", include_str!("main.js")),
    script("gateway.js", include_str!("gateway.js")),
    script("dom.js", include_str!("dom.js")),
    script("overview.js", include_str!("overview.js")),
    script("charts.js", include_str!("charts.js")),
    script("playground.js", include_str!("playground.js")),
    script("form.js", include_str!("form.js")),
];

const HTML: &str = "text/html; charset=utf-8";

const fn script(name: &'static str, text: &'static str) -> Asset {
    Asset { name, content_type: "text/javascript; charset=utf-8", text }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands between quotes behind `before` in a text.
    fn quoted_behind(text: &str, before: &str) -> Vec<String> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
    }

    #[test]
    fn everything_that_the_page_and_its_scripts_name_is_there() {
        let has = |name: &str| ASSETS.iter().any(|asset| asset.name == name);
        let named = [quoted_behind(PAGE.text, "href=\"ui/"), quoted_behind(PAGE.text, "src=\"ui/")].concat();
        assert!(3 < named.len() && named.iter().all(|name| has(name)), "{named:?}");
        for asset in ASSETS {
            let imported = quoted_behind(asset.text, "from \"./");
            assert!(imported.iter().all(|name| has(name)), "{}: {imported:?}", asset.name);
        }
    }

    #[test]
    fn nothing_comes_from_another_place() {
        for asset in [&PAGE].into_iter().chain(ASSETS) {
            let rest = asset.text.replace("http://www.w3.org/2000/svg", "");
            let is_own = ["http://", "https://", "url(", "innerHTML", "eval("].iter().all(|word| !rest.contains(word));
            assert!(is_own, "{}", asset.name);
        }
    }
}
