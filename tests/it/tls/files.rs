//! Certificates in files: good and bad ones at the start, new ones while the gateway runs, and those of clients.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;

use crate::support::{ClientTls, Connection, Ended, Folder, Gateway, Helper, KEY, Launch, Server};

use super::{
    identity::{Authority, Identity, trusting, trusting_certificate},
    secured_launch,
};

/// A gateway whose certificate is in files of this folder.
fn serving(folder: &Folder, identity: &Identity, settings: &[(&str, &str)]) -> Launch {
    put(folder, identity);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let launch = Launch::new(Helper::new()).client_tls(&trusting(&identity.authority, None, &[]));
    launch.set("TLS_CERT", &path("cert.pem")).set("TLS_KEY", &path("key.pem")).set_all(settings)
}

fn put(folder: &Folder, identity: &Identity) {
    folder.file("cert.pem", &identity.cert);
    folder.file("key.pem", &identity.key);
}

/// A kept connection that has been served once.
fn served(gateway: &Gateway) -> Connection {
    let mut connection = gateway.connect();
    serve_again(gateway, &mut connection);
    connection
}

#[track_caller]
fn serve_again(gateway: &Gateway, connection: &mut Connection) {
    connection.send("POST", "/tools/echo", &[("X-API-Key", KEY)], br#"{"arguments":{"a":1}}"#).unwrap();
    gateway.reply("echo", connection.receive(false).unwrap()).expect_data(&json!({"a": 1}));
}

/// Whether a client of this kind is let in, and the certificate it was shown.
fn is_served(gateway: &Gateway, tls: &ClientTls) -> bool {
    let mut connection = Connection::open(gateway.address()).secured(tls);
    let sent = connection.send("GET", "/health", &[], b"");
    sent.and_then(|()| connection.receive(false)).is_ok_and(|answer| answer.status == 200)
}

#[test]
fn new_certificates_are_used_by_new_connections_and_old_ones_go_on() {
    let folder = Folder::new();
    let (first, second) = (Authority::new(), Authority::new());
    let gateway = serving(&folder, &first.server(), &[]).start();
    let mut old = served(&gateway);

    put(&folder, &second.server());
    let new = trusting(&second, None, &[]);
    gateway.wait_until("the new certificate", || is_served(&gateway, &new));
    assert!(!is_served(&gateway, &trusting(&first, None, &[])));
    serve_again(&gateway, &mut old);
    assert!(gateway.log().contains("new connections use the certificate that is now in"), "{}", gateway.log());
}

#[test]
fn a_pair_behind_a_symbolic_link_is_seen_to_change() {
    let folder = Folder::new();
    let (first, second) = (Authority::new(), Authority::new());
    let link = folder.path().join("live");
    for (name, authority) in [("one", &first), ("two", &second)] {
        let identity = authority.server();
        fs::create_dir(folder.path().join(name)).unwrap();
        folder.file(&format!("{name}/cert.pem"), &identity.cert);
        folder.file(&format!("{name}/key.pem"), &identity.key);
    }
    std::os::unix::fs::symlink("one", &link).unwrap();
    let path = |name: &str| link.join(name).display().to_string();
    let launch = Launch::new(Helper::new()).client_tls(&trusting(&first, None, &[]));
    let gateway = launch.set("TLS_CERT", &path("cert.pem")).set("TLS_KEY", &path("key.pem")).start();

    std::os::unix::fs::symlink("two", folder.path().join("next")).unwrap();
    fs::rename(folder.path().join("next"), &link).unwrap();
    let new = trusting(&second, None, &[]);
    gateway.wait_until("the new certificate", || is_served(&gateway, &new));
}

#[test]
fn broken_files_leave_the_certificate_as_it_is_and_are_told_of_once() {
    let folder = Folder::new();
    let authority = Authority::new();
    let gateway = serving(&folder, &authority.server(), &[]).start();
    let warnings = || gateway.log().matches("the certificate in use is kept").count();

    let other = Authority::new().server();
    let breaks: [&dyn Fn(); 4] = [
        &|| drop(folder.file("cert.pem", "-----BEGIN CERTIFICATE-----\nnot base64 at all !\n")),
        &|| fs::remove_file(folder.path().join("cert.pem")).unwrap(),
        // Half of a pair.
        &|| drop(folder.file("cert.pem", &other.cert)),
        &|| drop(folder.file("key.pem", "")),
    ];
    for (do_break, n_warnings) in breaks.into_iter().zip(1..) {
        do_break();
        gateway.wait_until("the warning", || {
            gateway.call("echo", "{}").expect_status(200);
            warnings() == n_warnings
        });
    }
    // A mended pair is used, and what breaks later is told of again.
    put(&folder, &other);
    let new = trusting(&other.authority, None, &[]);
    gateway.wait_until("the new certificate", || is_served(&gateway, &new));
    assert_eq!(warnings(), 4, "{}", gateway.log());
    folder.file("key.pem", "");
    gateway.wait_until("the warning", || is_served(&gateway, &new) && warnings() == 5);
}

#[test]
fn clients_need_a_certificate_of_the_authority_that_is_set() {
    let folder = Folder::new();
    let (authority, clients) = (Authority::new(), Authority::new());
    let ca = folder.file("clients.pem", &clients.pem()).display().to_string();
    let good = clients.client();
    let launch = serving(&folder, &authority.server(), &[("TLS_CLIENT_CA", &ca)]);
    let gateway = launch.client_tls(&trusting(&authority, Some(&good), &[])).start();
    served(&gateway);

    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        assert!(is_served(&gateway, &trusting(&authority, Some(&good), versions)));
        assert!(!is_served(&gateway, &trusting(&authority, None, versions)), "without a certificate");
        let foreign = Authority::new().client();
        assert!(!is_served(&gateway, &trusting(&authority, Some(&foreign), versions)), "of another authority");
        let wrong = clients.server();
        assert!(!is_served(&gateway, &trusting(&authority, Some(&wrong), versions)), "for another use");
    }
    // A certificate takes no key's place.
    gateway.request("GET", "/tools", &[], b"").expect_status(401);
    // A client that could resume its session, and resumes it.
    let known = trusting(&authority, Some(&good), &[]);
    assert!(is_served(&gateway, &known) && is_served(&gateway, &known));
    // Other authorities count as soon as the file has them.
    let others = Authority::new();
    folder.file("clients.pem", &others.pem());
    let new = trusting(&authority, Some(&others.client()), &[]);
    gateway.wait_until("the new authority", || is_served(&gateway, &new));
    assert!(!is_served(&gateway, &trusting(&authority, Some(&good), &[])));
    assert!(!is_served(&gateway, &known), "a session is resumed that an authority stood for which was taken away");
}

#[test]
fn files_that_cannot_be_used_stop_the_start_and_are_named() {
    let authority = Authority::new();
    let (one, other) = (authority.server(), authority.server());
    let start = |settings: &[(&str, &str)]| {
        let launch = secured_launch(settings, &one).file("other.pem", &other.key).file("empty.pem", "");
        launch.file("broken.pem", "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n").run()
    };
    for (settings, texts) in [
        (("TLS_KEY", "other.pem"), ["`other.pem`", "does not belong to the certificate in `cert.pem`"]),
        (("TLS_KEY", "missing.pem"), ["`TLS_KEY`: cannot read `missing.pem`", "No such file"]),
        (("TLS_KEY", "cert.pem"), ["no private key", "`cert.pem`"]),
        (("TLS_CERT", "empty.pem"), ["no certificate in `empty.pem`", "BEGIN CERTIFICATE"]),
        (("TLS_CERT", "broken.pem"), ["`broken.pem`", "cannot be used"]),
        (("TLS_CERT", "."), ["`TLS_CERT`: cannot read `.`", "directory"]),
        (("TLS_CERT", ""), ["`TLS_KEY` is set and `TLS_CERT` is not", "self-signed"]),
        (("TLS_CLIENT_CA", "empty.pem"), ["`TLS_CLIENT_CA`: there is no certificate in `empty.pem`", "PEM"]),
        (("TLS_CLIENT_CA", "broken.pem"), ["`TLS_CLIENT_CA`", "`broken.pem` cannot be used"]),
    ] {
        start(&[settings]).expect(2, &texts);
    }
}

#[test]
fn check_tells_about_the_certificate() {
    let authority = Authority::new();
    let identity = authority.server();
    let check = |settings: &[(&str, &str)]| {
        let launch = secured_launch(settings, &identity).file("other.pem", &authority.server().key);
        launch.arguments(&["check"]).run()
    };
    let ended = check(&[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("TLS\n  ok       `cert.pem` is valid until 4096-"), "{}", ended.stdout);
    assert!(ended.stdout.contains("; it is for localhost, 127.0.0.1\n"), "{}", ended.stdout);
    // The tests write their files for everybody to read.
    assert!(
        ended.stdout.contains("  warning  every user of this machine can read the key in `key.pem`"),
        "{}",
        ended.stdout
    );
    let ended = check(&[("ALLOWED_HOSTS", "box.local")]);
    assert!(ended.stdout.contains("  warning  the certificate is not for `box.local`"), "{}", ended.stdout);
    let ended = check(&[("TLS_KEY", "other.pem")]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stdout.contains("TLS\n  error    the key in `other.pem`"), "{}", ended.stdout);
}

#[test]
fn a_self_signed_certificate_is_made_and_served_with_what_it_prints() {
    let folder = Folder::new();
    let out = folder.path().display().to_string();
    let run = || Launch::new(Server::FromSettings).arguments(&["tls", "self-signed", "--out", &out, "localhost"]).run();
    let made = run();
    made.expect(0, &["a certificate for localhost, valid until", "SHA-256 "]);
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("key.pem"), 0o600);
    run().expect(2, &["exists already", "--out"]);

    let pem = fs::read(folder.path().join("cert.pem")).unwrap();
    let tls = trusting_certificate(CertificateDer::from_pem_slice(&pem).unwrap());
    let gateway = Launch::new(Helper::new()).file("gateway.conf", &made.stdout).client_tls(&tls).start();
    gateway.call("echo", "{}").expect_status(200);
    assert!(!gateway.log().contains("[WARN] every user"), "{}", gateway.log());
}

/// `mcpgate call` with these words and settings.
fn call(words: &[&str], settings: &[(&str, &str)]) -> Ended {
    let words: Vec<&str> = ["call", "echo", r#"{"a":1}"#].iter().chain(words).copied().collect();
    Launch::new(Server::FromSettings).set_all(settings).arguments(&words).run()
}

#[track_caller]
fn check_called(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains(r#""data":{"a":1}"#), "{ended:?}");
}

#[test]
fn call_knows_the_gateway_of_its_settings_by_its_certificate() {
    let folder = Folder::new();
    let out = folder.path().display().to_string();
    let made = Launch::new(Server::FromSettings).arguments(&["tls", "self-signed", "--out", &out, "box.local"]).run();
    made.expect(0, &["a certificate for box.local"]);
    let gateway = Launch::new(Helper::new()).file("gateway.conf", &made.stdout).start_without_waiting();
    let (listen, url) = (gateway.address().to_string(), format!("https://{}", gateway.address()));
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    check_called(&call(&[], &[("LISTEN", &listen), ("TLS_CERT", &cert), ("TLS_KEY", &key)]));

    // Known as an authority it counts only for the name it is for.
    call(&["--url", &url, "--cacert", &cert], &[]).expect(1, &["not valid for name", "by a name that its certificate"]);
    let other = Authority::new().server();
    let settings = [("TLS_CERT", &*folder.file("other.pem", &other.cert).display().to_string()), ("TLS_KEY", &key)];
    call(&["--url", &url], &settings).expect(1, &["no TLS with what answers at", "`--cacert`"]);
}

#[test]
fn call_trusts_the_authorities_it_is_told_of_or_those_of_the_system() {
    let folder = Folder::new();
    let authority = Authority::new();
    let gateway = serving(&folder, &authority.server(), &[]).start();
    let url = format!("https://localhost:{}/", gateway.address().port());
    let ca = folder.file("ca.pem", &authority.pem()).display().to_string();
    check_called(&call(&["--url", &url, "--cacert", &ca], &[]));
    check_called(&call(&["--url", &url], &[("SSL_CERT_FILE", &ca)]));
    call(&["--url", &url], &[]).expect(1, &["UnknownIssuer", "`--cacert`"]);
    let foreign = folder.file("foreign.pem", &Authority::new().pem()).display().to_string();
    call(&["--url", &url, "--cacert", &foreign], &[("SSL_CERT_FILE", &ca)]).expect(1, &["certificate", "`--cacert`"]);
    call(&["--url", &url, "--cacert", "/missing.pem"], &[]).expect(2, &["`--cacert`: cannot read `/missing.pem`"]);

    let plain = Launch::new(Helper::new()).start();
    let ended = call(&["--url", &format!("https://localhost:{}", plain.address().port()), "--cacert", &ca], &[]);
    ended.expect(1, &["no TLS with what answers", "it may speak plain HTTP"]);
    let ended = call(&["--url", &format!("http://localhost:{}", gateway.address().port())], &[]);
    ended.expect(1, &["this port speaks HTTPS", "(bad_request)", "hint: use an address that begins with `https://`"]);
    assert!(ended.stdout.contains("this port speaks HTTPS"), "{ended:?}");
}

#[test]
fn call_shows_a_certificate_to_who_asks_for_one() {
    let folder = Folder::new();
    let (authority, clients) = (Authority::new(), Authority::new());
    let path = |name: &str, text: &str| folder.file(name, text).display().to_string();
    let good = clients.client();
    let launch = serving(&folder, &authority.server(), &[("TLS_CLIENT_CA", &path("clients.pem", &clients.pem()))]);
    let gateway = launch.client_tls(&trusting(&authority, Some(&good), &[])).start();
    let url = format!("https://localhost:{}", gateway.address().port());
    let ca = path("ca.pem", &authority.pem());
    let base = ["--url", &*url, "--cacert", &*ca];
    let with = |words: &[&str]| call(&[&base, words].concat(), &[]);

    let (cert, key) = (path("client.pem", &good.cert), path("client-key.pem", &good.key));
    check_called(&with(&["--cert", &cert, "--cert-key", &key]));
    check_called(&with(&["--cert", &path("both.pem", &format!("{}{}", good.cert, good.key))]));
    with(&[]).expect(1, &["alert", "`--cert FILE`"]);
    with(&["--cert", &cert]).expect(2, &["`--cert`: there is no private key"]);
    with(&["--cert", &cert, "--cert-key", &path("other.pem", &clients.client().key)])
        .expect(2, &["`--cert`", "cannot be used"]);
}
