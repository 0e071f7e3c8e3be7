//! The web UI of a lab: its first user's password and the CA's certificate, in files of the lab's directory.
//!
//! The password is set once, and kept readable by root only, so that `lab up` and `lab status` can say how to log in.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use anyhow::Context as _;
use gantry_api::access::SetPassword;
use gantry_lab::Room;

use crate::{client::Client, context::Context, exit::Failure};

const USER: &str = "admin";

fn password_file(room: &Room) -> PathBuf {
    room.record().directory.join("web-password")
}

fn ca_file(room: &Room) -> PathBuf {
    room.record().directory.join("ca.pem")
}

/// Sets the first user's password unless a former `lab up` did.
pub async fn prepare(room: &Room, client: &Client, administrator: &Context) -> Result<(), Failure> {
    let (password_file, ca_file) = (password_file(room), ca_file(room));
    fs::write(&ca_file, &administrator.ca).with_context(|| format!("could not write {}", ca_file.display()))?;
    if password_file.exists() {
        return Ok(());
    }
    let set = client.set_password(USER, &SetPassword::default()).await?;
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&password_file)?;
        writeln!(file, "{}", set.password.unwrap_or_default())
    };
    write().with_context(|| format!("could not write {}", password_file.display()))?;
    Ok(())
}

/// How to log in, for people.
pub fn how_to_log_in(room: &Room) -> String {
    let login = match fs::read_to_string(password_file(room)) {
        Ok(password) => format!("user '{USER}', password {}", password.trim()),
        Err(_) => format!("user '{USER}'; set a password: gantry user passwd {USER}"),
    };
    format!(
        "web UI: {}/  {login}\n        trust its certificate: import {}, or let the browser go on without\n",
        room.layout().controller_url(),
        ca_file(room).display()
    )
}
