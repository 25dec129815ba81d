use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::browser::{Browser, ENTER, ESCAPE};
use crate::library::Build;
use crate::live::Stream;
use crate::program::Running;
use crate::scene::put;
use crate::waiting::{DEADLINE, slowly, until};

/// A host with some plugins, and where its things are.
pub struct Stage {
    dir: tempfile::TempDir,
    pub running: Running,
}

impl Stage {
    pub fn begin(fixtures: &[&str]) -> Stage {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).expect("it can be written");
        for fixture in fixtures {
            let build = Build::of(fixture);
            put(&plugins.join(build.file_name()), &build);
        }
        let running = Running::start(&plugins, &dir.path().join("state"), None);
        Stage { dir, running }
    }

    pub fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Puts a build in place, as a linker's output is renamed.
    pub fn install(&self, build: impl Into<Build>) {
        let build = build.into();
        let shelved = self.dir.path().join("shelved");
        put(&shelved, &build);
        fs::rename(shelved, self.plugins().join(build.file_name())).expect("one file system");
    }

    fn url(&self) -> String {
        format!("http://{}/?token={}", self.running.authority(), self.running.token())
    }

    pub fn generation(&self, plugin: &str) -> Option<u64> {
        let status: Value = serde_json::from_str(&self.running.get("/plugins", &[]).ok()?).ok()?;
        let mut plugins = status["plugins"].as_array()?.iter();
        plugins.find(|one| one["name"] == plugin)?["generation"].as_u64()
    }

    #[track_caller]
    pub fn reaches(&self, plugin: &str, generation: u64) {
        let there = until(DEADLINE, || self.generation(plugin) == Some(generation));
        assert!(there, "{:?}: {}", self.generation(plugin), self.running.output());
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    now.as_millis().try_into().expect("not that late")
}

/// What every page is held to, at its end.
fn nothing_went_wrong(browser: &Browser, stage: &Stage, expected: &[&str]) {
    let console = browser.console();
    let bad: Vec<_> =
        console.iter().filter(|line| !expected.iter().any(|words| line.contains(words))).collect();
    assert!(bad.is_empty(), "{bad:?}");
    let own = format!("http://{}/", stage.running.authority());
    let requested = browser.requested();
    assert!(requested.len() > 3, "{requested:?}");
    // A browser's own first page is asked of itself.
    let may = |url: &str| [&own, "data:", "chrome://"].iter().any(|start| url.starts_with(start));
    let foreign: Vec<_> = requested.iter().filter(|url| !may(url)).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn a_browser_shows_what_happens_and_an_operator_acts_with_the_keyboard_alone() {
    let Some(browser) = Browser::start() else { return };
    let stage = Stage::begin(&["echo_v1"]);
    browser.open(&stage.url());
    assert_eq!(browser.address(), format!("http://{}/", stage.running.authority()), "the token is not in it");
    let card = "[data-plugin=echo]";
    browser.shows(card, "generation 1");
    browser.shows("#link", "live");

    // What is said in words, in their order: calls/s, in flight, waiting, p50, p99, errors, panics, state.
    stage.running.post("/call/echo/say", &json!({ "text": "hi" })).expect("it answers");
    let figures = "return [...document.querySelectorAll('.figures dd')].map(it => it.textContent)";
    let is_timed = || browser.eval(figures)[4].as_str().is_some_and(|p99| p99.ends_with('s'));
    assert!(until(DEADLINE, is_timed), "{}", browser.eval(figures));
    assert_eq!(browser.eval(figures).as_array().map(|all| &all[5..7]), Some(&[json!("0"), json!("0")][..]));
    assert_eq!((&browser.eval(figures)[1], &browser.eval(figures)[2]), (&json!("0"), &json!("0")));

    // One of several, since this machine may be busy with other tests.
    let is_shown_in_time = |build: u32| {
        stage.install(Build::of("echo_stamped").stamped(build));
        browser.shows(card, &format!("generation {build}\n"));
        let seen_ms = now_ms();
        let mut stream = Stream::of(&stage, "", &[]);
        let reloaded =
            stream.find(|message| message.data["generation"] == build && message.name == "event").data;
        seen_ms.saturating_sub(reloaded["at_ms"].as_u64().expect("it has a time")) <= 1_000
    };
    assert!((2..7).any(is_shown_in_time), "a reload is shown within a second");
    browser.shows("#events", "version 0.1.0 took over from generation 1");
    browser.shows(".verdicts", "unloaded");
    let drawn = "return document.querySelector('[data-chart=reloads] .chart').getAttribute('aria-label')";
    assert!(
        browser.eval(drawn).as_str().is_some_and(|words| words.contains("publish")),
        "{}",
        browser.eval(drawn)
    );

    stage.install("echo_changed_layout");
    browser.shows(".refusal pre", "method `measure` differs");
    let refusal = browser.text(".refusal pre");
    assert!(refusal.lines().count() > 2, "it is shown in full: {refusal}");
    let serving = stage.generation("echo").expect("it serves");

    // Escape asks for nothing; Enter on the right button does.
    let roll_back = "[data-plugin=echo] [data-action=rollback]";
    browser.tab_to(roll_back);
    browser.press(&[ENTER]);
    browser.shows("#ask", "Roll back echo?");
    browser.press(&[ESCAPE]);
    assert_eq!(browser.eval("return document.getElementById('ask').open"), json!(false));
    assert_eq!(
        browser.eval(&format!("return document.activeElement.matches({})", json!(roll_back))),
        json!(true)
    );
    browser.press(&[ENTER]);
    browser.tab_to("#ask-go");
    browser.press(&[ENTER]);
    let back = format!("Generation {} of echo serves, after generation {serving}.", serving + 1);
    browser.shows("#ask-answer", &back);
    browser.shows(card, &format!("generation {}\n", serving + 1));
    browser.press(&[ENTER]);
    assert_eq!(browser.eval("return document.getElementById('ask').open"), json!(false));

    // There is no second step back, and none is offered. What is refused is told.
    let is_offered = format!("return !document.querySelector({}).disabled", json!(roll_back));
    assert!(until(DEADLINE, || browser.eval(&is_offered) == json!(false)));
    browser.tab_to("[data-plugin=echo] [data-action=reload]");
    browser.press(&[ENTER]);
    browser.tab_to("#ask-go");
    browser.press(&[ENTER]);
    browser.shows("#ask-what", "It is refused.");
    assert!(!browser.text("#ask-answer").is_empty());
    browser.press(&[ESCAPE]);

    browser.tab_to("[data-plugin=echo] [data-action=unload]");
    browser.press(&[ENTER]);
    browser.tab_to("#ask-go");
    browser.press(&[ENTER]);
    browser.shows("#ask-answer", "echo is unloaded");
    browser.press(&[ESCAPE]);
    browser.shows(card, "not loaded");
    browser.shows("#news", "");
    nothing_went_wrong(&browser, &stage, &["409 (Conflict)"]);
}

#[test]
fn among_many_plugins_an_operator_finds_one_by_its_name_and_those_that_need_a_look() {
    let Some(browser) = Browser::start() else { return };
    let stage = Stage::begin(&["counter_v1"]);
    for number in 0..9 {
        stage.install(Build::of("echo_v1").named(&format!("ech{number}")));
    }
    browser.open(&stage.url());
    browser.shows("#found", "10 plugins");
    let shown = || {
        browser.eval("return [...document.querySelectorAll('#plugins .card:not([hidden]) h2')].map(it => it.textContent)")
    };
    browser.tab_to("#find");
    browser.press(&['C', 'O', 'u']);
    browser.shows("#found", "1 of 10 plugins");
    assert_eq!(shown(), json!(["counter"]));
    browser.eval("document.getElementById('find').value = ''");
    browser.tab_to("#odd");
    browser.press(&[' ']);
    browser.shows("#found", "0 of 10 plugins");
    stage.install("counter_changed_signature");
    browser.shows("#found", "1 of 10 plugins");
    assert_eq!(shown(), json!(["counter"]));
    browser.press(&[' ']);
    browser.shows("#found", "10 plugins");
    nothing_went_wrong(&browser, &stage, &[]);
}

#[test]
fn a_page_fits_a_phone_follows_the_scheme_and_says_when_the_host_is_gone() {
    let Some(browser) = Browser::start() else { return };
    let stage = Stage::begin(&["echo_v1", "counter_v1"]);
    stage.install("echo_changed_layout");
    browser.open(&stage.url());
    browser.shows("[data-plugin=echo] .refusal", "method `measure` differs");
    for width in [320, 360, 800, 1200] {
        browser.resize(width, 800);
        let charts = "return Math.max(...[...document.querySelectorAll('.chart svg')].map(it => \
                      it.getBoundingClientRect().right - it.closest('.card').getBoundingClientRect().right))";
        let drawn = || {
            let size = format!(
                "return document.querySelector('[data-chart=timeline] svg').width.baseVal.value > {} - 120",
                width.min(1_000)
            );
            browser.eval(&size) == json!(true) && browser.eval(charts).as_f64() < Some(0.0)
        };
        assert!(until(DEADLINE, drawn), "{width}: {}", browser.eval(charts));
        let fits = "return [document.scrollingElement.scrollWidth, innerWidth]";
        let [content, window] = [0, 1].map(|at| browser.eval(fits)[at].as_u64().expect("a number"));
        assert!(content <= window && window == u64::from(width), "{content} in {window}");
    }
    let colours =
        "const of = it => getComputedStyle(it); const bar = document.querySelector('svg [fill=\"#000011\"]');
                   return [of(document.body).backgroundColor, of(document.body).color, of(bar).fill]";
    browser.scheme("light");
    let light = browser.eval(colours);
    browser.scheme("dark");
    let dark = browser.eval(colours);
    for part in 0..3 {
        assert_ne!(light[part], dark[part]);
    }
    assert_ne!(dark[2], "rgb(0, 0, 17)", "the style sheet gives the drawing its colours");

    nothing_went_wrong(&browser, &stage, &[]);
    let (authority, plugins, state) = (stage.running.authority().to_owned(), stage.plugins(), stage.state());
    assert!(stage.running.interrupt().success());
    browser.shows("#gone", "The host is not reachable");
    browser.eval(
        "document.querySelector('[data-action=reload]').click(); document.getElementById('ask-go').click()",
    );
    browser.shows("#ask-what", "It is not known whether it is done.");
    // The next host on this port has another token.
    let mut next = crate::program::reseat();
    next.arg("run").arg(&plugins).args(["--http", &authority]);
    let _next = Running::spawn({
        next.arg("--state-dir").arg(&state);
        next
    });
    browser.shows("#gone", "has a new token");
}

#[test]
fn what_plugins_say_is_shown_as_text_and_never_becomes_part_of_the_page() {
    let Some(browser) = Browser::start() else { return };
    let stage = Stage::begin(&["counter_v1"]);
    let script = "<img src=x onerror=hurt()>";
    // In the version of a build that serves, and in the name of a file that is refused.
    stage.install(
        Build::of("counter_v2").with_manifest("plugin counter 0.1.0", "plugin counter <i>&\"").vouched(),
    );
    browser.open(&stage.url());
    browser.shows("[data-plugin=counter]", "version <i>&\"");
    let bad = Build::of("counter_v1").in_slot(&format!("x{script}"));
    stage.install(bad);
    browser.shows("#events", script);
    for found in ["img[src=x]", "#plugins i:not([class])", "svg i", "svg img"] {
        assert_eq!(
            browser.eval(&format!("return document.querySelector({}) === null", json!(found))),
            json!(true)
        );
    }
    let drawn =
        "return [...document.querySelectorAll('svg text')].some(it => it.textContent.includes('<i>&\"'))";
    assert_eq!(browser.eval(drawn), json!(true));
    nothing_went_wrong(&browser, &stage, &[]);
}

/// Writes pictures of a busy host into the directory that `RESEAT_SCREENSHOT` names.
#[test]
fn pictures_are_taken_if_they_are_asked_for() {
    let Some(to) = std::env::var_os("RESEAT_SCREENSHOT").map(PathBuf::from) else {
        println!("skipped: RESEAT_SCREENSHOT names no directory");
        return;
    };
    let browser = Browser::start().expect("there is a browser");
    let stage = Arc::new(Stage::begin(&["counter_v1", "echo_v1"]));
    let done = Arc::new(AtomicBool::new(false));
    let callers = [9, 23, 40].map(|pause| {
        let (stage, done) = (stage.clone(), done.clone());
        std::thread::spawn(move || {
            for round in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                stage.running.post("/call/counter/add", &json!({ "n": 1 })).expect("it counts");
                if round.is_multiple_of(7) {
                    stage.running.post("/call/echo/say", &json!({ "text": "hi" })).expect("it answers");
                }
                slowly(Duration::from_millis(pause / 3 + round / 100 % pause));
            }
        })
    });
    slowly(Duration::from_secs(30));
    stage.install(Build::of("counter_v2").with_unique_descriptor());
    slowly(Duration::from_secs(30));
    for (build, pause) in [(2, 20), (3, 20), (4, 10)] {
        stage.install(Build::of("counter_stamped").stamped(build));
        slowly(Duration::from_secs(pause));
    }
    stage.running.post("/plugins/counter/rollback", &json!({})).expect("it goes back");
    stage.install("counter_changed_signature");
    browser.open(&stage.url());
    browser.shows("[data-plugin=counter] .refusal pre", "differs");
    browser.shows("[data-plugin=counter] .verdicts", "lingering");
    for (name, width, height, scheme) in [
        ("dashboard", 1180, 1250, "light"),
        ("dark", 1180, 2400, "dark"),
        ("phone", 360, 3000, "light"),
        ("narrow", 320, 1400, "dark"),
    ] {
        browser.scheme(scheme);
        browser.resize(width, height);
        slowly(Duration::from_secs(3));
        browser.picture(&to.join(format!("{name}.png")));
    }
    browser.resize(900, 700);
    browser.tab_to("[data-plugin=counter] [data-action=rollback]");
    browser.press(&[ENTER]);
    browser.picture(&to.join("dialog.png"));
    done.store(true, Ordering::Relaxed);
    callers.into_iter().for_each(|caller| caller.join().expect("no call has failed"));
}
