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

use std::ffi::{c_int, c_void};
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::os_linux::{read_memory, thread_id, thread_name};

/// How long a thread may take to answer.
const PATIENCE: Duration = Duration::from_millis(200);
/// How much of a stack is looked through.
const DEEPEST: usize = 8 << 20;

/// Looks at every other thread of this process: once for all of these ranges, of which there are at most [`TOGETHER`].
///
/// # Errors
/// Who is inside of one of them, or may be, as a phrase.
pub(super) fn examine(ranges: &[Range<usize>]) -> Result<(), String> {
    // One at a time: there is one place for the question.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let me = thread_id();
    let tasks =
        std::fs::read_dir("/proc/self/task").map_err(|e| format!("its threads cannot be listed: {e}"))?;
    let threads = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
    let stacks = stacks();
    for thread in threads.filter(|&thread: &u32| thread != me) {
        if is_suspect(thread, ranges, &stacks) {
            let name = || {
                thread_name(thread)
                    .map_or_else(|| thread.to_string(), |name| format!("\"{name}\" ({thread})"))
            };
            match ask(thread, ranges) {
                Answer::Outside | Answer::Gone => {}
                Answer::Inside => {
                    return Err(format!("thread {} is in its code, by what is on its stack", name()));
                }
                Answer::Unknown => {
                    return Err(format!(
                        "thread {} may be in its code: its stack cannot be read to the end",
                        name()
                    ));
                }
                Answer::None => {
                    return Err(format!("thread {} may be in its code, and does not answer", name()));
                }
            }
        }
    }
    Ok(())
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
    Inside,
    Unknown,
    /// It did not answer in time.
    None,
    /// The thread has ended.
    Gone,
}

/// How many ranges are asked about at a time.
pub(crate) const TOGETHER: usize = 32;

/// The question: ranges, as their starts and ends, the rest empty; and which question it is, so that a late answer to
/// another one is not taken for this one's.
static RANGES: [[AtomicUsize; 2]; TOGETHER] = [const { [const { AtomicUsize::new(0) }; 2] }; TOGETHER];
static QUESTION: AtomicU64 = AtomicU64::new(0);
/// The answer: the question's number, and below it two bits.
static ANSWER: AtomicU64 = AtomicU64::new(0);

fn ask(thread: u32, ranges: &[Range<usize>]) -> Answer {
    let Some(signal) = install() else { return Answer::Unknown };
    assert!(ranges.len() <= TOGETHER);
    for (place, number) in RANGES.iter().zip(0..) {
        let range = ranges.get(number).cloned().unwrap_or(0..0);
        place[0].store(range.start, Ordering::Relaxed);
        place[1].store(range.end, Ordering::Relaxed);
    }
    // Release: whoever reads the question's number reads the range.
    let question = QUESTION.fetch_add(1, Ordering::Release) + 1;
    // SAFETY: sends a signal that has a handler to a thread of this process, or to none.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
    if sent != 0 {
        return Answer::Gone;
    }
    let asked = Instant::now();
    loop {
        let answer = ANSWER.load(Ordering::Acquire);
        if answer >> 2 == question {
            return [Answer::Outside, Answer::Inside, Answer::Unknown, Answer::Unknown]
                [(answer & 3) as usize];
        }
        if asked.elapsed() >= PATIENCE {
            return if thread_name(thread).is_some() { Answer::None } else { Answer::Gone };
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
    let asked = |address: usize| {
        let ends = |place: &[AtomicUsize; 2]| {
            place[0].load(Ordering::Relaxed) <= address && address < place[1].load(Ordering::Relaxed)
        };
        RANGES.iter().any(ends)
    };
    let verdict = unwind(asked);
    ANSWER.store(question << 2 | verdict as u64, Ordering::Release);
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
        assert!(examine(&[this_program()]).is_err());
        // No thread is in a page of data that nobody jumps to.
        let data = vec![0_u8; 4096];
        let start = data.as_ptr().addr();
        let nowhere = start..start + 4096;
        assert_eq!(examine(std::slice::from_ref(&nowhere)), Ok(()));
        assert!(examine(&[nowhere, this_program()]).is_err());
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
