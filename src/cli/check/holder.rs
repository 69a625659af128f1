//! Who listens on a port, as far as the system tells this user.
//!
//! Source: proc(5), `/proc/net/tcp` and `/proc/pid/fd`. Others' processes may be hidden; then nobody is named.

use std::{fs, path::Path};

/// A process that has a port.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    /// Its name as `ps` shows it.
    pub(super) name: String,
}

/// Who listens on this port, at whatever address.
pub(super) fn of_port(port: u16) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: Vec<u64> = tables.iter().flat_map(|table| listening_inodes(table, port)).collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let has_socket = |pid: &u32| {
        let descriptors = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"));
        let targets = descriptors.into_iter().flatten().filter_map(|it| fs::read_link(it.ok()?.path()).ok());
        targets.into_iter().any(|target| sockets.iter().any(|socket| target == Path::new(socket)))
    };
    let pid = if sockets.is_empty() { None } else { pids.into_iter().find(has_socket) }?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(Holder { pid, name: name.trim_end().to_owned() })
}

/// Inodes of the sockets in a table that listen on this port.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTENING: &str = "0A";
    let end = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    let is_it = |row: &Vec<&str>| row.get(1).is_some_and(|it| it.ends_with(&end)) && row.get(3) == Some(&LISTENING);
    rows.filter(is_it).filter_map(|row| row.get(9)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_has_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(of_port(port).map(|it| it.pid), Some(std::process::id()));
        drop(listener);
        assert_eq!(of_port(port), None);
    }
}
