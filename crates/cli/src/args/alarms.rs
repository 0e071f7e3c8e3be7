//! `gantry alarm …` and `gantry receiver …`

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ListOptions, parse_duration};

#[derive(Debug, Subcommand)]
pub enum AlarmCommand {
    /// All alarms, with what they fire for
    #[command(visible_alias = "ls")]
    List(AlarmList),
    /// Everything about one alarm, with the objects that it fires for
    Show {
        /// The alarm's name
        name: String,
    },
    /// Say that somebody takes care of it; one of an event that nothing resolves is over with that
    #[command(visible_alias = "ack")]
    Acknowledge {
        /// The alarm's name
        name: String,
        /// Only for this object: KIND/NAME, such as vm/web
        #[arg(long, value_name = "KIND/NAME")]
        object: Option<String>,
    },
    /// Tell nobody of it for a while
    Silence(AlarmSilence),
    /// Delete alarms; those that come with Gantry are switched off instead (spec.enabled)
    #[command(visible_alias = "rm")]
    Delete {
        /// The alarms' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct AlarmList {
    /// Only those that fire, are acknowledged or silenced
    #[arg(long)]
    pub active: bool,
    #[command(flatten)]
    pub options: ListOptions,
}

#[derive(Debug, Args)]
pub struct AlarmSilence {
    /// The alarm's name
    pub name: String,
    /// For how long: 30m, 8h, 7d
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, required_unless_present = "end")]
    pub duration: Option<Duration>,
    /// End the silence now
    #[arg(long, conflicts_with = "duration")]
    pub end: bool,
    /// Only for this object: KIND/NAME, such as vm/web
    #[arg(long, value_name = "KIND/NAME")]
    pub object: Option<String>,
    /// For those who wonder
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub why: String,
}

#[derive(Debug, Subcommand)]
pub enum ReceiverCommand {
    /// All receivers, or those that a selector chooses
    #[command(visible_alias = "ls")]
    List(ListOptions),
    /// Everything about one receiver, without its secret
    Show {
        /// The receiver's name
        name: String,
    },
    /// Send it a message about nothing, and wait until it has arrived
    Test {
        /// The receiver's name
        name: String,
    },
    /// Delete receivers, with what waits for them
    #[command(visible_alias = "rm")]
    Delete {
        /// The receivers' names
        #[arg(required = true)]
        names: Vec<String>,
    },
}
