use std::time::{Duration, Instant};

/// How long anything may take that is expected to happen.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Asks again and again until the answer is yes. `false`: it has not become yes in time.
///
/// The only place where a test sleeps.
pub fn until(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(50);
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Lets time pass between two acts of somebody who is slow: the slowness is what the test is about.
pub fn slowly(pause: Duration) {
    until(pause, || false);
}
