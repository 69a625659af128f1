//! What became of the reloads of settings and servers, for `/stats`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde_json::Value;

use crate::json::json;

/// See the module.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    total: u64,
    last_at: Option<SystemTime>,
    last_error: Option<String>,
    needs_restart: Vec<&'static str>,
}

impl Reloads {
    /// Something was applied; `error` is what was not. `needs_restart` are the settings whose new values wait for a restart.
    pub fn applied(&self, needs_restart: Vec<&'static str>, error: Option<String>) {
        let mut state = self.lock();
        state.total += 1;
        (state.last_at, state.last_error, state.needs_restart) = (Some(SystemTime::now()), error, needs_restart);
    }

    /// Everything was refused.
    pub fn refused(&self, error: String) {
        let mut state = self.lock();
        (state.last_at, state.last_error) = (Some(SystemTime::now()), Some(error));
    }

    /// As `/stats` shows it, with the names of workers that leave.
    pub(super) fn to_json(&self, leaving: &[Arc<str>]) -> Value {
        let state = self.lock();
        let time = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
        json!({
            "total": state.total,
            "last_at": state.last_at.map(time),
            "last_error": state.last_error,
            "needs_restart": state.needs_restart,
            "leaving": leaving.iter().map(|name| &**name).collect::<Vec<_>>(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stands_until_the_next_reload_that_goes_well() {
        let reloads = Reloads::default();
        assert_eq!(reloads.to_json(&[])["last_at"], Value::Null);
        reloads.refused("a line".to_owned());
        let shown = reloads.to_json(&["a-1".into()]);
        assert_eq!(
            (&shown["total"], &shown["last_error"], &shown["leaving"]),
            (&json!(0), &json!("a line"), &json!(["a-1"]))
        );
        assert!(shown["last_at"].is_string());
        reloads.applied(vec!["LISTEN"], None);
        let shown = reloads.to_json(&[]);
        assert_eq!(
            (&shown["total"], &shown["last_error"], &shown["needs_restart"]),
            (&json!(1), &Value::Null, &json!(["LISTEN"]))
        );
    }
}
