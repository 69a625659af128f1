//! What a service manager is told: a socket of the test's own stands for its.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{Folder, Gateway, Helper, Launch, PATIENCE, send_signal};

struct Manager {
    socket: UnixDatagram,
    folder: Folder,
}

impl Manager {
    fn new() -> Manager {
        let folder = Folder::new();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, folder }
    }

    /// A gateway that is to tell this manager every 100 ms that it is alive.
    fn start(&self) -> Gateway {
        let name = self.folder.path().join("notify").display().to_string();
        Launch::new(Helper::new()).set("NOTIFY_SOCKET", &name).set("WATCHDOG_USEC", "200000").start()
    }

    fn next(&self) -> String {
        let mut bytes = [0; 256];
        let n = self.socket.recv(&mut bytes).expect("the gateway says something");
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    }
}

#[test]
fn it_is_told_that_the_gateway_is_ready_alive_and_stops() {
    let manager = Manager::new();
    let gateway = manager.start();
    assert_eq!(manager.next(), format!("READY=1\nSTATUS=listening on {}", gateway.address()));
    assert_eq!([manager.next(), manager.next()], ["WATCHDOG=1", "WATCHDOG=1"]);
    let env: serde_json::Value = serde_json::from_str(&gateway.call("env", "{}").data().to_string()).unwrap();
    let is_told = ["NOTIFY_SOCKET", "WATCHDOG_USEC"].iter().any(|key| env.get(key).is_some());
    assert!(env.is_object() && !is_told, "a worker takes itself for the service: {env}");

    drop(gateway);
    let stops_by = Instant::now() + PATIENCE;
    while manager.next() != "STOPPING=1" {
        assert!(Instant::now() < stops_by, "the gateway does not say that it stops");
    }
}

/// `ExecReload=` of the unit is this signal.
#[test]
fn a_reload_costs_no_sign_of_life() {
    let manager = Manager::new();
    let gateway = manager.start();
    assert!(manager.next().starts_with("READY=1"));
    gateway.signal(Signal::HUP);
    gateway.wait_until("a look", || gateway.log().contains("nothing has changed"));
    manager.socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 256];
    while manager.socket.recv(&mut bytes).is_ok() {}
    manager.socket.set_nonblocking(false).unwrap();
    assert_eq!([manager.next(), manager.next()], ["WATCHDOG=1", "WATCHDOG=1"], "nothing but that it is alive");
}

#[test]
fn it_hears_nothing_from_a_gateway_that_answers_nobody() {
    let manager = Manager::new();
    let gateway = manager.start();
    while manager.next() != "WATCHDOG=1" {}
    send_signal(gateway.pid(), Signal::STOP);
    // What was said before is taken first.
    manager.socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut bytes = [0; 256];
    while manager.socket.recv(&mut bytes).is_ok() {}
    send_signal(gateway.pid(), Signal::CONT);
    manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(manager.next(), "WATCHDOG=1", "and hears from it when it goes on");
}
