//! A plugin's library as the books see it, and what it registers.

use super::capture::Book;
use super::os_linux as os;
use crate::scene::Library;
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A library, and the book of what it has registered.
#[derive(Clone)]
pub struct Plugin {
    pub library: &'static Library,
    pub book: Arc<Book>,
    /// How many of its thread-locals and values have not been destroyed. No model's threads are ordered by it.
    pending: Arc<AtomicU32>,
}

impl Plugin {
    pub fn load() -> Self {
        let library = Box::leak(Box::new(Library::load(1)));
        Self { library, book: Book::open(), pending: Arc::default() }
    }

    /// The calling thread's, to be destroyed there.
    pub fn register(&self) -> &'static Local {
        self.register_that(|_| ())
    }

    /// Destroyed like any other, and never looked at.
    pub fn register_for_good(&self) {
        self.register();
    }

    /// With something that its destructor does.
    pub fn register_that(&self, then: impl Fn(&Plugin) + 'static) -> &'static Local {
        self.register_local(Local::new(self, Some(os::thread_id()), then))
    }

    /// To be destroyed on any thread.
    pub fn register_for_anybody(&self) -> &'static Local {
        self.register_local(Local::new(self, None, |_| ()))
    }

    fn register_local(&self, local: &'static Local) -> &'static Local {
        self.library.answer();
        // SAFETY: the destructor gets the object that it expects, which is never freed.
        let outcome = unsafe { self.book.at_thread_exit(destroy, local.address()) };
        assert_eq!(outcome, 0);
        local
    }

    pub fn key(&self) -> libc::pthread_key_t {
        self.book.key_create(Some(destroy)).unwrap()
    }

    /// The calling thread's value under a key.
    pub fn set_value(&self, key: libc::pthread_key_t, then: impl Fn(&Plugin) + 'static) -> &'static Local {
        let local = Local::new(self, Some(os::thread_id()), then);
        os::key_set(key, local.address());
        local
    }

    /// Starts a thread of the plugin.
    pub fn start(&self, run: impl Fn(&Plugin) + 'static) {
        assert_eq!(self.create(ptr::null(), run), 0);
    }

    /// The same, and the system has no thread to give.
    pub fn start_refused(&self) -> c_int {
        self.create(ptr::NonNull::dangling().as_ptr(), |_| ())
    }

    fn create(&self, attributes: *const libc::pthread_attr_t, run: impl Fn(&Plugin) + 'static) -> c_int {
        self.library.answer();
        let work = Box::leak(Box::new(Work { plugin: self.clone(), run: Box::new(run) }));
        // SAFETY: the routine gets the argument that it expects, which is never freed.
        unsafe { self.book.thread_create(ptr::null_mut(), attributes, begin, ptr::from_mut(work).cast()) }
    }

    /// Closes the library if the book allows it.
    pub fn close(&self) -> bool {
        let closed = self.book.close().is_ok();
        if closed {
            self.library.unload();
        }
        closed
    }

    /// Retires, and closes as soon as the book allows it. Looks only when told.
    pub fn reap(&self) {
        let bell = Arc::new(Bell::default());
        self.book.on_change({
            let bell = bell.clone();
            move || bell.ring()
        });
        self.book.retire();
        let mut heard = 0;
        while !self.close() {
            heard = bell.wait(heard);
        }
    }

    /// Does so on a thread.
    pub fn reaper(&self) -> JoinHandle<()> {
        let plugin = self.clone();
        thread::spawn(move || plugin.reap())
    }

    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }
}

/// A thread-local of a plugin, or a value under its key.
pub struct Local {
    plugin: Plugin,
    /// The only thread on which it may be destroyed.
    owner: Option<u32>,
    /// The owner's: gone with it.
    memory: Library,
    then: Box<dyn Fn(&Plugin)>,
    runs: AtomicU32,
}

impl Local {
    fn new(plugin: &Plugin, owner: Option<u32>, then: impl Fn(&Plugin) + 'static) -> &'static Self {
        plugin.pending.fetch_add(1, Ordering::Relaxed);
        let (plugin, memory, runs) = (plugin.clone(), Library::load(2), AtomicU32::new(0));
        Box::leak(Box::new(Self { plugin, owner, memory, then: Box::new(then), runs }))
    }

    fn address(&'static self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// How often it has been destroyed.
    pub fn runs(&self) -> u32 {
        self.runs.load(Ordering::Relaxed)
    }

    /// The owner has ended.
    pub fn free(&self) {
        self.memory.unload();
    }
}

/// Code of the plugin.
unsafe extern "C-unwind" fn destroy(object: *mut c_void) {
    // SAFETY: what `register_local` and `set_value` have leaked.
    let local = unsafe { &*object.cast::<Local>() };
    local.plugin.library.answer();
    local.memory.answer();
    assert!(local.owner.is_none_or(|owner| owner == os::thread_id()), "destroyed on another thread");
    assert_eq!(local.runs.fetch_add(1, Ordering::Relaxed), 0, "destroyed twice");
    (local.then)(&local.plugin);
    local.plugin.pending.fetch_sub(1, Ordering::Relaxed);
    local.plugin.library.answer();
}

/// What a thread of a plugin is to do.
struct Work {
    plugin: Plugin,
    run: Box<dyn Fn(&Plugin)>,
}

/// Code of the plugin.
unsafe extern "C-unwind" fn begin(work: *mut c_void) -> *mut c_void {
    // SAFETY: what `create` has leaked.
    let work = unsafe { &*work.cast::<Work>() };
    work.plugin.library.answer();
    (work.run)(&work.plugin);
    work.plugin.library.answer();
    ptr::null_mut()
}

/// Where the reaper waits. Somebody who rang before is heard.
#[derive(Default)]
struct Bell {
    rung: Mutex<u32>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() += 1;
        self.heard.notify_all();
    }

    /// Waits for more than was heard.
    fn wait(&self, heard: u32) -> u32 {
        let mut rung = self.rung.lock().unwrap();
        while *rung == heard {
            rung = self.heard.wait(rung).unwrap();
        }
        *rung
    }
}
