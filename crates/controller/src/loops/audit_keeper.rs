//! Puts the audit log on the disk every second, and drops its oldest files.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gantry_types::Timestamp;

use crate::app::App;

const SYNC: Duration = Duration::from_secs(1);
/// Trimming looks at every file.
const TRIM_EVERY: u32 = 600;

pub async fn run(app: Arc<App>) {
    let mut passes = 0u32;
    loop {
        app.clock.sleep(SYNC).await;
        let log = Arc::clone(&app);
        let since_epoch = app.clock.now().since(Timestamp::UNIX_EPOCH);
        let at = SystemTime::UNIX_EPOCH + since_epoch;
        let trims = passes.is_multiple_of(TRIM_EVERY);
        passes = passes.wrapping_add(1);
        let kept = tokio::task::spawn_blocking(move || {
            log.audit.sync()?;
            if trims { log.audit.trim(at) } else { Ok(0) }
        });
        match kept.await {
            Ok(Ok(0)) => {}
            Ok(Ok(dropped)) => tracing::info!(dropped, "the oldest files of the audit log are gone"),
            Ok(Err(error)) => tracing::error!(%error, "the audit log can't be kept; check the data directory"),
            Err(error) => tracing::error!(%error, "the audit log was not kept"),
        }
    }
}
