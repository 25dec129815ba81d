use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::waiting::{DEADLINE, until};

/// A browser without a window, and the program that drives it. Both end with the value.
pub struct Browser {
    runtime: Runtime,
    client: Option<Client>,
    driver: Driver,
    _profile: tempfile::TempDir,
}

/// Chromedriver, in a process group of its own.
struct Driver {
    child: Child,
    port: u16,
}

/// The keys that are pressed here.
pub const TAB: char = '\u{e004}';
pub const ENTER: char = '\u{e007}';
pub const ESCAPE: char = '\u{e00c}';

impl Browser {
    /// `None`: there is none on this machine, which was said. With `RESEAT_BROWSER=required` in the environment there has
    /// to be one.
    pub fn start() -> Option<Browser> {
        let there = |program: &str| {
            Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
        };
        if let Some(missing) = ["chromium", "chromedriver"].into_iter().find(|program| !there(program)) {
            assert!(
                std::env::var_os("RESEAT_BROWSER").is_none_or(|wish| wish != "required"),
                "RESEAT_BROWSER=required, and there is no {missing}"
            );
            println!("SKIPPED: there is no {missing}, so nothing is known of what a browser shows");
            return None;
        }
        let profile = tempfile::tempdir().expect("a temporary directory can be made");
        let driver = Driver::start();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be started");
        let client = runtime.block_on(
            ClientBuilder::new(HttpConnector::new())
                .capabilities(capabilities(profile.path()))
                .connect(&driver.address()),
        );
        let client = Some(client.expect("the browser can be started"));
        Some(Browser { runtime, client, driver, _profile: profile })
    }

    pub fn open(&self, url: &str) {
        self.runtime.block_on(self.client().goto(url)).expect("the page can be opened");
    }

    pub fn address(&self) -> String {
        self.runtime.block_on(self.client().current_url()).expect("a page is open").to_string()
    }

    /// What a script returns.
    #[track_caller]
    pub fn eval(&self, script: &str) -> Value {
        let result = self.runtime.block_on(self.client().execute(script, Vec::new()));
        result.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The text that is seen of the first element that a selector finds; empty if there is none.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.eval(&format!("return document.querySelector({})?.innerText ?? ''", json!(selector)));
        text.as_str().expect("it is text").to_owned()
    }

    /// Waits until an element shows these words.
    #[track_caller]
    pub fn shows(&self, selector: &str, words: &str) {
        let shown = until(DEADLINE, || self.text(selector).contains(words));
        assert!(shown, "{selector} does not show {words:?} but {:?}", self.text(selector));
    }

    /// Presses keys, one after the other.
    pub fn press(&self, keys: &[char]) {
        let mut actions = KeyActions::new("keyboard".into());
        for value in keys {
            actions = actions.then(KeyAction::Down { value: *value }).then(KeyAction::Up { value: *value });
        }
        self.runtime.block_on(self.client().perform_actions(actions)).expect("keys can be pressed");
    }

    /// Goes from one element to the next, with the tab key alone, until one that a selector describes has the focus.
    #[track_caller]
    pub fn tab_to(&self, selector: &str) {
        let is_there = format!("return document.activeElement.matches({})", json!(selector));
        for _ in 0..60 {
            if self.eval(&is_there) == json!(true) {
                return;
            }
            self.press(&[TAB]);
        }
        panic!("the tab key does not lead to {selector}");
    }

    /// Has the window be so large.
    pub fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Has the system ask for light or dark pages.
    pub fn scheme(&self, name: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": name });
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
    }

    /// What was written to the console, by the page or of it.
    pub fn console(&self) -> Vec<String> {
        let text = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        self.log("browser").iter().map(text).collect()
    }

    /// The addresses that were asked for since this was last called.
    pub fn requested(&self) -> Vec<String> {
        let sent = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            let is_sent = message["method"] == "Network.requestWillBeSent";
            is_sent.then(|| message["params"]["request"]["url"].as_str().unwrap_or_default().to_owned())
        };
        self.log("performance").iter().filter_map(sent).collect()
    }

    /// A picture of what is seen, as PNG.
    pub fn picture(&self, file: &Path) {
        let png = self.runtime.block_on(self.client().screenshot()).expect("a picture can be taken");
        std::fs::write(file, png).expect("it can be written");
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.ask("se/log", &json!({ "type": kind }));
        log.as_array().cloned().unwrap_or_default()
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.ask("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// What only this driver understands.
    #[track_caller]
    fn ask(&self, what: &str, body: &Value) -> Value {
        let session = self.runtime.block_on(self.client().session_id()).expect("the driver runs");
        let session = session.expect("a session has begun");
        let url = format!("{}/session/{session}/{what}", self.driver.address());
        let answer = ureq::post(&url).send_json(body);
        let mut answer = answer.unwrap_or_else(|error| panic!("{what} {body}: {error}"));
        let mut answer: Value = answer.body_mut().read_json().expect("it answers with JSON");
        answer["value"].take()
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until the end")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // This ends the browser; then the driver is ended.
        if let Some(client) = self.client.take() {
            let _ = self.runtime.block_on(client.close());
        }
    }
}

impl Driver {
    fn start() -> Driver {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn().expect("chromedriver can be started");
        let mut said = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let port = said
            .find_map(|line| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok());
        // So that it is never kept by what nobody reads.
        std::thread::spawn(move || said.for_each(drop));
        Driver { child, port: port.expect("chromedriver says its port") }
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).expect("a pid is an i32");
        // SAFETY: sends a signal to our own child, which has not been waited for, and to what it has started.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

fn capabilities(profile: &Path) -> serde_json::Map<String, Value> {
    let mut arguments: Vec<String> = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        "--hide-scrollbars",
        "--window-size=1200,900",
    ]
    .map(String::from)
    .into();
    arguments.push(format!("--user-data-dir={}", profile.display()));
    let capabilities = json!({
        "goog:chromeOptions": { "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    });
    capabilities.as_object().cloned().expect("it is one")
}
