//! Which start of the agent this is: an id that is greater than those of all starts before it, so that whoever hears of two knows which
//! came later.
//!
//! It is a version 7 uuid (RFC 9562) whose time never goes back: it is written down before anybody hears of it, and is later than the last
//! one whatever the clock says. No smaller than the clock, it stays ahead, too, of what was written down after a copy that the state
//! directory was restored from.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

use crate::durable;

const FILE: &str = "agent-start";

/// That of this start. One that can't be written down counts all the same: the agent of a host whose disk is full has VMs to look after,
/// and only a clock that goes back would let the next start get an earlier one.
pub(crate) fn begin(state_dir: &Path) -> Uuid {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    begin_at(state_dir, u64::try_from(clock.as_millis()).unwrap_or(0))
}

fn begin_at(state_dir: &Path, clock_ms: u64) -> Uuid {
    let path = state_dir.join(FILE);
    let last = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    };
    let start = clock_ms.max(last + 1);
    if let Err(error) = durable::replace(&path, format!("{start}\n").as_bytes()) {
        tracing::warn!(path = %path.display(), %error, "this start of the agent is not written down");
    }
    let mut random = [0; 10];
    random.copy_from_slice(&Uuid::new_v4().as_bytes()[..10]);
    Builder::from_unix_timestamp_millis(start, &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_is_later_than_the_last_whatever_the_clock_says() {
        let directory = tempfile::tempdir().unwrap();
        let starts: Vec<Uuid> =
            [5_000, 5_000, 9_000, 1_000, 9_001].map(|clock| begin_at(directory.path(), clock)).into();
        assert!(starts.is_sorted_by(|one, next| one < next), "{starts:?}");
        assert_eq!(fs::read_to_string(directory.path().join(FILE)).unwrap(), "9002\n");
        fs::write(directory.path().join(FILE), "noise").unwrap();
        assert!(begin_at(directory.path(), 10_000) > starts[4]);
        assert!(begin_at(&directory.path().join("gone"), 10_000) > starts[4]);
    }
}
