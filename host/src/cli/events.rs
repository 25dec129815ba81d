//! `reseat events`: what has happened, and what happens.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::Failure;
use super::args::EventsArgs;
use super::client::{answer, print, send};
use super::time::{Clock, now_ms};
use crate::serve::protocol::Request;

/// Shows them, one a line.
pub fn events(args: &EventsArgs) -> Result<(), Failure> {
    let wanted = Wanted::of(args, now_ms());
    let clock = Clock::local();
    let stream = send(&args.state, &Request::Events { follow: args.follow })?;
    for line in BufReader::new(stream).lines() {
        let mut event = answer(&line.context("the host has gone")?)?;
        if !wanted.includes(&event) {
            continue;
        }
        match args.json {
            true => {
                event.as_object_mut().map(|event| event.remove("text"));
                print(&event.to_string())?;
            }
            false => print(&told(&event, &clock, now_ms()))?,
        }
    }
    Ok(())
}

/// An event as a line with its time.
pub fn told(event: &Value, clock: &Clock, now_ms: u64) -> String {
    let at = event["at_ms"].as_u64().map_or_else(|| "?".into(), |at_ms| clock.show(at_ms, now_ms));
    format!("{at} {}", event["text"].as_str().unwrap_or("?"))
}

/// Which events are asked for.
struct Wanted<'a> {
    plugin: Option<&'a str>,
    from_ms: u64,
}

impl<'a> Wanted<'a> {
    fn of(args: &'a EventsArgs, now_ms: u64) -> Wanted<'a> {
        let ms = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let from_ms = args.since.map_or(0, |since| now_ms.saturating_sub(ms(since)));
        Wanted { plugin: args.plugin.as_deref(), from_ms }
    }

    fn includes(&self, event: &Value) -> bool {
        // Among what was missed there may be some of any plugin.
        let is_of_it =
            self.plugin.is_none_or(|plugin| event["plugin"] == plugin || event["event"] == "missed");
        is_of_it && event["at_ms"].as_u64().unwrap_or(u64::MAX) >= self.from_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_of_another_plugin_or_too_long_ago_is_left_out_and_that_some_were_missed_is_not() {
        let wanted = Wanted { plugin: Some("limiter"), from_ms: 1000 };
        let event = |plugin: &str, at_ms: u64| json!({ "event": "loaded", "plugin": plugin, "at_ms": at_ms });
        assert!(wanted.includes(&event("limiter", 1000)));
        assert!(!wanted.includes(&event("limiter", 999)));
        assert!(!wanted.includes(&event("greeter", 1000)));
        assert!(!wanted.includes(&json!({ "event": "trouble", "what": "?", "at_ms": 1000 })));
        assert!(wanted.includes(&json!({ "event": "missed", "count": 3, "at_ms": 1000 })));
    }

    #[test]
    fn a_line_begins_with_its_time() {
        let event = json!({ "at_ms": 1_700_000_000_123_u64, "text": "generation 1 of limiter is unloaded" });
        let line = told(&event, &Clock::utc(), 1_700_000_000_200);
        assert_eq!(line, "22:13:20.123 generation 1 of limiter is unloaded");
    }
}
