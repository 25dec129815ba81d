//! How far something is that takes long: a line at the end of the terminal, which is gone when it is over. Where standard
//! error is no terminal, and where quiet was asked for, nothing of it is ever written.
//!
//! Whatever else is written to standard error while such a line may be there goes through [`line`] or [`Log`], so that
//! neither ends in the middle of the other.

use std::io::{self, Write};
use std::sync::LazyLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is over before is not worth a line.
const WORTH_A_LINE: Duration = Duration::from_millis(300);
/// How often a line is drawn anew.
const TICK: Duration = Duration::from_millis(120);

static LINES: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// From now on nothing is shown.
pub fn hush() {
    LINES.set_draw_target(ProgressDrawTarget::hidden());
}

/// Writes a line to standard error.
pub fn line(text: &str) {
    // Nobody may be there to read it.
    let _ = LINES.suspend(|| writeln!(io::stderr(), "{text}"));
}

/// Standard error, for the log.
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.suspend(|| io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Something under way. Dropped, it is over.
pub struct Busy {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    /// Shows what is under way and for how long, with what `more` says of it, when it has taken a while.
    pub fn with(what: impl Into<String>, more: impl FnMut() -> Option<String> + Send + 'static) -> Busy {
        let (what, begun) = (what.into(), Instant::now());
        if LINES.is_hidden() {
            return Busy { over: None, thread: None };
        }
        let (over, is_over) = channel();
        let show = move || {
            if is_over.recv_timeout(WORTH_A_LINE) == Err(RecvTimeoutError::Timeout) {
                draw(&what, begun, more, || is_over.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout));
            }
        };
        // Without a thread there is no line, and that is all.
        let thread = std::thread::Builder::new().name("reseat-progress".into()).spawn(show).ok();
        Busy { over: Some(over), thread }
    }
}

fn draw(
    what: &str,
    begun: Instant,
    mut more: impl FnMut() -> Option<String>,
    mut goes_on: impl FnMut() -> bool,
) {
    let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("it is a template");
    let bar = LINES.add(ProgressBar::new_spinner().with_style(style));
    loop {
        bar.set_message(sentence(what, begun.elapsed(), more().as_deref()));
        bar.tick();
        if !goes_on() {
            break;
        }
    }
    bar.finish_and_clear();
    LINES.remove(&bar);
}

fn sentence(what: &str, since: Duration, more: Option<&str>) -> String {
    let more = more.map_or_else(String::new, |more| format!(": {more}"));
    format!("{what}, {} s{more}", since.as_secs())
}

impl Drop for Busy {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // A mistake in it costs the line.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_line_says_what_and_for_how_long_and_more_where_more_is_known() {
        let (second, tenth) = (Duration::from_secs(1), Duration::from_millis(100));
        assert_eq!(sentence("building limiter", second * 3 + tenth, None), "building limiter, 3 s");
        let more = Some("drain since 1.2 s");
        assert_eq!(sentence("reload of limiter", tenth, more), "reload of limiter, 0 s: drain since 1.2 s");
    }

    #[test]
    fn it_is_asked_for_more_until_it_is_over() {
        let (asked, left) = (Cell::new(0), Cell::new(2));
        let more = || {
            asked.set(asked.get() + 1);
            None
        };
        draw("x", Instant::now(), more, || left.replace(left.get() - 1) > 0);
        assert_eq!(asked.get(), 3);
    }

    #[test]
    fn where_nobody_sees_it_nothing_is_begun() {
        hush();
        let busy = Busy::with("x", || panic!("nobody asks"));
        assert!(busy.thread.is_none());
    }
}
