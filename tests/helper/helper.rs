//! The helper worker: an MCP server over stdio that does what a test asks of it, well or badly.
//!
//! One file however long, with nothing but `std`: `tests/it/support.rs` and `scripts/bench.sh` compile it with
//! `rustc -O`, without cargo. It trusts its peer to send one JSON object for each line and looks at no more of it than
//! it needs, because `scripts/bench.sh` measures gateways with it: all lines of one read are answered with one write.
//!
//! **Start-up.** Each is a flag, or a variable of the environment: `--start-delay-ms 50` or `HELPER_START_DELAY_MS=50`.
//!
//! | flag                       | what it does                                                                         |
//! | -------------------------- | ------------------------------------------------------------------------------------ |
//! | `--start-delay-ms N`       | waits N ms before it reads anything                                                  |
//! | `--never-initialize`       | reads `initialize`, never answers it                                                 |
//! | `--exit-at-start N`        | says so on stderr and exits with code N at once                                      |
//! | `--exit-while-exists PATH` | says so on stderr and exits with code 3, after its delay, while there is such a file |
//! | `--revision TEXT`          | answers `initialize` with this protocol version (default 2025-11-25)                 |
//! | `--pages N`                | gives each of its lists in N pages                                                   |
//! | `--prefix TEXT`            | puts TEXT before the name of each of its tools                                       |
//! | `--tools-only`             | has neither resources nor prompts, and knows none of their methods                   |
//! | `--deaf-to-lists`          | never answers for the lists of its resources, templates and prompts                  |
//! | `--uri-host TEXT`          | begins the uris of its resources with `helper://TEXT/` instead of `helper://`        |
//! | `--die-after N`            | exits with code 1 once it has answered N calls                                       |
//! | `--ignore-eof`             | lives on when its stdin is closed                                                    |
//! | `--ignore-term`            | ignores SIGTERM                                                                      |
//! | `--spawn-grandchild`       | starts `sleep 1000`, which inherits stdin, stdout and stderr                         |
//! | `--stdin-stall`            | reads nothing more once it has answered `initialize`                                 |
//! | `--daemon`                 | starts `setsid sleep 1000`, which has no parent and none of our pipes                |
//! | `--close-stdout-at-start`  | closes stdout before it reads anything, and lives on                                 |
//! | `--deaf-to-pings`          | never answers a ping                                                                 |
//! | `--deaf-to-pings-after N`  | answers no ping once it has been given N calls                                       |
//! | `--era TEXT`               | speaks `legacy` (default), `modern` (MCP 2026-07-28 only), or `both`                 |
//! | `--exit-on-discover`       | exits with code 1 when it is asked `server/discover`                                 |
//! | `--silent-on-discover`     | never answers `server/discover`                                                      |
//! | `--capabilities JSON`      | declares these capabilities instead of its own                                       |
//! | `--schema JSON`            | has this `inputSchema` for `echo`                                                    |
//! | `--listing PATH`           | lists the tools of this file, a JSON array, and no other; they give back their arguments |
//! | `--instructions TEXT`      | gives these instructions                                                             |
//! | `--record`                 | keeps every line it is sent, for the tool `heard`                                    |
//! | `--diary PATH`             | adds to this file its process id and the method of each message but calls and pings  |
//!
//! What is modern refuses what is not, as the SDKs do: `initialize`, and requests that lack their `_meta`. A process that
//! could speak `both` speaks the era of its first message and refuses the other one.
//!
//! **Tools.** [`TOOLS`] lists them with what each does. A name added by `set_tools` that is no tool of ours echoes.
//!
//! **Resources and prompts.** [`RESOURCES`], [`TEMPLATE`] and [`PROMPTS`] are what it lists. These it reads and gives
//! without listing them, and of any other uri or name it says that there is none:
//!
//! | resource                   | what it is                                                                           |
//! | -------------------------- | ------------------------------------------------------------------------------------ |
//! | `helper://item/N`          | the text `item N`                                                                    |
//! | `helper://two`             | two contents: the text `one`, and the JSON `[2]`                                     |
//! | `helper://none`            | no content at all                                                                    |
//! | `helper://slow`            | never read                                                                           |
//! | `helper://crash`           | dies by SIGKILL                                                                      |
//! | `helper://crash-once?PATH` | dies by SIGKILL when there is no file PATH, which it then makes, else the text `again` |
//!
//! The prompt `greeting` is never given for the `name` `nobody`, and with the `name` `crash-once?PATH` it does as the
//! resource does.
//!
//! **End.** At the end of stdin, unless told otherwise.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env,
    fs::{File, OpenOptions},
    hint::black_box,
    io::{Read, Write},
    os::fd::FromRawFd,
    path::Path,
    process::{Command, exit},
    sync::{
        Condvar, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// Name, what it does, `properties` of its `inputSchema`, and the required ones.
const TOOLS: &[(&str, &str, &str, &str)] = &[
    ("echo", "Gives back its arguments, as they came, as one text block.", "", ""),
    ("echo_structured", "Gives back its arguments, as they came, as `structuredContent`.", "", ""),
    (
        "delay",
        "Answers `value` after `ms`, while others go on. Cancelled, it answers only when `late` is true.",
        r#""ms":{"type":"integer"},"value":{},"late":{"type":"boolean"}"#,
        r#""ms""#,
    ),
    ("serial_delay", "Does nothing else for `ms`, then answers.", r#""ms":{"type":"integer"}"#, r#""ms""#),
    (
        "crash",
        "Writes `stderr`, waits `ms` while others go on, and ends with `code` (default 1) or by `signal`.",
        r#""code":{"type":"integer"},"signal":{"type":"integer"},"ms":{"type":"integer"},"stderr":{"type":"string"}"#,
        "",
    ),
    ("silent", "Never answers.", "", ""),
    ("garbage", "Prints lines that are not JSON-RPC on stdout, then answers.", "", ""),
    ("big", "Gives a text of `bytes` bytes.", r#""bytes":{"type":"integer"}"#, r#""bytes""#),
    ("error", "Answers with `isError` and `text`.", r#""text":{"type":"string"}"#, ""),
    (
        "rpc_error",
        "Answers with a JSON-RPC error.",
        r#""code":{"type":"integer"},"message":{"type":"string"},"data":{}"#,
        "",
    ),
    ("not_mcp", "Answers with a result that is not an object.", "", ""),
    ("unknown_id", "Answers to an id that was never asked, then properly.", "", ""),
    ("twice", "Answers twice.", "", ""),
    ("close_stdout", "Closes stdout and lives on.", "", ""),
    ("half_line", "Writes half of its answer, and nothing more ever after.", "", ""),
    ("flood_stderr", "Writes `bytes` bytes of lines on stderr, then answers.", r#""bytes":{"type":"integer"}"#, ""),
    ("stderr", "Writes `text` on stderr, then answers.", r#""text":{"type":"string"}"#, r#""text""#),
    (
        "progress",
        "Reports `n` steps, `ms` apart, then answers. Its messages begin with `value`.",
        r#""n":{"type":"integer"},"ms":{"type":"integer"},"value":{"type":"string"}"#,
        r#""n""#,
    ),
    (
        "stream",
        "Reports `n` steps with messages of `bytes` bytes, `ms` apart, while others go on, then answers. `gate` is `each`: \
         every step and the answer wait for `open`; or `end`: the answer does. Messages begin with `value`, or are, with \
         `stamp`, the time in ns.",
        STREAM_PROPERTIES,
        r#""n""#,
    ),
    (
        "chunks",
        "As `stream`, but each step carries an item as `_meta[\"mcpgate/chunk\"]`; answers with the array of their numbers.",
        STREAM_PROPERTIES,
        r#""n""#,
    ),
    ("open", "Lets gated streams take `n` steps (default 1).", r#""n":{"type":"integer"}"#, ""),
    ("blanks", "Streams an item, and answers, with carriage returns between the parts of its JSON.", "", ""),
    ("quiet", "Reports one step, then nothing, and never answers.", "", ""),
    (
        "log",
        "Sends `n` log messages (default 1) with `level` and `data`, unless its client wants none of that level, then \
         answers.",
        r#""n":{"type":"integer"},"level":{"type":"string"},"data":{}"#,
        "",
    ),
    ("pid", "Gives its process id.", "", ""),
    ("env", "Gives its environment as a JSON object.", "", ""),
    ("cwd", "Gives its working directory.", "", ""),
    ("args", "Gives its command-line arguments as a JSON array.", "", ""),
    (
        "counts",
        "Gives `calls`, `cancels`, `streamed` (streams that have taken their last step) and `methods` (how often each).",
        "",
        "",
    ),
    (
        "set_tools",
        "Makes `names` its list of tools and tells its client.",
        r#""names":{"type":"array","items":{"type":"string"}}"#,
        r#""names""#,
    ),
    (
        "lookup",
        "Gives back its arguments after `ms`, while others go on; is marked as read-only. Before that it adds a line of its \
         process id and `value` to the file `trace`, streams an item when `chunk` is true, and dies by SIGKILL when `crash` is \
         true, or when there is no file `crash_once`, which it then makes.",
        ACT_PROPERTIES,
        "",
    ),
    ("put", "As `lookup`, but marked as idempotent.", ACT_PROPERTIES, ""),
    ("write", "As `lookup`, but not marked at all.", ACT_PROPERTIES, ""),
    (
        "serial_lookup",
        "Does nothing else for `ms`, then gives back its arguments; is marked as read-only.",
        r#""ms":{"type":"integer"}"#,
        "",
    ),
    ("hold", "Takes `bytes` bytes of memory for good, then answers.", r#""bytes":{"type":"integer"}"#, r#""bytes""#),
    ("blocks", "Answers with a text, an image and a resource block.", "", ""),
    (
        "many_blocks",
        "Answers with `n` text blocks of `bytes` bytes each.",
        r#""n":{"type":"integer"},"bytes":{"type":"integer"}"#,
        r#""n""#,
    ),
    ("no_content", "Answers with no content at all.", "", ""),
    ("received", "Gives back the request itself, as it came.", "", ""),
    ("heard", "Gives every line it was sent, as an array; needs `--record`.", "", ""),
    (
        "say",
        "Sends its client `messages`, each as it stands, before its answer, or `after` it.",
        r#""messages":{"type":"array"},"after":{"type":"boolean"}"#,
        r#""messages""#,
    ),
    (
        "change",
        "Adds an entry to its list of `what` (tools, resources or prompts), tells its client, and answers with its name.",
        r#""what":{"type":"string"}"#,
        r#""what""#,
    ),
    (
        "update",
        "Tells its client that `uri` was updated, if it has subscribed to it or `anyway` is true; answers with the array of \
         what it has subscribed to.",
        r#""uri":{"type":"string"},"anyway":{"type":"boolean"}"#,
        r#""uri""#,
    ),
    ("level", "Gives the least level of log messages that its client wants, or `none`.", "", ""),
    (
        "region",
        "Gives back its arguments; a modern client says some of them in the head of its request too.",
        r#""region":{"type":"string","x-mcp-header":"Region"},"count":{"type":"integer","x-mcp-header":"Count"},"other":{}"#,
        "",
    ),
    (
        "ask",
        "Sends its client the request `method` with `params`, or with a question of its own that says `value`, and gives \
         back the answer as text. With `n` it asks so often, in turn or `together`, and gives back an array. Once there \
         is a file `log_when`, it logs 2 MB, and then says so on stderr. A modern one answers that it needs input \
         (`question-1` and so on), and at last gives back the `inputResponses` and the `requestState` of the last round; \
         with the `n` 0 it needs none and wants to be asked again, without end.",
        r#""method":{"type":"string"},"params":{},"value":{"type":"string"},"n":{"type":"integer"},"together":{"type":"boolean"},"log_when":{"type":"string"}"#,
        r#""method""#,
    ),
];

/// Which tools say of themselves that they can be called twice, and how.
const HINTS: &[(&str, &str)] =
    &[("lookup", "readOnlyHint"), ("serial_lookup", "readOnlyHint"), ("put", "idempotentHint")];

const ACT_PROPERTIES: &str = r#""ms":{"type":"integer"},"value":{},"trace":{"type":"string"},"chunk":{"type":"boolean"},"crash":{"type":"boolean"},"crash_once":{"type":"string"}"#;

const STREAM_PROPERTIES: &str = r#""n":{"type":"integer"},"bytes":{"type":"integer"},"ms":{"type":"integer"},"gate":{"type":"string"},"stamp":{"type":"boolean"},"value":{"type":"string"}"#;

/// What its uri ends with, mime type, and what it holds: the field of its content, as JSON.
const RESOURCES: &[(&str, &str, &str)] = &[
    ("text", "text/plain", r#""text":"hello""#),
    ("json", "application/json", r#""text":"{\"a\":[1,2]}""#),
    ("blob", "application/octet-stream", r#""blob":"AAEC/w==""#),
];

/// What the uri of the only resource template ends with.
const TEMPLATE: &str = "item/{id}";

/// Name, what it does, and its `arguments`.
const PROMPTS: &[(&str, &str, &str)] = &[
    ("greeting", "Greets somebody.", r#"[{"name":"name","description":"Whom to greet.","required":true}]"#),
    ("plain", "Asks, and answers by itself.", ""),
];

/// The code of MCP for a resource that is not there, up to 2025-11-25.
const RESOURCE_NOT_FOUND: i64 = -32002;

/// The only modern revision.
const MODERN: &str = "2026-07-28";

const UNSUPPORTED_VERSION: i64 = -32022;

const MISSING_CAPABILITY: i64 = -32021;

/// Levels of log messages, the least first.
const LEVELS: &[&str] = &["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// What stands in modern lists beside their entries, and in what is read.
const CACHE_FIELDS: &str = r#","ttlMs":5000,"cacheScope":"private""#;

const SERVER_INFO: &str = r#"{"name":"helper","version":"1.0.0"}"#;

/// Large enough for hundreds of small calls in one read.
const READ_BYTES: usize = 256 * 1024;

static STDOUT: Mutex<Option<File>> = Mutex::new(None);

/// What every modern result ends with; not there in a legacy helper.
static COMPLETE: OnceLock<String> = OnceLock::new();

/// What the threads of streams share with the one that reads.
static STREAMS: Mutex<Streams> = Mutex::new(Streams { running: BTreeSet::new(), steps: 0 });
static STREAMS_CHANGED: Condvar = Condvar::new();
static STREAMED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn raise(number: i32) -> i32;
    fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
}

fn main() {
    if has_option("ignore-term") {
        // SAFETY: 15 is SIGTERM and 1 is SIG_IGN; no handler of ours runs.
        unsafe { signal(15, 1) };
    }
    if let Some(code) = option_number("exit-at-start") {
        eprintln!("helper: told to exit at start with code {code}");
        exit(code as i32);
    }
    if has_option("spawn-grandchild") {
        Command::new("sleep").arg("1000").spawn().expect("starting sleep");
    }
    if has_option("daemon") {
        start_daemon();
    }
    if let Some(ms) = option_number("start-delay-ms") {
        thread::sleep(Duration::from_millis(ms));
    }
    if option("exit-while-exists").is_some_and(|path| Path::new(&path).exists()) {
        eprintln!("helper: not today");
        exit(3);
    }
    // SAFETY: nothing else in this program uses the descriptors 0 and 1.
    let mut stdin = unsafe { File::from_raw_fd(0) };
    let stdout = unsafe { File::from_raw_fd(1) };
    *STDOUT.lock().unwrap() = (!has_option("close-stdout-at-start")).then_some(stdout);

    let mut server = Server::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            buffer.resize(filled * 2, 0);
        }
        let n_read = stdin.read(&mut buffer[filled..]).unwrap_or(0);
        if n_read == 0 {
            break;
        }
        // What was there before holds no line end.
        let mut search = filled;
        filled += n_read;
        let mut start = 0;
        while let Some(length) = find(b'\n', &buffer[search..filled]) {
            server.take(&buffer[start..search + length]);
            start = search + length + 1;
            search = start;
        }
        server.flush();
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
    if has_option("ignore-eof") {
        park_forever();
    }
}

/// Leaves a process that has a session and a process group of its own, and whose parent is gone.
fn start_daemon() {
    let line = "setsid sleep 1000 </dev/null >/dev/null 2>&1 &";
    Command::new("sh").args(["-c", line]).status().expect("starting a daemon");
}

fn park_forever() -> ! {
    loop {
        thread::park();
    }
}

/// The value of `--name VALUE`, or of the variable `HELPER_NAME`.
fn option(name: &str) -> Option<String> {
    let flag = format!("--{name}");
    let from_flag = env::args().skip_while(|arg| *arg != flag).nth(1);
    from_flag.or_else(|| env::var(format!("HELPER_{}", name.to_uppercase().replace('-', "_"))).ok())
}

fn option_number(name: &str) -> Option<u64> {
    option(name).map(|text| text.parse().unwrap_or_else(|_| panic!("--{name} needs a number, got {text}")))
}

fn has_option(name: &str) -> bool {
    let flag = format!("--{name}");
    env::args().any(|arg| arg == flag) || option(name).is_some()
}

// --- the server -------------------------------------------------------------------------------------------------

struct Server {
    /// Answers that wait for the end of the batch.
    out: Vec<u8>,
    later: Option<mpsc::Sender<Timed>>,
    prefix: String,
    revision: String,
    pages: usize,
    tools_only: bool,
    deaf_to_lists: bool,
    /// What the uris of its resources begin with.
    uri_start: String,
    die_after: Option<u64>,
    never_initialize: bool,
    stdin_stall: bool,
    /// Calls after which pings are not answered any more.
    deaf_after: Option<u64>,
    is_mute: bool,
    listed: Vec<String>,
    /// Entries of the list that are told as they stand, by their names.
    told: BTreeMap<String, String>,
    calls: u64,
    cancels: u64,
    methods: BTreeMap<String, u64>,
    /// Calls that ask their client something, by their id.
    asking: HashMap<Vec<u8>, Asking>,
    /// Our own requests that wait for an answer: our id, the call that asked for it, and the number of its question.
    asked: HashMap<u64, (Vec<u8>, usize)>,
    questions: u64,
    era: Era,
    capabilities: String,
    /// The `inputSchema` of `echo`, if it is another one.
    schema: Option<String>,
    /// As a field of a result, with a comma before it; empty when there are none.
    instructions: String,
    /// All lines so far, when they are recorded.
    heard: Option<Vec<Vec<u8>>>,
    diary: Option<String>,
    /// The number of the least level that a legacy client wants.
    level: Option<usize>,
    /// Resources a legacy client has subscribed to.
    subscribed: BTreeSet<String>,
    listens: Vec<Listen>,
    /// Resources and prompts that `change` has added.
    added: [u32; 2],
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq)]
enum Era {
    /// Legacy, and what is modern is not looked at.
    Legacy,
    Modern,
    /// Both; the first message settles it.
    Undecided,
    /// Legacy in a process that could have been modern.
    Settled,
}

/// A `subscriptions/listen` that runs.
struct Listen {
    id: Vec<u8>,
    filter: Vec<u8>,
}

/// A call of `ask`.
struct Asking {
    method: Vec<u8>,
    /// Empty: a question of our own, which says `value`.
    params: Vec<u8>,
    value: String,
    is_list: bool,
    /// One for each question: the line that answered it.
    answers: Vec<Option<Vec<u8>>>,
}

struct Message<'a> {
    line: &'a [u8],
    id: &'a [u8],
    method: &'a [u8],
    params: &'a [u8],
}

struct Call<'a> {
    line: &'a [u8],
    id: &'a [u8],
    params: &'a [u8],
    arguments: &'a [u8],
}

impl Server {
    fn new() -> Server {
        let prefix = option("prefix").unwrap_or_default();
        let tools_only = has_option("tools-only");
        let others =
            r#","resources":{"subscribe":true,"listChanged":true},"prompts":{"listChanged":true},"completions":{}"#;
        let others = if tools_only { "" } else { others };
        let own_capabilities = || format!(r#"{{"tools":{{"listChanged":true}},"logging":{{}}{others}}}"#);
        let listing = option("listing").map(|path| std::fs::read(path).expect("a listing")).unwrap_or_default();
        // A message has no line breaks.
        let told = |entry: &[u8]| (text_of(field(entry, b"name")), String::from_utf8_lossy(entry).replace('\n', " "));
        let told: Vec<(String, String)> = elements(&listing).map(told).collect();
        let era = match option("era").as_deref() {
            None | Some("legacy") => Era::Legacy,
            Some("modern") => Era::Modern,
            Some("both") => Era::Undecided,
            Some(era) => panic!("--era {era}"),
        };
        if era == Era::Modern {
            become_modern();
        }
        Server {
            out: Vec::with_capacity(READ_BYTES),
            later: None,
            listed: match &told[..] {
                [] => TOOLS.iter().map(|tool| format!("{prefix}{}", tool.0)).collect(),
                told => told.iter().map(|(name, _)| name.clone()).collect(),
            },
            told: told.into_iter().collect(),
            prefix,
            revision: option("revision").unwrap_or_else(|| "2025-11-25".to_owned()),
            pages: option_number("pages").unwrap_or(1).max(1) as usize,
            tools_only,
            deaf_to_lists: has_option("deaf-to-lists"),
            uri_start: option("uri-host").map_or("helper://".to_owned(), |host| format!("helper://{host}/")),
            die_after: option_number("die-after"),
            never_initialize: has_option("never-initialize"),
            stdin_stall: has_option("stdin-stall"),
            deaf_after: has_option("deaf-to-pings").then_some(0).or_else(|| option_number("deaf-to-pings-after")),
            is_mute: false,
            calls: 0,
            cancels: 0,
            methods: BTreeMap::new(),
            asking: HashMap::new(),
            asked: HashMap::new(),
            questions: 0,
            era,
            capabilities: option("capabilities").unwrap_or_else(own_capabilities),
            schema: option("schema"),
            instructions: option("instructions")
                .map_or(String::new(), |it| format!(r#","instructions":{}"#, quoted(&it))),
            heard: has_option("record").then(Vec::new),
            diary: option("diary"),
            level: None,
            subscribed: BTreeSet::new(),
            listens: Vec::new(),
            added: [0; 2],
        }
    }

    fn take(&mut self, line: &[u8]) {
        if self.is_mute {
            return;
        }
        if let Some(heard) = &mut self.heard {
            heard.push(line.to_vec());
        }
        let mut message = Message { line, id: b"", method: b"", params: b"" };
        for (key, value) in fields(line) {
            match key {
                b"id" => message.id = value,
                b"method" => message.method = value,
                b"params" => message.params = value,
                _ => {}
            }
        }
        if self.era != Era::Legacy && !self.accepts(&message) {
            return;
        }
        if message.method == b"\"tools/call\"" {
            self.count("tools/call");
            return self.call(&message);
        }
        if message.method.is_empty() {
            return self.take_answer(message.id, line);
        }
        let method = text_of(message.method);
        self.count(&method);
        self.write_diary(&method);
        match method.as_str() {
            "initialize" => self.initialize(message.id),
            "ping" if self.deaf_after.is_some_and(|after| after <= self.calls) => {}
            "ping" => self.result(message.id, "{}"),
            "logging/setLevel" => {
                let level = string(message.params, b"level").unwrap_or_default();
                self.level = LEVELS.iter().position(|it| *it == level);
                self.result(message.id, "{}");
            }
            "server/discover" if has_option("exit-on-discover") => {
                eprintln!("helper: expected `initialize`");
                exit(1);
            }
            "server/discover" if has_option("silent-on-discover") => {}
            "server/discover" if self.era == Era::Modern => {
                let (capabilities, instructions) = (&self.capabilities, &self.instructions);
                let result = format!(
                    r#"{{"supportedVersions":["{MODERN}"],"capabilities":{capabilities}{instructions}{CACHE_FIELDS}}}"#
                );
                self.result(message.id, &result);
            }
            "subscriptions/listen" if self.era == Era::Modern => self.listen(&message),
            "completion/complete" if !self.tools_only => self.complete(&message),
            "resources/subscribe" | "resources/unsubscribe" if !self.tools_only => {
                self.subscribe(&message, method == "resources/subscribe");
            }
            "tools/list" => {
                let tools: Vec<String> = self.listed.iter().map(|it| self.describe(it)).collect();
                self.list(&message, "tools", &tools);
            }
            "resources/list" | "resources/templates/list" | "prompts/list" if self.deaf_to_lists => {}
            "resources/list" if !self.tools_only => {
                let mut resources: Vec<String> = RESOURCES.iter().map(|it| self.describe_resource(it)).collect();
                let added = (1..=self.added[0]).map(|n| format!("item/added-{n}"));
                resources.extend(added.map(|name| self.describe_resource(&(&name, "text/plain", ""))));
                self.list(&message, "resources", &resources);
            }
            "resources/templates/list" if !self.tools_only => {
                let uri = quoted(&format!("{}{TEMPLATE}", self.uri_start));
                let template = format!(r#"{{"uriTemplate":{uri},"name":"item","mimeType":"text/plain"}}"#);
                self.list(&message, "resourceTemplates", &[template]);
            }
            "resources/read" if !self.tools_only => self.read(&message),
            "prompts/list" if !self.tools_only => {
                let mut prompts: Vec<String> = PROMPTS.iter().map(describe_prompt).collect();
                let added = (1..=self.added[1]).map(|n| format!("added-{n}"));
                prompts.extend(added.map(|name| describe_prompt(&(&name, "Was added.", ""))));
                self.list(&message, "prompts", &prompts);
            }
            "prompts/get" if !self.tools_only => self.prompt(&message),
            "notifications/cancelled" => {
                self.cancels += 1;
                let id = field(message.params, b"requestId").to_vec();
                self.asking.remove(&id);
                self.listens.retain(|listen| listen.id != id);
                if STREAMS.lock().unwrap().running.remove(&id) {
                    STREAMS_CHANGED.notify_all();
                }
                if let Some(later) = &self.later {
                    let _ = later.send(Timed { at: Instant::now(), id, what: What::Cancel });
                }
            }
            _ if message.id.is_empty() => {}
            _ => self.error(message.id, -32601, &format!("Method not found: {method}"), b""),
        }
    }

    fn count(&mut self, method: &str) {
        match self.methods.get_mut(method) {
            Some(count) => *count += 1,
            None => drop(self.methods.insert(method.to_owned(), 1)),
        }
    }

    fn initialize(&mut self, id: &[u8]) {
        if self.never_initialize {
            return;
        }
        let revision = quoted(&self.revision);
        let (capabilities, instructions) = (&self.capabilities, &self.instructions);
        let result = format!(
            r#"{{"protocolVersion":{revision},"capabilities":{capabilities},"serverInfo":{SERVER_INFO}{instructions}}}"#
        );
        self.result(id, &result);
        if self.stdin_stall {
            self.flush();
            park_forever();
        }
    }

    /// Whether a message is of the era that is spoken here; if not, it is refused. The first one settles it.
    fn accepts(&mut self, message: &Message) -> bool {
        let is_initialize = message.method == b"\"initialize\"";
        if self.era == Era::Undecided {
            self.era = if is_initialize { Era::Settled } else { Era::Modern };
            if self.era == Era::Modern {
                become_modern();
            }
        }
        // Notifications and answers are of no era.
        if message.id.is_empty() || message.method.is_empty() {
            return true;
        }
        let meta = field(message.params, b"_meta");
        let version = string(meta, b"io.modelcontextprotocol/protocolVersion");
        if self.era == Era::Settled {
            if version.is_some() {
                self.error(message.id, -32600, "This connection was begun with initialize", b"");
            }
            return version.is_none();
        }
        let unsupported =
            |requested: &str| format!(r#"{{"supported":["{MODERN}"],"requested":{}}}"#, quoted(requested));
        let method = text_of(message.method);
        match method.as_str() {
            "initialize" => {
                let data = unsupported(&string(message.params, b"protocolVersion").unwrap_or_default());
                self.error(message.id, UNSUPPORTED_VERSION, "Unsupported protocol version", data.as_bytes());
            }
            "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {
                self.count(&method);
                self.error(message.id, -32601, &format!("Method not found: {method}"), b"");
            }
            _ => match version {
                Some(version) if version != MODERN => {
                    let data = unsupported(&version);
                    self.error(message.id, UNSUPPORTED_VERSION, "Unsupported protocol version", data.as_bytes());
                }
                Some(_) if !field(meta, b"io.modelcontextprotocol/clientCapabilities").is_empty() => return true,
                _ => self.error(message.id, -32602, "Missing _meta of a modern request", b""),
            },
        }
        false
    }

    fn write_diary(&self, method: &str) {
        if let Some(path) = self.diary.as_ref().filter(|_| method != "ping") {
            let line = format!("{} {method}\n", std::process::id());
            let diary = OpenOptions::new().create(true).append(true).open(path);
            diary.and_then(|mut diary| diary.write_all(line.as_bytes())).expect("writing the diary");
        }
    }

    /// The page of `entries` that the message asks for, as the field `what`.
    fn list(&mut self, message: &Message, what: &str, entries: &[String]) {
        let cursor = field(message.params, b"cursor");
        let page = if cursor.is_empty() { Some(0) } else { text_of(cursor).parse::<usize>().ok() };
        let Some(page) = page.filter(|page| *page < self.pages) else {
            return self.error(message.id, -32602, "Invalid cursor", b"");
        };
        let page_size = entries.len().div_ceil(self.pages);
        let start = entries.len().min(page * page_size);
        let end = entries.len().min(start + page_size);
        let has_more = page + 1 < self.pages;
        let next = if has_more { format!(r#","nextCursor":"{}""#, page + 1) } else { String::new() };
        let cache = self.cache_fields();
        self.result(message.id, &format!(r#"{{"{what}":[{}]{next}{cache}}}"#, entries[start..end].join(",")));
    }

    fn describe(&self, name: &str) -> String {
        if let Some(entry) = self.told.get(name) {
            return entry.clone();
        }
        let own_name = name.strip_prefix(&self.prefix).unwrap_or(name);
        let tool = TOOLS.iter().find(|tool| tool.0 == own_name);
        let (_, description, properties, required) = tool.unwrap_or(&TOOLS[0]);
        let hint = HINTS.iter().find(|(tool, _)| *tool == own_name);
        let mut annotations = hint.map_or(String::new(), |(_, hint)| format!(r#","annotations":{{"{hint}":true}}"#));
        // Only some revisions have it, and 2026-07-28 does not.
        if own_name == "region" && self.era != Era::Modern {
            annotations += r#","execution":{"taskSupport":"forbidden"}"#;
        }
        let own_schema = format!(r#"{{"type":"object","properties":{{{properties}}},"required":[{required}]}}"#);
        let schema = self.schema.as_ref().filter(|_| own_name == "echo").unwrap_or(&own_schema);
        format!(
            r#"{{"name":{},"description":{},"inputSchema":{schema}{annotations}}}"#,
            quoted(name),
            quoted(description),
        )
    }

    fn describe_resource(&self, (name, mime_type, _): &(&str, &str, &str)) -> String {
        let uri = quoted(&format!("{}{name}", self.uri_start));
        format!(r#"{{"uri":{uri},"name":"{name}","mimeType":"{mime_type}"}}"#)
    }

    fn read(&mut self, message: &Message) {
        let uri = field(message.params, b"uri");
        let text = text_of(uri);
        let uri = String::from_utf8_lossy(uri);
        let content = |mime_type: &str, value: &str| format!(r#"{{"uri":{uri},"mimeType":"{mime_type}",{value}}}"#);
        let name = text.strip_prefix(&self.uri_start).unwrap_or_default();
        let contents = if let Some((_, mime_type, value)) = RESOURCES.iter().find(|it| it.0 == name) {
            content(mime_type, value)
        } else if let Some(id) = name.strip_prefix("item/") {
            content("text/plain", &format!(r#""text":{}"#, quoted(&format!("item {id}"))))
        } else if let Some(path) = name.strip_prefix("crash-once?") {
            self.crash_once(path);
            content("text/plain", r#""text":"again""#)
        } else {
            match name {
                "two" => {
                    let (one, two) = (r#""text":"one""#, r#""text":"[2]""#);
                    [content("text/plain", one), content("application/json", two)].join(",")
                }
                "none" => String::new(),
                "slow" => return,
                "crash" => {
                    self.flush();
                    return What::Raise(9).end_here();
                }
                _ => {
                    let uri = uri.into_owned();
                    return self.resource_not_found(message.id, &uri);
                }
            }
        };
        let cache = self.cache_fields();
        self.result(message.id, &format!(r#"{{"contents":[{contents}]{cache}}}"#));
    }

    fn resource_not_found(&mut self, id: &[u8], uri: &str) {
        let code = if self.era == Era::Modern { -32602 } else { RESOURCE_NOT_FOUND };
        self.error(id, code, "Resource not found", format!(r#"{{"uri":{uri}}}"#).as_bytes());
    }

    fn cache_fields(&self) -> &'static str {
        if self.era == Era::Modern { CACHE_FIELDS } else { "" }
    }

    fn subscribe(&mut self, message: &Message, is_on: bool) {
        let uri = string(message.params, b"uri").unwrap_or_default();
        let name = uri.strip_prefix(&self.uri_start).unwrap_or_default();
        let is_there = name.starts_with("item/") || RESOURCES.iter().any(|it| it.0 == name);
        if !is_there {
            return self.resource_not_found(message.id, &quoted(&uri));
        }
        if is_on {
            self.subscribed.insert(uri);
        } else {
            self.subscribed.remove(&uri);
        }
        self.result(message.id, "{}");
    }

    /// Completes a value with the name of what it is for; knows the prompts, and the template by its uri.
    fn complete(&mut self, message: &Message) {
        let reference = field(message.params, b"ref");
        let of = string(reference, b"name").or_else(|| string(reference, b"uri")).unwrap_or_default();
        let is_known = PROMPTS.iter().any(|it| it.0 == of) || of == format!("{}{TEMPLATE}", self.uri_start);
        if !is_known {
            return self.error(message.id, -32602, &format!("Unknown reference: {of}"), b"");
        }
        let value = string(field(message.params, b"argument"), b"value").unwrap_or_default();
        let values = [quoted(&format!("{value} of {of}")), quoted(&format!("{value} too"))].join(",");
        self.result(message.id, &format!(r#"{{"completion":{{"values":[{values}],"total":2,"hasMore":false}}}}"#));
    }

    /// Begins a modern subscription: to what it asks for and there is.
    fn listen(&mut self, message: &Message) {
        let asked = field(message.params, b"notifications");
        let is_there = |key: &[u8]| !self.tools_only || key == b"toolsListChanged";
        let honoured: Vec<String> = fields(asked)
            .filter(|(key, _)| is_there(key))
            .map(|(key, value)| format!("\"{}\":{}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)))
            .collect();
        let filter = format!("{{{}}}", honoured.join(","));
        let listen = Listen { id: message.id.to_vec(), filter: filter.clone().into_bytes() };
        let fields = format!(r#","notifications":{filter}"#);
        self.line(listen.line("notifications/subscriptions/acknowledged", &fields).as_bytes());
        self.listens.push(listen);
    }

    /// Tells a legacy client, or each modern subscription that wants it. `fields` have a comma before them.
    fn tell(&mut self, method: &str, fields: &str, wants: impl Fn(&Listen) -> bool) {
        if self.era == Era::Modern {
            let told = self.listens.iter().filter(|listen| wants(listen));
            let lines: Vec<String> = told.map(|listen| listen.line(method, fields)).collect();
            return lines.iter().for_each(|line| self.line(line.as_bytes()));
        }
        let params = fields.strip_prefix(',').map_or(String::new(), |fields| format!(r#","params":{{{fields}}}"#));
        self.line(format!(r#"{{"jsonrpc":"2.0","method":"{method}"{params}}}"#).as_bytes());
    }

    fn tell_changed(&mut self, what: &str) {
        self.tell(&format!("notifications/{what}/list_changed"), "", |listen| {
            field(&listen.filter, format!("{what}ListChanged").as_bytes()) == b"true"
        });
    }

    fn prompt(&mut self, message: &Message) {
        let says = |role: &str, text: &str| {
            format!(r#"{{"role":"{role}","content":{{"type":"text","text":{}}}}}"#, quoted(text))
        };
        match string(message.params, b"name").unwrap_or_default().as_str() {
            "greeting" => {
                let Some(name) = string(field(message.params, b"arguments"), b"name") else {
                    return self.error(message.id, -32602, "Missing required argument: name", b"");
                };
                if name == "nobody" {
                    return;
                }
                if let Some(path) = name.strip_prefix("crash-once?") {
                    self.crash_once(path);
                }
                let greeting = says("user", &format!("Hello, {name}!"));
                self.result(message.id, &format!(r#"{{"description":"A greeting.","messages":[{greeting}]}}"#));
            }
            "plain" => {
                let messages = [says("user", "Is it plain?"), says("assistant", "It is.")].join(",");
                self.result(message.id, &format!(r#"{{"messages":[{messages}]}}"#));
            }
            name => self.error(message.id, -32602, &format!("Unknown prompt: {name}"), b""),
        }
    }

    /// Dies by SIGKILL, unless there is the file `path`, which it makes before.
    fn crash_once(&mut self, path: &str) {
        if is_first(path) {
            self.flush();
            What::Raise(9).end_here();
        }
    }

    fn call(&mut self, message: &Message) {
        let mut name: &[u8] = b"";
        let mut arguments: &[u8] = b"{}";
        for (key, value) in fields(message.params) {
            match key {
                b"name" => name = value,
                b"arguments" => arguments = value,
                _ => {}
            }
        }
        self.calls += 1;
        let call = Call { line: message.line, id: message.id, params: message.params, arguments };
        if name == b"\"echo\"" && self.prefix.is_empty() {
            self.raw_text(call.id, arguments);
        } else {
            self.dispatch(&text_of(name), &call);
        }
        if self.die_after == Some(self.calls) {
            self.flush();
            exit(1);
        }
    }

    fn dispatch(&mut self, name: &str, call: &Call) {
        let ms = Duration::from_millis(number(call.arguments, b"ms").unwrap_or(0.0) as u64);
        let bytes = number(call.arguments, b"bytes").unwrap_or(0.0) as usize;
        match name.strip_prefix(&self.prefix).unwrap_or("") {
            "echo" => self.raw_text(call.id, call.arguments),
            "echo_structured" => {
                let arguments = String::from_utf8_lossy(call.arguments);
                self.result(call.id, &format!(r#"{{"content":[],"structuredContent":{arguments}}}"#));
            }
            "delay" => {
                let is_late = field(call.arguments, b"late") == b"true";
                let value = field(call.arguments, b"value");
                let line = answer_line(call.id, &text_result(if value.is_empty() { b"done" } else { value }));
                self.later(ms, call.id, What::Write { line, is_late });
            }
            "serial_delay" => {
                self.flush();
                thread::sleep(ms);
                self.text(call.id, "done");
            }
            "crash" => self.crash(ms, call),
            "silent" => {}
            "garbage" => {
                self.out.extend_from_slice(b"Loading modules...\n{\"half\": \n[]\n42\n\n\xff\xfe\n");
                self.text(call.id, "done");
            }
            "big" => self.text(call.id, &"x".repeat(bytes)),
            "error" => {
                let text = string(call.arguments, b"text").unwrap_or_else(|| "it went wrong".to_owned());
                let text = quoted(&text);
                self.result(call.id, &format!(r#"{{"content":[{{"type":"text","text":{text}}}],"isError":true}}"#));
            }
            "rpc_error" => {
                let code = number(call.arguments, b"code").unwrap_or(-32000.0) as i64;
                let message = string(call.arguments, b"message").unwrap_or_else(|| "no such luck".to_owned());
                self.error(call.id, code, &message, field(call.arguments, b"data"));
            }
            "not_mcp" => self.result(call.id, "42"),
            "unknown_id" => {
                self.text(b"987654321", "nobody asked");
                self.text(call.id, "done");
            }
            "twice" => {
                self.text(call.id, "first");
                self.text(call.id, "second");
            }
            "close_stdout" => {
                self.flush();
                *STDOUT.lock().unwrap() = None;
            }
            "half_line" => {
                let line = answer_line(call.id, &text_result(b"never complete"));
                self.out.extend_from_slice(&line[..line.len() / 2]);
                self.is_mute = true;
            }
            "flood_stderr" => {
                let line = format!("{}\n", "flood ".repeat(16));
                let flood = line.repeat(bytes / line.len() + 1);
                let _ = std::io::stderr().write_all(flood.as_bytes());
                self.text(call.id, "done");
            }
            "stderr" => {
                eprintln!("{}", string(call.arguments, b"text").unwrap_or_default());
                self.text(call.id, "done");
            }
            "progress" => self.progress(ms, call),
            "stream" => Stream::start(false, ms, call),
            "chunks" => Stream::start(true, ms, call),
            "open" => {
                STREAMS.lock().unwrap().steps += number(call.arguments, b"n").unwrap_or(1.0) as u64;
                STREAMS_CHANGED.notify_all();
                self.text(call.id, "done");
            }
            "blanks" => {
                let fields = "\"progress\":1,\"_meta\":{\"mcpgate/chunk\":{\"index\":0,\"data\":[1,\r2]}}";
                if let Some(line) = step_line(progress_token(call), fields) {
                    self.line(&line);
                }
                self.result(call.id, "{\"content\":[],\r\"structuredContent\":{\"a\":\r\t1}}");
            }
            "quiet" => {
                if let Some(line) = step_line(progress_token(call), r#""progress":1,"message":"running""#) {
                    self.line(&line);
                }
            }
            "log" => self.log(call),
            "pid" => self.text(call.id, &std::process::id().to_string()),
            "env" => {
                let pair = |(key, value)| {
                    let (key, value): (std::ffi::OsString, std::ffi::OsString) = (key, value);
                    format!("{}:{}", quoted(&key.to_string_lossy()), quoted(&value.to_string_lossy()))
                };
                let pairs: Vec<String> = env::vars_os().map(pair).collect();
                self.text(call.id, &format!("{{{}}}", pairs.join(",")));
            }
            "cwd" => self.text(call.id, &env::current_dir().unwrap_or_default().to_string_lossy()),
            "args" => {
                let args: Vec<String> = env::args().skip(1).map(|arg| quoted(&arg)).collect();
                self.text(call.id, &format!("[{}]", args.join(",")));
            }
            "counts" => {
                let methods: Vec<String> = self.methods.iter().map(|(name, n)| format!("{}:{n}", quoted(name))).collect();
                let (calls, cancels, methods) = (self.calls, self.cancels, methods.join(","));
                let streamed = STREAMED.load(Ordering::Relaxed);
                self.text(
                    call.id,
                    &format!(r#"{{"calls":{calls},"cancels":{cancels},"streamed":{streamed},"methods":{{{methods}}}}}"#),
                );
            }
            "set_tools" => {
                self.listed = elements(field(call.arguments, b"names")).map(text_of).collect();
                self.tell_changed("tools");
                self.text(call.id, "done");
            }
            "received" => self.raw_text(call.id, call.line),
            "heard" => {
                let heard = self.heard.as_ref().map(|lines| lines.join(&b','));
                let lines = heard.expect("the tool `heard` needs --record");
                self.raw_text(call.id, &[b"[", &lines[..], b"]"].concat());
            }
            "say" => {
                let is_after = field(call.arguments, b"after") == b"true";
                if is_after {
                    self.text(call.id, "done");
                }
                for message in elements(field(call.arguments, b"messages")) {
                    self.line(message);
                }
                if !is_after {
                    self.text(call.id, "done");
                }
            }
            "change" => self.change(call),
            "update" => {
                let uri = string(call.arguments, b"uri").unwrap_or_default();
                let is_anyway = field(call.arguments, b"anyway") == b"true";
                if self.era == Era::Modern || is_anyway || self.subscribed.contains(&uri) {
                    let fields = format!(r#","uri":{}"#, quoted(&uri));
                    self.tell("notifications/resources/updated", &fields, |listen| listen.uris().any(|it| it == uri));
                }
                let legacy: Vec<String> = self.subscribed.iter().map(|uri| quoted(uri)).collect();
                let modern = self.listens.iter().flat_map(|listen| listen.uris().map(|uri| quoted(&uri)));
                let all: Vec<String> = legacy.into_iter().chain(modern).collect();
                self.text(call.id, &format!("[{}]", all.join(",")));
            }
            "level" => {
                let level = self.wanted_level(call).map_or("none", |level| LEVELS[level]);
                self.text(call.id, level);
            }
            "region" => self.raw_text(call.id, call.arguments),
            "lookup" | "put" | "write" => self.act(ms, call),
            "serial_lookup" => {
                self.flush();
                thread::sleep(ms);
                self.raw_text(call.id, call.arguments);
            }
            "hold" => {
                // Looked at, so that it is really taken and written.
                black_box(vec![1_u8; bytes]).leak();
                self.text(call.id, "done");
            }
            "blocks" => self.result(
                call.id,
                r#"{"content":[{"type":"text","text":"one"},{"type":"image","data":"iVBORw0KGgo=","mimeType":"image/png"},{"type":"resource","resource":{"uri":"test://two","mimeType":"text/plain","text":"two"}}]}"#,
            ),
            "many_blocks" => {
                let n = number(call.arguments, b"n").unwrap_or(1.0) as usize;
                let block = format!(r#"{{"type":"text","text":"{}"}}"#, "x".repeat(bytes));
                self.result(call.id, &format!(r#"{{"content":[{}]}}"#, vec![block; n].join(",")));
            }
            "no_content" => self.result(call.id, r#"{"content":[]}"#),
            "ask" if self.era == Era::Modern => self.ask_modern(call),
            "ask" => self.ask(call),
            _ if self.listed.iter().any(|listed| listed == name) => self.raw_text(call.id, call.arguments),
            _ => self.error(call.id, -32602, &format!("Unknown tool: {name}"), b""),
        }
    }

    fn crash(&mut self, after: Duration, call: &Call) {
        self.flush();
        if let Some(text) = string(call.arguments, b"stderr") {
            eprintln!("{text}");
        }
        let what = match number(call.arguments, b"signal") {
            Some(number) => What::Raise(number as i32),
            None => What::Exit(number(call.arguments, b"code").unwrap_or(1.0) as i32),
        };
        if after.is_zero() {
            what.end_here();
        }
        self.later(after, call.id, what);
    }

    /// A call of `lookup`, `put` or `write`.
    fn act(&mut self, after: Duration, call: &Call) {
        if let Some(path) = string(call.arguments, b"trace") {
            let value = string(call.arguments, b"value").unwrap_or_default();
            let line = format!("{} {value}\n", std::process::id());
            let trace = OpenOptions::new().create(true).append(true).open(path);
            trace.and_then(|mut trace| trace.write_all(line.as_bytes())).expect("writing the trace");
        }
        if field(call.arguments, b"chunk") == b"true" {
            let fields = r#""progress":1,"_meta":{"mcpgate/chunk":{"index":0,"data":"an item"}}"#;
            if let Some(line) = step_line(progress_token(call), fields) {
                self.line(&line);
            }
        }
        let is_crash = field(call.arguments, b"crash") == b"true";
        if is_crash || string(call.arguments, b"crash_once").is_some_and(|path| is_first(&path)) {
            self.flush();
            What::Raise(9).end_here();
        }
        if after.is_zero() {
            return self.raw_text(call.id, call.arguments);
        }
        let line = answer_line(call.id, &text_result(call.arguments));
        self.later(after, call.id, What::Write { line, is_late: false });
    }

    fn progress(&mut self, pause: Duration, call: &Call) {
        let n_steps = number(call.arguments, b"n").unwrap_or(0.0) as u32;
        let label = label(call);
        for step in 1..=n_steps {
            let fields = format!(r#""progress":{step},"total":{n_steps},"message":"{label}step {step}""#);
            let Some(mut line) = step_line(progress_token(call), &fields) else { break };
            line.push(b'\n');
            self.later(pause * step, call.id, What::Write { line, is_late: false });
        }
        let line = answer_line(call.id, &text_result(b"done"));
        self.later(pause * n_steps, call.id, What::Write { line, is_late: false });
    }

    fn log(&mut self, call: &Call) {
        let level = string(call.arguments, b"level").unwrap_or_else(|| "info".to_owned());
        let data = String::from_utf8_lossy(field(call.arguments, b"data")).into_owned();
        let number_of = |level: &str| LEVELS.iter().position(|it| *it == level);
        // A legacy client wants everything until it says otherwise, a modern one nothing.
        let least = self.wanted_level(call).or((self.era != Era::Modern).then_some(0));
        let is_wanted = least.is_some_and(|least| number_of(&level).is_none_or(|it| least <= it));
        for n in 1..=number(call.arguments, b"n").unwrap_or(1.0) as u32 {
            if !is_wanted {
                break;
            }
            let data = if data.is_empty() { n.to_string() } else { data.clone() };
            self.line(&log_line(&level, &data));
        }
        self.text(call.id, "done");
    }

    fn wanted_level(&self, call: &Call) -> Option<usize> {
        if self.era != Era::Modern {
            return self.level;
        }
        let level = string(field(call.params, b"_meta"), b"io.modelcontextprotocol/logLevel")?;
        LEVELS.iter().position(|it| *it == level)
    }

    fn change(&mut self, call: &Call) {
        let what = string(call.arguments, b"what").unwrap_or_default();
        let name = match what.as_str() {
            "tools" => {
                let name = format!("{}added-{}", self.prefix, self.listed.len());
                self.listed.push(name.clone());
                name
            }
            "resources" => {
                self.added[0] += 1;
                format!("{}item/added-{}", self.uri_start, self.added[0])
            }
            "prompts" => {
                self.added[1] += 1;
                format!("added-{}", self.added[1])
            }
            what => return self.error(call.id, -32602, &format!("No list of {what}"), b""),
        };
        self.tell_changed(&what);
        self.text(call.id, &name);
    }

    fn ask(&mut self, call: &Call) {
        let asking = Asking::of(call);
        let is_together = field(call.arguments, b"together") == b"true";
        let n_now = if is_together { asking.answers.len() } else { 1 };
        for question in 0..n_now {
            self.put_question(call.id, &asking, question);
        }
        self.asking.insert(call.id.to_vec(), asking);
        if let Some(path) = string(call.arguments, b"log_when") {
            thread::spawn(move || log_much_when(Path::new(&path)));
        }
    }

    /// Says what is needed, one round after the other: the state of a round is its number.
    fn ask_modern(&mut self, call: &Call) {
        let asking = Asking::of(call);
        let capability = match text_of(&asking.method).split_once('/') {
            Some((kind, _)) => kind.to_owned(),
            None => String::new(),
        };
        let declared = field(field(call.params, b"_meta"), b"io.modelcontextprotocol/clientCapabilities");
        if field(declared, capability.as_bytes()).is_empty() {
            let data = format!(r#"{{"requiredCapabilities":{{"{capability}":{{}}}}}}"#);
            return self.error(call.id, MISSING_CAPABILITY, "Missing client capability", data.as_bytes());
        }
        let state = string(call.params, b"requestState");
        let round = state.as_ref().map_or(Some(0), |it| it.strip_prefix("round-")?.parse::<usize>().ok());
        let Some(round) = round else {
            return self.error(call.id, -32602, "Not a state of this tool", b"");
        };
        let n_questions = asking.answers.len();
        if n_questions == 0 {
            let result = format!(r#"{{"resultType":"input_required","requestState":"round-{}"}}"#, round + 1);
            return self.result(call.id, &result);
        }
        let is_together = field(call.arguments, b"together") == b"true";
        let questions = |round: usize| if is_together { 0..n_questions } else { round - 1..round };
        let responses = field(call.params, b"inputResponses");
        let is_answered = |question| !field(responses, format!("question-{}", question + 1).as_bytes()).is_empty();
        let is_complete = 0 < round && questions(round).all(is_answered);
        let is_last = is_together || round == n_questions;
        if is_complete && is_last {
            let (responses, state) = (String::from_utf8_lossy(responses), quoted(&state.unwrap_or_default()));
            return self.text(call.id, &format!(r#"{{"inputResponses":{responses},"requestState":{state}}}"#));
        }
        let round = if is_complete { round + 1 } else { round.max(1) };
        let method = String::from_utf8_lossy(&asking.method).into_owned();
        let request = |question: usize| {
            let params = asking.params_of(question);
            let params = String::from_utf8_lossy(&params);
            format!(r#""question-{}":{{"method":{method},"params":{params}}}"#, question + 1)
        };
        let requests: Vec<String> = questions(round).map(request).collect();
        let requests = requests.join(",");
        self.result(
            call.id,
            &format!(
                r#"{{"resultType":"input_required","inputRequests":{{{requests}}},"requestState":"round-{round}","_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}}}}}"#
            ),
        );
    }

    fn put_question(&mut self, call_id: &[u8], asking: &Asking, question: usize) {
        self.questions += 1;
        let id = self.questions;
        self.asked.insert(id, (call_id.to_vec(), question));
        let mut line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"#).into_bytes();
        line.extend_from_slice(&asking.method);
        line.extend_from_slice(b",\"params\":");
        line.extend_from_slice(&asking.params_of(question));
        line.push(b'}');
        self.line(&line);
    }

    fn take_answer(&mut self, id: &[u8], line: &[u8]) {
        let id = std::str::from_utf8(id).ok().and_then(|text| text.parse().ok());
        let Some((call_id, question)) = id.and_then(|id: u64| self.asked.remove(&id)) else { return };
        // Gone when the call was cancelled.
        let Some(mut asking) = self.asking.remove(&call_id) else { return };
        asking.answers[question] = Some(line.to_vec());
        if asking.answers.iter().all(Option::is_some) {
            let lines: Vec<Vec<u8>> = asking.answers.into_iter().flatten().collect();
            let joined = lines.join(&b',');
            let text = if asking.is_list { [b"[", &joined[..], b"]"].concat() } else { joined };
            return self.raw_text(&call_id, &text);
        }
        let next = question + 1;
        let is_asked = self.asked.values().any(|(it, number)| *it == call_id && *number == next);
        if !is_asked && asking.answers.get(next).is_some_and(Option::is_none) {
            self.put_question(&call_id, &asking, next);
        }
        self.asking.insert(call_id, asking);
    }

    // Writing. All of it waits in `out` until the batch ends.

    fn flush(&mut self) {
        write_now(&self.out);
        self.out.clear();
    }

    fn line(&mut self, line: &[u8]) {
        self.out.extend_from_slice(line);
        self.out.push(b'\n');
    }

    fn result(&mut self, id: &[u8], result: &str) {
        push_answer(&mut self.out, id, result.as_bytes());
    }

    fn text(&mut self, id: &[u8], text: &str) {
        self.raw_text(id, text.as_bytes());
    }

    fn raw_text(&mut self, id: &[u8], text: &[u8]) {
        self.out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        self.out.extend_from_slice(id);
        self.out.extend_from_slice(b",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"");
        push_escaped(&mut self.out, text);
        self.out.extend_from_slice(b"\"}]");
        if let Some(complete) = COMPLETE.get() {
            self.out.push(b',');
            self.out.extend_from_slice(complete.as_bytes());
        }
        self.out.extend_from_slice(b"}}\n");
    }

    fn error(&mut self, id: &[u8], code: i64, message: &str, data: &[u8]) {
        let message = quoted(message);
        let data = String::from_utf8_lossy(data);
        let data = if data.is_empty() { String::new() } else { format!(",\"data\":{data}") };
        let id = String::from_utf8_lossy(id).into_owned();
        self.line(
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}{data}}}}}"#).as_bytes(),
        );
    }

    fn later(&mut self, after: Duration, id: &[u8], what: What) {
        let later = self.later.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel();
            thread::spawn(move || run_later(&receiver));
            sender
        });
        let _ = later.send(Timed { at: Instant::now() + after, id: id.to_vec(), what });
    }
}

impl Asking {
    fn of(call: &Call) -> Asking {
        let n_questions = number(call.arguments, b"n");
        Asking {
            method: field(call.arguments, b"method").to_vec(),
            params: field(call.arguments, b"params").to_vec(),
            value: string(call.arguments, b"value").unwrap_or_default(),
            is_list: n_questions.is_some(),
            answers: vec![None; n_questions.unwrap_or(1.0) as usize],
        }
    }

    fn params_of(&self, question: usize) -> Vec<u8> {
        if !self.params.is_empty() {
            return self.params.clone();
        }
        let has_one = self.answers.len() == 1;
        let text = if has_one { self.value.clone() } else { format!("{} {}", self.value, question + 1) };
        let text = quoted(&text);
        let params = match text_of(&self.method).as_str() {
            "elicitation/create" => format!(
                r#"{{"message":{text},"requestedSchema":{{"type":"object","properties":{{"answer":{{"type":"string"}}}}}}}}"#
            ),
            "sampling/createMessage" => format!(
                r#"{{"messages":[{{"role":"user","content":{{"type":"text","text":{text}}}}}],"maxTokens":100}}"#
            ),
            _ => "{}".to_owned(),
        };
        params.into_bytes()
    }
}

impl Listen {
    /// A notification of this subscription. `fields` have a comma before them.
    fn line(&self, method: &str, fields: &str) -> String {
        let id = String::from_utf8_lossy(&self.id);
        format!(
            r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}{fields}}}}}"#
        )
    }

    fn uris(&self) -> impl Iterator<Item = String> {
        elements(field(&self.filter, b"resourceSubscriptions")).map(text_of)
    }
}

fn become_modern() {
    let complete = format!(r#""resultType":"complete","_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}}}"#);
    COMPLETE.get_or_init(|| complete);
}

fn describe_prompt((name, description, arguments): &(&str, &str, &str)) -> String {
    let arguments = if arguments.is_empty() { String::new() } else { format!(r#","arguments":{arguments}"#) };
    format!(r#"{{"name":"{name}","description":{}{arguments}}}"#, quoted(description))
}

/// Makes the file `path`; `false` when there is one already.
fn is_first(path: &str) -> bool {
    OpenOptions::new().write(true).create_new(true).open(path).is_ok()
}

/// What the messages of its steps begin with.
fn label(call: &Call) -> String {
    string(call.arguments, b"value").map_or(String::new(), |value| format!("{value} "))
}

fn progress_token<'a>(call: &Call<'a>) -> &'a [u8] {
    field(field(call.params, b"_meta"), b"progressToken")
}

/// A progress notification with these fields, without its line end; nothing for a client that did not ask for progress.
fn step_line(token: &[u8], fields: &str) -> Option<Vec<u8>> {
    let token = std::str::from_utf8(token).ok().filter(|token| !token.is_empty())?;
    let line = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},{fields}}}}}"#
    );
    Some(line.into_bytes())
}

/// Logs 2 MB once there is a file `path`.
fn log_much_when(path: &Path) {
    while !path.exists() {
        thread::sleep(Duration::from_millis(5));
    }
    let mut line = log_line("error", &quoted(&"x".repeat(1000)));
    line.push(b'\n');
    (0..2000).for_each(|_| write_now(&line));
    eprintln!("everything is logged");
}

/// A log message, without its line end.
fn log_line(level: &str, data: &str) -> Vec<u8> {
    let line = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","logger":"helper","data":{data}}}}}"#
    );
    line.into_bytes()
}

fn write_now(bytes: &[u8]) {
    if let Some(stdout) = STDOUT.lock().unwrap().as_mut() {
        // A closed pipe means that our client is gone; the end of stdin says so too.
        let _ = stdout.write_all(bytes);
    }
}

fn text_result(text: &[u8]) -> Vec<u8> {
    let mut result = b"{\"content\":[{\"type\":\"text\",\"text\":\"".to_vec();
    // A string value is shown without its quotes, as the text it is.
    let is_string = text.first() == Some(&b'"');
    if is_string {
        result.extend_from_slice(&text[1..text.len() - 1])
    } else {
        push_escaped(&mut result, text)
    }
    result.extend_from_slice(b"\"}]}");
    result
}

fn answer_line(id: &[u8], result: &[u8]) -> Vec<u8> {
    let mut line = Vec::new();
    push_answer(&mut line, id, result);
    line
}

fn push_answer(out: &mut Vec<u8>, id: &[u8], result: &[u8]) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"result\":");
    let complete = COMPLETE.get().filter(|_| result.ends_with(b"}") && !result.starts_with(b"{\"resultType\""));
    match complete {
        Some(complete) => {
            out.extend_from_slice(&result[..result.len() - 1]);
            out.extend_from_slice(if result == b"{}" { b"" } else { b"," });
            out.extend_from_slice(complete.as_bytes());
            out.push(b'}');
        }
        None => out.extend_from_slice(result),
    }
    out.extend_from_slice(b"}\n");
}

// --- streams ----------------------------------------------------------------------------------------------------

struct Streams {
    /// Calls that stream and are not cancelled.
    running: BTreeSet<Vec<u8>>,
    /// Steps that gated streams may take.
    steps: u64,
}

/// A call of `stream` or `chunks`. It has a thread of its own, so that a client that takes nothing stops nobody else.
struct Stream {
    id: Vec<u8>,
    token: Vec<u8>,
    are_items: bool,
    n_steps: u32,
    fill: String,
    pause: Duration,
    gate: String,
    is_stamped: bool,
    label: String,
}

impl Stream {
    fn start(are_items: bool, pause: Duration, call: &Call) {
        let stream = Stream {
            id: call.id.to_vec(),
            token: progress_token(call).to_vec(),
            are_items,
            n_steps: number(call.arguments, b"n").unwrap_or(0.0) as u32,
            fill: "x".repeat(number(call.arguments, b"bytes").unwrap_or(0.0) as usize),
            pause,
            gate: string(call.arguments, b"gate").unwrap_or_default(),
            is_stamped: field(call.arguments, b"stamp") == b"true",
            label: label(call),
        };
        STREAMS.lock().unwrap().running.insert(stream.id.clone());
        thread::spawn(move || stream.run());
    }

    fn run(&self) {
        let started_at = Instant::now();
        for step in 1..=self.n_steps {
            let at = started_at + self.pause * step;
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if !self.may_go_on(self.gate == "each") {
                return;
            }
            if let Some(mut line) = step_line(&self.token, &self.fields(step)) {
                line.push(b'\n');
                write_now(&line);
            }
        }
        STREAMED.fetch_add(1, Ordering::Relaxed);
        if !self.may_go_on(!self.gate.is_empty()) {
            return;
        }
        STREAMS.lock().unwrap().running.remove(&self.id);
        let numbers: Vec<String> = (0..self.n_steps).map(|number| number.to_string()).collect();
        let text = if self.are_items { format!("[{}]", numbers.join(",")) } else { "done".to_owned() };
        write_now(&answer_line(&self.id, &text_result(text.as_bytes())));
    }

    fn fields(&self, step: u32) -> String {
        let Stream { n_steps, fill, label, .. } = self;
        if self.are_items {
            let index = step - 1;
            return format!(
                r#""progress":{step},"_meta":{{"mcpgate/chunk":{{"index":{index},"data":{{"item":{index},"fill":"{fill}"}}}}}}"#
            );
        }
        let message = if self.is_stamped { now_ns().to_string() } else { format!("{label}step {step}{fill}") };
        format!(r#""progress":{step},"total":{n_steps},"message":"{message}""#)
    }

    /// `false` when it was cancelled. A gated step waits for the gate first.
    fn may_go_on(&self, is_gated: bool) -> bool {
        let mut streams = STREAMS.lock().unwrap();
        while is_gated && streams.steps == 0 && streams.running.contains(&self.id) {
            streams = STREAMS_CHANGED.wait(streams).unwrap();
        }
        let is_running = streams.running.contains(&self.id);
        if is_gated && is_running {
            streams.steps -= 1;
        }
        is_running
    }
}

/// The monotonic clock, which every process of the machine reads alike.
fn now_ns() -> i64 {
    let mut time = [0; 2];
    // SAFETY: 1 is CLOCK_MONOTONIC, and `time` is a `timespec` of two 64-bit numbers.
    unsafe { clock_gettime(1, &mut time) };
    time[0] * 1_000_000_000 + time[1]
}

// --- what happens later -----------------------------------------------------------------------------------------

/// Something to do at a time, for the call `id`.
struct Timed {
    at: Instant,
    id: Vec<u8>,
    what: What,
}

enum What {
    Write {
        line: Vec<u8>,
        is_late: bool,
    },
    Exit(i32),
    Raise(i32),
    /// Forget what waits for this call.
    Cancel,
}

impl What {
    fn end_here(&self) {
        match self {
            What::Exit(code) => exit(*code),
            What::Raise(number) => {
                // SAFETY: `raise` only ends this process.
                unsafe { raise(*number) };
            }
            What::Write { .. } | What::Cancel => {}
        }
    }
}

fn run_later(orders: &mpsc::Receiver<Timed>) {
    let mut waiting: BTreeMap<(Instant, u64), Timed> = BTreeMap::new();
    let mut order = 0;
    loop {
        let next = waiting.keys().next().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        match orders.recv_timeout(next.unwrap_or(Duration::from_secs(3600))) {
            Ok(Timed { id, what: What::Cancel, .. }) => {
                waiting.retain(|_, timed| timed.id != id || matches!(timed.what, What::Write { is_late: true, .. }));
            }
            Ok(timed) => {
                order += 1;
                waiting.insert((timed.at, order), timed);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let mut out = Vec::new();
        while let Some(entry) = waiting.first_entry().filter(|entry| entry.key().0 <= Instant::now()) {
            match entry.remove().what {
                What::Write { line, .. } => out.extend_from_slice(&line),
                end => end.end_here(),
            }
        }
        write_now(&out);
    }
}

// --- as much JSON as it takes -----------------------------------------------------------------------------------

/// The position of `byte`, eight bytes at a time.
fn find(byte: u8, text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let pattern = ONES * u64::from(byte);
    let mut position = 0;
    for chunk in text.chunks_exact(8) {
        let word = u64::from_le_bytes(chunk.try_into().unwrap()) ^ pattern;
        let zero_bytes = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zero_bytes != 0 {
            return Some(position + zero_bytes.trailing_zeros() as usize / 8);
        }
        position += 8;
    }
    text[position..].iter().position(|it| *it == byte).map(|rest| position + rest)
}

fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while at < text.len() && matches!(text[at], b' ' | b'\t' | b'\r' | b'\n') {
        at += 1;
    }
    at
}

/// The position after the string that begins at `at`.
fn string_end(text: &[u8], mut at: usize) -> usize {
    at += 1;
    while at < text.len() {
        match text[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// The position after the value that begins at `at`.
fn value_end(text: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                at = string_end(text, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' if depth == 1 => return at + 1,
            b'}' | b']' => depth -= 1,
            b',' | b' ' | b'\t' | b'\r' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// The fields of the object `text`: each key without its quotes, and its value as it stands.
fn fields(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = skip_blanks(text, 0) + 1;
    std::iter::from_fn(move || {
        at = skip_blanks(text, at);
        if text.get(at) == Some(&b',') {
            at = skip_blanks(text, at + 1);
        }
        if text.get(at) != Some(&b'"') {
            return None;
        }
        let key_end = string_end(text, at);
        let key = &text[at + 1..key_end - 1];
        let value_start = skip_blanks(text, skip_blanks(text, key_end) + 1);
        at = value_end(text, value_start);
        Some((key, &text[value_start..at]))
    })
}

/// The field `key` of the object `text`, or nothing.
fn field<'a>(text: &'a [u8], key: &[u8]) -> &'a [u8] {
    fields(text).find(|(it, _)| *it == key).map_or(b"", |(_, value)| value)
}

/// The elements of the array `text`.
fn elements(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = skip_blanks(text, 0) + 1;
    std::iter::from_fn(move || {
        at = skip_blanks(text, at);
        if text.get(at) == Some(&b',') {
            at = skip_blanks(text, at + 1);
        }
        let start = at;
        at = value_end(text, at);
        (start < at && text[start] != b']').then(|| &text[start..at])
    })
}

fn number(text: &[u8], key: &[u8]) -> Option<f64> {
    std::str::from_utf8(field(text, key)).ok()?.parse().ok()
}

fn string(text: &[u8], key: &[u8]) -> Option<String> {
    let value = field(text, key);
    (!value.is_empty()).then(|| text_of(value))
}

/// What the JSON string `value` says. `\u` stays as it is: our tests do not write it where this is used.
fn text_of(value: &[u8]) -> String {
    let inner = value.get(1..value.len().saturating_sub(1)).unwrap_or(b"");
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            text.push(*byte);
            continue;
        }
        match bytes.next() {
            Some(b'n') => text.push(b'\n'),
            Some(b't') => text.push(b'\t'),
            Some(b'r') => text.push(b'\r'),
            Some(b'u') => text.extend_from_slice(b"\\u"),
            Some(other) => text.push(*other),
            None => {}
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn quoted(text: &str) -> String {
    let mut out = vec![b'"'];
    push_escaped(&mut out, text.as_bytes());
    out.push(b'"');
    String::from_utf8_lossy(&out).into_owned()
}

fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
}
