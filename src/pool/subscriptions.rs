//! Which resources somebody wants to hear of, and the workers that are told so: all of a group, because any of them may be
//! the one that changes a resource.
//!
//! A worker that dies takes what it was told with it; the next one in its slot is told again when it joins.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::worker::Link;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// How many want to hear of each.
    counts: BTreeMap<String, usize>,
    /// The workers that can tell, by their slots.
    links: HashMap<usize, Arc<Link>>,
}

impl Subscriptions {
    /// Counts one more who wants to hear of `uri`. The worker of `knowing` knows already.
    pub(super) fn add(&mut self, uri: &str, knowing: Option<&Arc<Link>>) {
        if let Some(count) = self.counts.get_mut(uri) {
            *count += 1;
            return;
        }
        self.counts.insert(uri.to_owned(), 1);
        self.others(knowing).for_each(|link| link.subscribe(uri));
    }

    /// Counts one less. The worker of `knowing` knows already.
    pub(super) fn remove(&mut self, uri: &str, knowing: Option<&Arc<Link>>) {
        let Some(count) = self.counts.get_mut(uri) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(uri);
            self.others(knowing).for_each(|link| link.unsubscribe(uri));
        }
    }

    /// Takes over what `others` were to tell of, who are asked no more.
    pub(super) fn inherit(&mut self, others: &mut Subscriptions) {
        for (uri, count) in std::mem::take(&mut others.counts) {
            self.add(&uri, None);
            // Not zero: it is there.
            *self.counts.entry(uri).or_default() += count - 1;
        }
    }

    /// How many want to hear of `uri`.
    pub(super) fn count(&self, uri: &str) -> usize {
        self.counts.get(uri).copied().unwrap_or_default()
    }

    fn others(&self, knowing: Option<&Arc<Link>>) -> impl Iterator<Item = &Arc<Link>> {
        self.links.values().filter(move |link| knowing.is_none_or(|knowing| !Arc::ptr_eq(link, knowing)))
    }

    /// A worker takes calls that can tell of resources.
    pub(super) fn join(&mut self, slot: usize, link: &Arc<Link>) {
        self.counts.keys().for_each(|uri| link.subscribe(uri));
        self.links.insert(slot, Arc::clone(link));
    }

    /// The worker of this slot takes no calls any more.
    pub(super) fn leave(&mut self, slot: usize) {
        self.links.remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read as _};

    use super::*;
    use crate::mcp::revision::Era;

    struct Server {
        link: Arc<Link>,
        reader: io::PipeReader,
    }

    impl Server {
        fn new() -> Server {
            let (reader, writer) = io::pipe().unwrap();
            let inbox = crossbeam_channel::bounded(1).0;
            Server { link: Link::new("s-1".into(), Era::Legacy, writer.into(), inbox).unwrap(), reader }
        }

        /// The link's lines since the last time, without ids: `subscribe a`.
        fn was_told(&mut self) -> Vec<String> {
            // So that there is always something to read.
            self.link.ping();
            let mut bytes = vec![0; 64 * 1024];
            let n = self.reader.read(&mut bytes).unwrap();
            let told = bytes[..n].split(|byte| *byte == b'\n').filter_map(|line| {
                let line: serde_json::Value = serde_json::from_slice(line).ok()?;
                let method = line["method"].as_str()?.strip_prefix("resources/")?.to_owned();
                Some(format!("{method} {}", line["params"]["uri"].as_str()?))
            });
            told.collect()
        }
    }

    #[test]
    fn the_first_and_the_last_who_want_to_hear_are_told_to_every_worker() {
        let mut subscriptions = Subscriptions::default();
        let mut servers = [Server::new(), Server::new()];
        for (slot, server) in servers.iter().enumerate() {
            subscriptions.join(slot, &server.link);
        }
        subscriptions.add("a", None);
        subscriptions.add("a", None);
        subscriptions.remove("a", None);
        servers.iter_mut().for_each(|server| assert_eq!(server.was_told(), ["subscribe a"]));
        subscriptions.remove("a", None);
        subscriptions.remove("a", None);
        servers.iter_mut().for_each(|server| assert_eq!(server.was_told(), ["unsubscribe a"]));
    }

    #[test]
    fn the_next_worker_in_a_slot_is_told_of_what_is_wanted_still() {
        let mut subscriptions = Subscriptions::default();
        let (mut old, mut new) = (Server::new(), Server::new());
        subscriptions.join(0, &old.link);
        ["a", "b", "c"].iter().for_each(|uri| subscriptions.add(uri, None));
        subscriptions.remove("b", None);
        subscriptions.leave(0);
        subscriptions.add("d", None);
        assert_eq!(old.was_told(), ["subscribe a", "subscribe b", "subscribe c", "unsubscribe b"]);
        subscriptions.join(0, &new.link);
        assert_eq!(new.was_told(), ["subscribe a", "subscribe c", "subscribe d"]);
    }
}
