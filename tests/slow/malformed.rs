//! A great many malformed requests over real sockets: the seeds of `fuzz/`, changed at random, one connection each.
//!
//! What is held against the gateway:
//!
//! - Each is answered with 4xx or closed, unless the change left it a sound request; with 5xx only where the contract says so.
//! - None is left without an answer or an end: every read has a deadline.
//! - No panic, and a normal client beside them has all its calls answered.
//! - After warm-up memory stays flat, and idle again there are no more descriptors, threads and processes than before.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use memchr::memmem;
use socket2::{Domain, Socket, Type};

use crate::{
    client::{Call, Client},
    figures::{Figures, log_end, print_head, print_row},
    numbers::{Turn, malformed_requests},
    random::Random,
    support::{Gateway, Helper, KEY, PATIENCE, holds_within, root},
};

const ATTACKERS: u64 = 16;

/// Looks that are taken along the way.
const LOOKS: u64 = 100;

/// Failures with 5xx that the contract has: the worker failed, is not there or too slow.
const DUE_CODES: &[&str] = &["worker_error", "worker_crashed", "overloaded", "breaker_open", "no_worker", "timeout"];

/// What is put between other bytes.
const SPICES: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    "\t",
    " ",
    ":",
    ",",
    ";",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    "0",
    "-1",
    "\u{7f}",
    "\u{feff}",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: other\r\n",
    "GET /hidden HTTP/1.1\r\n\r\n",
];

/// What is changed, and what stands around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Head,
    Chunks,
    Frames,
    SocketMessage,
    McpMessage,
    CallBody,
    Noise,
}

const KINDS: &[Kind] = &[
    Kind::Head,
    Kind::Head,
    Kind::Chunks,
    Kind::Frames,
    Kind::SocketMessage,
    Kind::McpMessage,
    Kind::CallBody,
    Kind::Noise,
];

#[test]
fn a_great_many_malformed_requests_leave_nothing_behind() {
    let Some(turn) = Turn::of("malformed") else { return };
    let settings =
        [("MIN_WORKERS", "2"), ("MAX_WORKERS", "2"), ("SESSION_IDLE_TIMEOUT", "1"), ("MCP_REQUEST_TIMEOUT", "2")];
    let gateway = Gateway::start(&settings, Helper::new());
    gateway.call("echo", "{}").expect_status(200);
    let before = Figures::when_idle(&gateway);
    let run = Run {
        gateway: &gateway,
        seeds: Seeds::read(),
        seed: turn.seed,
        n: malformed_requests(),
        begun: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    };
    let (tally, looks) = run.go(&before);
    let holds_no_more = holds_within(PATIENCE, || Figures::of(&gateway).holds_no_more_than(&before));
    let after = Figures::when_idle(&gateway);
    print_row("idle again", None, &after);
    println!("{:>16} {:>10} {:>10} {:>10} {:>10}", "kind", "4xx", "closed", "sound", "due 5xx");
    for (kind, Count { refused, closed, sound, due }) in &tally.counts {
        println!("{:>16} {refused:>10} {closed:>10} {sound:>10} {due:>10}", format!("{kind:?}"));
    }

    let log = || log_end(&gateway);
    assert!(tally.wrong.is_empty(), "{}\n{}", tally.wrong.join("\n"), log());
    assert!(!gateway.log().contains("panicked"), "{}", log());
    assert!(holds_no_more, "before: {before:?}\nidle again: {after:?}\n{}", log());
    let median_kb = |fifth: usize| {
        let size = looks.len() / 5;
        let mut sizes: Vec<usize> = looks[fifth * size..(fifth + 1) * size].iter().map(|look| look.pss_kb).collect();
        sizes.sort_unstable();
        sizes[sizes.len() / 2]
    };
    let (early_kb, late_kb) = (median_kb(1), median_kb(4));
    println!("median PSS of the second fifth {early_kb} kB, of the last {late_kb} kB");
    // A few sessions more or less at the moment of a look are no leak.
    assert!(late_kb * 10 <= early_kb * 11 + 10 * 1024, "memory grew from {early_kb} to {late_kb} kB\n{}", log());
    gateway.call("echo", "{}").expect_status(200);
}

// --- the run ----------------------------------------------------------------------------------------------------

struct Run<'a> {
    gateway: &'a Gateway,
    seeds: Seeds,
    seed: u64,
    n: u64,
    begun: AtomicU64,
    is_over: AtomicBool,
}

#[derive(Default)]
struct Tally {
    counts: BTreeMap<Kind, Count>,
    wrong: Vec<String>,
}

#[derive(Default)]
struct Count {
    refused: u64,
    closed: u64,
    sound: u64,
    due: u64,
}

impl Run<'_> {
    fn go(&self, before: &Figures) -> (Tally, Vec<Figures>) {
        print_head("requests");
        print_row("idle", None, before);
        thread::scope(|scope| {
            let normal = scope.spawn(|| self.call_meanwhile());
            let attackers: Vec<_> = (0..ATTACKERS).map(|number| scope.spawn(move || self.attack(number))).collect();
            let mut looks: Vec<Figures> = Vec::new();
            let mut printed = (0, Instant::now());
            while (looks.len() as u64) < LOOKS && !attackers.iter().all(|it| it.is_finished()) {
                let begun = self.begun.load(Ordering::Relaxed).min(self.n);
                if begun < self.n * (looks.len() as u64 + 1) / LOOKS {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                looks.push(Figures::of(self.gateway));
                if looks.len().is_multiple_of(10) {
                    let per_second = (begun - printed.0) as f64 / printed.1.elapsed().as_secs_f64();
                    print_row(&begun.to_string(), Some(per_second), &looks[looks.len() - 1]);
                    printed = (begun, Instant::now());
                }
            }
            let tallies: Vec<Tally> = attackers.into_iter().map(|attacker| attacker.join().unwrap()).collect();
            self.is_over.store(true, Ordering::Relaxed);
            let mut tally = Tally { wrong: normal.join().unwrap().into_iter().collect(), ..Tally::default() };
            for Tally { counts, wrong } in tallies {
                tally.wrong.extend(wrong);
                for (kind, count) in counts {
                    let sum = tally.counts.entry(kind).or_default();
                    sum.refused += count.refused;
                    sum.closed += count.closed;
                    sum.sound += count.sound;
                    sum.due += count.due;
                }
            }
            (tally, looks)
        })
    }

    /// Calls in peace. The first call that is not answered, if there is one.
    fn call_meanwhile(&self) -> Option<String> {
        let mut client = Client::new(self.gateway.address());
        while !self.is_over.load(Ordering::Relaxed) {
            match client.call(&Call { path: "echo", id: "normal", body: r#"{"arguments":{}}"#, session: None }) {
                Ok(got) if got.status == 200 => thread::sleep(Duration::from_millis(5)),
                Ok(got) => return Some(format!("a normal call got {} {}", got.status, got.text())),
                Err(cause) => return Some(format!("a normal call got no answer: {cause}")),
            }
        }
        None
    }

    fn attack(&self, number: u64) -> Tally {
        let mut random = Random::new(self.seed, number);
        let mut tally = Tally::default();
        while tally.wrong.len() < 3 {
            let n = self.begun.fetch_add(1, Ordering::Relaxed);
            if self.n <= n {
                break;
            }
            let kind = *random.pick(KINDS);
            let bytes = self.seeds.request(kind, &mut random);
            let count = tally.counts.entry(kind).or_default();
            // Each address has ports of its own, of which a closed connection holds one for a while.
            let from = Ipv4Addr::new(127, 0, 1 + (n % 16) as u8, 1 + number as u8);
            let answer = send(self.gateway.address(), from, &bytes);
            match answer.map(|answer| (status(&answer), answer)) {
                Ok((None, answer)) if answer.is_empty() => count.closed += 1,
                Ok((Some(400..=499), _)) => count.refused += 1,
                Ok((Some(100..=399), _)) => count.sound += 1,
                Ok((Some(502..=504), answer)) if is_due(&answer) => count.due += 1,
                got => {
                    let got = got.map(|(_, answer)| answer.escape_ascii().to_string());
                    tally.wrong.push(format!("request {n}, {kind:?}: \"{}\"\n  got {got:?}", bytes.escape_ascii()));
                }
            }
        }
        tally
    }
}

/// Sends bytes, says that nothing more comes, and takes all that the gateway says.
fn send(to: SocketAddr, from: Ipv4Addr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // It may answer and close before it has seen all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(cause) if cause.kind() != io::ErrorKind::ConnectionReset => Err(cause),
        _ => Ok(answer),
    }
}

/// The worst status of the answers.
fn status(answers: &[u8]) -> Option<u16> {
    // The second digit is that of the request.
    let heads = memmem::find_iter(answers, b"HTTP/1.");
    heads.filter_map(|at| std::str::from_utf8(answers.get(at + 9..at + 12)?).ok()?.parse().ok()).max()
}

fn is_due(answer: &[u8]) -> bool {
    DUE_CODES.iter().any(|code| memmem::find(answer, format!(r#""code":"{code}""#).as_bytes()).is_some())
}

// --- the requests -----------------------------------------------------------------------------------------------

struct Seeds(BTreeMap<&'static str, Vec<Vec<u8>>>);

impl Seeds {
    fn read() -> Seeds {
        let of = |name: &'static str| {
            let entries = fs::read_dir(root().join("fuzz/seeds").join(name)).unwrap();
            let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            (name, paths.iter().map(|path| fs::read(path).unwrap()).collect())
        };
        let names = ["request_head", "chunked_body", "websocket_frames", "websocket_message", "client_message"];
        Seeds(names.into_iter().map(of).collect())
    }

    fn request(&self, kind: Kind, random: &mut Random) -> Vec<u8> {
        let mut changed = |name: &str| {
            let mut bytes = random.pick(&self.0[name]).clone();
            for _ in 0..1 + random.below(6) {
                change(&mut bytes, random);
            }
            bytes
        };
        let post = |path: &str, headers: &str, body: &[u8]| {
            let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n{headers}\r\n");
            [head.as_bytes(), body].concat()
        };
        let with_length = |path: &str, headers: &str, body: &[u8]| {
            post(path, &format!("{headers}Content-Length: {}\r\n", body.len()), body)
        };
        match kind {
            Kind::Head => changed("request_head"),
            Kind::Chunks => post("/tools/echo", "Transfer-Encoding: chunked\r\n", &changed("chunked_body")),
            Kind::Frames => [upgrade(), changed("websocket_frames")].concat(),
            Kind::SocketMessage => [upgrade(), frame(&changed("websocket_message"))].concat(),
            Kind::McpMessage => {
                let headers = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n";
                with_length("/mcp", headers, &changed("client_message"))
            }
            Kind::CallBody => with_length("/tools/echo", "", &changed("websocket_message")),
            Kind::Noise => {
                let mut bytes = Vec::new();
                for _ in 0..random.below(64) {
                    bytes.push(random.below(256) as u8);
                }
                [&bytes[..], b"\r\n\r\n"].concat()
            }
        }
    }
}

fn upgrade() -> Vec<u8> {
    format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// A whole text message, masked with zeros.
fn frame(payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(usize::from(u16::MAX))];
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0], payload].concat()
}

fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    let n = bytes.len() as u64 + 1;
    let (one, other) = (random.below(n) as usize, random.below(n) as usize);
    let (from, to) = (one.min(other), one.max(other));
    match random.below(5) {
        0 => bytes.truncate(one),
        1 => drop(bytes.drain(from..to.min(from + 8))),
        2 => drop(bytes.splice(one..one, random.pick(SPICES).bytes())),
        3 => {
            let part = bytes[from..to].to_vec();
            bytes.splice(from..from, part);
        }
        _ if one < bytes.len() => bytes[one] = random.below(256) as u8,
        _ => bytes.push(random.below(256) as u8),
    }
}
