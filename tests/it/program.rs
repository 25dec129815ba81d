use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::Value;

use crate::waiting::{DEADLINE, until};

/// The `reseat` program that cargo has built beside this one. If a selection of tests has skipped it, it is built
/// now, once.
pub fn path() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> =
        LazyLock::new(|| crate::library::beside("reseat", &["-p", "reseat", "--bin", "reseat"]));
    &PROGRAM
}

/// It, to be run.
pub fn reseat() -> Command {
    let mut command = Command::new(path());
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// A host in a process of its own: `reseat run`.
pub struct Running {
    child: Child,
    output: Arc<Mutex<String>>,
    address: String,
    token: String,
    agent: ureq::Agent,
}

impl Running {
    /// Serves a directory, and waits until it does.
    pub fn start(plugins: &Path, state_dir: &Path, config: Option<&Path>) -> Running {
        let mut command = reseat();
        command.arg("run").arg(plugins).arg("--state-dir").arg(state_dir).args(["--http", "127.0.0.1:0"]);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        Running::spawn(command)
    }

    /// Starts a command that serves, and waits until it says where.
    pub fn spawn(mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), &output);
        collect(child.stderr.take().expect("piped"), &output);
        let mut address = None;
        let found = until(DEADLINE * 6, || {
            address = address_in(&output.lock().expect("no reader panics"));
            address.is_some() || child.try_wait().expect("it is our child").is_some()
        });
        let text = || output.lock().expect("no reader panics").clone();
        let Some(address) = address.filter(|_| found) else {
            let _ = child.kill();
            panic!("it does not say where it serves: {}", text());
        };
        let token = token_in(&text()).expect("it says the token with the address");
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        Running { child, output, address, token, agent }
    }

    /// What it has printed.
    pub fn output(&self) -> String {
        self.output.lock().expect("no reader panics").clone()
    }

    /// Asks with JSON; an answer that is not 200 is an error.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let url = format!("{}{path}", self.address);
        let mut answer = self
            .agent
            .post(&url)
            .header("Authorization", self.bearer())
            .send_json(body)
            .map_err(|e| e.to_string())?;
        let text = answer.body_mut().read_to_string().map_err(|e| e.to_string())?;
        if answer.status() != 200 {
            return Err(format!("{}: {text}", answer.status().as_u16()));
        }
        serde_json::from_str(&text).map_err(|e| e.to_string())
    }

    /// Asks for a page; an answer that is not 200 is an error.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<String, String> {
        let mut request = self.agent.get(format!("{}{path}", self.address));
        request = request.header("Authorization", self.bearer());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.call().map_err(|e| e.to_string())?;
        let text = answer.body_mut().read_to_string().map_err(|e| e.to_string())?;
        if answer.status() == 200 { Ok(text) } else { Err(format!("{}: {text}", answer.status().as_u16())) }
    }

    /// Where it serves: `127.0.0.1:PORT`.
    pub fn authority(&self) -> &str {
        self.address.strip_prefix("http://").expect("that is how it begins")
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is an i32")
    }

    /// The level of a bucket of the example plugin.
    pub fn tokens_left(&self, key: &str) -> Option<u32> {
        let answer = self.post("/call/limiter/check", &serde_json::json!({ "key": key, "cost": 0 })).ok()?;
        answer["tokens_left"].as_u64()?.try_into().ok()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Ctrl-C; waits for the end.
    pub fn interrupt(self) -> ExitStatus {
        self.signal(libc::SIGINT);
        self.end()
    }

    /// Waits for the end.
    pub fn end(mut self) -> ExitStatus {
        let mut status = None;
        let ended = until(DEADLINE, || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        assert!(ended, "it has not ended within {DEADLINE:?}: {}", self.output());
        status.expect("it has ended")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address_in(output: &str) -> Option<String> {
    let at = output.find("http://127.0.0.1:")?;
    let rest = &output[at..];
    let end =
        rest["http://127.0.0.1:".len()..].find(|c: char| !c.is_ascii_digit())? + "http://127.0.0.1:".len();
    Some(rest[..end].to_owned())
}

fn token_in(output: &str) -> Option<String> {
    let (_, from) = output.split_once("/?token=")?;
    Some(from.chars().take_while(char::is_ascii_hexdigit).collect())
}

fn collect(stream: impl Read + Send + 'static, output: &Arc<Mutex<String>>) {
    let output = output.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            let mut output = output.lock().expect("no reader panics");
            output.push_str(&line);
            output.push('\n');
        }
    });
}
