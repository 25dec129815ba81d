//! Whether the capture captures, asked once by each host that starts.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::capture::Book;

/// Whether what this host captures is captured: a registration made by hand on a thread arrives in its book
/// and is run when the thread ends.
pub(crate) fn self_test() -> bool {
    unsafe extern "C" fn ran(mark: *mut c_void) {
        // SAFETY: the mark that was registered, which is kept until the thread has ended.
        unsafe { &*mark.cast::<AtomicBool>() }.store(true, Ordering::Release);
    }
    let book = Book::open();
    // Its own, since several hosts may start at once.
    let mark = Arc::new(AtomicBool::new(false));
    let (on_thread, on_mark) = (book.clone(), mark.clone());
    let registered = std::thread::Builder::new()
        .name("reseat-selftest".into())
        .spawn(move || {
            let object = Arc::as_ptr(&on_mark).cast_mut().cast();
            // SAFETY: the destructor is a function of this program, and gets the mark that it expects.
            unsafe { on_thread.at_thread_exit(ran, object) == 0 && on_thread.close().is_err() }
        })
        .is_ok_and(|thread| thread.join().unwrap_or(false));
    let emptied = book.close().is_ok();
    registered && emptied && mark.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    #[test]
    fn hosts_that_start_at_once_find_the_same() {
        std::thread::scope(|threads| {
            let testers = [(); 8].map(|()| threads.spawn(|| (0..50).all(|_| super::self_test())));
            assert!(testers.into_iter().all(|tester| tester.join().unwrap()));
        });
    }
}
