//! What browsers are told: whom an answer is for, what a page may send, and what else to do with an answer. `clients/pages.rs`
//! asks a real one.

use mcpgate::api::routes::ENDPOINTS;

use crate::support::{Gateway, Helper, KEY, Reply};

const APP: &str = "https://app.example";

fn start() -> Gateway {
    Gateway::start(&[("CORS_ORIGINS", "https://app.example,http://localhost:3000")], Helper::new())
}

fn preflight(gateway: &Gateway, path: &str, origin: &str, method: &str, headers: &str) -> Reply {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", headers),
        ("Access-Control-Request-Private-Network", "true"),
        ("Sec-Fetch-Site", "cross-site"),
    ];
    gateway.request("OPTIONS", path, &headers, b"")
}

#[track_caller]
fn check_without(reply: &Reply, beginning: &str) {
    let is_there = reply.headers.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with(beginning));
    reply.expect(!is_there, &format!("no header that begins with {beginning}"));
}

#[test]
fn every_path_tells_a_named_origin_what_its_pages_may_send() {
    let gateway = start();
    let wanted = "authorization, content-type, last-event-id, mcp-method, mcp-name, mcp-param-city, mcp-protocol-version, \
                  mcp-session-id, x-api-key";
    for endpoint in ENDPOINTS {
        for scope in ["", "/servers/helper"].iter().filter(|scope| scope.is_empty() || endpoint.is_scoped) {
            let path = format!("{scope}{}", endpoint.path.replace("{name}", "echo"));
            let reply = preflight(&gateway, &path, APP, "POST", &format!("{wanted}, cookie"));
            reply.expect_status(204).expect_header("Access-Control-Allow-Origin", APP);
            reply.expect_header("Access-Control-Allow-Methods", endpoint.allow);
            reply.expect_header("Access-Control-Allow-Headers", wanted);
            reply.expect_header("Access-Control-Allow-Private-Network", "true").expect_header("Vary", "Origin");
            check_without(&reply, "access-control-allow-credentials");
            let foreign = preflight(&gateway, &path, "https://evil.example", "POST", wanted);
            check_without(&foreign, "access-control-");
            let is_health = endpoint.path.starts_with("/health");
            foreign.expect(is_health || foreign.status == 403, "403");
        }
    }
}

#[test]
fn a_page_of_a_named_origin_reads_answers_and_errors_alike() {
    let gateway = start();
    let ask = |method: &str, path: &str, key: &str, origin: &str| {
        let headers = [("Origin", origin), ("Sec-Fetch-Site", "cross-site"), ("X-API-Key", key)];
        gateway.request(method, path, &headers, if method == "POST" { b"{}" } else { b"" })
    };
    let cases = [
        ("POST", "/tools/echo", KEY, 200),
        ("POST", "/tools/echo/stream", KEY, 200),
        ("GET", "/tools", KEY, 200),
        ("GET", "/tools", "wrong", 401),
        ("GET", "/tools/none", KEY, 404),
        ("GET", "/none", KEY, 404),
        ("PUT", "/tools", KEY, 405),
        ("POST", "/mcp", KEY, 415),
    ];
    for (method, path, key, status) in cases {
        for origin in [APP, "http://localhost:3000"] {
            let reply = ask(method, path, key, origin);
            reply.expect_status(status).expect_header("Access-Control-Allow-Origin", origin);
            reply.expect_header("Vary", "Origin");
            let shown = reply.header("Access-Control-Expose-Headers").unwrap_or_default();
            for name in ["Mcp-Session-Id", "X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy"] {
                reply.expect(shown.split(", ").any(|it| it == name), &format!("{name} to be read by the page"));
            }
            check_without(&reply, "access-control-allow-credentials");
        }
        for origin in ["https://evil.example", "http://app.example", "null", "https://app.example.evil.example"] {
            let reply = ask(method, path, key, origin);
            check_without(&reply, "access-control-");
            reply.expect(reply.status == 403 || status == 404, "403");
        }
    }
}

#[test]
fn any_origin_may_be_let_in_by_whoever_has_a_key_of_their_own() {
    let refused = crate::support::Launch::new(Helper::new()).set("CORS_ORIGINS", "*").run();
    refused.expect(2, &["`CORS_ORIGINS` is `*`", "mcpgate key new NAME"]);
    let gateway = crate::support::Launch::new(Helper::new())
        .set_all(&[("CORS_ORIGINS", "*"), ("API_KEY", "not-known-to-the-world")])
        .start_without_waiting();
    let headers = [("Origin", "https://any.example"), ("X-API-Key", "not-known-to-the-world")];
    gateway.request("GET", "/tools", &headers, b"").expect_header("Access-Control-Allow-Origin", "*");
}

#[test]
fn every_answer_says_what_browsers_are_to_do_with_it() {
    let gateway = Gateway::start(&[], Helper::new());
    let replies = [
        gateway.get("/"),
        gateway.get("/tools"),
        gateway.get("/none"),
        gateway.call("echo", "{}"),
        gateway.request("GET", "/tools", &[], b""),
        gateway.post("/tools/echo/stream", "{}"),
        gateway.request("GET", &format!("/tools/echo/stream?api_key={KEY}"), &[], b""),
    ];
    for reply in &replies {
        reply.expect_header("X-Content-Type-Options", "nosniff").expect_header("Referrer-Policy", "no-referrer");
        reply.expect_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'");
        reply.expect_header("Cross-Origin-Resource-Policy", "same-origin");
        check_without(reply, "access-control-");
    }
    for reply in &replies[..5] {
        reply.expect_header("Cache-Control", "no-store");
    }
    replies[5].expect_header("Cache-Control", "no-cache");
    replies[6].expect_header("Cache-Control", "no-cache, no-store");
}
