//! Bounded waiting for a state.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` gives a value, at most for `limit`. What the last look found wrong becomes the error.
pub async fn eventually<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                let limit_s = limit.as_secs();
                return Err(anyhow!("{what}: not within {limit_s} s; at the end: {error:#}"));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_looks_again_and_says_what_was_wrong_at_the_end() {
        let mut looks = 0;
        let found = eventually("the third look", Duration::from_secs(10), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(anyhow!("only {looks}")) }
        });
        assert_eq!(found.await.unwrap(), 3);
        let failed = eventually("never", Duration::ZERO, async || Err::<(), _>(anyhow!("still dark"))).await;
        assert!(failed.unwrap_err().to_string().contains("still dark"));
    }
}
