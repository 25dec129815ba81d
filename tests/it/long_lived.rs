use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use reseat::{CallError, Handle};
use reseat_tests::misc::Misc;

use crate::waiting::DEADLINE;

/// A thread that calls when it is told to, and otherwise sleeps.
pub struct LongLived {
    orders: Sender<Order>,
    answers: Receiver<Result<String, CallError>>,
    thread: JoinHandle<()>,
}

enum Order {
    Call(String),
    ComeBy,
    Quiesce,
}

impl LongLived {
    pub fn new(name: &str, misc: &Handle<dyn Misc>) -> LongLived {
        let (orders, ordered) = channel();
        let (answer, answers) = channel();
        let misc = misc.clone();
        let run = move || {
            for order in ordered {
                let result = match order {
                    Order::Call(what) => misc.enter().and_then(|guard| guard.call(&what)),
                    Order::ComeBy => misc.enter().map(|_guard| String::new()),
                    Order::Quiesce => Ok(reseat::quiesce().to_string()),
                };
                let _ = answer.send(result);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run).expect("a thread");
        LongLived { orders, answers, thread }
    }

    #[track_caller]
    fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    #[track_caller]
    fn done(&self) -> String {
        self.answers.recv_timeout(DEADLINE).unwrap().unwrap()
    }

    /// Calls; what it was answered.
    #[track_caller]
    pub fn call(&self, what: &str) -> String {
        self.order(Order::Call(what.to_owned()));
        self.done()
    }

    pub fn end(self) {
        drop(self.orders);
        self.thread.join().unwrap();
    }
}

/// All of them call, at the same time; each is answered with what it has said.
#[track_caller]
pub fn call_all(threads: &[LongLived], what: &str) {
    threads.iter().for_each(|thread| thread.order(Order::Call(what.to_owned())));
    for thread in threads {
        let said = thread.done();
        assert!(said.starts_with(what), "{said:?}");
    }
}

/// All of them enter a call, and do not make it.
#[track_caller]
pub fn all_come_by(threads: &[LongLived]) {
    threads.iter().for_each(|thread| thread.order(Order::ComeBy));
    threads.iter().for_each(|thread| drop(thread.done()));
}

/// All of them clear away what old generations have left with them.
#[track_caller]
pub fn all_quiesce(threads: &[LongLived]) {
    threads.iter().for_each(|thread| thread.order(Order::Quiesce));
    threads.iter().for_each(|thread| drop(thread.done()));
}
