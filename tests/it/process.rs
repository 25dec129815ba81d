use std::fs;
use std::path::Path;

/// The lines of the process's memory map in which `part` occurs: what the kernel says, not what the loader says.
pub fn mapped(part: &Path) -> Vec<String> {
    let part = part.to_str().expect("temporary paths are text");
    maps().lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
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
