//! Why the accept loop and the reading side are our own: what `tiny_http::Server` does with one small request.
//!
//! A failure here is good news: the crate has mended it, and `ARCHITECTURE.md` can be read again in that light.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::Stdio,
};

use rustix::process::Signal;

use crate::support::{Connection, PATIENCE, command, wait_for_exit};

/// Set for the process that is to be aborted, and for no other.
const IS_VICTIM: &str = "MCPGATE_TEST_IS_VICTIM";

#[test]
fn one_request_with_a_lying_content_length_aborts_the_process_of_a_tiny_http_server() {
    let mut victim = command(env::current_exe().unwrap());
    victim.args(["tiny_http::victim", "--exact", "--ignored", "--nocapture"]).env(IS_VICTIM, "1");
    let mut victim = victim.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.strip_prefix("victim at ")?.parse::<SocketAddr>().ok()).unwrap();

    let mut connection = Connection::open(address);
    connection.send_raw("POST / HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n").unwrap();
    let status = wait_for_exit(&mut victim, PATIENCE);

    // It is our own child; after an abort this finds nothing to end.
    let _ = victim.kill();
    let signal = status.expect("the server survived the request").signal();
    assert_eq!(signal, Some(Signal::ABORT.as_raw()));
}

/// Not a test: the process that the test above starts, attacks and outlives.
#[test]
#[ignore = "serves until it is aborted; started by the test above"]
fn victim() {
    if env::var_os(IS_VICTIM).is_none() {
        return;
    }
    let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
    println!("\nvictim at {}", server.server_addr());
    // What a careful program does: it refuses the body without looking at it.
    for request in server.incoming_requests() {
        let _ = request.respond(tiny_http::Response::empty(413));
    }
}
