//! The settings as they are now, for everybody who goes by them.
//!
//! A reload puts a new [`Config`] in the place of the old one. Whoever looks holds no lock and waits for nobody; what it got stays
//! as it is for as long as it is held, so values that belong together are read from one look.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Config;

/// See the module. Clones are the same settings.
#[derive(Debug, Clone)]
pub struct Live(Arc<ArcSwap<Config>>);

impl Live {
    /// Settings that begin as `config`.
    pub fn new(config: Config) -> Live {
        Live(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// The settings now.
    pub fn now(&self) -> Guard<Arc<Config>> {
        self.0.load()
    }

    /// Puts others in their place.
    pub fn set(&self, config: Config) {
        self.0.store(Arc::new(config));
    }
}

impl Default for Live {
    /// Every setting at its default.
    fn default() -> Live {
        Live::new(Config::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_sees_what_was_set_and_keeps_what_he_holds() {
        let live = Live::default();
        let (other, before) = (live.clone(), live.now());
        live.set(Config { queue_max: 7, ..Config::default() });
        assert_eq!((other.now().queue_max, before.queue_max), (7, 1024));
    }
}
