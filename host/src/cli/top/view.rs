//! What `reseat top` shows, and what its keys mean. Knows neither a terminal nor a host.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState, Wrap};
use serde_json::Value;

use crate::cli::events::told;
use crate::cli::listing::{Beginnings, old_generations, phase, text};
use crate::cli::time::Clock;

/// How many events are remembered: more than fit on a screen.
const EVENTS: usize = 256;

/// How many lines what is said of one plugin may take: events are to be seen, too.
const DETAILS: u16 = 6;

const KEYS: &str = "up, down: select   r: reload   b: roll back   q: end";

/// What is shown.
pub struct View {
    /// Which host this is.
    place: String,
    status: Value,
    beginnings: Beginnings,
    events: VecDeque<Value>,
    /// A plugin, by name: others may come and go meanwhile.
    selected: Option<String>,
    /// The plugin that is rolled back if the answer is yes.
    question: Option<String>,
    /// What came of what was asked for last.
    said: Option<String>,
    /// Why the status is an old one.
    gone: Option<String>,
    clock: Clock,
}

/// What somebody wants who has pressed a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing of others.
    Nothing,
    /// To end.
    End,
    /// To have a plugin reloaded.
    Reload(String),
    /// To have a plugin rolled back.
    RollBack(String),
}

impl View {
    pub fn new(place: String, status: Value, clock: Clock) -> View {
        let (beginnings, events) = (Beginnings::default(), VecDeque::new());
        let mut view = View {
            place,
            status: Value::Null,
            beginnings,
            events,
            selected: None,
            question: None,
            said: None,
            gone: None,
            clock,
        };
        view.status(Ok(status));
        view
    }

    /// Takes in what the host is doing, or why it does not say.
    pub fn status(&mut self, status: Result<Value, String>) {
        match status {
            Ok(status) => (self.status, self.gone) = (status, None),
            Err(reason) => self.gone = Some(reason),
        }
        if self.index().is_none() {
            let first = self.names().next().map(str::to_owned);
            self.selected = first;
        }
    }

    /// A host tells its events from its first on: perhaps it is another one.
    pub fn forget_events(&mut self) {
        self.events.clear();
        self.beginnings = Beginnings::default();
    }

    pub fn event(&mut self, event: Value) {
        self.beginnings.note(&event);
        // That a state is kept happens all the time.
        if event["event"] == "snapshotted" {
            return;
        }
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub fn say(&mut self, text: String) {
        self.said = Some(text);
    }

    /// Somebody has pressed a key.
    pub fn key(&mut self, key: KeyEvent) -> Wish {
        let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if is_interrupt {
            return Wish::End;
        }
        // Whatever is no yes is a no.
        if let Some(plugin) = self.question.take() {
            return match key.code {
                KeyCode::Char('y' | 'Y') => {
                    self.said = Some(format!("{plugin} is being rolled back"));
                    Wish::RollBack(plugin)
                }
                _ => Wish::Nothing,
            };
        }
        match (key.code, self.selected.clone()) {
            (KeyCode::Char('q') | KeyCode::Esc, _) => return Wish::End,
            (KeyCode::Up | KeyCode::Char('k'), _) => self.select(|index| index.saturating_sub(1)),
            (KeyCode::Down | KeyCode::Char('j'), _) => self.select(|index| index + 1),
            (KeyCode::Char('r'), Some(plugin)) => {
                self.said = Some(format!("{plugin} is being reloaded"));
                return Wish::Reload(plugin);
            }
            (KeyCode::Char('b'), plugin) => self.question = plugin,
            _ => {}
        }
        Wish::Nothing
    }

    fn select(&mut self, to: impl FnOnce(usize) -> usize) {
        let Some(last) = self.plugins().len().checked_sub(1) else { return };
        let index = to(self.index().unwrap_or(0)).min(last);
        let selected = self.names().nth(index).map(str::to_owned);
        self.selected = selected;
    }

    fn plugins(&self) -> &[Value] {
        self.status["plugins"].as_array().map_or(&[], Vec::as_slice)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.plugins().iter().filter_map(|plugin| plugin["name"].as_str())
    }

    /// Where the plugin that is selected stands.
    fn index(&self) -> Option<usize> {
        let selected = self.selected.as_deref()?;
        self.names().position(|name| name == selected)
    }

    /// Draws all of it.
    pub fn draw(&self, frame: &mut Frame<'_>, now_ms: u64) {
        let details = self.details();
        // With the head of the table.
        let plugins = u16::try_from(self.plugins().len()).unwrap_or(u16::MAX).saturating_add(1);
        let width = usize::from(frame.area().width).max(1);
        let lines: usize = details.iter().map(|line| line.width().div_ceil(width)).sum();
        let below = u16::try_from(lines).unwrap_or(u16::MAX).min(DETAILS);
        let rows = [
            Constraint::Length(1),
            Constraint::Max(plugins),
            Constraint::Length(below),
            Constraint::Min(3),
            Constraint::Length(1),
        ];
        let [title, table, about, events, foot] = Layout::vertical(rows).areas(frame.area());
        self.draw_title(frame, title);
        self.draw_plugins(frame, table, now_ms);
        frame.render_widget(Paragraph::new(details).wrap(Wrap { trim: false }), about);
        self.draw_events(frame, events, now_ms);
        self.draw_foot(frame, foot);
    }

    fn draw_title(&self, frame: &mut Frame<'_>, area: Rect) {
        let line = match &self.gone {
            Some(reason) => Line::from(format!("reseat {}: {reason}", self.place)).red().bold(),
            None => Line::from(format!("reseat {}: {} plugins", self.place, self.plugins().len())).bold(),
        };
        frame.render_widget(line, area);
    }

    fn draw_plugins(&self, frame: &mut Frame<'_>, area: Rect, now_ms: u64) {
        let rows = self.plugins().iter().map(|plugin| self.row(plugin, now_ms));
        let longest = self.names().map(|name| name.chars().count()).max().unwrap_or(0);
        let widths = [
            Constraint::Length(u16::try_from(longest).unwrap_or(u16::MAX).clamp(6, 24)),
            Constraint::Length(9),
            Constraint::Length(10),
            Constraint::Length(16),
            Constraint::Length(8),
            Constraint::Length(20),
            Constraint::Fill(1),
        ];
        let head = ["PLUGIN", "VERSION", "GENERATION", "PHASE", "AGE", "BUSY", "LAST REFUSAL"];
        let table = Table::new(rows, widths)
            .header(Row::new(head).bold())
            .row_highlight_style(Style::new().reversed());
        let mut state = TableState::default().with_selected(self.index());
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn row(&self, plugin: &Value, now_ms: u64) -> Row<'static> {
        let old = old_generations(plugin).count();
        let colour = match (plugin["generation"].is_null(), old) {
            (true, _) => Color::Red,
            (false, 0) => Color::Green,
            (false, _) => Color::Yellow,
        };
        let phase = match old {
            0 => phase(plugin).to_owned(),
            old => format!("{}, {old} more", phase(plugin)),
        };
        Row::new([
            Cell::from(text(&plugin["name"])),
            Cell::from(text(&plugin["version"])),
            Cell::from(text(&plugin["generation"])),
            Cell::from(phase).style(Style::new().fg(colour)),
            Cell::from(self.beginnings.age(plugin, now_ms).unwrap_or_else(|| "-".into())),
            Cell::from(text(&plugin["busy"])),
            Cell::from(text(&plugin["last_refusal"]).replace('\n', " ")),
        ])
    }

    /// What is to be said of the plugin that is selected, beside its line.
    fn details(&self) -> Vec<Line<'static>> {
        let Some(plugin) = self.index().map(|index| &self.plugins()[index]) else { return Vec::new() };
        let old = old_generations(plugin).map(|old| Line::from(format!("  {old}")).yellow());
        let refusal = plugin["last_refusal"].as_str().unwrap_or_default().to_owned();
        let refusal = refusal.lines().map(|line| Line::from(format!("  {line}")).red()).collect::<Vec<_>>();
        old.chain(refusal).collect()
    }

    fn draw_events(&self, frame: &mut Frame<'_>, area: Rect, now_ms: u64) {
        let block = Block::new().borders(Borders::TOP).title("events");
        let inside = block.inner(area);
        let hidden = self.events.len().saturating_sub(usize::from(inside.height));
        let lines = self.events.iter().skip(hidden).map(|event| {
            let line = Line::from(told(event, &self.clock, now_ms).replace('\n', " "));
            match event["event"].as_str() {
                Some("refused" | "trouble" | "rolled-back") => line.red(),
                Some("lingering" | "draining" | "leaked" | "missed") => line.yellow(),
                _ => line,
            }
        });
        let lines: Vec<_> = lines.collect();
        frame.render_widget(block, area);
        frame.render_widget(Paragraph::new(lines), inside);
    }

    fn draw_foot(&self, frame: &mut Frame<'_>, area: Rect) {
        let line = match (&self.question, &self.said) {
            (Some(plugin), _) => {
                let text = format!("roll {plugin} back to the build before, and deny the present one? y/n");
                Line::from(text).yellow().bold()
            }
            (None, Some(said)) => Line::from(format!("{said}   ({KEYS})")),
            (None, None) => Line::from(KEYS).dim(),
        };
        frame.render_widget(line, area);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_060_000;

    fn plugin(name: &str, generation: Option<u64>) -> Value {
        json!({
            "name": name, "version": generation.map(|_| "0.1.0"), "generation": generation, "busy": null,
            "last_refusal": null, "generations": [], "interfaces": [],
        })
    }

    fn view() -> View {
        let mut limiter = plugin("limiter", Some(3));
        limiter["busy"] = json!("drain since 1.2 s");
        limiter["last_refusal"] = json!("vet: it is empty");
        limiter["generations"] = json!([
            { "generation": 2, "phase": "lingering", "reason": "thread 7 was left running" },
            { "generation": 3, "phase": "serving", "reason": null },
        ]);
        let status = json!({ "plugins": [plugin("greeter", None), limiter] });
        let mut view = View::new(".reseat".into(), status, Clock::utc());
        let event = |kind, at_ms: u64, text| json!({ "event": kind, "plugin": "limiter", "generation": 3, "at_ms": at_ms, "text": text });
        view.event(event("reloaded", NOW - 30_000, "generation 3 of limiter serves"));
        view.event(event("snapshotted", NOW - 20_000, "the state of limiter is kept"));
        view.event(event("refused", NOW - 10_000, "libx.so is refused at vet:\nit is empty"));
        view
    }

    fn drawn(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame, NOW)).unwrap();
        let cells = terminal.backend().buffer().content().chunks(usize::from(width));
        let lines = cells.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    fn press(view: &mut View, code: KeyCode) -> Wish {
        view.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn a_screen_shows_plugins_what_lingers_and_what_has_happened() {
        let mut view = view();
        press(&mut view, KeyCode::Down);
        let rule = format!("events{}", "─".repeat(104));
        assert_eq!(
            drawn(&view, 110, 10),
            [
                "reseat .reseat: 2 plugins",
                "PLUGIN  VERSION   GENERATION PHASE            AGE      BUSY                 LAST REFUSAL",
                "greeter -         -          not loaded       -        -                    -",
                "limiter 0.1.0     3          serving, 1 more  30 s     drain since 1.2 s    vet: it is empty",
                "  generation 2 is lingering: thread 7 was left running",
                "  vet: it is empty",
                rule.as_str(),
                "22:13:50.000 generation 3 of limiter serves",
                "22:14:10.000 libx.so is refused at vet: it is empty",
                "up, down: select   r: reload   b: roll back   q: end",
            ]
        );
    }

    #[test]
    fn a_terminal_that_is_too_small_is_drawn_on_all_the_same() {
        for (width, height) in [(1, 1), (20, 3), (110, 4)] {
            drawn(&view(), width, height);
        }
        // The last event is the one that is kept.
        assert!(drawn(&view(), 110, 8).join("\n").contains("libx.so is refused"));
    }

    #[test]
    fn a_build_is_rolled_back_only_after_a_yes() {
        let mut view = view();
        press(&mut view, KeyCode::Down);
        assert_eq!(press(&mut view, KeyCode::Char('b')), Wish::Nothing);
        let asked = "roll limiter back to the build before, and deny the present one? y/n";
        assert_eq!(drawn(&view, 110, 10)[9], asked);
        assert_eq!(press(&mut view, KeyCode::Char('q')), Wish::Nothing);
        assert_eq!(press(&mut view, KeyCode::Char('y')), Wish::Nothing);
        press(&mut view, KeyCode::Char('b'));
        assert_eq!(press(&mut view, KeyCode::Char('y')), Wish::RollBack("limiter".into()));
        assert_eq!(press(&mut view, KeyCode::Char('r')), Wish::Reload("limiter".into()));
        view.say("generation 4 serves".into());
        assert!(drawn(&view, 110, 10)[9].starts_with("generation 4 serves"));
        assert_eq!(press(&mut view, KeyCode::Char('q')), Wish::End);
        assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::End);
    }

    #[test]
    fn a_selection_stays_with_its_plugin_when_others_come_and_falls_back_when_it_goes() {
        let mut view = view();
        press(&mut view, KeyCode::Down);
        press(&mut view, KeyCode::Down);
        let more =
            json!({ "plugins": [plugin("a", Some(1)), plugin("b", Some(1)), plugin("limiter", Some(4))] });
        view.status(Ok(more));
        assert_eq!(press(&mut view, KeyCode::Char('r')), Wish::Reload("limiter".into()));
        view.status(Ok(json!({ "plugins": [plugin("a", Some(1))] })));
        assert_eq!(press(&mut view, KeyCode::Char('r')), Wish::Reload("a".into()));
        view.status(Ok(json!({ "plugins": [] })));
        assert_eq!(press(&mut view, KeyCode::Char('r')), Wish::Nothing);
    }

    #[test]
    fn a_host_that_has_gone_is_named_and_what_it_did_last_stays_to_be_seen() {
        let mut view = view();
        view.status(Err("no host answers".into()));
        let lines = drawn(&view, 110, 10);
        assert_eq!(lines[0], "reseat .reseat: no host answers");
        assert!(lines[3].starts_with("limiter"), "{lines:?}");
        view.status(Ok(json!({ "plugins": [] })));
        assert_eq!(drawn(&view, 110, 10)[0], "reseat .reseat: 0 plugins");
    }
}
