use std::io::Write;
use std::time::Duration;

use plugin_api::prelude::*;

/// Where the fixture `faulty` goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Point {
    /// Nowhere.
    Nowhere = 0,
    /// While it is opened.
    Constructor = 1,
    /// In this hook.
    Create = 2,
    /// In this hook.
    Restore = 3,
    /// In this hook.
    Started = 4,
    /// In this hook.
    SelfCheck = 5,
    /// In this hook.
    Save = 6,
    /// In this hook.
    Stopping = 7,
    /// While its value is dropped.
    Drop = 8,
    /// In the destructor of a thread-local.
    ThreadExit = 9,
    /// In every call of `add`.
    Call = 10,
}

/// In which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// It returns an error.
    Error = 0,
    /// It panics.
    Panic = 1,
    /// It sleeps until the file exists that the environment names in `RESEAT_HOLD`, or for ever.
    Hang = 2,
    /// It reads memory that is not there.
    Fault = 3,
    /// It aborts.
    Abort = 4,
    /// It ends the process.
    Exit = 5,
    /// It takes all memory that it gets.
    Memory = 6,
    /// It uses the processor for ever.
    Loop = 7,
    /// It returns an error that says which files are open.
    Files = 8,
}

/// In which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Process {
    /// In both.
    Any = 0,
    /// Only in the helper in which it is tried.
    Helper = 1,
    /// Only in the host.
    Host = 2,
}

/// The stamp of a build that goes wrong.
pub const fn stamp(point: Point, kind: Kind, process: Process) -> u32 {
    point as u32 * 100 + kind as u32 * 10 + process as u32
}

/// Goes wrong, if this is the place for it.
///
/// # Errors
/// If it is to go wrong in this way.
pub fn strike(stamp: u32, here: Point) -> Result<()> {
    let (point, kind, process) = (stamp / 100, stamp / 10 % 10, stamp % 10);
    let in_helper = std::env::var_os("RESEAT_PROBE").is_some();
    let meant = process == Process::Any as u32 || in_helper == (process == Process::Helper as u32);
    if point != here as u32 || !meant {
        return Ok(());
    }
    eprintln!("{here:?} is about to go wrong");
    match kind {
        0 => bail!("an error in {here:?}"),
        1 => panic!("a panic in {here:?}"),
        2 => match std::env::var("RESEAT_HOLD") {
            Ok(until) => crate::held::hold(&until),
            Err(_) => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
        },
        // SAFETY: none; that is what it is for. The page at 8 is not mapped, so the process ends here.
        3 => drop(unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() }),
        4 => std::process::abort(),
        5 => std::process::exit(7),
        6 => {
            let mut taken = Vec::new();
            loop {
                taken.push(vec![1_u8; 64 << 20]);
            }
        }
        7 => loop {
            std::hint::spin_loop();
        },
        8 => {
            let open = std::fs::read_dir("/proc/self/fd")?;
            let open = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
            let open: Vec<_> = open.map(|path| path.display().to_string()).collect();
            bail!("open are {}", open.join(", "))
        }
        _ => bail!("stamp {stamp} says nothing"),
    }
    Ok(())
}

/// Leaves a line with this process's number in the file that the environment names in `RESEAT_CANARY`.
pub fn sign() {
    if let Some(path) = std::env::var_os("RESEAT_CANARY") {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let mut file = file.expect("the canary's place can be written");
        writeln!(file, "{}", std::process::id()).expect("the canary's place can be written");
    }
}
