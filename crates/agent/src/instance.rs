//! Which start of the agent this is: an id that is greater than those of all starts before it, so that whoever hears of two knows which
//! came later.
//!
//! It is a version 7 uuid (RFC 9562) whose time never goes back: it is written down before anybody hears of it, and is later than the last
//! one whatever the clock says. No smaller than the clock, it stays ahead, too, of what was written down after a copy that the state
//! directory was restored from.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

use crate::durable;

const FILE: &str = "agent-start";

/// That of this start.
///
/// # Errors
/// Of the file system: without its being on disk the next start could get an earlier one.
pub(crate) fn begin(state_dir: &Path) -> io::Result<Uuid> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    begin_at(state_dir, u64::try_from(clock.as_millis()).unwrap_or(0))
}

fn begin_at(state_dir: &Path, clock_ms: u64) -> io::Result<Uuid> {
    let path = state_dir.join(FILE);
    let mut text = String::new();
    match File::open(&path) {
        Ok(mut file) => drop(file.read_to_string(&mut text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // It is replaced as a whole; one that can't be read was written by something else, and the clock has to do.
    let last: u64 = text.trim().parse().unwrap_or(0);
    let start = clock_ms.max(last + 1);
    durable::replace(&path, format!("{start}\n").as_bytes())?;
    let mut random = [0; 10];
    random.copy_from_slice(&Uuid::new_v4().as_bytes()[..10]);
    Ok(Builder::from_unix_timestamp_millis(start, &random).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_is_later_than_the_last_whatever_the_clock_says() {
        let directory = tempfile::tempdir().unwrap();
        let starts: Vec<Uuid> =
            [5_000, 5_000, 9_000, 1_000, 9_001].map(|clock| begin_at(directory.path(), clock).unwrap()).into();
        assert!(starts.is_sorted_by(|one, next| one < next), "{starts:?}");
        assert_eq!(std::fs::read_to_string(directory.path().join(FILE)).unwrap(), "9002\n");
        std::fs::write(directory.path().join(FILE), "noise").unwrap();
        assert!(begin_at(directory.path(), 10_000).unwrap() > starts[4]);
    }
}
