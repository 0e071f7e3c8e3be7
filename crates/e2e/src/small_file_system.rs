//! A file system that tests can fill.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A file system of its own, small enough to be filled.
pub struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    pub fn mount(at: PathBuf, size: &str) -> Result<Self> {
        std::fs::create_dir(&at)?;
        let options = format!("size={size},mode=0755");
        mount(Some("gantry-test"), &at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self(at))
    }

    /// Takes all that is left.
    pub fn fill(&self) -> Result<()> {
        let mut filler = std::fs::File::create(self.0.join("filler"))?;
        let page = [1; 4096];
        loop {
            match filler.write_all(&page) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}
