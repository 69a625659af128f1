//! What the groups of a server's workers share: the numbers of their names, and how many of them may be isolated.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// Gives workers their names: `{server}-{n}`, with the lowest number that is free.
#[derive(Debug)]
pub(super) struct Names {
    server: Arc<str>,
    /// Whether number `index + 1` is in use.
    used: Mutex<Vec<bool>>,
}

impl Names {
    pub(super) fn new(server: Arc<str>) -> Names {
        Names { server, used: Mutex::default() }
    }

    /// A name that no worker has.
    pub(super) fn take(&self) -> Arc<str> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let index = used.iter().position(|is_used| !is_used).unwrap_or_else(|| {
            used.push(false);
            used.len() - 1
        });
        used[index] = true;
        format!("{}-{}", self.server, index + 1).into()
    }

    /// Gives a name back.
    pub(super) fn give_back(&self, name: &str) {
        let number = name.rsplit_once('-').and_then(|(_, number)| number.parse::<usize>().ok());
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(is_used) = number.and_then(|number| used.get_mut(number.checked_sub(1)?)) {
            *is_used = false;
        }
    }
}

/// How many isolated workers a server may have (`SESSION_WORKERS_MAX`), and how many it has.
#[derive(Debug)]
pub(super) struct Budget {
    workers_max: AtomicUsize,
    used: AtomicUsize,
}

impl Budget {
    pub(super) fn new(workers_max: usize) -> Budget {
        Budget { workers_max: AtomicUsize::new(workers_max), used: AtomicUsize::new(0) }
    }

    /// Isolated workers there may be.
    pub(super) fn workers_max(&self) -> usize {
        self.workers_max.load(Ordering::SeqCst)
    }

    /// Allows so many from now on; those that are too many stay until they end.
    pub(super) fn set_workers_max(&self, workers_max: usize) {
        self.workers_max.store(workers_max, Ordering::SeqCst);
    }

    /// Takes as many as there are left, at most `wanted`.
    pub(super) fn take(&self, wanted: usize) -> usize {
        let mut taken = 0;
        // Always succeeds: the closure never says no.
        let _ = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
            taken = wanted.min(self.workers_max().saturating_sub(used));
            Some(used + taken)
        });
        taken
    }

    /// Gives some back.
    pub(super) fn give_back(&self, workers: usize) {
        self.used.fetch_sub(workers, Ordering::SeqCst);
    }

    /// Isolated workers there are.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_used_again_the_lowest_first() {
        let names = Names::new("a-1".into());
        let taken = [(); 3].map(|()| names.take());
        assert_eq!(taken.each_ref().map(|name| &**name), ["a-1-1", "a-1-2", "a-1-3"]);
        names.give_back(&taken[1]);
        assert_eq!((&*names.take(), &*names.take()), ("a-1-2", "a-1-4"));
    }

    #[test]
    fn a_budget_gives_what_is_left() {
        let budget = Budget::new(3);
        assert_eq!([budget.take(2), budget.take(2), budget.take(1)], [2, 1, 0]);
        budget.give_back(2);
        assert_eq!((budget.used(), budget.take(5)), (1, 2));
    }
}
