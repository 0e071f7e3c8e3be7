//! Showing that something long is under way, on stderr.
//!
//! Nothing is shown in the first second. Then a terminal gets a bar, and anything else a plain line when the step
//! changes and every ten seconds.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use gantry_types::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{Retry, note, printable};

const PATIENCE: Duration = Duration::from_secs(1);
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How far something is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stage {
    /// Which step it is.
    pub step: String,
    pub retry: Option<Retry>,
    /// What changes within a step: rate, time left.
    pub detail: String,
    pub bytes_done: u64,
    /// 0 if unknown.
    pub bytes_total: u64,
}

pub struct Indicator {
    title: String,
    began: Instant,
    terminal: bool,
    bar: Option<ProgressBar>,
    /// The step of the last line, and why it was being tried again.
    last_step: (String, Option<String>),
    last_line: Option<Instant>,
}

impl Indicator {
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            began: Instant::now(),
            terminal: io::stderr().is_terminal(),
            bar: None,
            last_step: Default::default(),
            last_line: None,
        }
    }

    pub fn update(&mut self, stage: &Stage) {
        if self.began.elapsed() < PATIENCE {
            return;
        }
        if self.terminal {
            self.draw(stage);
            return;
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
        let step = (stage.step.clone(), stage.retry.as_ref().map(|retry| retry.error.clone()));
        if due || step != self.last_step {
            note(&line(&self.title, stage));
            self.last_line = Some(Instant::now());
            self.last_step = step;
        }
    }

    fn draw(&mut self, stage: &Stage) {
        let title = &self.title;
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(0).with_prefix(title.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let template = if stage.bytes_total > 0 {
            "{spinner} {prefix} [{bar:24}] {binary_bytes}/{binary_total_bytes} {wide_msg}"
        } else {
            "{spinner} {prefix} {elapsed} {wide_msg}"
        };
        // The templates are constant; a wrong one shows in the first run and only costs looks.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_length(stage.bytes_total);
        bar.set_position(stage.bytes_done.min(stage.bytes_total));
        bar.set_message(message_of(stage));
    }

    /// Takes the bar away; what came of it is the caller's to say.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Indicator {
    fn drop(&mut self) {
        self.clear();
    }
}

fn message_of(stage: &Stage) -> String {
    let retry = stage.retry.as_ref().map(|retry| format!("retrying ({}): {}", retry.attempts, retry.error));
    let parts = [stage.step.clone(), stage.detail.clone(), retry.unwrap_or_default()];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    printable(&parts.join(", ")).replace('\n', " ")
}

fn line(title: &str, stage: &Stage) -> String {
    let mut line = title.to_owned();
    let message = message_of(stage);
    if !message.is_empty() {
        line += &format!(": {message}");
    }
    if stage.bytes_total > 0 {
        let done = ByteSize(stage.bytes_done).approximate();
        line += &format!(" ({done} of {})", ByteSize(stage.bytes_total).approximate());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_what_and_how_far() {
        let (step, detail) = ("2/5 image".to_owned(), "9.0 MiB/s".to_owned());
        let stage = Stage { step, detail, bytes_done: 1 << 20, bytes_total: 3 << 20, retry: None };
        assert_eq!(line("vm-start vm/web", &stage), "vm-start vm/web: 2/5 image, 9.0 MiB/s (1.0 MiB of 3.0 MiB)");
        assert_eq!(line("waiting", &Stage::default()), "waiting");
        let retry = Some(Retry { attempts: 4, error: "connection refused".into() });
        let stage = Stage { step: "1/3 fetch".into(), retry, ..Stage::default() };
        assert_eq!(line("image-import", &stage), "image-import: 1/3 fetch, retrying (4): connection refused");
    }
}
