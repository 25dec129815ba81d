//! The second witness: is any thread inside of an image, by what is on its stack?
//!
//! The book and the gate count who may be inside. This looks, knowing nothing of either, right before an image is
//! closed. If it disagrees, the image is not closed, and there is a mistake to be found. It is blind to what waits on
//! the heap to be continued, so it can only ever add to the counts.
//!
//! Words on a stack prove little: what a call has left behind lies there until it is overwritten. So a thread is only
//! *suspected* for a word that points into the image right behind a call instruction, or because it is running. A
//! suspected thread is interrupted by a signal, and unwinds its own stack: that is exact. One that does not answer, or
//! whose stack does not unwind to its beginning, is taken to be inside.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::os_linux::{read_memory, thread_id, thread_name};

/// How long threads may take to answer, all of them together: where many want to run, each waits for its turn.
const PATIENCE: Duration = Duration::from_millis(500);
/// How much of a stack is looked through.
const DEEPEST: usize = 8 << 20;

/// Looks at every other thread of this process: once for all of these ranges, of which there are at most [`TOGETHER`].
/// For each of them, who is inside of it, or may be, as a phrase.
pub(super) fn examine(ranges: &[Range<usize>]) -> Vec<Result<(), String>> {
    // One at a time: there is one place for the question.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut verdicts = vec![Ok(()); ranges.len()];
    let me = thread_id();
    let tasks = match std::fs::read_dir("/proc/self/task") {
        Ok(tasks) => tasks,
        Err(error) => {
            verdicts.fill(Err(format!("its threads cannot be listed: {error}")));
            return verdicts;
        }
    };
    let threads = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
    let stacks = stacks();
    let suspects: Vec<u32> =
        threads.filter(|&thread| thread != me && is_suspect(thread, ranges, &stacks)).collect();
    for asked in suspects.chunks(AT_ONCE) {
        for (thread, answer) in asked.iter().zip(ask(asked, ranges)) {
            let (mask, what) = match answer {
                Answer::Outside | Answer::Gone => continue,
                Answer::Inside(mask) => (mask, "is in its code, by what is on its stack"),
                Answer::Unknown => (u32::MAX, "may be in its code: its stack cannot be read to the end"),
                Answer::None => (u32::MAX, "may be in its code, and does not answer"),
            };
            let name = thread_name(*thread).map_or_else(String::new, |name| format!("\"{name}\" "));
            for (number, verdict) in verdicts.iter_mut().enumerate() {
                if mask & (1 << number) != 0 && verdict.is_ok() {
                    *verdict = Err(format!("thread {name}({thread}) {what}"));
                }
            }
        }
    }
    verdicts
}

/// Where memory is mapped that can be written: every stack is in one of these.
fn stacks() -> Vec<Range<usize>> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let parse = |line: &str| {
        let (addresses, rest) = line.split_once(' ')?;
        let (start, end) = addresses.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        rest.starts_with("rw").then_some(address(start)?..address(end)?)
    };
    maps.lines().filter_map(parse).collect()
}

/// Whether a thread has to be asked.
fn is_suspect(thread: u32, ranges: &[Range<usize>], stacks: &[Range<usize>]) -> bool {
    // The last two words are stack pointer and program counter, unless the thread is running.
    let Ok(state) = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")) else {
        return false; // gone
    };
    let mut words = state
        .split_whitespace()
        .rev()
        .map(|word| word.strip_prefix("0x").and_then(|word| usize::from_str_radix(word, 16).ok()));
    let (Some(Some(counter)), Some(Some(pointer))) = (words.next(), words.next()) else { return true };
    if holds(ranges, counter) {
        return true;
    }
    // The kernel lists them in order.
    let at = stacks.partition_point(|stack| stack.end <= pointer);
    let Some(stack) = stacks.get(at).filter(|stack| stack.contains(&pointer)) else { return true };
    // Leaf functions use 128 bytes below the pointer. Return addresses lie on multiples of a word.
    let start = pointer.saturating_sub(128).max(stack.start) & !(size_of::<usize>() - 1);
    let length = (stack.end - start).min(DEEPEST);
    let mut bytes = vec![0; length];
    let Some(read) = read_memory(start, IoSliceMut::new(&mut bytes)) else { return true };
    let words = bytes[..read].chunks_exact(size_of::<usize>());
    words
        .map(|word| usize::from_ne_bytes(word.try_into().expect("a word")))
        .any(|word| follows_a_call(word, ranges))
}

fn holds(ranges: &[Range<usize>], address: usize) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// Whether this is an address in an image right behind a call instruction.
fn follows_a_call(address: usize, ranges: &[Range<usize>]) -> bool {
    const LONGEST: usize = 8;
    if !holds(ranges, address) || !holds(ranges, address - LONGEST) {
        return false;
    }
    let mut before = [0; LONGEST];
    match read_memory(address - LONGEST, IoSliceMut::new(&mut before)) {
        Some(LONGEST) => is_call(&before),
        _ => false,
    }
}

/// Whether the last bytes are a call instruction: `call rel32`, or `call r/m64` in any of its lengths.
#[cfg(target_arch = "x86_64")]
fn is_call(before: &[u8; 8]) -> bool {
    let indirect = |length: usize| before[8 - length] == 0xff && before[9 - length] & 0x38 == 0x10;
    before[3] == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(indirect)
}

/// Whether the last instruction is `bl` or `blr`.
#[cfg(target_arch = "aarch64")]
fn is_call(before: &[u8; 8]) -> bool {
    let instruction = u32::from_le_bytes(before[4..].try_into().expect("four bytes"));
    instruction & 0xfc00_0000 == 0x9400_0000 || instruction & 0xffff_fc1f == 0xd63f_0000
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Outside,
    /// In these ranges, a bit for each.
    Inside(u32),
    Unknown,
    /// It did not answer in time.
    None,
    /// The thread has ended.
    Gone,
}

/// How many ranges are asked about at a time.
pub(crate) const TOGETHER: usize = 32;
/// How many threads are asked at a time.
const AT_ONCE: usize = 64;

/// The question: ranges, as their starts and ends, the rest empty; who is asked; and which question it is, so that a
/// late answer to another one is not taken for this one's.
static RANGES: [[AtomicUsize; 2]; TOGETHER] = [const { [const { AtomicUsize::new(0) }; 2] }; TOGETHER];
static ASKED: [AtomicU32; AT_ONCE] = [const { AtomicU32::new(0) }; AT_ONCE];
static QUESTION: AtomicU64 = AtomicU64::new(0);
/// The answers: in which ranges, and the question's number with two bits below it.
static INSIDE: [AtomicU32; AT_ONCE] = [const { AtomicU32::new(0) }; AT_ONCE];
static ANSWER: [AtomicU64; AT_ONCE] = [const { AtomicU64::new(0) }; AT_ONCE];

/// Asks all of these threads, and waits for all of them.
fn ask(threads: &[u32], ranges: &[Range<usize>]) -> Vec<Answer> {
    let Some(signal) = install() else { return vec![Answer::Unknown; threads.len()] };
    assert!(ranges.len() <= TOGETHER && threads.len() <= AT_ONCE);
    for (place, number) in RANGES.iter().zip(0..) {
        let range = ranges.get(number).cloned().unwrap_or(0..0);
        place[0].store(range.start, Ordering::Relaxed);
        place[1].store(range.end, Ordering::Relaxed);
    }
    for (place, number) in ASKED.iter().zip(0..) {
        place.store(threads.get(number).copied().unwrap_or(0), Ordering::Relaxed);
    }
    // Release: whoever reads the question's number reads the rest of it.
    let question = QUESTION.fetch_add(1, Ordering::Release) + 1;
    let send = |&thread: &u32| {
        // SAFETY: sends a signal that has a handler to a thread of this process, or to none.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) == 0 }
    };
    let sent: Vec<bool> = threads.iter().map(send).collect();
    let asked = Instant::now();
    let mut answers = vec![Answer::None; threads.len()];
    loop {
        for (number, answer) in answers.iter_mut().enumerate() {
            let given = ANSWER[number].load(Ordering::Acquire);
            *answer = match (sent[number], given >> 2 == question, given & 3) {
                (false, ..) => Answer::Gone,
                (_, false, _) => Answer::None,
                (_, _, 0) => Answer::Outside,
                // Nowhere at all: the answer to another question is in its place.
                (_, _, 1) => match INSIDE[number].load(Ordering::Relaxed) {
                    0 => Answer::Unknown,
                    mask => Answer::Inside(mask),
                },
                _ => Answer::Unknown,
            };
        }
        if !answers.contains(&Answer::None) {
            return answers;
        }
        if asked.elapsed() >= PATIENCE {
            for (answer, &thread) in answers.iter_mut().zip(threads) {
                if *answer == Answer::None && thread_name(thread).is_none() {
                    *answer = Answer::Gone;
                }
            }
            return answers;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// The signal that asks, with its handler installed; `None` if somebody else uses it.
fn install() -> Option<c_int> {
    static INSTALLED: std::sync::OnceLock<Option<c_int>> = std::sync::OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let signal = libc::SIGRTMIN() + 11;
        // SAFETY: zeros are a valid `sigaction`; the first call only asks; the handler does what may be done in one.
        unsafe {
            let mut known: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut known) != 0
                || known.sa_sigaction != libc::SIG_DFL
            {
                return None;
            }
            let handler: extern "C" fn(c_int) = answer;
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
            // What the unwinder sets up the first time, it sets up here and not in a handler.
            unwind(|_| false);
            (libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0).then_some(signal)
        }
    })
}

extern "C" fn answer(_: c_int) {
    // SAFETY: the calling thread's own error number.
    let error = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *error };
    let question = QUESTION.load(Ordering::Acquire);
    let me = thread_id();
    // A question that is over has been asked of others.
    if let Some(place) = ASKED.iter().position(|asked| asked.load(Ordering::Relaxed) == me) {
        let inside = Cell::new(0);
        let verdict = unwind(|address| {
            for (number, place) in RANGES.iter().enumerate() {
                let [start, end] = [place[0].load(Ordering::Relaxed), place[1].load(Ordering::Relaxed)];
                if (start..end).contains(&address) {
                    inside.set(inside.get() | 1 << number);
                }
            }
            inside.get() != 0
        });
        INSIDE[place].store(inside.get(), Ordering::Relaxed);
        // Release: whoever reads the answer's number reads which ranges.
        ANSWER[place].store(question << 2 | verdict as u64, Ordering::Release);
    }
    // SAFETY: as above.
    unsafe { *error = before };
}

#[derive(Clone, Copy)]
enum Verdict {
    Outside = 0,
    Inside = 1,
    Unknown = 2,
}

/// What the calling thread's stack says of these addresses.
fn unwind<F: Fn(usize) -> bool>(asked: F) -> Verdict {
    struct Walk<F> {
        asked: F,
        inside: bool,
    }
    unsafe extern "C" {
        fn _Unwind_Backtrace(
            each: unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int,
            walk: *mut c_void,
        ) -> c_int;
        fn _Unwind_GetIP(frame: *mut c_void) -> usize;
    }
    unsafe extern "C" fn each<F: Fn(usize) -> bool>(frame: *mut c_void, walk: *mut c_void) -> c_int {
        // SAFETY: the unwinder passes a frame that is good for this call, and our own walk.
        let (address, walk) = unsafe { (_Unwind_GetIP(frame), &mut *walk.cast::<Walk<F>>()) };
        walk.inside |= (walk.asked)(address);
        0 // go on
    }
    const END_OF_STACK: c_int = 5;
    let mut walk = Walk { asked, inside: false };
    // SAFETY: `each` has the type that the unwinder calls, and the walk lives until it returns.
    let end = unsafe { _Unwind_Backtrace(each::<F>, (&raw mut walk).cast()) };
    match (walk.inside, end) {
        (true, _) => Verdict::Inside,
        (false, END_OF_STACK) => Verdict::Outside,
        (false, _) => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// This program's own code, as if it were an image.
    fn this_program() -> Range<usize> {
        let here = examine as *const () as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let lines = maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-'));
        let ranges = lines.map(|(start, end)| {
            usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap()
        });
        ranges.into_iter().find(|range| range.contains(&here)).unwrap()
    }

    #[test]
    fn a_thread_that_sleeps_or_runs_in_the_code_is_found_and_nowhere_is_nobody() {
        let (wake, sleep) = mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || sleep.recv());
        assert!(examine(&[this_program()])[0].is_err());
        // No thread is in a page of data that nobody jumps to.
        let data = vec![0_u8; 4096];
        let start = data.as_ptr().addr();
        let nowhere = start..start + 4096;
        assert_eq!(examine(std::slice::from_ref(&nowhere)), [Ok(())]);
        // Each for itself.
        let verdicts = examine(&[nowhere, this_program()]);
        assert!(verdicts[0].is_ok() && verdicts[1].is_err(), "{verdicts:?}");
        drop(wake);
        assert!(sleeper.join().unwrap().is_err());
    }

    #[test]
    fn a_stack_says_who_is_in_it() {
        let here = this_program();
        assert!(matches!(unwind(|address| here.contains(&address)), Verdict::Inside));
        assert!(matches!(unwind(|address| (8..16).contains(&address)), Verdict::Outside));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls_are_told_from_other_instructions() {
        assert!(is_call(&[0, 0, 0, 0xe8, 1, 2, 3, 4])); // call rel32
        assert!(is_call(&[0, 0, 0, 0, 0, 0, 0xff, 0xd0])); // call *%rax
        assert!(is_call(&[0, 0, 0xff, 0x15, 1, 2, 3, 4])); // call *disp32(%rip)
        assert!(is_call(&[0, 0, 0, 0, 0, 0xff, 0x50, 8])); // call *8(%rax)
        assert!(!is_call(&[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x90])); // lea
        assert!(!is_call(&[0, 0, 0, 0, 0, 0, 0xff, 0xe0])); // jmp *%rax
    }
}
