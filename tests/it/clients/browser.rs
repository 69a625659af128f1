//! A real browser, and a site for it: one page of the test's own, with the gateway behind the same name and port.
//!
//! The gateway answers only pages of its own origin, so [`Site`] is the proxy that such a page comes from in real life: it
//! answers `/page.html` and `/result` itself and passes everything else on, as bytes, with the `Host` the browser sent.
//!
//! **Limit.** A connection that is silent for [`PATIENCE`] is closed; the page gets [`PAGE_PATIENCE`] in all.
//!
//! **End.** Dropping a [`Browser`] ends its processes. Dropping a [`Site`] ends its listening; its connections end with
//! the browser and the gateway.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::support::{Folder, PATIENCE, command};

use super::Running;

/// How long a page may take, with the start of the browser on a machine that does other things as well.
const PAGE_PATIENCE: Duration = Duration::from_secs(90);

/// The folder of the browser's profile, in that of the browser.
const PROFILE: &str = "profile";

/// Headless Chromium with one page.
pub(crate) struct Browser {
    _running: Running,
    /// Everything it writes: its profile, its home. Goes away after it.
    folder: Folder,
}

impl Browser {
    pub(super) fn open(chromium: &Path, url: &str) -> Browser {
        Browser::open_with(chromium, url, &[])
    }

    /// With further arguments of the command line, which win over ours.
    pub(crate) fn open_with(chromium: &Path, url: &str, arguments: &[&str]) -> Browser {
        let folder = Folder::new();
        let mut browser = command(chromium);
        browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        browser.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        browser.args(["--disable-dev-shm-usage", "--disable-breakpad", "--no-proxy-server"]);
        // No name is looked up, not even by the browser for itself.
        browser.arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1");
        browser.arg(format!("--user-data-dir={}", folder.path().join(PROFILE).display())).args(arguments).arg(url);
        browser.env("HOME", folder.path()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME");
        browser.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Browser { _running: Running(browser.spawn().unwrap()), folder }
    }

    /// Where it keeps what it knows, and says where it can be driven.
    pub(crate) fn profile(&self) -> PathBuf {
        self.folder.path().join(PROFILE)
    }
}

/// The site. It keeps the request lines it saw.
pub(super) struct Site {
    address: SocketAddr,
    results: Receiver<String>,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    page: String,
    gateway: SocketAddr,
    requests: Mutex<Vec<String>>,
    results: SyncSender<String>,
    is_over: AtomicBool,
}

impl Site {
    pub(super) fn start(page: String, gateway: SocketAddr) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, results) = sync_channel(1);
        let is_over = AtomicBool::new(false);
        let shared = Arc::new(Shared { page, gateway, requests: Mutex::default(), results: sender, is_over });
        let of_listener = shared.clone();
        let listener = thread::spawn(move || {
            for browser in listener.incoming().map_while(Result::ok) {
                if of_listener.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = of_listener.clone();
                // A browser also opens connections it then makes no use of; they just end.
                thread::spawn(move || shared.serve(browser));
            }
        });
        Site { address, results, shared, listener: Some(listener) }
    }

    pub(super) fn page_url(&self) -> String {
        format!("{}/page.html", self.origin())
    }

    pub(super) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// What the page posts to `/result`.
    pub(super) fn wait_for_result(&self) -> Option<String> {
        self.results.recv_timeout(PAGE_PATIENCE).ok()
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // One more connection, so that the listener sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Shared {
    fn serve(&self, mut browser: TcpStream) -> io::Result<()> {
        browser.set_read_timeout(Some(PATIENCE))?;
        browser.set_write_timeout(Some(PATIENCE))?;
        let (head, mut body) = read_head(&mut browser)?;
        let request = head.lines().next().unwrap_or_default();
        self.requests.lock().unwrap().push(request.to_owned());
        if request.starts_with("GET /page.html ") {
            return answer(&mut browser, "200 OK", &self.page);
        }
        if request.starts_with("POST /result ") {
            let mut rest = vec![0; content_length(&head).saturating_sub(body.len())];
            browser.read_exact(&mut rest)?;
            body.append(&mut rest);
            // Only the first result counts.
            let _ = self.results.try_send(String::from_utf8_lossy(&body).into_owned());
            return answer(&mut browser, "200 OK", "");
        }
        if request.starts_with("GET /favicon.ico ") {
            return answer(&mut browser, "404 Not Found", "");
        }
        self.pass_on(browser, &head, &body)
    }

    /// Carries bytes both ways until one side ends. One request a connection, so that the next one is looked at again.
    fn pass_on(&self, browser: TcpStream, head: &str, body: &[u8]) -> io::Result<()> {
        let mut gateway = TcpStream::connect(self.gateway)?;
        gateway.set_read_timeout(Some(PATIENCE))?;
        gateway.set_write_timeout(Some(PATIENCE))?;
        gateway.write_all(head.replace("Connection: keep-alive\r\n", "Connection: close\r\n").as_bytes())?;
        gateway.write_all(body)?;
        let (from, to) = (browser.try_clone()?, gateway.try_clone()?);
        let up = thread::spawn(move || carry(from, to));
        carry(gateway, browser);
        let _ = up.join();
        Ok(())
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    // However it ends, the other side learns that it is over.
    let _ = io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// The head of a request, and what came with it.
fn read_head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..count]);
        if let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
    }
}

fn content_length(head: &str) -> usize {
    let header = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    header.and_then(|it| it.parse().ok()).unwrap_or(0)
}

fn answer(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let head = "Content-Type: text/html; charset=utf-8\r\nConnection: close";
    write!(stream, "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
