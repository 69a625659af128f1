//! The journeys file: one SQLite database that any number of processes and threads share.
//!
//! It is in WAL mode, so readers and the one writer at a time do not wait for each other. Every change reads and writes
//! within one `IMMEDIATE` transaction, which takes the write lock before it reads: no change is built on an old state.
//! The file is made and filled within one such transaction too, so of several processes that find none, one fills it.
//! Commits are not forced to the disk one by one (`synchronous=NORMAL`): when the power fails the last ones may be gone,
//! which costs less on an SD card than a forced write for every call; when a process dies none is.
//!
//! What may be stored is decided by [`super::journey`] and [`super::arguments`].
//!
//! **Limit.** A call waits at most `BUSY_TIMEOUT` for the write lock. `IDLE_CONNECTIONS_MAX` connections are kept
//! between calls, each with a cache of `CACHE_KIBIBYTES`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params, types::Type};

use crate::error::Error;

use super::journey::{Journey, Problem, Status};

/// How long to wait for another process, or another thread, to finish its change.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two tries to open the file, while others do too. SQLite itself does not wait in all of the cases.
const OPEN_RETRY_PAUSE: Duration = Duration::from_millis(2);

const IDLE_CONNECTIONS_MAX: usize = 4;

const CACHE_KIBIBYTES: i64 = 512;

/// Kept in the file as `user_version`. A new file has 0.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE journeys (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        description TEXT NOT NULL,
        status TEXT NOT NULL,
        steps TEXT NOT NULL,
        created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
        updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
    ) STRICT;
    INSERT INTO journeys (id, name, description, status, steps) VALUES
        ('first-call', 'Make a first call', 'Reach the gateway with curl and read what it answers.', 'completed',
         '[{\"number\":1,\"text\":\"Start the gateway\",\"completed\":true},
           {\"number\":2,\"text\":\"List the tools\",\"completed\":true}]'),
        ('own-server', 'Connect a server of your own', 'Put an MCP server that you use on the network.', 'active',
         '[{\"number\":1,\"text\":\"Name its command in the settings\",\"completed\":true},
           {\"number\":2,\"text\":\"Look at its health\",\"completed\":false},
           {\"number\":3,\"text\":\"Call one of its tools\",\"completed\":false}]'),
        ('open-to-network', 'Open the gateway to the network', 'Keys and TLS before the first stranger.', 'draft',
         '[{\"number\":1,\"text\":\"Make a key\",\"completed\":false},
           {\"number\":2,\"text\":\"Make a certificate\",\"completed\":false}]');
    PRAGMA user_version = 1;";

const SELECT: &str = "SELECT id, name, description, status, steps, created_at, updated_at FROM journeys";

/// Which journeys a list has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter {
    /// Only those with this status.
    pub(super) status: Option<Status>,
    /// Only those with this text in name or description, in any case.
    pub(super) query: String,
    /// At most so many, the newest ones.
    pub(super) limit: usize,
}

/// What a list found, newest first.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) journeys: Vec<Journey>,
    /// Whether the limit cut the list short.
    pub(super) has_more: bool,
}

/// The file, and connections to it.
pub(super) struct Store {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Store {
    /// Opens the file in `data_dir`; makes folder and file, with the sample journeys in it, if they are missing.
    pub(super) fn open(data_dir: &Path) -> Result<Store, Error> {
        fs::create_dir_all(data_dir).map_err(|cause| Error::Failed {
            what: format!("cannot create the data folder `{}`: {cause}", data_dir.display()),
            hint: "set `DATA_DIR` to a folder that can be written".to_owned(),
        })?;
        let path = data_dir.join("journeys.db");
        let deadline = Instant::now() + BUSY_TIMEOUT;
        loop {
            match connect_first(&path) {
                Ok((connection, SCHEMA_VERSION)) => return Ok(Store { path, idle: Mutex::new(vec![connection]) }),
                Ok((_, version)) => {
                    return Err(Error::Failed {
                        what: format!("`{}` has format {version}, this program knows {SCHEMA_VERSION}", path.display()),
                        hint: "use the version of mcpgate that wrote it, or another `DATA_DIR`".to_owned(),
                    });
                }
                Err(cause) if is_busy(&cause) && Instant::now() < deadline => thread::sleep(OPEN_RETRY_PAUSE),
                Err(cause) => {
                    return Err(Error::Failed {
                        what: format!("cannot open the journeys in `{}`: {cause}", path.display()),
                        hint: "set `DATA_DIR` to a folder that can be written and holds no other `journeys.db`"
                            .to_owned(),
                    });
                }
            }
        }
    }

    /// The journeys that pass `filter`, newest first.
    pub(super) fn list(&self, filter: &Filter) -> Result<Found, Problem> {
        let query = filter.query.to_lowercase();
        let status = filter.status.map(Status::name);
        self.with_connection(|connection| {
            let sql = format!("{SELECT} WHERE ?1 IS NULL OR status = ?1 ORDER BY number DESC");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut journeys = Vec::new();
            for journey in statement.query_map(params![status], read_row)? {
                let journey = journey?;
                // Here and not in SQL, whose `lower` knows only ASCII.
                let matches = query.is_empty()
                    || journey.name.to_lowercase().contains(&query)
                    || journey.description.to_lowercase().contains(&query);
                if !matches {
                    continue;
                }
                if filter.limit <= journeys.len() {
                    return Ok(Found { journeys, has_more: true });
                }
                journeys.push(journey);
            }
            Ok(Found { journeys, has_more: false })
        })
    }

    /// The journey `id`.
    pub(super) fn get(&self, id: &str) -> Result<Journey, Problem> {
        self.with_connection(|connection| find(connection, id))
    }

    /// A new journey without steps.
    pub(super) fn create(&self, name: &str, description: &str, status: Status) -> Result<Journey, Problem> {
        // Five random bytes are unique among a million journeys all but surely; a clash is an error, not a lost journey.
        let sql = "INSERT INTO journeys (id, name, description, status, steps)
            VALUES (lower(hex(randomblob(5))), ?1, ?2, ?3, '[]')
            RETURNING id, name, description, status, steps, created_at, updated_at";
        self.in_transaction(|transaction| {
            let mut statement = transaction.prepare_cached(sql)?;
            Ok(statement.query_row(params![name, description, status.name()], read_row)?)
        })
    }

    /// Lets `change` work on the journey `id` while nobody else can, and keeps what it made of it.
    pub(super) fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut Journey) -> Result<(), Problem>,
    ) -> Result<Journey, Problem> {
        let sql = "UPDATE journeys SET name = ?2, description = ?3, status = ?4, steps = ?5,
            updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?1";
        self.in_transaction(|transaction| {
            let mut journey = find(transaction, id)?;
            change(&mut journey)?;
            let steps =
                serde_json::to_string(&journey.steps).map_err(|cause| Problem::Storage { cause: cause.to_string() })?;
            let values = params![id, journey.name, journey.description, journey.status.name(), steps];
            transaction.prepare_cached(sql)?.execute(values)?;
            find(transaction, id)
        })
    }

    /// Deletes the journey `id`, and gives back what it was.
    pub(super) fn delete(&self, id: &str) -> Result<Journey, Problem> {
        self.in_transaction(|transaction| {
            let journey = find(transaction, id)?;
            transaction.prepare_cached("DELETE FROM journeys WHERE id = ?1")?.execute([id])?;
            Ok(journey)
        })
    }

    fn in_transaction<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Problem>) -> Result<T, Problem> {
        self.with_connection(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })
    }

    fn with_connection<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, Problem>) -> Result<T, Problem> {
        let idle = self.idle().pop();
        let mut connection = idle.map_or_else(|| connect(&self.path), Ok)?;
        let done = work(&mut connection);
        let mut idle = self.idle();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
        done
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<rusqlite::Error> for Problem {
    fn from(cause: rusqlite::Error) -> Problem {
        Problem::Storage { cause: cause.to_string() }
    }
}

/// A connection to a file that may be new, with the format the file has then.
fn connect_first(path: &Path) -> rusqlite::Result<(Connection, i64)> {
    let mut connection = connect(path)?;
    let version = prepare(&mut connection)?;
    Ok((connection, version))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIBIBYTES)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// Makes a new file what it should be, and tells the format the file has then.
fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    let version = format_version(connection)?;
    if version != 0 {
        return Ok(version);
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    if format_version(&transaction)? == 0 {
        transaction.execute_batch(SCHEMA)?;
    }
    transaction.commit()?;
    format_version(connection)
}

fn format_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn is_busy(cause: &rusqlite::Error) -> bool {
    matches!(cause.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn find(connection: &Connection, id: &str) -> Result<Journey, Problem> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
    let journey = statement.query_row([id], read_row).optional()?;
    journey.ok_or_else(|| Problem::UnknownJourney { id: id.to_owned() })
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<Journey> {
    let status: String = row.get(3)?;
    let steps: String = row.get(4)?;
    Ok(Journey {
        id: row.get(0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        status: Status::from_name(&status).ok_or_else(|| unreadable(3, format!("unknown status `{status}`")))?,
        steps: serde_json::from_str(&steps).map_err(|cause| unreadable(4, cause.to_string()))?,
        created_at: row.get(5)?,
        updated_at: row.get(6)?,
    })
}

/// What a row is that no version of this program wrote.
fn unreadable(column: usize, cause: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, cause.into())
}

#[cfg(test)]
mod tests {
    use std::{env, process, sync::Barrier};

    use super::*;

    /// A fresh folder that is removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = env::temp_dir().join(format!("mcpgate-store-{}-{name}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn sql(&self, sql: &str) {
            Connection::open(self.0.join("journeys.db")).unwrap().execute_batch(sql).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[track_caller]
    fn check_refused(folder: &Path, message: &str) {
        let error = Store::open(folder).err().expect("the store was opened");
        let has_message = error.to_string().contains(message);
        assert!(has_message && error.hint().is_some(), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_hold_the_file_is_named_with_a_way_out() {
        let folder = Folder::new("refused");
        fs::write(folder.0.join("file"), "").unwrap();
        check_refused(&folder.0.join("file"), "cannot create the data folder `");
        fs::create_dir_all(folder.0.join("taken/journeys.db")).unwrap();
        check_refused(&folder.0.join("taken"), "cannot open the journeys in `");
        fs::write(folder.0.join("journeys.db"), "This is not a database. ".repeat(50)).unwrap();
        check_refused(&folder.0, "file is not a database");
    }

    #[test]
    fn a_file_of_a_newer_version_is_left_alone() {
        let folder = Folder::new("newer");
        folder.sql("PRAGMA user_version = 2");
        check_refused(&folder.0, "has format 2, this program knows 1");
    }

    #[test]
    fn a_row_that_cannot_be_read_is_an_error_that_says_why() {
        let folder = Folder::new("row");
        let store = Store::open(&folder.0).unwrap();
        folder.sql("UPDATE journeys SET status = 'lost' WHERE id = 'own-server'");
        folder.sql("UPDATE journeys SET steps = '[1]' WHERE id = 'first-call'");
        for (id, part) in [("own-server", "unknown status `lost`"), ("first-call", "invalid type")] {
            let Err(Problem::Storage { cause }) = store.get(id) else { panic!("`{id}` was read") };
            assert!(cause.contains(part), "{cause}");
        }
        store.get("open-to-network").unwrap();
    }

    #[test]
    fn a_change_that_is_refused_leaves_the_journey_as_it_was() {
        let folder = Folder::new("refused-change");
        let store = Store::open(&folder.0).unwrap();
        let before = store.get("own-server").unwrap();
        let refused = store.change("own-server", |journey| {
            journey.name = "changed".to_owned();
            Err(Problem::TooManySteps { id: journey.id.clone() })
        });
        assert_eq!(refused, Err(Problem::TooManySteps { id: "own-server".to_owned() }));
        assert_eq!(store.get("own-server").unwrap(), before);
    }

    #[test]
    fn the_file_is_in_wal_mode_and_no_more_connections_are_kept_than_allowed() {
        let folder = Folder::new("wal");
        let store = Store::open(&folder.0).unwrap();
        let mode = store.with_connection(|connection| {
            Ok(connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))?)
        });
        assert_eq!(mode.unwrap(), "wal");
        let all_connected = Barrier::new(IDLE_CONNECTIONS_MAX + 2);
        let connect_with_the_others = || {
            let connected = store.with_connection(|_| {
                all_connected.wait();
                Ok(())
            });
            connected.unwrap();
        };
        thread::scope(|scope| {
            for _ in 0..IDLE_CONNECTIONS_MAX + 2 {
                scope.spawn(connect_with_the_others);
            }
        });
        assert_eq!(store.idle().len(), IDLE_CONNECTIONS_MAX);
    }
}
