//! Looks at what hosts draw, and writes it down.

use std::{sync::Arc, time::Duration};

use crate::app::App;

const LOOK: Duration = Duration::from_secs(5);
const LOOKS_PER_WRITE: u32 = 12;

pub async fn run(app: Arc<App>) {
    let mut looks = 0u32;
    loop {
        app.clock.sleep(LOOK).await;
        app.energy.account(&app);
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS_PER_WRITE) {
            let app = Arc::clone(&app);
            if let Err(error) = tokio::task::spawn_blocking(move || app.energy.sync()).await {
                tracing::error!(%error, "the energy account was not written");
            }
        }
    }
}
