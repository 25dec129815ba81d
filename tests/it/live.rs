use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::{ask, ok};
use crate::dashboard::Stage;
use crate::library::Build;
use crate::waiting::DEADLINE;

/// What comes from `/events`.
pub struct Stream(BufReader<TcpStream>);

/// One of its messages.
#[derive(Default)]
pub struct Message {
    pub name: String,
    pub id: Option<u64>,
    pub data: Value,
}

impl Stream {
    /// Follows a host.
    pub fn of(stage: &Stage, query: &str, lines: &[&str]) -> Stream {
        let mut stream = TcpStream::connect(stage.running.authority()).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        let mut head = format!("GET /events{query} HTTP/1.1\r\nHost: {}\r\n", stage.running.authority());
        head.push_str(&format!("Authorization: {}\r\n", stage.running.bearer()));
        lines.iter().for_each(|line| head.push_str(&format!("{line}\r\n")));
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("it reads");
        Stream(BufReader::new(stream))
    }

    /// The next message; `None`: the stream has ended.
    fn next(&mut self) -> Option<Message> {
        let mut message = Message::default();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("it is told in time") == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut message.name),
                Some(("id", id)) => message.id = id.parse().ok(),
                Some(("data", data)) => message.data = serde_json::from_str(data).expect("data is JSON"),
                _ if line.trim().is_empty() && !message.name.is_empty() => return Some(message),
                _ => {}
            }
        }
    }

    #[track_caller]
    pub fn find(&mut self, is_it: impl Fn(&Message) -> bool) -> Message {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let message = self.next().expect("the stream goes on");
            if is_it(&message) {
                return message;
            }
            assert!(Instant::now() < deadline, "it does not come");
        }
    }

    #[track_caller]
    fn event(&mut self, name: &str) -> Message {
        self.find(|message| message.name == "event" && message.data["event"] == name)
    }
}

#[test]
fn a_stream_tells_the_past_and_then_what_happens_and_goes_on_where_it_was_left() {
    let stage = Stage::begin(&["echo_v1"]);
    let mut stream = Stream::of(&stage, "?width=333", &[]);
    let loaded = stream.event("loaded");
    assert_eq!(loaded.id, loaded.data["sequence"].as_u64());
    assert!(loaded.data["text"].as_str().is_some_and(|text| text.starts_with("generation 1 of echo serves")));
    let state = stream.find(|message| message.name == "state").data;
    assert_eq!(
        (&state["plugins"][0]["name"], &state["plugins"][0]["generation"]),
        (&json!("echo"), &json!(1))
    );
    let timeline = state["plugins"][0]["charts"]["timeline"]["svg"].as_str().expect("it is drawn");
    assert!(timeline.starts_with("<svg width=\"328\""), "{timeline}");

    stage.install("echo_v2");
    let reloaded = stream.event("reloaded");
    let steps = reloaded.data["steps"].as_array().expect("it has steps").len();
    assert!(steps > 5, "{}", reloaded.data);
    // The state that comes first may be from right before.
    let is_new = |message: &Message| message.data["plugins"][0]["generation"] == 2;
    let state = stream.find(|message| message.name == "state" && is_new(message)).data;
    assert_eq!(state["plugins"][0]["reloads"][0]["steps"], reloaded.data["steps"]);
    drop(stream);

    stage.install("echo_changed_layout");
    let first = |mut stream: Stream| stream.find(|message| message.name == "event").id;
    let next = reloaded.id.map(|id| id + 1);
    let heard = format!("Last-Event-ID: {}", reloaded.id.expect("it has one"));
    assert_eq!(first(Stream::of(&stage, "", &[&heard])), next);
    assert_eq!(first(Stream::of(&stage, &format!("?after={}", reloaded.id.expect("it has one")), &[])), next);
    // Another host's numbers say nothing.
    assert_eq!(first(Stream::of(&stage, "?after=99999", &[])), Some(1));
}

#[test]
fn a_stream_is_not_resumed_from_what_the_host_does_not_remember() {
    let stage = Stage::begin(&["counter_v2"]);
    let mut stream = Stream::of(&stage, "", &[]);
    stream.event("loaded");
    ok(&ask(&stage.state(), &["state", "counter", "--keep"]));
    assert_eq!(stream.event("snapshotted").id, None);
}

#[test]
fn a_stream_outlives_the_patience_with_idle_clients_and_ends_with_the_host_at_once() {
    let stage = Stage::begin(&["echo_v1"]);
    let mut stream = Stream::of(&stage, "", &[]);
    let begun = Instant::now();
    // A client that says nothing is otherwise left after 10 s.
    while begun.elapsed().as_secs() < 12 {
        stream.next().expect("it goes on");
    }
    let asked = Instant::now();
    assert!(stage.running.interrupt().success());
    assert!(asked.elapsed() < DEADLINE / 8, "it has waited for a page: {:?}", asked.elapsed());
    while stream.next().is_some() {}
}

#[test]
fn a_client_that_does_not_read_its_stream_costs_nothing_and_others_are_told() {
    let stage = Stage::begin(&["echo_v1", "counter_v1"]);
    let resident_kib = || {
        let status = fs::read_to_string(format!("/proc/{}/status", stage.running.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let mut first = Stream::of(&stage, "", &[]);
    first.find(|message| message.name == "state");
    let before = resident_kib();
    let slow: Vec<Stream> = (0..40).map(|_| Stream::of(&stage, "", &[])).collect();
    let mut other = Stream::of(&stage, "", &[]);
    for build in 2..22 {
        stage.install(Build::of("echo_stamped").stamped(build));
        stage.reaches("echo", build.into());
    }
    other.find(|message| message.name == "state" && message.data["plugins"][1]["generation"] == 21);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more for {} that do not read", slow.len());
    // More than may follow are turned away.
    let mut all: Vec<Stream> = (0..64).map(|_| Stream::of(&stage, "", &[])).collect();
    let turned_away = all.iter_mut().any(|stream| {
        let mut line = String::new();
        stream.0.read_line(&mut line).expect("it answers");
        line.contains(" 503 ")
    });
    assert!(turned_away);
}

#[test]
fn what_is_asked_for_over_http_is_done_or_refused_with_the_reason() {
    let stage = Stage::begin(&["echo_v1"]);
    let post = |path: &str| stage.running.post(path, &json!({}));
    let refused = post("/plugins/echo/rollback").unwrap_err();
    assert!(refused.starts_with("409: ") && refused.contains(r#""kind":"refused""#), "{refused}");
    assert_eq!(
        post("/plugins/echo/reload"),
        Ok(json!({ "outcome": "reloaded", "plugin": "echo", "from": 1, "generation": 2 }))
    );
    stage.install("echo_v2");
    stage.reaches("echo", 3);
    stage.install("echo_changed_layout");
    let refused = post("/plugins/echo/reload").unwrap_err();
    assert!(refused.starts_with("409: ") && refused.contains("method `measure` differs"), "{refused}");
    let back = json!({ "outcome": "reloaded", "plugin": "echo", "from": 3, "generation": 4 });
    assert_eq!(post("/plugins/echo/rollback"), Ok(back));
    assert_eq!(post("/plugins/echo/unload"), Ok(Value::Null));
    let gone = post("/plugins/echo/unload").unwrap_err();
    assert!(gone.starts_with("404: ") && gone.contains(r#""kind":"no-such-plugin""#), "{gone}");
    assert!(post("/plugins/none/reload").unwrap_err().starts_with("404: "));
    let unreadable = post("/plugins/%ff/reload").unwrap_err();
    assert!(unreadable.starts_with("400: ") && unreadable.contains(r#""kind":"bad-path""#), "{unreadable}");
    assert!(stage.running.get("/plugins/echo/reload", &[]).unwrap_err().starts_with("405: "));
}

#[test]
fn several_that_are_named_over_http_are_reloaded_at_one_moment() {
    let stage = Stage::begin(&["echo_v1", "counter_v1"]);
    let reload = |body: Value| stage.running.post("/reload", &body);
    assert_eq!(
        reload(json!({ "plugins": ["echo", "counter"] })),
        Ok(json!([
            { "outcome": "reloaded", "plugin": "counter", "from": 1, "generation": 2 },
            { "outcome": "reloaded", "plugin": "echo", "from": 1, "generation": 2 }
        ]))
    );
    assert!(reload(json!({ "plugins": ["echo", "nobody"] })).unwrap_err().starts_with("404: "));
    assert_eq!(stage.generation("echo"), Some(2));
    for bad in
        [json!({}), json!({ "plugins": [] }), json!({ "plugins": "echo" }), json!({ "plugin": ["echo"] })]
    {
        let refused = reload(bad).unwrap_err();
        assert!(refused.starts_with("400: ") && refused.contains(r#""kind":"bad-arguments""#), "{refused}");
    }
    let both = ok(&ask(&stage.state(), &["reload", "counter", "echo"]));
    assert_eq!(both, "generation 3 of counter serves\ngeneration 3 of echo serves\n");
}

#[test]
fn a_page_loads_nothing_from_elsewhere_and_needs_the_token_for_every_part() {
    let stage = Stage::begin(&["echo_v1"]);
    for part in ["/", "/page.css", "/page.js", "/favicon.svg", "/events"] {
        let url = format!("http://{}{part}", stage.running.authority());
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let answer = agent.get(&url).call().expect("it answers");
        assert_eq!(answer.status(), 401, "{part}");
        if part == "/events" {
            continue;
        }
        let answer =
            agent.get(&url).header("Authorization", stage.running.bearer()).call().expect("it answers");
        let policy = answer.headers()["content-security-policy"].to_str().expect("it is text").to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = { answer }.body_mut().read_to_string().expect("it is text");
        let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("://"), "{part}");
        assert!(!text.contains("innerHTML") && !text.contains("style="), "{part}");
    }
}
