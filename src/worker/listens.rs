//! What a modern server is asked to tell of: its open `subscriptions/listen` requests, one for changes of its lists and one
//! for each resource.
//!
//! One request for everything would have to be sent anew, and the old one taken back, whenever a resource comes or goes:
//! changes could be lost or told twice meanwhile, and one uri that the server refuses would silence the rest.
//!
//! **Limit.** As many as there are resources that somebody wants to hear of, which is the owner's to bound.

use crate::mcp::{message::Request, raw, revision::Era};

use super::{ServerInfo, own};

/// The method of such a request.
pub(super) const METHOD: &str = "subscriptions/listen";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Listens(Vec<Listen>);

#[derive(Debug)]
struct Listen {
    /// What it asks for: the object `notifications` of its parameters.
    filter: String,
    /// The id it is in flight under; `None` before it is sent, and after it has ended.
    id: Option<u64>,
}

impl Listens {
    /// Adds one, unless it is there.
    pub(super) fn add(&mut self, filter: String) {
        if self.0.iter().all(|listen| listen.filter != filter) {
            self.0.push(Listen { filter, id: None });
        }
    }

    /// Takes one out. Returns the id it is in flight under.
    pub(super) fn remove(&mut self, filter: &str) -> Option<u64> {
        let index = self.0.iter().position(|listen| listen.filter == filter)?;
        self.0.swap_remove(index).id
    }

    /// Each that is not in flight, with the place for its id.
    pub(super) fn idle(&mut self) -> impl Iterator<Item = (Request, &mut Option<u64>)> {
        self.0.iter_mut().filter(|listen| listen.id.is_none()).map(|listen| (listen.request(), &mut listen.id))
    }

    /// Notes that the one in flight under this id, if there is one, has ended.
    pub(super) fn ended(&mut self, id: u64) {
        self.0.iter_mut().filter(|listen| listen.id == Some(id)).for_each(|listen| listen.id = None);
    }
}

impl Listen {
    fn request(&self) -> Request {
        own::request(Era::Modern, METHOD, Some(&format!(r#"{{"notifications":{}}}"#, self.filter)))
    }
}

/// For changes of whatever lists the server says that it tells of; `None` when of none.
pub(super) fn of_lists(info: &ServerInfo) -> Option<String> {
    let lists = ["tools", "prompts", "resources"].into_iter().filter(|list| info.has(list, "listChanged"));
    let fields: Vec<String> = lists.map(|list| format!(r#""{list}ListChanged":true"#)).collect();
    (!fields.is_empty()).then(|| format!("{{{}}}", fields.join(",")))
}

/// For changes of one resource.
pub(super) fn of_resource(uri: &str) -> String {
    format!(r#"{{"resourceSubscriptions":[{}]}}"#, raw::quoted(uri))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing;

    #[track_caller]
    fn check_lists(capabilities: &str, filter: Option<&str>) {
        assert_eq!(of_lists(&testing::info(Era::Modern, capabilities)).as_deref(), filter, "{capabilities}");
    }

    #[test]
    fn only_what_the_server_tells_of_is_asked_for() {
        check_lists("{}", None);
        check_lists(r#"{"tools":{},"prompts":{"listChanged":false},"resources":{"subscribe":true}}"#, None);
        check_lists(r#"{"tools":{"listChanged":true}}"#, Some(r#"{"toolsListChanged":true}"#));
        check_lists(
            r#"{"resources":{"listChanged":true},"prompts":{"listChanged":true},"tools":{"listChanged":true}}"#,
            Some(r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}"#),
        );
    }

    #[test]
    fn one_that_has_ended_is_sent_again_and_the_others_are_not() {
        let mut listens = Listens::default();
        let send_idle = |listens: &mut Listens, next_id: &mut u64| {
            let idle = listens.idle().map(|(_, id)| {
                *next_id += 1;
                *id = Some(*next_id);
            });
            idle.count()
        };
        let mut last_id = 0;
        listens.add(of_resource("a"));
        listens.add(of_resource("b"));
        listens.add(of_resource("a"));
        assert_eq!(send_idle(&mut listens, &mut last_id), 2);
        assert_eq!(send_idle(&mut listens, &mut last_id), 0);
        listens.ended(1);
        assert_eq!(send_idle(&mut listens, &mut last_id), 1);
        assert_eq!((listens.remove(&of_resource("a")), listens.remove(&of_resource("a"))), (Some(3), None));
    }
}
