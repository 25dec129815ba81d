//! What is printed: a figure, what it is held to, and whether it holds.

use crate::rounds::Ratio;

/// Prints the head.
pub fn head() {
    println!("| what | measured | calmest third | held to | |");
    println!("| --- | ---: | ---: | ---: | --- |");
}

/// A ratio.
pub fn ratio(what: &str, ratio: Ratio, limit: f64) {
    let verdict = verdict(ratio.all <= limit, ratio.calm <= limit);
    println!("| {what} | {:.2}× | {:.2}× | {limit}× | {verdict} |", ratio.all, ratio.calm);
}

/// A time in nanoseconds.
pub fn time(what: &str, nanos: f64, limit: f64) {
    println!("| {what} | {} | | {} | {} |", shown(nanos), shown(limit), verdict(nanos <= limit, false));
}

/// So many times as much, of something that is measured but once.
pub fn times(what: &str, times: f64, limit: Option<f64>) {
    let (limit, verdict) = match limit {
        Some(limit) => (format!("{limit}×"), verdict(times <= limit, false)),
        None => (String::new(), ""),
    };
    println!("| {what} | {times:.2}× | | {limit} | {verdict} |");
}

/// For the record.
pub fn note(what: &str, measured: &str) {
    println!("| {what} | {measured} | | | |");
}

fn verdict(holds: bool, when_calm: bool) -> &'static str {
    match (holds, when_calm) {
        (true, _) => "holds",
        (false, true) => "holds when calm",
        (false, false) => "**over**",
    }
}

/// A time as people write it.
pub fn shown(nanos: f64) -> String {
    match nanos {
        1e6.. => format!("{:.1} ms", nanos / 1e6),
        1e3.. => format!("{:.1} µs", nanos / 1e3),
        _ => format!("{nanos:.1} ns"),
    }
}
