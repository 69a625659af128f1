//! Workers in the order in which they are to get calls: those with the fewest calls first, of those the one unused for longest.
//!
//! A sorted list, so that who looks for a place need not look at every worker. It knows neither whether a worker takes calls nor
//! which; [`super::dispatch`] keeps it true.

/// When the turn of a worker is: its calls, which use of the pool its last call was, and its slot.
pub(super) type Turn = (usize, u64, usize);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns(Vec<Turn>);

impl Turns {
    /// Adds a worker.
    pub(super) fn add(&mut self, turn: Turn) {
        let at = self.0.binary_search(&turn).unwrap_or_else(|at| at);
        self.0.insert(at, turn);
    }

    /// Moves a worker that stood at `before`.
    pub(super) fn change(&mut self, before: Turn, after: Turn) {
        if let Ok(at) = self.0.binary_search(&before) {
            self.0.remove(at);
        }
        self.add(after);
    }

    /// The slots of workers with fewer than so many calls.
    pub(super) fn with_fewer(&self, calls: usize) -> impl Iterator<Item = usize> {
        self.0.iter().take_while(move |(n_calls, ..)| *n_calls < calls).map(|(.., slot)| *slot)
    }

    /// The slots of all.
    pub(super) fn all(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|(.., slot)| *slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_stands_behind_those_with_fewer_calls_and_those_unused_for_longer() {
        let mut turns = Turns::default();
        for slot in 0..4 {
            turns.add((0, 0, slot));
        }
        assert_eq!(turns.all().collect::<Vec<_>>(), [0, 1, 2, 3]);
        turns.change((0, 0, 0), (1, 1, 0));
        turns.change((0, 0, 2), (1, 2, 2));
        assert_eq!(turns.with_fewer(1).collect::<Vec<_>>(), [1, 3]);
        turns.change((1, 2, 2), (0, 2, 2));
        turns.change((1, 1, 0), (2, 3, 0));
        assert_eq!(turns.all().collect::<Vec<_>>(), [1, 3, 2, 0]);
        assert_eq!(turns.with_fewer(2).collect::<Vec<_>>(), [1, 3, 2]);
    }
}
