//! Events: only read.

use gantry_api::rest::{ListQuery, Page};
use gantry_types::{Event, Problem};

use super::{App, Caller};

/// Events from the oldest to the newest.
pub fn list(app: &App, caller: &Caller, query: &ListQuery) -> Result<Page<Event>, Problem> {
    super::list(app, caller, query)
}
