//! Code that is there, or is not.

/// Looks at the library's own memory, so that it must be mapped, all of it.
#[unsafe(no_mangle)]
pub extern "C" fn answer(question: u64) -> u64 {
    static WORDS: [u64; 4] = [3, 5, 7, 11];
    let mut answer = question;
    for word in &WORDS {
        // SAFETY: a constant of ours.
        answer = answer.wrapping_mul(unsafe { std::ptr::read_volatile(word) });
    }
    answer
}
