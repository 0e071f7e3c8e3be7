//! Changes to what others change as well.

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{Problem, Resource};

use super::Client;

impl Client {
    /// Reads an object, changes it and writes it. If it was changed meanwhile, be it only by what its host reports, the change
    /// is made to what it is now: a user names what is to be different, not what it is to be in all. Whether anything was.
    pub async fn change<T: Resource + PartialEq>(
        &self,
        name: &str,
        how: impl Fn(&mut T) -> Result<(), Problem>,
    ) -> Result<(Changed<T>, bool), Problem> {
        loop {
            let current: T = self.get(name).await?;
            let mut wanted = current.clone();
            how(&mut wanted)?;
            if wanted == current {
                return Ok((Changed { object: current, operation: None }, false));
            }
            match self.update(&wanted, &WriteQuery::default()).await {
                Ok(changed) => return Ok((changed, true)),
                Err(problem) if problem.code() == "changed-meanwhile" => {}
                Err(problem) => return Err(problem),
            }
        }
    }
}
