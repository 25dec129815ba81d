//! The books: destructors run once, on their own threads, and a library is closed when none is left.
//!
//! Loading and calling is the gate's subject, so here a thread "is in a plugin" simply by registering with its
//! book. Whoever registers does so before the plugin is retired, or while something of it is counted.

#[allow(dead_code)] // whoever closes need not have asked before
#[path = "../../../host/src/ffi/capture.rs"]
mod capture;
mod os_linux;
mod plugin;
#[path = "../../../host/src/ffi/sync.rs"]
mod sync;

use crate::gate::{current_thread, end_current_thread, run_errands};
use crate::scene::{enter, models, slot};
use loom::thread;
use os_linux as os;
use plugin::Plugin;

models! {
    fn a_thread_ends_while_its_generation_retires() {
        let plugin = Plugin::load();
        let local = plugin.register();
        let reaper = plugin.reaper();
        end_current_thread();
        local.free();
        reaper.join().unwrap();
        assert_eq!(local.runs(), 1);
    }

    fn two_threads_end_while_their_generation_retires() {
        let plugin = Plugin::load();
        let mine = plugin.register();
        let other = {
            let plugin = plugin.clone();
            thread::spawn(move || {
                let local = plugin.register();
                end_current_thread();
                local.free();
                assert_eq!(local.runs(), 1);
            })
        };
        let closed_early = plugin.close();
        assert!(!closed_early);
        end_current_thread();
        mine.free();
        assert_eq!(mine.runs(), 1);
        other.join().unwrap();
        assert!(plugin.close());
    }

    /// The reaper does not wait: it finds the book empty, or is told why not.
    fn a_thread_comes_by_while_its_generation_retires() {
        let plugin = Plugin::load();
        let local = plugin.register();
        let reaper = {
            let plugin = plugin.clone();
            thread::spawn(move || {
                plugin.book.retire();
                plugin.close()
            })
        };
        run_errands();
        let closed = reaper.join().unwrap();
        assert!(!closed || local.runs() == 1);
        run_errands();
        assert_eq!(local.runs(), 1);
        assert!(closed || plugin.close());
        end_current_thread();
    }

    /// The thread is in a call meanwhile, so that the poke is served by its exit or by the next one.
    fn a_thread_registers_while_its_generation_retires() {
        let (plugin, slot) = (Plugin::load(), slot());
        let guard = enter(slot);
        let retirer = {
            let plugin = plugin.clone();
            thread::spawn(move || plugin.book.retire())
        };
        let local = plugin.register();
        drop(guard);
        retirer.join().unwrap();
        run_errands();
        assert_eq!(local.runs(), 1);
        assert!(plugin.close());
        end_current_thread();
    }

    fn a_destructor_registers_another_while_its_generation_retires() {
        let plugin = Plugin::load();
        let local = plugin.register_that(Plugin::register_for_good);
        let reaper = plugin.reaper();
        end_current_thread();
        local.free();
        reaper.join().unwrap();
        assert_eq!(local.runs(), 1);
        assert_eq!(plugin.pending(), 0);
    }

    fn a_thread_ends_with_thread_locals_of_two_plugins() {
        let (first, second) = (Plugin::load(), Plugin::load());
        let locals = [first.register(), second.register()];
        let reaper = first.reaper();
        end_current_thread();
        locals.iter().for_each(|local| local.free());
        reaper.join().unwrap();
        assert_eq!(locals.map(|local| local.runs()), [1, 1]);
        assert!(second.close());
    }

    /// The second plugin calls the first from its destructor: the first one's book has been passed then.
    fn a_destructor_registers_with_another_plugin() {
        let (first, second) = (Plugin::load(), Plugin::load());
        second.register_that({
            let first = first.clone();
            move |_| first.register_for_good()
        });
        let reaper = second.reaper();
        end_current_thread();
        reaper.join().unwrap();
        assert_eq!((first.pending(), second.pending()), (0, 0));
        assert!(first.close());
    }

    /// What a thread has of a generation that serves on, it keeps.
    fn only_what_retires_is_run_when_a_thread_comes_by() {
        let (old, serving) = (Plugin::load(), Plugin::load());
        let (gone, kept) = (old.register(), serving.register());
        let reaper = old.reaper();
        while !run_errands() {
            thread::yield_now();
        }
        reaper.join().unwrap();
        assert_eq!((gone.runs(), kept.runs()), (1, 0));
        end_current_thread();
        assert_eq!(kept.runs(), 1);
    }

    fn a_thread_ends_while_its_destructors_are_adopted() {
        let plugin = Plugin::load();
        let locals = [plugin.register_for_anybody(), plugin.register_for_anybody()];
        let adopter = {
            let plugin = plugin.clone();
            thread::spawn(move || plugin.book.adopt())
        };
        end_current_thread();
        locals.iter().for_each(|local| local.free());
        assert!(adopter.join().unwrap() <= 2);
        assert_eq!(locals.map(|local| local.runs()), [1, 1]);
        assert!(plugin.close());
    }

    fn a_thread_comes_by_while_its_destructors_are_adopted() {
        let plugin = Plugin::load();
        let locals = [plugin.register_for_anybody(), plugin.register_for_anybody()];
        let adopter = {
            let plugin = plugin.clone();
            thread::spawn(move || {
                plugin.book.retire();
                plugin.book.adopt();
                plugin.close()
            })
        };
        run_errands();
        let closed = adopter.join().unwrap();
        assert_eq!(locals.map(|local| local.runs()), [1, 1]);
        assert!(closed || plugin.close());
        end_current_thread();
    }

    /// What a thread of the plugin has registered is in use until its start routine returns.
    fn a_thread_of_the_plugin_runs_while_destructors_are_adopted() {
        let plugin = Plugin::load();
        plugin.start(|plugin| {
            let local = plugin.register();
            plugin.library.answer();
            assert_eq!(local.runs(), 0);
        });
        plugin.book.adopt();
        os::join_all();
        assert!(plugin.close());
    }

    /// Nobody closes the books of a host that has ended: they stay, for as long as there are threads.
    fn a_host_ends_before_a_thread() {
        let plugin = Plugin::load();
        let owner = {
            let plugin = plugin.clone();
            thread::spawn(move || {
                let local = plugin.register();
                drop(plugin);
                end_current_thread();
                local.free();
                assert_eq!(local.runs(), 1);
            })
        };
        plugin.book.retire();
        drop(plugin);
        owner.join().unwrap();
    }

    fn a_thread_of_the_plugin_ends_with_thread_locals() {
        let plugin = Plugin::load();
        plugin.start(|plugin| {
            plugin.register_that(Plugin::register_for_good);
        });
        plugin.reap();
        os::join_all();
        assert_eq!(plugin.pending(), 0);
    }

    /// The second one is counted by the first, which is alive then.
    fn a_thread_of_the_plugin_starts_another() {
        let plugin = Plugin::load();
        plugin.start(|plugin| plugin.start(|plugin| assert_eq!(plugin.library.answer(), 1)));
        plugin.reap();
        os::join_all();
    }

    fn a_thread_of_the_plugin_is_refused() {
        let plugin = Plugin::load();
        assert_ne!(plugin.start_refused(), 0);
        plugin.reap();
    }

    /// It is asked to clear up like any other thread.
    fn a_thread_of_one_plugin_has_thread_locals_of_another() {
        let (caller, callee) = (Plugin::load(), Plugin::load());
        caller.start({
            let callee = callee.clone();
            move |_| {
                let local = callee.register();
                let reaper = callee.reaper();
                while !run_errands() {
                    thread::yield_now();
                }
                reaper.join().unwrap();
                assert_eq!(local.runs(), 1);
            }
        });
        os::join_all();
        assert!(caller.close());
    }

    /// The value is destroyed before the library is closed, or is left alone.
    fn a_thread_ends_with_a_value_under_a_key() {
        let plugin = Plugin::load();
        let key = plugin.key();
        let value = plugin.set_value(key, |_| ());
        let _ = current_thread();
        let reaper = plugin.reaper();
        end_current_thread();
        value.free();
        reaper.join().unwrap();
        assert!(value.runs() <= 1);
        assert_ne!(os::key_delete(key), 0, "closing has deleted it");
    }

    fn a_key_is_deleted_while_a_thread_ends() {
        let plugin = Plugin::load();
        let keys = [plugin.key(), plugin.key(), plugin.key()];
        let value = plugin.set_value(keys[2], |_| ());
        let _ = current_thread();
        let deleter = {
            let plugin = plugin.clone();
            thread::spawn(move || assert_eq!(plugin.book.key_delete(keys[0]), 0))
        };
        end_current_thread();
        deleter.join().unwrap();
        assert_eq!(value.runs(), 1);
        assert!(plugin.close());
    }

    /// Its destructor registers another. The thread is alive until all that is done.
    fn a_thread_of_the_plugin_ends_with_a_value_under_a_key() {
        let plugin = Plugin::load();
        let key = plugin.key();
        plugin.start(move |plugin| {
            plugin.set_value(key, Plugin::register_for_good);
        });
        plugin.reap();
        os::join_all();
        assert_eq!(plugin.pending(), 0);
    }
}
