//! Opening the file: who may have it, which schema it holds, and where its history stands.
//!
//! Nothing is changed in a file that is locked, foreign, or of a newer schema.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::from_sql_int;
use crate::model::{LeaseId, Revision};

/// The schema this version reads and writes.
const SCHEMA_VERSION: i64 = 1;
/// "GNTR": tells a store from any other SQLite file.
const APPLICATION_ID: i64 = 0x474E_5452;

/// `live` is the present, `versions` all kept history including the present, `garbage` says which
/// versions a compaction may remove: those superseded at or before its revision. A version without
/// value is a deletion. Keys are blobs, so that they sort by bytes.
const SCHEMA: &str = "
CREATE TABLE versions (
    id INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER,
    key BLOB NOT NULL,
    value BLOB
);
CREATE INDEX versions_by_revision ON versions (revision);
CREATE UNIQUE INDEX versions_by_key ON versions (key, revision);
CREATE TABLE live (
    key BLOB PRIMARY KEY,
    id INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER
) WITHOUT ROWID;
CREATE INDEX live_by_lease ON live (lease) WHERE lease IS NOT NULL;
CREATE TABLE garbage (
    superseded_at INTEGER NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (superseded_at, id)
) WITHOUT ROWID;
CREATE TABLE leases (
    id INTEGER PRIMARY KEY,
    ttl_seconds INTEGER NOT NULL
);
CREATE TABLE position (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL,
    compacted INTEGER NOT NULL,
    last_lease INTEGER NOT NULL
);
";

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("store {path} is in use by another process (it holds the lock {lock_path}); stop that process first")]
    Locked { path: PathBuf, lock_path: PathBuf },
    #[error(
        "store {path} has schema {found}, this version knows schemas up to {supported}; run the version that wrote it, or a later one"
    )]
    NewerSchema { path: PathBuf, found: i64, supported: i64 },
    #[error("{path} is not a store of this program but another SQLite database; name another file")]
    Foreign { path: PathBuf },
    #[error("store {path} failed while {doing}")]
    Io {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("store {path} failed while {doing}; if it is damaged, restore it from a backup")]
    Database {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: rusqlite::Error,
    },
}

/// Where the store's history stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub revision: Revision,
    /// The oldest revision that can still be read.
    pub compacted: Revision,
    pub last_lease: u64,
    /// The id of the newest row of `versions`.
    pub last_id: i64,
}

pub(super) struct Opened {
    pub writer: Connection,
    pub readers: Vec<Connection>,
    /// Closing it gives the store free.
    pub lock_file: File,
    pub position: Position,
    pub leases: Vec<(LeaseId, Duration)>,
}

/// Takes the lock, checks or makes the schema, reads the position.
pub(super) fn open(path: &Path, read_connections: usize) -> Result<Opened, OpenError> {
    let database = |doing| move |source| OpenError::Database { path: path.to_owned(), doing, source };
    let lock_file = lock(path)?;
    create_private(path)?;
    let writer = Connection::open_with_flags(path, flags()).map_err(database("opening it"))?;
    check_schema(path, &writer)?;
    writer
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA trusted_schema = OFF;
             PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(database("switching to write-ahead logging"))?;
    make_schema(&writer).map_err(database("creating the tables"))?;
    writer.set_prepared_statement_cache_capacity(64);
    let mut readers = Vec::with_capacity(read_connections);
    for _ in 0..read_connections {
        let reader = Connection::open_with_flags(path, flags()).map_err(database("opening it"))?;
        reader
            .execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;")
            .map_err(database("preparing a read connection"))?;
        readers.push(reader);
    }
    Ok(Opened {
        position: read_position(&writer).map_err(database("reading its position"))?,
        leases: read_leases(&writer).map_err(database("reading its leases"))?,
        writer,
        readers,
        lock_file,
    })
}

fn flags() -> OpenFlags {
    // Without SQLITE_OPEN_URI: a path is a path, whatever it looks like.
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let io = |doing| move |source| OpenError::Io { path: path.to_owned(), doing, source };
    // A file of its own, because closing any descriptor of a database drops SQLite's locks on it.
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(io("opening its lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: path.to_owned(), lock_path }),
        Err(TryLockError::Error(source)) => Err(io("locking its lock file")(source)),
    }
}

/// The store holds secrets' hashes: it is its owner's alone. SQLite gives the files it makes
/// beside it the same mode.
fn create_private(path: &Path) -> Result<(), OpenError> {
    let io = |doing| move |source| OpenError::Io { path: path.to_owned(), doing, source };
    let created = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    match created {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(io("creating it")(error)),
    }
    // The name has to survive a power cut as the contents do.
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("syncing its folder"))
}

fn check_schema(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let read = || -> rusqlite::Result<(i64, i64, i64)> {
        let tables = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((number("application_id")?, number("user_version")?, tables))
    };
    let (application_id, version, tables) =
        read().map_err(|source| OpenError::Database { path: path.to_owned(), doing: "reading its header", source })?;
    if application_id == APPLICATION_ID && version > SCHEMA_VERSION {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found: version, supported: SCHEMA_VERSION });
    }
    let empty = application_id == 0 && version == 0 && tables == 0;
    if !empty && application_id != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    Ok(())
}

/// All of the schema or nothing: the version is set in the same transaction.
fn make_schema(connection: &Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute(
        "INSERT INTO position (one, revision, compacted, last_lease) VALUES (1, ?1, 0, 0)",
        params![super::sql_int(Revision::INITIAL.0)],
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

fn read_position(connection: &Connection) -> rusqlite::Result<Position> {
    connection.query_row(
        "SELECT revision, compacted, last_lease, (SELECT ifnull(max(id), 0) FROM versions)
         FROM position",
        [],
        |row| {
            Ok(Position {
                revision: Revision(from_sql_int(row.get(0)?)),
                compacted: Revision(from_sql_int(row.get(1)?)),
                last_lease: from_sql_int(row.get(2)?),
                last_id: row.get(3)?,
            })
        },
    )
}

fn read_leases(connection: &Connection) -> rusqlite::Result<Vec<(LeaseId, Duration)>> {
    connection
        .prepare("SELECT id, ttl_seconds FROM leases")?
        .query_map([], |row| Ok((LeaseId(from_sql_int(row.get(0)?)), Duration::from_secs(from_sql_int(row.get(1)?)))))?
        .collect()
}
