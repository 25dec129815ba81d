use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The lines of the process's memory map in which `part` occurs: what the kernel says, not what the loader says.
pub fn mapped(part: &Path) -> Vec<String> {
    let part = part.to_str().expect("temporary paths are text");
    maps().lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

/// Another process, which reads what the kernel says of this one and shares nothing with it.
pub struct Outside {
    process: Child,
    /// Closed first, which ends the process.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Outside {
    /// Starts to observe this process.
    pub fn of_this_process() -> Outside {
        let script = r#"while read -r part; do echo "$(grep -c " r-xp .*$part" "/proc/$0/maps")"; done"#;
        let mut process = Command::new("sh")
            .args(["-c", script, &std::process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let questions = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Outside { process, questions, answers }
    }

    /// How many executable mappings this process has of files in whose paths `part` occurs.
    #[track_caller]
    pub fn executable(&mut self, part: &Path) -> usize {
        let part = part.to_str().expect("temporary paths are text");
        let questions = self.questions.as_mut().expect("open until the end");
        writeln!(questions, "{part}").expect("somebody listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("somebody answers");
        answer.trim().parse().unwrap_or_else(|e| panic!("{answer:?}: {e}"))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.questions.take());
        // It ends with its input; how is of no interest.
        let _ = self.process.wait();
    }
}

/// How much memory the process has, in KiB, that is really there.
pub fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What a process has that could be left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belongings {
    /// Mappings of files.
    pub files_mapped: usize,
    pub descriptors: usize,
    pub threads: usize,
    /// How many more keys for thread-locals the C library would give out.
    pub keys_left: usize,
}

impl Belongings {
    pub fn now() -> Belongings {
        let entries = |dir| fs::read_dir(dir).expect("/proc is mounted").count();
        Belongings {
            files_mapped: maps().lines().filter(|line| line.contains(" /")).count(),
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            keys_left: keys_left(),
        }
    }
}

fn maps() -> String {
    fs::read_to_string("/proc/self/maps").expect("/proc is mounted")
}

fn keys_left() -> usize {
    let mut keys = Vec::new();
    loop {
        let mut key = 0;
        // SAFETY: writes one key.
        if unsafe { libc::pthread_key_create(&raw mut key, None) } != 0 {
            break;
        }
        keys.push(key);
    }
    for &key in &keys {
        // SAFETY: created above, and used by nobody.
        unsafe { libc::pthread_key_delete(key) };
    }
    keys.len()
}
