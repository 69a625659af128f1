//! What the system says of a worker's process: whether it is stopped, and what it and its descendants use.
//!
//! Source: proc(5), `/proc/pid/stat`, and `/proc/pid/task/tid/children`.

use std::{fs, path::Path};

/// Descendants that are looked at. A server that has more is counted too low, but nobody waits for the count.
const PROCESSES_MAX: usize = 256;

/// What a process and its descendants use.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Memory that is resident, shared pages counted for each process.
    pub rss_bytes: u64,
    /// CPU so far, also that of descendants that have ended and were waited for.
    pub cpu_seconds: f64,
}

/// Whether the process is stopped by a signal. False for one that is gone.
pub fn is_stopped(pid: u32) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.state == 'T')
}

/// What a process and its descendants use. `None` when it is gone.
pub fn usage(pid: u32) -> Option<Usage> {
    let page_bytes = rustix::param::page_size() as u64;
    #[allow(clippy::cast_precision_loss, reason = "ticks of a process stay far below 2^53")]
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let mut found = Stat::read(pid).map(|stat| vec![(pid, stat)])?;
    let mut next = 0;
    while next < found.len() && found.len() < PROCESSES_MAX {
        let children: Vec<_> = children(found[next].0).filter_map(|pid| Some((pid, Stat::read(pid)?))).collect();
        found.extend(children);
        next += 1;
    }
    let pages: u64 = found.iter().map(|(_, stat)| stat.rss_pages).sum();
    let ticks: u64 = found.iter().map(|(_, stat)| stat.cpu_ticks).sum();
    #[allow(clippy::cast_precision_loss, reason = "as above")]
    Some(Usage { rss_bytes: pages * page_bytes, cpu_seconds: ticks as f64 / ticks_per_second })
}

fn children(pid: u32) -> impl Iterator<Item = u32> {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
    let files = tasks.into_iter().flatten().filter_map(|task| Some(task.ok()?.path().join("children")));
    let lists = files.filter_map(|file| fs::read_to_string(file).ok());
    lists.flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
}

/// What a process uses by itself, without its descendants.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct OwnUsage {
    pub rss_bytes: u64,
    pub virtual_bytes: u64,
    pub cpu_seconds: f64,
    pub threads: u64,
}

/// What this process uses.
pub fn own_usage() -> Option<OwnUsage> {
    let stat = Stat::read(std::process::id())?;
    #[allow(clippy::cast_precision_loss, reason = "ticks of a process stay far below 2^53")]
    let (ticks, ticks_per_second) = (stat.own_ticks as f64, rustix::param::clock_ticks_per_second() as f64);
    Some(OwnUsage {
        rss_bytes: stat.rss_pages * rustix::param::page_size() as u64,
        virtual_bytes: stat.virtual_bytes,
        cpu_seconds: ticks / ticks_per_second,
        threads: stat.threads,
    })
}

/// Files and sockets that this process has open, and how many it may.
pub fn own_descriptors() -> (Option<u64>, Option<u64>) {
    // The folder itself is open while it is read.
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1));
    (open, rustix::process::getrlimit(rustix::process::Resource::Nofile).current)
}

/// The fields of `/proc/pid/stat` that are needed here.
#[derive(Debug, PartialEq)]
struct Stat {
    state: char,
    /// Those of children that have ended included.
    cpu_ticks: u64,
    own_ticks: u64,
    threads: u64,
    virtual_bytes: u64,
    rss_pages: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Stat> {
        // The name, in parentheses, may hold anything; fields are counted from 3 behind it.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let cpu_ticks = (14..=17).map(number).sum::<Option<u64>>()?;
        let own_ticks = number(14)? + number(15)?;
        let (threads, virtual_bytes, rss_pages) = (number(20)?, number(23)?, number(24)?);
        Some(Stat { state: fields.first()?.chars().next()?, cpu_ticks, own_ticks, threads, virtual_bytes, rss_pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
        let text = "42 (a) T (x) S 1 42 42 0 -1 4194560 100 0 0 0 7 3 2 1 20 0 1 0 12345 1000000 250 1844674407 1 1";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                state: 'S',
                cpu_ticks: 13,
                own_ticks: 10,
                threads: 1,
                virtual_bytes: 1_000_000,
                rss_pages: 250
            })
        );
        assert_eq!(Stat::parse("42 (a) S 1 2"), None);
    }

    #[test]
    fn our_own_process_runs_and_uses_something() {
        let pid = std::process::id();
        assert!(!is_stopped(pid) && 100_000 < usage(pid).unwrap().rss_bytes);
        assert_eq!(usage(u32::MAX), None);
        let own = own_usage().unwrap();
        assert!(100_000 < own.rss_bytes && own.rss_bytes < own.virtual_bytes && 0 < own.threads, "{own:?}");
        let (open, max) = own_descriptors();
        assert!(3 <= open.unwrap() && open.unwrap() <= max.unwrap(), "{open:?} of {max:?}");
    }
}
