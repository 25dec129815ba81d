//! The part in which two signatures differ, as two short texts to print below one another.
//!
//! The shortest differing middle is widened until it begins and ends between tokens and every bracket in it
//! has its partner, so that both texts can be read as types.

/// A part of each text; `…` stands for what both have in common before and behind it.
pub(super) fn differing_parts(ours: &str, theirs: &str) -> (String, String) {
    let start = common_prefix(ours, theirs);
    let tail = common_suffix(&ours[start..], &theirs[start..]);
    let (start, tail) = widen(ours, theirs, start, tail);
    (part(ours, start, tail), part(theirs, start, tail))
}

fn part(text: &str, start: usize, tail: usize) -> String {
    let before = if start > 0 { "… " } else { "" };
    let behind = if tail > 0 { " …" } else { "" };
    format!("{before}{}{behind}", text[start..text.len() - tail].trim())
}

fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y);
    same.map_or(a.len().min(b.len()), |((at, _), _)| at)
}

fn common_suffix(a: &str, b: &str) -> usize {
    let same = a.chars().rev().zip(b.chars().rev()).take_while(|(x, y)| x == y);
    same.map(|(x, _)| x.len_utf8()).sum()
}

/// The part is widened by at most this many tokens: each step reads all of it again.
const STEP_LIMIT: usize = 500;

/// Moves both ends outwards, one token at a time, until the part is made of whole types.
fn widen(ours: &str, theirs: &str, start: usize, tail: usize) -> (usize, usize) {
    let mut start = token_start(ours, start);
    let mut tail = token_end(ours, tail);
    for _ in 0..STEP_LIMIT {
        let balance =
            balance(&ours[start..ours.len() - tail]).join(balance(&theirs[start..theirs.len() - tail]));
        if balance.unopened && start > 0 {
            start = token_start(ours, previous(ours, start));
        } else if balance.unclosed && tail > 0 {
            tail = token_end(ours, tail - next(ours, tail));
        } else {
            break;
        }
    }
    (start, tail)
}

/// The nearest place at or before `at` where a token begins.
fn token_start(text: &str, at: usize) -> usize {
    let mut before = text[..at].chars().rev().peekable();
    let mut start = at;
    while let Some(c) = before.next() {
        // The space in `cost: u32` does not part the name from its type.
        let inside = c == ' ' && before.peek() == Some(&':');
        if !inside && matches!(c, ' ' | ',' | '(' | '{' | '<' | '[') {
            break;
        }
        start -= c.len_utf8();
    }
    start
}

/// The length of the rest behind the nearest end of a token that leaves at most `tail` bytes.
fn token_end(text: &str, tail: usize) -> usize {
    let rest = &text[text.len() - tail..];
    let end = rest.find([',', ')', '}', '>', ']']).unwrap_or(rest.len());
    tail - end
}

fn previous(text: &str, at: usize) -> usize {
    at - text[..at].chars().next_back().map_or(0, char::len_utf8)
}

fn next(text: &str, tail: usize) -> usize {
    text[text.len() - tail..].chars().next().map_or(0, char::len_utf8)
}

/// Which brackets of a text have no partner in it.
struct Balance {
    unopened: bool,
    unclosed: bool,
}

impl Balance {
    fn join(self, other: Balance) -> Balance {
        Balance { unopened: self.unopened || other.unopened, unclosed: self.unclosed || other.unclosed }
    }
}

fn balance(text: &str) -> Balance {
    let (mut depth, mut unopened, mut last) = (0usize, false, ' ');
    for c in text.chars() {
        match c {
            '(' | '{' | '<' | '[' => depth += 1,
            '>' if last == '-' => {} // an arrow
            ')' | '}' | '>' | ']' if depth == 0 => unopened = true,
            ')' | '}' | '>' | ']' => depth -= 1,
            _ => {}
        }
        last = c;
    }
    Balance { unopened, unclosed: depth > 0 }
}
