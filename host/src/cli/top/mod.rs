//! `reseat top`: a host on one screen, and the two things that are done most.
//!
//! Whatever takes time has a thread of its own and tells this one, which only draws: a host that does not answer never
//! keeps a key waiting.
//!
//! Invariants:
//! 1. However this ends, other than by SIGKILL, the terminal is as it was: by [`Screen`] when a function returns, by the
//!    panic hook when one does not, and signals end the loop like a key does.
//! 2. Nothing of the host is known but through its control socket.

mod view;

use std::io::{self, BufRead, BufReader, IsTerminal};
use std::time::Duration;

use anyhow::{Context, anyhow};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::args::{StateDir, TopArgs};
use super::client::{answer, ask, send};
use super::time::{Clock, now_ms};
use super::{Failure, sentence};
use crate::serve::protocol::Request;
use view::{View, Wish};

/// How often the status is asked for when nothing happens, and a host that has gone is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Draws until somebody says stop.
pub fn top(args: &TopArgs) -> Result<(), Failure> {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        let instead = "draws on a terminal, and this is none: see `ps` and `events --follow`";
        return Err(Failure::Usage(anyhow!("`top` {instead}")));
    }
    // Before anything is drawn: that there is no host is said like everywhere else.
    let status = ask(&args.state, &Request::Status)?;
    let (tell, told) = unbounded();
    let (look, looks) = bounded(1);
    stop_at_signals(tell.clone())?;
    let screen = Screen::open().context("the terminal cannot be drawn on")?;
    begin("keys", {
        let tell = tell.clone();
        move || read_keys(&tell)
    })?;
    begin("status", {
        let (state, tell) = (args.state.clone(), tell.clone());
        move || look_again(&state, &looks, &tell)
    })?;
    begin("events", {
        let (state, tell) = (args.state.clone(), tell.clone());
        move || follow(&state, &tell)
    })?;
    let view = View::new(args.state.state_dir.display().to_string(), status, Clock::local());
    Loop { screen, view, look, tell, state: args.state.clone() }.run(&told)
}

/// What this thread is told.
enum Told {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size, or came back.
    Changed,
    /// What the host is doing, or why it does not say.
    Status(Result<Value, String>),
    /// Events are told from the first that the host remembers.
    EventsBegin,
    /// Something has happened.
    Event(Value),
    /// What came of something that was asked for.
    Outcome(String),
    /// It is over.
    Stop,
}

struct Loop {
    screen: Screen,
    view: View,
    /// Asks for a status.
    look: Sender<()>,
    tell: Sender<Told>,
    state: StateDir,
}

impl Loop {
    fn run(mut self, told: &Receiver<Told>) -> Result<(), Failure> {
        loop {
            let view = &self.view;
            self.screen
                .0
                .draw(|frame| view.draw(frame, now_ms()))
                .context("the terminal cannot be drawn on")?;
            let first = told.recv().context("nobody is left who tells anything")?;
            // What has come together is drawn together.
            for one in std::iter::once(first).chain(told.try_iter()) {
                match one {
                    Told::Key(key) => match self.view.key(key) {
                        Wish::Nothing => {}
                        Wish::End => return Ok(()),
                        Wish::Reload(plugin) => {
                            self.ask(Request::Reload {
                                plugin,
                                file: None,
                                leak_old: false,
                                dry_run: false,
                                keep: 0,
                                canary: None,
                            })?;
                        }
                        Wish::RollBack(plugin) => self.ask(Request::Rollback { plugin })?,
                    },
                    Told::Changed => {}
                    Told::Status(status) => self.view.status(status),
                    Told::EventsBegin => self.view.forget_events(),
                    Told::Event(event) => {
                        self.view.event(event);
                        // Full: it is about to be asked for anyway.
                        let _ = self.look.try_send(());
                    }
                    Told::Outcome(text) => self.view.say(text),
                    Told::Stop => return Ok(()),
                }
            }
        }
    }

    /// Has something done that may take its time.
    fn ask(&self, request: Request) -> Result<(), Failure> {
        let (state, tell) = (self.state.clone(), self.tell.clone());
        begin("ask", move || {
            let outcome = match ask(&state, &request) {
                Ok(outcome) => format!("generation {} serves", outcome["generation"]),
                Err(failure) => words(failure),
            };
            // Nobody listens any more at the end.
            let _ = tell.send(Told::Outcome(outcome));
        })
    }
}

/// The terminal, taken over; given back with the value.
struct Screen(DefaultTerminal);

impl Screen {
    /// From here on a panic gives the terminal back, too, before it is told.
    fn open() -> io::Result<Screen> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Screen(terminal)),
            Err(error) => {
                // It may have got half-way.
                ratatui::restore();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn begin(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let spawned = std::thread::Builder::new().name(format!("reseat-top-{name}")).spawn(work);
    spawned.map(drop).context("there is no thread to be had").map_err(Failure::from)
}

/// Ctrl-C is a key while the terminal is taken over; this is for those that come from elsewhere.
fn stop_at_signals(tell: Sender<Told>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hang_up) = runtime.block_on(async {
        let of = signal;
        Ok::<_, io::Error>((
            of(SignalKind::interrupt())?,
            of(SignalKind::terminate())?,
            of(SignalKind::hangup())?,
        ))
    })?;
    begin("signals", move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        let _ = tell.send(Told::Stop);
    })
}

fn read_keys(tell: &Sender<Told>) {
    loop {
        let one = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Told::Key(key),
            Ok(_) => Told::Changed,
            Err(_) => Told::Stop, // the terminal has gone
        };
        let is_over = matches!(one, Told::Stop);
        if tell.send(one).is_err() || is_over {
            return;
        }
    }
}

fn look_again(state: &StateDir, looks: &Receiver<()>, tell: &Sender<Told>) {
    while looks.recv_timeout(LOOK) != Err(RecvTimeoutError::Disconnected) {
        if tell.send(Told::Status(ask(state, &Request::Status).map_err(words))).is_err() {
            return;
        }
    }
}

/// Follows one host after the other.
fn follow(state: &StateDir, tell: &Sender<Told>) {
    loop {
        if let Ok(stream) = send(state, &Request::Events { follow: true }) {
            let mut told = tell.send(Told::EventsBegin);
            for line in BufReader::new(stream).lines() {
                let Some(event) = line.ok().and_then(|line| answer(&line).ok()) else { break };
                told = told.and_then(|()| tell.send(Told::Event(event)));
            }
            if told.is_err() {
                return;
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn words(failure: Failure) -> String {
    match failure {
        Failure::Refused(error) | Failure::Unreachable(error) => sentence(&error),
        other => format!("{other:?}"),
    }
}
