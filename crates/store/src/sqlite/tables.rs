//! The tables as a transaction sees them: [`Tables`] over the writer's connection.
//!
//! Every change of the present also appends to the history and notes what a compaction may later
//! remove. Transactions and rollback are the writer's.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::open::Position;
use super::{failed, from_sql_int, sql_int};
use crate::apply::{KeyHead, Tables};
use crate::error::StoreError;
use crate::model::{KeyValue, LeaseId, Revision, prefix_end};

const READING: &str = "reading for a transaction";
const WRITING: &str = "writing a transaction";

pub(super) struct SqlTables<'a> {
    pub connection: &'a Connection,
    pub position: &'a mut Position,
}

impl SqlTables<'_> {
    /// Runs a statement and hands on its count of rows.
    fn execute(&self, sql: &str, params: impl rusqlite::Params, doing: &'static str) -> Result<usize, StoreError> {
        self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute(params)).map_err(failed(doing))
    }

    fn keys(&self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<String>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(failed(READING))?;
        statement.query_map(params, |row| key_column(row, 0)).and_then(Iterator::collect).map_err(failed(READING))
    }

    /// Notes that the key's present version ends at `revision`.
    fn supersede(&self, key: &str, revision: Revision) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO garbage (superseded_at, id) SELECT ?2, id FROM live WHERE key = ?1",
            params![key.as_bytes(), sql_int(revision.0)],
            WRITING,
        )?;
        Ok(())
    }

    /// Appends to the history and returns the row's id.
    fn append(&mut self, kv: &KeyValue, value: Option<&[u8]>) -> Result<i64, StoreError> {
        self.position.last_id += 1;
        self.execute(
            "INSERT INTO versions (id, revision, create_revision, version, lease, key, value)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                self.position.last_id,
                sql_int(kv.mod_revision.0),
                sql_int(kv.create_revision.0),
                sql_int(kv.version),
                kv.lease.map(|lease| sql_int(lease.0)),
                kv.key.as_bytes(),
                value,
            ],
            WRITING,
        )?;
        Ok(self.position.last_id)
    }

    pub(super) fn add_lease(&mut self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        self.position.last_lease += 1;
        let lease = LeaseId(self.position.last_lease);
        self.execute(
            "INSERT INTO leases (id, ttl_seconds) VALUES (?1, ?2)",
            params![sql_int(lease.0), sql_int(ttl_seconds)],
            "granting a lease",
        )?;
        Ok(lease)
    }

    /// Removes up to `limit` versions that no kept revision shows; tells how many there were.
    pub(super) fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        const PURGING: &str = "removing compacted history";
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT superseded_at, id FROM garbage WHERE superseded_at <= ?1
                 ORDER BY superseded_at, id LIMIT ?2",
            )
            .map_err(failed(PURGING))?;
        let garbage = statement
            .query_map(params![sql_int(self.position.compacted.0), sql_int(limit as u64)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .and_then(Iterator::collect::<rusqlite::Result<Vec<(i64, i64)>>>)
            .map_err(failed(PURGING))?;
        for (superseded_at, id) in &garbage {
            self.execute("DELETE FROM versions WHERE id = ?1", [id], PURGING)?;
            self.execute("DELETE FROM garbage WHERE superseded_at = ?1 AND id = ?2", [superseded_at, id], PURGING)?;
        }
        Ok(garbage.len())
    }

    pub(super) fn save_position(&self) -> Result<(), StoreError> {
        self.execute(
            "UPDATE position SET revision = ?1, compacted = ?2, last_lease = ?3",
            params![
                sql_int(self.position.revision.0),
                sql_int(self.position.compacted.0),
                sql_int(self.position.last_lease),
            ],
            "recording the revision",
        )?;
        Ok(())
    }
}

impl Tables for SqlTables<'_> {
    fn head(&self, key: &str) -> Result<Option<KeyHead>, StoreError> {
        self.connection
            .prepare_cached("SELECT create_revision, mod_revision, version FROM live WHERE key = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([key.as_bytes()], |row| {
                        Ok(KeyHead {
                            create_revision: Revision(from_sql_int(row.get(0)?)),
                            mod_revision: Revision(from_sql_int(row.get(1)?)),
                            version: from_sql_int(row.get(2)?),
                        })
                    })
                    .optional()
            })
            .map_err(failed(READING))
    }

    fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.connection
            .prepare_cached("SELECT value FROM live JOIN versions USING (id) WHERE live.key = ?1")
            .and_then(|mut statement| {
                statement.query_row([key.as_bytes()], |row| Ok(Bytes::from(row.get::<_, Vec<u8>>(0)?))).optional()
            })
            .map_err(failed(READING))
    }

    fn keys_with_prefix(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.keys(
            "SELECT key FROM live WHERE key >= ?1 AND key < ?2 ORDER BY key",
            params![prefix.as_bytes(), prefix_end(prefix)],
        )
    }

    fn lease_exists(&self, lease: LeaseId) -> Result<bool, StoreError> {
        self.connection
            .prepare_cached("SELECT 1 FROM leases WHERE id = ?1")
            .and_then(|mut statement| statement.exists([sql_int(lease.0)]))
            .map_err(failed(READING))
    }

    fn keys_of_lease(&self, lease: LeaseId) -> Result<Vec<String>, StoreError> {
        self.keys("SELECT key FROM live WHERE lease = ?1 ORDER BY key", [sql_int(lease.0)])
    }

    fn put(&mut self, kv: &KeyValue) -> Result<(), StoreError> {
        self.supersede(&kv.key, kv.mod_revision)?;
        let id = self.append(kv, Some(&kv.value))?;
        self.execute(
            "INSERT OR REPLACE INTO live (key, id, mod_revision, create_revision, version, lease)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                kv.key.as_bytes(),
                id,
                sql_int(kv.mod_revision.0),
                sql_int(kv.create_revision.0),
                sql_int(kv.version),
                kv.lease.map(|lease| sql_int(lease.0)),
            ],
            WRITING,
        )?;
        Ok(())
    }

    fn delete(&mut self, key: &str, revision: Revision) -> Result<(), StoreError> {
        self.supersede(key, revision)?;
        let deletion = KeyValue {
            key: key.to_owned(),
            value: Bytes::new(),
            create_revision: Revision::default(),
            mod_revision: revision,
            version: 0,
            lease: None,
        };
        let id = self.append(&deletion, None)?;
        // A deletion shows nothing from its own revision on; only watches from there need it.
        self.execute(
            "INSERT INTO garbage (superseded_at, id) VALUES (?1, ?2)",
            params![sql_int(revision.next().0), id],
            WRITING,
        )?;
        self.execute("DELETE FROM live WHERE key = ?1", [key.as_bytes()], WRITING)?;
        Ok(())
    }

    fn remove_lease(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        self.execute("DELETE FROM leases WHERE id = ?1", [sql_int(lease.0)], "revoking a lease")?;
        Ok(())
    }
}

/// Keys are written from strings, so anything else is damage.
pub(super) fn key_column(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<String> {
    String::from_utf8(row.get(index)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Blob, Box::new(error)))
}
