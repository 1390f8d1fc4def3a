//! A progress bar for those who wait: only on a terminal, only after half a second, on standard error.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const PATIENCE: Duration = Duration::from_millis(500);

/// Progress of one long step.
pub struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    started: Instant,
    bar: Option<ProgressBar>,
    wanted: bool,
}

impl Progress {
    /// Progress over `total` bytes; `quiet` keeps it to itself.
    #[must_use]
    pub fn new(what: &'static str, total: u64, quiet: bool) -> Self {
        let wanted = !quiet && std::io::stderr().is_terminal();
        Self { what, total, done: 0, started: Instant::now(), bar: None, wanted }
    }

    /// `bytes` more are done.
    pub fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.wanted && self.bar.is_none() && self.started.elapsed() >= PATIENCE {
            // No colours in the template, so there is nothing that NO_COLOR would have to remove.
            let style = ProgressStyle::with_template(
                "{msg} [{bar:30}] {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}",
            );
            let bar = ProgressBar::with_draw_target(Some(self.total), ProgressDrawTarget::stderr());
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(self.what);
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
