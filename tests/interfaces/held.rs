use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Tells that it is inside, by creating `<until>.in`, and stays until `until` exists.
///
/// # Panics
/// The file that tells cannot be created.
pub fn hold(until: &str) {
    hold_unless(until, || false);
}

/// The same, unless it is to leave earlier; whether it was.
///
/// # Panics
/// The file that tells cannot be created.
pub fn hold_unless(until: &str, leave: impl Fn() -> bool) -> bool {
    File::create(format!("{until}.in")).expect("the test's directory can be written");
    while !Path::new(until).exists() {
        if leave() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}
