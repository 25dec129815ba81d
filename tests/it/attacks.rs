use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use reseat::{Change, Observer, Observers, Outcome};
use reseat_tests::echo::Echo;
use serde_json::{Value, json};

use crate::cli::{ask, path, text};
use crate::library::Build;
use crate::program::Running;
use crate::scene::{Scene, put};
use crate::waiting::{DEADLINE, until};

/// A host that serves `echo`, in a directory of its own.
struct Target {
    running: Running,
    dir: tempfile::TempDir,
}

impl Target {
    fn begin() -> Target {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).expect("it can be written");
        fs::write(plugins.join("libecho.so"), Build::of("echo_v1").bytes()).expect("it can be written");
        let running = Running::start(&plugins, &dir.path().join("state"), None);
        Target { running, dir }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.running.authority()).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
        stream
    }

    /// What is answered to a request of these lines, besides those that every request has.
    fn answer(&self, first: &str, lines: &[&str]) -> Answer {
        let own = format!("Host: {}", self.running.authority());
        self.raw(first, &[&[own.as_str()], lines].concat())
    }

    /// The same, with the token.
    fn known(&self, first: &str, lines: &[&str]) -> Answer {
        let bearer = format!("Authorization: {}", self.running.bearer());
        self.answer(first, &[&[bearer.as_str()], lines].concat())
    }

    fn raw(&self, first: &str, lines: &[&str]) -> Answer {
        let mut stream = self.connect();
        let head = format!("{first}\r\n{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"));
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut whole = Vec::new();
        stream.read_to_end(&mut whole).expect("it answers, and closes");
        Answer::of(&whole)
    }

    #[track_caller]
    fn still_answers(&self) {
        let said = self.running.post("/call/echo/say", &json!({ "text": "hi" }));
        assert_eq!(said, Ok(json!("v1: hi")), "{}", self.running.output());
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("every process has it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.running.pid())).expect("it runs").count()
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn of(whole: &[u8]) -> Answer {
        let whole = text(whole);
        let (head, body) = whole.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {whole:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("it has a status");
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    #[track_caller]
    fn kind(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{}: {e}", self.body));
        assert!(body["error"].is_string(), "{body}");
        body["kind"].as_str().expect("a refusal has a kind").to_owned()
    }
}

#[test]
fn without_the_token_nothing_is_answered_and_the_refusal_names_the_file_that_has_it() {
    let target = Target::begin();
    let token = target.running.token();
    let file = target.state().join("http.token");
    assert_eq!(fs::read_to_string(&file).expect("it is there").trim(), token);
    assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o777, 0o600);

    let wrong = format!("Authorization: Bearer {}", "0".repeat(token.len()));
    let short = format!("Authorization: Bearer {}", &token[..token.len() - 1]);
    let basic = format!("Authorization: Basic {token}");
    let elsewhere = format!("X-Token: {token}");
    let other_cookie = format!("Cookie: reseat-1={token}; token={token}");
    let in_address = format!("GET /plugins?token={token} HTTP/1.1");
    let in_post = format!("POST /?token={token} HTTP/1.1");
    let get = "GET /plugins HTTP/1.1";
    for (first, line) in [
        (get, ""),
        ("GET / HTTP/1.1", ""),
        ("GET /metrics HTTP/1.1", ""),
        ("GET /events HTTP/1.1", ""),
        ("POST /plugins/echo/unload HTTP/1.1", ""),
        ("GET /none HTTP/1.1", ""),
        ("GET /?token= HTTP/1.1", ""),
        ("POST /call/echo/say HTTP/1.1", ""),
        (get, &wrong),
        (get, &short),
        (get, "Authorization: Bearer"),
        (get, &basic),
        (get, &elsewhere),
        (get, &other_cookie),
        (&in_address, ""),
        (&in_post, ""),
    ] {
        let lines: &[&str] = if line.is_empty() { &[] } else { &[line] };
        let answer = target.answer(first, lines);
        assert_eq!((answer.status, answer.kind().as_str()), (401, "token"), "{first} {line}");
        assert!(answer.body.contains(path(&file)) && !answer.body.contains(token), "{}", answer.body);
    }
    assert_eq!(target.known(get, &[]).status, 200);
    assert!(target.running.interrupt().success());
    assert!(!file.exists(), "it is removed at the end");
}

#[test]
fn the_printed_address_puts_the_token_into_a_cookie_and_out_of_the_address() {
    let target = Target::begin();
    let answer = target.answer(&format!("GET /?token={} HTTP/1.1", target.running.token()), &[]);
    assert_eq!(answer.status, 303, "{}", answer.head);
    assert!(answer.head.contains("location: /\r\n"), "{}", answer.head);
    let cookie = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("it sets one");
    assert!(cookie.ends_with("; httponly; samesite=strict; path=/"), "{cookie}");
    let cookie = format!("Cookie: a=b; {}", cookie.split(';').next().expect("there is one"));
    assert_eq!(target.answer("GET /plugins HTTP/1.1", &[&cookie]).status, 200);
    // A page that somebody else serves on this machine is of the same site to a browser, which adds the cookie.
    let neighbour = "Origin: http://127.0.0.1:1";
    for path in ["/call/echo/say", "/plugins/echo/unload"] {
        let refused = target.answer(&format!("POST {path} HTTP/1.1"), &[&cookie, neighbour]);
        assert_eq!((refused.status, refused.kind().as_str()), (403, "origin"), "{path}");
    }
}

#[test]
fn pages_and_names_from_elsewhere_are_refused_even_with_the_token() {
    let target = Target::begin();
    let get = "GET /plugins HTTP/1.1";
    let own = format!("Origin: http://{}", target.running.authority());
    assert_eq!(target.known(get, &[&own]).status, 200);
    for origin in ["https://example.org", "http://127.0.0.1:1", "http://localhost", "null", ""] {
        let answer = target.known(get, &[&format!("Origin: {origin}")]);
        assert_eq!((answer.status, answer.kind().as_str()), (403, "origin"), "{origin}");
    }
    let bearer = format!("Authorization: {}", target.running.bearer());
    for host in
        ["rebound.example.org", "127.0.0.1.example.org:80", "192.0.2.1:80", "", "localhost@example.org"]
    {
        let answer = target.raw(get, &[&format!("Host: {host}"), &bearer]);
        assert_eq!((answer.status, answer.kind().as_str()), (421, "host"), "{host}");
    }
    // Which of two would be meant?
    assert_eq!(target.known(get, &["Host: rebound.example.org"]).status, 400);
    assert_eq!(target.raw("GET /plugins HTTP/1.0", &[&bearer]).status, 400);
    target.still_answers();
}

#[test]
fn a_body_of_a_gibibyte_is_refused_early_whether_it_is_announced_or_streamed() {
    let target = Target::begin();
    target.still_answers();
    let bearer = format!("Authorization: {}", target.running.bearer());
    let head = |line: &str| {
        format!(
            "POST /call/echo/say HTTP/1.1\r\nHost: {}\r\n{bearer}\r\n{line}\r\n\r\n",
            target.running.authority()
        )
    };
    let before = target.resident_kib();

    let mut announced = target.connect();
    announced.write_all(head(&format!("Content-Length: {}", 1 << 30)).as_bytes()).expect("it reads");
    let mut first = String::new();
    BufReader::new(&announced).read_line(&mut first).expect("it answers before it has the body");
    assert!(first.contains(" 413 "), "{first}");

    let mut streamed = target.connect();
    streamed.write_all(head("Transfer-Encoding: chunked").as_bytes()).expect("it reads");
    let piece = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b'a'; 1 << 20], b"\r\n".to_vec()].concat();
    let taken = (0..1024).take_while(|_| streamed.write_all(&piece).is_ok()).count();
    assert!(taken < 64, "{taken} MiB have been taken");
    let grown = target.resident_kib() - before;
    assert!(grown < 128 << 10, "{grown} KiB more");
    target.still_answers();
}

#[test]
fn a_thousand_half_sent_requests_keep_nobody_from_being_answered_who_has_the_token() {
    let target = Target::begin();
    let host = target.running.authority();
    let part = format!("GET /plugins HTTP/1.1\r\nHost: {host}\r\nX-");
    let halves: Vec<TcpStream> = (0..1000)
        .map(|_| {
            let mut stream = target.connect();
            // It may have been closed for the next already.
            let _ = stream.write_all(part.as_bytes());
            stream
        })
        .collect();
    let asked = Instant::now();
    target.still_answers();
    assert!(asked.elapsed() < DEADLINE / 4, "{:?}", asked.elapsed());
    assert!(target.descriptors() < 700, "{}", target.descriptors());
    // Those that were not closed for others are closed for their slowness.
    let last = halves.last().expect("there are some");
    let mut byte = [0];
    assert!(matches!((&*last).read(&mut byte), Ok(0) | Err(_)));
    drop(halves);
    target.still_answers();
}

#[test]
fn ten_thousand_connections_in_a_row_and_four_hundred_at_once_are_answered_and_leave_nothing() {
    let target = Target::begin();
    target.still_answers();
    let before = target.descriptors();
    for _ in 0..10_000 {
        drop(target.connect());
    }
    target.still_answers();
    let bearer = format!("Authorization: {}", target.running.bearer());
    let request = format!(
        "GET /plugins HTTP/1.1\r\nHost: {}\r\n{bearer}\r\nConnection: close\r\n\r\n",
        target.running.authority()
    );
    let mut all: Vec<TcpStream> = (0..400).map(|_| target.connect()).collect();
    for stream in &mut all {
        stream.write_all(request.as_bytes()).expect("it reads");
    }
    for mut stream in all {
        let mut whole = Vec::new();
        stream.read_to_end(&mut whole).expect("it answers");
        assert_eq!(Answer::of(&whole).status, 200);
    }
    let gone = || target.descriptors() <= before;
    assert!(until(DEADLINE, gone), "{} descriptors, {before} before", target.descriptors());
}

#[test]
fn tricks_in_the_names_of_plugins_and_methods_reach_nothing() {
    let target = Target::begin();
    let long = "a".repeat(60_000);
    let longer = "a".repeat(1 << 20);
    for (name, statuses) in [
        ("../../etc/passwd", &[404][..]),
        ("..", &[404]),
        ("%2e%2e%2f%2e%2e%2fetc", &[404]),
        ("%2e%2e/%2e%2e", &[404]),
        ("%00", &[404]),
        ("echo%00", &[404]),
        ("%ff%fe", &[400]),
        ("%F0%9F%90%9B", &[404]),
        ("%e2%80%ae", &[404]),
        ("echo%0d%0aX-Injected:%20yes", &[404]),
        ("", &[404]),
        (&long, &[404]),
        (&longer, &[414, 431]),
    ] {
        for path in [format!("/call/{name}/say"), format!("/call/echo/{name}")] {
            let first = format!("POST {path} HTTP/1.1");
            let answer = target.known(&first, &[]);
            let start = &path[..path.len().min(60)];
            assert!(statuses.contains(&answer.status), "{start}: {}", answer.head);
            assert!(!answer.head.contains("x-injected"), "{start}: {}", answer.head);
        }
    }
    // Neither as they stand, over the socket.
    for name in ["../../etc/passwd", "echo\0", "\u{1f41b}", "\n", &long] {
        let mut line = json!({ "op": "call", "plugin": name, "method": name, "arguments": "{}" }).to_string();
        line.push('\n');
        let mut stream =
            std::os::unix::net::UnixStream::connect(target.state().join("control.sock")).expect("it listens");
        stream.write_all(line.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.contains("no plugin is called"), "{answer}");
    }
    target.still_answers();
}

#[test]
fn another_user_is_refused_by_the_socket_even_if_its_mode_lets_them_in() {
    // SAFETY: it only asks.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can be somebody else");
        return;
    }
    let target = Target::begin();
    for (place, mode) in [
        (target.dir.path().to_owned(), 0o755),
        (target.state(), 0o755),
        (target.state().join("control.sock"), 0o666),
    ] {
        fs::set_permissions(place, fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    let program = target.dir.path().join("reseat");
    fs::copy(crate::program::path(), &program).expect("it can be written");
    let state = target.state();
    let ps = |uid: u32| {
        let mut command = Command::new(&program);
        command.args(["ps", "--state-dir"]).arg(&state).current_dir("/").uid(uid).gid(uid);
        command.output().expect("the program can be started")
    };
    let refused = ps(65_534);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    let said = text(&refused.stderr);
    assert!(said.contains("this host answers user 0 and root, and this is user 65534"), "{said}");
    assert!(ps(0).status.success());
    assert!(ask(&state, &["ps"]).status.success());
}

/// Puts something else where a build came from, when it has been checked.
struct Swaps(PathBuf);

impl Observer for Swaps {
    fn before_reload(&self, _: &Change) -> Result<(), String> {
        put(&self.0, &Build::of("echo_stamped").stamped(666));
        Ok(())
    }
}

#[test]
fn a_library_that_is_swapped_after_it_was_checked_is_not_what_is_opened() {
    let shelf = tempfile::tempdir().expect("a temporary directory can be made");
    let file = shelf.path().join("libecho.so");
    let swaps = Swaps(file.clone());
    let scene = Scene::with_options(&["echo_v1"], |options| {
        options.follow = false;
        options.observers = Observers::none().and(swaps);
    });
    put(&file, &Build::of("echo_stamped").stamped(2));
    // SAFETY: only this test writes there.
    let directory = unsafe { reseat::TrustedDir::new(shelf.path()) };
    let checked = directory.file("libecho.so").expect("a bare name");
    let outcome = scene.host.reload_from("echo", &checked).expect("it fits");
    assert_eq!(outcome, Outcome::Reloaded { plugin: "echo".into(), from: 1, generation: 2 });
    assert_eq!(scene.handle::<dyn Echo>("echo").enter().unwrap().build().unwrap(), 2);
    assert_eq!(fs::read(&file).expect("it is there"), Build::of("echo_stamped").stamped(666).bytes());
}
