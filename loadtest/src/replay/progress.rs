//! How far the replay is, on stderr: a bar for a person, now and then a line for a log.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

/// Between two strokes of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What has happened so far; written by the workers, read by the display.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    pub(crate) settled: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn line(&self, rows: u64) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "sent {}/{rows} · accepted {} · rejected {} · unanswered {} · settled {}",
            read(&self.sent),
            read(&self.accepted),
            read(&self.rejected),
            read(&self.unanswered),
            read(&self.settled),
        )
    }
}

/// The display; gone when dropped.
pub(crate) struct Display {
    bar: Option<ProgressBar>,
    task: JoinHandle<()>,
}

impl Display {
    pub(crate) fn start(rows: usize, counters: Arc<Counters>) -> Self {
        let rows = rows as u64;
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {msg} [{elapsed}]")
                .expect("the template is valid");
            // Twice: an accepted row counts again when it has settled.
            ProgressBar::new(rows * 2).with_style(style)
        });
        let shown = bar.clone();
        let task = tokio::spawn(async move {
            let every = if shown.is_some() {
                BAR_INTERVAL
            } else {
                LINE_INTERVAL
            };
            let mut interval = tokio::time::interval(every);
            interval.tick().await;
            loop {
                interval.tick().await;
                let line = counters.line(rows);
                match &shown {
                    Some(bar) => {
                        let sent = counters.sent.load(Ordering::Relaxed);
                        bar.set_position(sent + counters.settled.load(Ordering::Relaxed));
                        bar.set_message(line);
                    }
                    None => eprintln!("{line}"),
                }
            }
        });
        Self { bar, task }
    }

    /// Writes a line without tearing the bar.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
