//! What says whose a place is: a small file at its top.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) const MARK: &str = "gantry-pool.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    pool: Uuid,
}

pub(crate) fn read(text: &[u8]) -> serde_json::Result<Uuid> {
    serde_json::from_slice::<Mark>(text).map(|mark| mark.pool)
}

pub(crate) fn text(pool: Uuid) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Mark { pool })
}
