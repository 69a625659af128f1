//! Every path the gateway answers, once. No other file names a path.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tiny_http::Method;

use crate::error::Error;

/// One kind of path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The path, with `{name}` where the name of a tool, prompt, worker or server stands.
    pub path: &'static str,
    /// What stands in it before and behind `{name}`, if that does.
    around_name: Option<(&'static str, &'static str)>,
    /// What it takes, as the `Allow` header says it.
    pub allow: &'static str,
    /// Who answers.
    pub surface: Surface,
    /// Whether it is answered without a key.
    pub is_open: bool,
    /// Whether it exists below `/servers/{server}` too, for that server alone.
    pub is_scoped: bool,
    /// What it is for, one sentence.
    pub about: &'static str,
}

/// Who answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// `info.rs`.
    Info,
    /// `health.rs`, the whole picture.
    Health,
    /// `health.rs`, whether the process answers.
    HealthLive,
    /// `health.rs`, the status alone.
    HealthReady,
    /// `tools.rs`, the list.
    Tools,
    /// `tools.rs`, one tool: shown or called.
    Tool,
    /// `tools.rs`, a call with nothing around it.
    Call,
    /// `stream.rs`.
    Stream,
    /// `ws.rs`.
    Socket,
    /// `resources.rs`, the list.
    Resources,
    /// `resources.rs`, the list of templates.
    ResourceTemplates,
    /// `resources.rs`, one resource.
    ReadResource,
    /// `prompts.rs`, the list.
    Prompts,
    /// `prompts.rs`, one prompt: shown or made.
    Prompt,
    /// `mcp`, both eras of Streamable HTTP.
    Mcp,
    /// `mcp/old.rs`, the stream.
    OldStream,
    /// `mcp/old.rs`, what a client says.
    OldMessages,
    /// `openapi`, the document.
    OpenApi,
    /// `openapi`, the page.
    Docs,
    /// `stats.rs`.
    Stats,
    /// `history.rs`.
    History,
    /// `metrics`.
    Metrics,
    /// `ui.rs`, the page.
    Page,
    /// `ui.rs`, what the page asks for.
    PageAsset,
    /// `admin.rs`, one worker.
    RestartWorker,
    /// `admin.rs`, all workers of a server.
    RestartServer,
}

const READ: &str = "GET, HEAD, OPTIONS";
const READ_AND_CALL: &str = "GET, HEAD, POST, OPTIONS";
const STREAM: &str = "GET, POST, OPTIONS";
const ORDER: &str = "POST, OPTIONS";
const UPGRADE: &str = "GET, OPTIONS";
const SESSION: &str = "GET, POST, DELETE, OPTIONS";
/// Before the name of one server, whose own paths follow.
const SCOPE: &str = "/servers/";
const MESSAGES: &str = "/messages";
const CALL: &str = "/call/{name}";

/// What does not stand in a path as it is (RFC 3986, 2.3).
const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The whole map.
pub const ENDPOINTS: &[Endpoint] = &[
    open("/", Surface::Info, "What this gateway is, its servers and endpoints."),
    open("/health", Surface::Health, "Whether calls can be served, by server and worker; 503 when not."),
    open("/health/live", Surface::HealthLive, "Whether the process answers."),
    open("/health/ready", Surface::HealthReady, "Whether calls can be served; 503 when not."),
    open("/ui", Surface::Page, "The dashboard, for browsers."),
    open("/ui/{name}", Surface::PageAsset, "What the dashboard is made of."),
    keyed("/tools", Surface::Tools, READ, "All tools of all servers."),
    keyed("/tools/{name}", Surface::Tool, READ_AND_CALL, "One tool: GET shows it, POST calls it and waits."),
    keyed(
        "/tools/{name}/stream",
        Surface::Stream,
        STREAM,
        "Calls a tool and tells what happens, as Server-Sent Events.",
    ),
    keyed(
        CALL,
        Surface::Call,
        ORDER,
        "Calls a tool in the plainest form: its arguments in, its result out. `/openapi.json` has it for each tool.",
    ),
    keyed("/resources", Surface::Resources, READ, "All resources of all servers."),
    keyed("/resources/templates", Surface::ResourceTemplates, READ, "All resource templates of all servers."),
    keyed("/resources/read", Surface::ReadResource, READ, "Reads the resource at `?uri=`."),
    keyed("/prompts", Surface::Prompts, READ, "All prompts of all servers."),
    keyed("/prompts/{name}", Surface::Prompt, READ_AND_CALL, "One prompt: GET shows it, POST makes its messages."),
    keyed("/ws/tools/{name}", Surface::Socket, UPGRADE, "A WebSocket for calls of one tool."),
    keyed("/ws", Surface::Socket, UPGRADE, "A WebSocket for calls of any tool."),
    keyed("/mcp", Surface::Mcp, SESSION, "MCP's Streamable HTTP, for any MCP client."),
    keyed("/sse", Surface::OldStream, UPGRADE, "MCP's HTTP+SSE transport of 2024-11-05, for old clients."),
    keyed(MESSAGES, Surface::OldMessages, ORDER, "What clients of `/sse` say."),
    keyed("/openapi.json", Surface::OpenApi, READ, "All this as OpenAPI 3.1, with an operation for each tool."),
    Endpoint { is_scoped: true, ..open("/docs", Surface::Docs, "A page that shows `/openapi.json` and tries it out.") },
    Endpoint { is_scoped: false, ..keyed("/stats", Surface::Stats, READ, "Figures of workers, pools and tools.") },
    Endpoint { is_scoped: false, ..keyed("/metrics", Surface::Metrics, READ, "Figures for Prometheus.") },
    Endpoint {
        is_scoped: false,
        ..keyed("/stats/history", Surface::History, READ, "The last five minutes, and the last calls one by one.")
    },
    Endpoint {
        is_scoped: false,
        ..keyed(
            "/admin/workers/{name}/restart",
            Surface::RestartWorker,
            ORDER,
            "Replaces a worker without failing a call.",
        )
    },
    Endpoint {
        is_scoped: false,
        ..keyed(
            "/admin/servers/{name}/restart",
            Surface::RestartServer,
            ORDER,
            "Replaces all workers of a server, one by one, without failing a call.",
        )
    },
];

const fn open(path: &'static str, surface: Surface, about: &'static str) -> Endpoint {
    let around_name = around_name(path);
    Endpoint { path, around_name, allow: READ, surface, is_open: true, is_scoped: false, about }
}

const fn keyed(path: &'static str, surface: Surface, allow: &'static str, about: &'static str) -> Endpoint {
    let around_name = around_name(path);
    Endpoint { path, around_name, allow, surface, is_open: false, is_scoped: true, about }
}

/// Where the tool of this name is called in its plainest form.
pub fn call_path(name: &str) -> String {
    CALL.replace("{name}", &utf8_percent_encode(name, UNSAFE).to_string())
}

/// Where clients of `/sse` say things, for the servers of `scope`.
pub fn messages_path(scope: Option<&str>) -> String {
    scope.map_or(String::new(), base_path) + MESSAGES
}

/// What stands before the paths of one server alone.
pub fn base_path(server: &str) -> String {
    format!("{SCOPE}{}", utf8_percent_encode(server, UNSAFE))
}

/// A path that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which one.
    pub endpoint: &'static Endpoint,
    /// The server it is about, when it is about one alone.
    pub scope: Option<String>,
    /// What stands for `{name}`, decoded.
    pub name: Option<String>,
}

/// Finds what answers `path` (percent-encoded). A slash at the end makes no difference.
pub fn find(path: &str) -> Result<Found, Error> {
    let not_found = || Error::NotFound { path: path.to_owned() };
    let mut local = path.trim_end_matches('/');
    let mut scope = None;
    if let Some(rest) = local.strip_prefix(SCOPE) {
        let (server, behind) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        scope = Some(decode(server).ok_or_else(not_found)?.into_owned());
        local = behind;
    }
    // Of the target of `OPTIONS *` too.
    let local = if local.starts_with('/') { local } else { "/" };
    for endpoint in ENDPOINTS.iter().filter(|endpoint| scope.is_none() || endpoint.is_scoped) {
        if let Some(name) = endpoint.matches(local) {
            let name = name.map(|name| decode(name).ok_or_else(not_found)).transpose()?;
            return Ok(Found { endpoint, scope, name: name.map(Cow::into_owned) });
        }
    }
    Err(not_found())
}

impl Endpoint {
    /// Fails with [`Error::MethodNotAllowed`] when this endpoint does not take `method`.
    pub fn check_method(&self, method: &Method, path: &str) -> Result<(), Error> {
        let method_name = method.as_str().as_bytes();
        let is_allowed = self.allow.as_bytes().split(|byte| *byte == b',').any(|it| it.trim_ascii() == method_name);
        if is_allowed {
            return Ok(());
        }
        Err(Error::MethodNotAllowed { method: method.to_string(), path: path.to_owned(), allow: self.allow })
    }

    /// Whether a crowded gateway still answers it.
    pub fn is_health(&self) -> bool {
        matches!(self.surface, Surface::Health | Surface::HealthLive | Surface::HealthReady)
    }

    /// `Some` when a path without a slash at its end fits, with what stands for `{name}`.
    fn matches<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
        let Some((before, behind)) = self.around_name else { return (path == self.path).then_some(None) };
        let name = path.strip_prefix(before)?.strip_suffix(behind)?;
        let is_name = !name.is_empty() && !name.bytes().any(|byte| byte == b'/');
        is_name.then_some(Some(name))
    }
}

/// What stands before and behind `{name}` in a path that has it.
const fn around_name(path: &'static str) -> Option<(&'static str, &'static str)> {
    let mut at = 0;
    while at < path.len() {
        if path.as_bytes()[at] == b'{' {
            let (before, rest) = path.split_at(at);
            return Some((before, rest.split_at("{name}".len()).1));
        }
        at += 1;
    }
    None
}

fn decode(part: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(part).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_the_map_says() {
        let cases = [
            ("/", Surface::Info, None, None),
            ("", Surface::Info, None, None),
            ("/health", Surface::Health, None, None),
            ("/health/", Surface::Health, None, None),
            ("/health/live", Surface::HealthLive, None, None),
            ("/tools", Surface::Tools, None, None),
            ("/tools/a%20b%2Fc", Surface::Tool, None, Some("a b/c")),
            ("/servers/fs/tools", Surface::Tools, Some("fs"), None),
            ("/servers/my%20fs/tools/x", Surface::Tool, Some("my fs"), Some("x")),
            ("/stats", Surface::Stats, None, None),
            ("/tools/a/stream", Surface::Stream, None, Some("a")),
            ("/servers/fs/ws/tools/a", Surface::Socket, Some("fs"), Some("a")),
            ("/ws", Surface::Socket, None, None),
            // The target of `OPTIONS *`.
            ("*", Surface::Info, None, None),
        ];
        for (path, surface, scope, name) in cases {
            let found = find(path).expect(path);
            assert_eq!(found.endpoint.surface, surface, "{path}");
            assert_eq!((found.scope.as_deref(), found.name.as_deref()), (scope, name), "{path}");
        }
    }

    #[test]
    fn anything_else_is_not_there() {
        for path in
            ["/x", "/tools/a/b", "/tools//", "//tools", "/servers", "/servers/x", "/servers/x/health", "/tools/%ff"]
        {
            let result = find(path);
            let is_list = path == "/tools//" && result.as_ref().is_ok_and(|found| found.endpoint.path == "/tools");
            assert!(is_list || result.is_err_and(|error| error.http_status() == 404), "{path}");
        }
    }

    #[test]
    fn every_endpoint_has_a_sentence_and_is_found_by_its_own_path() {
        for endpoint in ENDPOINTS {
            assert!(endpoint.about.ends_with('.'), "{}", endpoint.path);
            assert_eq!(find(&endpoint.path.replace("{name}", "x")).unwrap().endpoint, endpoint);
            assert!(endpoint.check_method(&Method::Patch, endpoint.path).is_err());
        }
    }
}
