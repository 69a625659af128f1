//! Pools with real processes: which workers an asker gets, and what becomes of what servers say outside of calls. The servers
//! are lines of shell, or the bundled one on threads.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;

use super::{Asker, Change, Errand, Lease, Limits, NoResult, Nobody, Servers, Watcher, WorkerSnapshot, lock};
use crate::{
    config::{Command, Config, EraSetting, Isolation, Live, ServerSpec, test_dir::TestDir},
    mcp::{
        message::{self, Request},
        revision::Era,
    },
    worker::{
        Hello, Waiter,
        mailbox::{Mailbox, Note},
        testing::scripted,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a server of the legacy era says that has one tool and can be subscribed to.
const LEGACY: [(&str, &str); 2] = [
    (
        r#""initialize""#,
        r#"{"jsonrpc":"2.0","id":ID,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"resources":{"subscribe":true}},"instructions":"for anybody"}}"#,
    ),
    (r#""tools/list""#, r#"{"jsonrpc":"2.0","id":ID,"result":{"tools":[{"name":"t"}]}}"#),
];

/// What a server of the modern era says that has one tool.
const MODERN: [(&str, &str); 3] = [
    (r#""initialize""#, r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32022,"message":"not here"}}"#),
    (
        r#""server/discover""#,
        r#"{"jsonrpc":"2.0","id":ID,"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}"#,
    ),
    LEGACY[1],
];

/// The servers of one gateway: a single one.
struct Play {
    servers: Servers,
    key: Arc<str>,
    client: Arc<Mailbox>,
    _dir: TestDir,
}

impl Play {
    fn new(command: Command, isolation: Isolation, watcher: Arc<dyn Watcher>) -> Play {
        Play::with_settings(command, isolation, watcher, |_| {})
    }

    fn with_settings(
        command: Command,
        isolation: Isolation,
        watcher: Arc<dyn Watcher>,
        set: impl FnOnce(&mut Config),
    ) -> Play {
        let dir = TestDir::new();
        let mut config = Config {
            stop_grace: Duration::from_millis(500),
            data_dir: dir.path().to_owned(),
            health_timeout: PATIENCE,
            ..Config::default()
        };
        set(&mut config);
        let (name, era) = ("s".to_owned(), EraSetting::Auto);
        let spec = ServerSpec { name, command, min_workers: 1, max_workers: 2, isolation, era };
        let servers = Servers::start(&[spec], &Live::new(config), watcher).unwrap();
        Play { servers, key: "k".into(), client: Arc::default(), _dir: dir }
    }

    fn pool(&self) -> Arc<super::Pool> {
        Arc::clone(&self.servers.now().pools()[0])
    }

    fn asker<'a>(&'a self, session: Option<&'a str>, era: Era, hello: Option<&'a Arc<Hello>>) -> Asker<'a> {
        Asker { key: &self.key, session, era, hello }
    }

    /// The use of workers, once the first of them has got ready.
    #[track_caller]
    fn lease(&self, session: Option<&str>, era: Era, hello: Option<&Arc<Hello>>) -> Lease {
        let lease = self.pool().lease(self.asker(session, era, hello)).unwrap();
        lease.info_by(deadline(), &self.client).unwrap();
        lease
    }

    #[track_caller]
    fn speaks_modern(&self) -> bool {
        self.pool().speaks_modern(deadline(), &self.client)
    }

    #[track_caller]
    fn call(&self, lease: &Lease, errand: Errand) -> Result<String, String> {
        let limits = Limits { silence_max: PATIENCE, time_max: PATIENCE };
        match lease.call(errand, "t", limits, Instant::now(), &self.client) {
            Ok(answered) => Ok(answered.raw.get().to_owned()),
            Err(NoResult::Failed(error)) => Err(error.to_string()),
            Err(NoResult::ClientGone) => Err("the client has gone".to_owned()),
        }
    }

    /// Workers in words: `s-1 legacy for session`.
    fn workers(&self) -> Vec<String> {
        let words = |worker: WorkerSnapshot| {
            let whose = worker.whose.map_or(String::new(), |whose| format!(" for {whose}"));
            format!("{} {}{whose}", worker.name, worker.era.word())
        };
        self.pool().workers().into_iter().map(words).collect()
    }

    #[track_caller]
    fn wait_for_workers(&self, expected: &[&str]) {
        wait_until(|| self.workers() == expected, || format!("{expected:?}, there are {:?}", self.workers()));
    }
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

#[track_caller]
fn wait_until(mut condition: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = deadline();
    while !condition() {
        assert!(Instant::now() < deadline, "waited for {}", what());
        thread::sleep(Duration::from_millis(5));
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn hello(name: &str) -> Arc<Hello> {
    Arc::new(Hello { capabilities: raw("{}"), client_info: raw(&format!(r#"{{"name":"{name}","version":"1"}}"#)) })
}

/// Writes down what it hears, and answers questions if it is to.
#[derive(Debug, Default)]
struct Notebook {
    lines: Mutex<Vec<String>>,
    takes_questions: bool,
}

impl Notebook {
    #[track_caller]
    fn wait_for(&self, expected: &[&str]) {
        let lines = || lock(&self.lines).clone();
        wait_until(|| lines() == expected, || format!("{expected:?}, it heard {:?}", lines()));
    }
}

impl Watcher for Notebook {
    fn regrouped(&self) {
        lock(&self.lines).push("regrouped".to_owned());
    }

    fn changed(&self, server: &Arc<str>, whose: &super::Whose, change: &Change) {
        let whose = whose.session();
        let what = match change {
            Change::Resource { uri, params } => format!("{uri} {params}"),
            other => format!("{other:?}"),
        };
        lock(&self.lines).push(format!("{server} {whose:?} {what}"));
    }

    fn heard(&self, server: &Arc<str>, whose: (&str, &str), note: Note) -> bool {
        let what = match &note {
            Note::Log(params) => format!("log {params}"),
            Note::Withdrawn { id, .. } => format!("withdrawn {id}"),
            Note::Other { method, params } => format!("{method} {}", params.as_deref().map_or("", RawValue::get)),
            Note::Question(question) => {
                if self.takes_questions {
                    question.link.send_line(|out| message::push_result(out, &question.id, r#"{"roots":[]}"#));
                }
                format!("{} {}", question.method, question.id)
            }
            other => format!("{other:?}"),
        };
        lock(&self.lines).push(format!("{server} {whose:?} {what}"));
        self.takes_questions
    }
}

#[test]
fn a_server_of_both_eras_gets_workers_of_the_second_with_the_first_client_that_speaks_it() {
    let play = Play::new(Command::Direct, Isolation::Shared, Arc::new(Nobody));
    let legacy = play.lease(None, Era::Legacy, None);
    assert_eq!(play.lease(None, Era::Modern, None).era(), Era::Legacy, "it is not known yet that there is a choice");
    assert!(play.speaks_modern());
    play.wait_for_workers(&["s-1 legacy"]);

    let modern = play.lease(None, Era::Modern, None);
    assert_eq!((legacy.era(), modern.era(), modern.is_own()), (Era::Legacy, Era::Modern, false));
    let info = modern.info_by(deadline(), &play.client).unwrap();
    assert_eq!((info.era, info.revision.as_str(), info.offers("tools")), (Era::Modern, "2026-07-28", true));
    play.wait_for_workers(&["s-1 legacy", "s-2 modern"]);

    let arguments = raw(r#"{"action":"list"}"#);
    for lease in [&legacy, &modern] {
        let tool = lease.tool("journeys_tool").unwrap();
        let result = play.call(lease, Errand::tool(lease.era(), &tool, &arguments, None)).unwrap();
        assert_eq!(result.contains("resultType"), lease.era() == Era::Modern, "{result}");
    }
    let figures = [&legacy, &modern].map(|lease| Arc::clone(&lease.tool("journeys_tool").unwrap().figures));
    assert!(Arc::ptr_eq(&figures[0], &figures[1]), "calls of a tool are counted together");
    assert_eq!(play.pool().info().unwrap().era, Era::Legacy, "the list of the others is not that of everybody");
}

#[test]
fn workers_of_the_second_era_end_when_nobody_uses_them() {
    let short = |config: &mut Config| config.session_idle_timeout = Duration::from_millis(100);
    let play = Play::with_settings(Command::Direct, Isolation::Shared, Arc::new(Nobody), short);
    assert!(play.speaks_modern());
    let lease = play.lease(None, Era::Modern, None);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(play.workers().len(), 2, "it is used");
    drop(lease);
    play.wait_for_workers(&["s-1 legacy"]);
    assert_eq!(play.lease(None, Era::Modern, None).era(), Era::Modern, "and come back");
}

#[test]
fn a_server_that_refuses_the_legacy_era_is_spoken_to_in_the_modern_one() {
    let play = Play::new(scripted(&MODERN), Isolation::Session, Arc::new(Nobody));
    let lease = play.lease(None, Era::Legacy, None);
    assert_eq!(lease.era(), Era::Modern);
    assert!(play.speaks_modern());
    play.lease(Some("a"), Era::Legacy, Some(&hello("me")));
    play.lease(Some("a"), Era::Modern, None);
    play.wait_for_workers(&["s-1 modern", "s-2 modern for session"]);
    let figures = play.pool().figures();
    let restarts: u64 = play.pool().workers().iter().map(|worker| worker.restarts).sum();
    assert_eq!((restarts, figures.breaker_failures, figures.breaker), (0, 0, "closed"), "nothing died");
}

#[test]
fn a_server_that_refuses_both_eras_says_how_it_refused_each() {
    let both = [
        MODERN[0],
        (r#""server/discover""#, r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32603,"message":"neither"}}"#),
    ];
    let play = Play::new(scripted(&both), Isolation::Shared, Arc::new(Nobody));
    let lease = play.pool().lease(play.asker(None, Era::Legacy, None)).unwrap();
    let error = lease.info_by(deadline(), &play.client).unwrap_err().to_string();
    assert!(error.contains("answered with error -32603: neither") && error.contains("-32022: not here"), "{error}");
}

#[test]
fn input_that_is_asked_for_by_a_result_reaches_only_a_client_that_can_give_it() {
    let call = r#"{"jsonrpc":"2.0","id":ID,"result":{"resultType":"input_required","requestState":"x"}}"#;
    let answers = [&MODERN[..], &[(r#""tools/call""#, call), (r#""resources/read""#, call)]].concat();
    let play = Play::new(scripted(&answers), Isolation::Shared, Arc::new(Nobody));
    let lease = play.lease(None, Era::Legacy, None);
    let tool = lease.tool("t").unwrap();

    let refused = Err("worker `s-1` asks for input, which this client cannot give".to_owned());
    assert_eq!(play.call(&lease, Errand::tool(Era::Modern, &tool, &raw("{}"), None)), refused);
    assert_eq!(play.call(&lease, Errand::read(Era::Modern, "resources/read", r#"{"uri":"a"}"#, None)), refused);
    let passed = Errand::passed(Request::tools_call("t", &raw("{}"), None), Some(&tool), false, None);
    let result = play.call(&lease, passed).unwrap();
    assert_eq!(result, r#"{"resultType":"input_required","requestState":"x"}"#);
}

#[test]
fn the_worker_of_a_session_is_started_in_the_name_of_its_client() {
    let for_me = (
        r#""name":"me""#,
        r#"{"jsonrpc":"2.0","id":ID,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"instructions":"for me"}}"#,
    );
    let answers = [&[for_me], &LEGACY[..]].concat();
    let play = Play::new(scripted(&answers), Isolation::Session, Arc::new(Nobody));
    let common = play.lease(None, Era::Legacy, Some(&hello("me")));
    let [mine, theirs] =
        [("a", "me"), ("b", "you")].map(|(id, name)| play.lease(Some(id), Era::Legacy, Some(&hello(name))));
    let instructions =
        [&common, &mine, &theirs].map(|it| it.info_by(deadline(), &play.client).unwrap().instructions.clone().unwrap());
    assert_eq!(instructions, ["for anybody", "for me", "for anybody"]);
    assert_eq!([&common, &mine, &theirs].map(Lease::is_own), [false, true, true]);
    assert_eq!(play.pool().info().unwrap().instructions.as_deref(), Some("for anybody"));
}

#[test]
fn a_session_ends_with_its_workers_and_makes_room() {
    let one = |config: &mut Config| config.session_workers_max = 1;
    let play = Play::with_settings(scripted(&LEGACY), Isolation::Session, Arc::new(Nobody), one);
    play.lease(None, Era::Legacy, None);
    let used = play.lease(Some("a"), Era::Legacy, None);
    assert_eq!(play.pool().lease(play.asker(Some("b"), Era::Legacy, None)).unwrap_err().code(), "overloaded");
    play.pool().end_session("other", "a");
    play.pool().end_session("k", "b");
    play.pool().end_session("k", "a");
    play.wait_for_workers(&["s-1 legacy"]);
    let late = play.call(&used, Errand::read(Era::Legacy, "x", "{}", None)).unwrap_err();
    assert!(late.contains("its workers were told to stop"), "{late}");
    wait_until(|| play.pool().figures().isolated_workers == 0, || "room".to_owned());
    play.lease(Some("b"), Era::Legacy, None);
}

/// A legacy server that says this when it is asked `say` for something.
fn saying(lines: &str) -> Command {
    let said = format!(r#"{lines}{{"jsonrpc":"2.0","id":ID,"result":{{}}}}"#);
    scripted(&[&LEGACY[..], &[(r#""say""#, &said), (r#""resources/subscribe""#, UPDATED)]].concat())
}

const UPDATED: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a","title":"A"}}"#;

/// One line for each of what a server can say outside of a call.
const SAYINGS: &str = r#"{"method":"notifications/message","params":{"level":"info"}}
{"method":"notifications/cancelled","params":{"requestId":"q"}}
{"method":"notifications/x","params":{"y":1}}
{"method":"roots/list","id":"q"}
"#;

#[test]
fn what_belongs_to_no_call_goes_to_the_session_that_has_the_worker_alone() {
    let notebook = Arc::new(Notebook { takes_questions: true, ..Notebook::default() });
    let play = Play::new(saying(SAYINGS), Isolation::Session, Arc::clone(&notebook) as Arc<dyn Watcher>);
    let common = play.lease(None, Era::Legacy, None);
    play.call(&common, Errand::read(Era::Legacy, "say", "{}", None)).unwrap();
    let session = play.lease(Some("a"), Era::Legacy, None);
    play.call(&session, Errand::read(Era::Legacy, "say", "{}", None)).unwrap();
    let expected = [
        r#"s ("k", "a") log {"level":"info"}"#,
        r#"s ("k", "a") withdrawn "q""#,
        r#"s ("k", "a") notifications/x {"y":1}"#,
        r#"s ("k", "a") roots/list "q""#,
    ];
    notebook.wait_for(&expected);
}

#[test]
fn a_call_that_streams_hears_what_can_only_belong_to_it() {
    let notebook = Arc::new(Notebook::default());
    let play = Play::new(saying(SAYINGS), Isolation::Session, Arc::clone(&notebook) as Arc<dyn Watcher>);
    let session = play.lease(Some("a"), Era::Legacy, None);
    let client = Arc::new(Mailbox::new(100_000, || {}));
    let waiter = Waiter::Stream(Arc::clone(&client));
    session.begin(Errand::read(Era::Legacy, "say", "{}", None), waiter, client.next_tag()).unwrap();
    client.wait_for_end(1);
    notebook.wait_for(&[r#"s ("k", "a") withdrawn "q""#, r#"s ("k", "a") roots/list "q""#]);
}

#[test]
fn every_worker_that_serves_or_gets_ready_later_is_told_of_a_subscription() {
    let notebook = Arc::new(Notebook::default());
    let play = Play::new(saying(""), Isolation::Session, Arc::clone(&notebook) as Arc<dyn Watcher>);
    let lease = play.lease(None, Era::Legacy, None);
    wait_until(|| play.pool().counts().ready == 1, || "a ready worker".to_owned());
    lease.subscribe("a", None);
    lease.subscribe("a", None);
    let updated = r#"s None a {"uri":"a","title":"A"}"#;
    notebook.wait_for(&[updated]);

    assert!(play.servers.restart_worker("s-1"));
    notebook.wait_for(&[updated, updated]);
    lease.unsubscribe("a", None);
    lease.unsubscribe("a", None);
    play.wait_for_workers(&["s-2 legacy"]);
    assert!(play.servers.restart_worker("s-2"));
    play.wait_for_workers(&["s-1 legacy"]);
    notebook.wait_for(&[updated, updated]);

    play.lease(Some("x"), Era::Legacy, None).subscribe("a", None);
    notebook.wait_for(&[updated, updated, r#"s Some(("k", "x")) a {"uri":"a","title":"A"}"#]);
}

#[test]
fn changes_of_lists_are_told_and_those_of_tools_once_they_are_learned() {
    let notebook = Arc::new(Notebook::default());
    let lines = r#"{"method":"notifications/prompts/list_changed"}
{"method":"notifications/resources/list_changed"}
{"method":"notifications/tools/list_changed"}
"#;
    let play = Play::new(saying(lines), Isolation::Shared, Arc::clone(&notebook) as Arc<dyn Watcher>);
    let lease = play.lease(None, Era::Legacy, None);
    play.call(&lease, Errand::read(Era::Legacy, "say", "{}", None)).unwrap();
    notebook.wait_for(&["s None Prompts", "s None Resources", "s None Tools"]);
}
