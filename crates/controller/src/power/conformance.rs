//! What every [`PowerDriver`] must do, as a suite: the outlets of the tests pass it, and the lab's own with a real power
//! strip. The host is to have nothing on it; it is left with its power on.
//!
//! A check that fails says what it expected; nothing here panics.

use gantry_types::{PowerStatus, Problem};

use super::PowerDriver;

/// # Errors
/// The first check that failed, and why.
pub async fn run(driver: &dyn PowerDriver) -> Result<(), String> {
    is(driver, PowerStatus::On, "before anything").await?;
    for time in ["once", "again"] {
        worked(&format!("off {time}"), driver.off().await)?;
        is(driver, PowerStatus::Off, &format!("off {time}")).await?;
    }
    for time in ["once", "again"] {
        worked(&format!("on {time}"), driver.on().await)?;
        is(driver, PowerStatus::On, &format!("on {time}")).await?;
    }
    worked("off after on", driver.off().await)?;
    is(driver, PowerStatus::Off, "off after on").await?;
    worked("on at the end", driver.on().await)?;
    is(driver, PowerStatus::On, "at the end").await
}

/// A driver of something that is not there must say so: a host is not thought to be off because nobody answered.
///
/// # Errors
/// If a call succeeds, or its problem has no remedy and no reason.
pub async fn refuses(driver: &dyn PowerDriver) -> Result<(), String> {
    let answers = [driver.status().await.map(drop), driver.off().await, driver.on().await];
    for (call, answer) in ["status", "off", "on"].into_iter().zip(answers) {
        match answer {
            Ok(()) => return Err(format!("{call} succeeded where there is nothing to switch")),
            Err(problem) if problem.detail.is_empty() => return Err(format!("{call} does not say why it failed")),
            Err(_) => {}
        }
    }
    Ok(())
}

async fn is(driver: &dyn PowerDriver, expected: PowerStatus, when: &str) -> Result<(), String> {
    match driver.status().await {
        Ok(status) if status == expected => Ok(()),
        Ok(status) => Err(format!("{when}: the power is {status:?}, expected {expected:?}")),
        Err(problem) => Err(format!("{when}: the status is not known: {problem}")),
    }
}

fn worked(what: &str, result: Result<(), Problem>) -> Result<(), String> {
    result.map_err(|problem| format!("{what} failed: {problem}"))
}
