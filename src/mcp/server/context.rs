//! What a running tool sees of its call: progress and items on the way out, cancellation on the way in.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Map, Value};

use super::outbox::Outbox;
use crate::json::json;

/// `_meta` key of a progress notification that carries an item: `{"index", "data"}`, the index counted from 0.
pub const CHUNK_KEY: &str = "mcpgate/chunk";

/// One running call, as its tool sees it.
///
/// MCP wants the `progress` of a call to rise with every notification, items included. An item counts as one step; a report
/// that would not rise is sent with the next larger number.
pub struct Context {
    outbox: Arc<Outbox>,
    progress_token: Option<Value>,
    is_cancelled: Arc<AtomicBool>,
    progress: Cell<Option<f64>>,
    items: Cell<u64>,
}

impl Context {
    pub(super) fn new(outbox: Arc<Outbox>, progress_token: Option<Value>, is_cancelled: Arc<AtomicBool>) -> Context {
        Context { outbox, progress_token, is_cancelled, progress: Cell::new(None), items: Cell::new(0) }
    }

    /// Tells the client how far the call is, of how much (if known), and what it is doing.
    ///
    /// Does nothing when the client did not ask for progress, or has cancelled.
    pub fn report_progress(&self, progress: f64, total: Option<f64>, message: &str) {
        let least = self.progress.get().map_or(0.0, f64::next_up);
        let progress = if progress.is_finite() { progress.max(least) } else { least };
        let mut params = Map::from_iter([("message".to_owned(), json!(message))]);
        if let Some(total) = total.filter(|it| it.is_finite()) {
            params.insert("total".to_owned(), number(total));
        }
        self.notify(progress, params);
    }

    /// Streams one item of the result while the tool goes on: a progress notification with the item in `_meta`.
    ///
    /// Does nothing when the client did not ask for progress, or has cancelled; the result must hold all items anyway.
    pub fn emit(&self, item: Value) {
        let index = self.items.get();
        self.items.set(index + 1);
        let before = self.progress.get().unwrap_or(0.0);
        // Beyond 2^53 one step more is no step.
        let progress = (before + 1.0).max(before.next_up());
        let chunk = json!({ CHUNK_KEY: {"index": index, "data": item} });
        self.notify(progress, Map::from_iter([("_meta".to_owned(), chunk)]));
    }

    /// Whether nobody waits for the result any more: the client cancelled the call, or is gone.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed) || self.outbox.has_failed()
    }

    fn notify(&self, progress: f64, mut params: Map<String, Value>) {
        self.progress.set(Some(progress));
        let Some(token) = &self.progress_token else { return };
        if self.is_cancelled() {
            return;
        }
        params.insert("progressToken".to_owned(), token.clone());
        params.insert("progress".to_owned(), number(progress));
        self.outbox.send(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}));
    }
}

/// A number as people write it: `3`, not `3.0`.
fn number(value: f64) -> Value {
    // Below this every whole number has an exact `f64`.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let is_whole = value.fract() == 0.0 && value.abs() <= EXACT_MAX;
    if is_whole { json!(value as i64) } else { json!(value) }
}
