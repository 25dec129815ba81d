use std::panic::{AssertUnwindSafe, catch_unwind};

use plugin_api::prelude::*;

use crate::in_process::Loaded;
use crate::kinds::{Metres, Pod, Shape};

#[plugin_api::interface(version = "1.0")]
pub trait Calls {
    fn none(&self, times: u32, f: &mut dyn FnMut());
    fn one(&self, words: &str, each: &mut dyn FnMut(String)) -> u32;
    fn two(&self, f: &mut dyn FnMut(u32, Option<String>));
    fn three(&self, f: &mut dyn FnMut(Pod, Vec<u8>, Shape)) -> Result<String>;
    fn both(&self, left: &mut dyn FnMut(u8), right: &mut dyn FnMut(u8));
    /// Catches the panic of the callback and calls it again.
    fn stubborn(&self, f: &mut dyn FnMut(u32)) -> u32;
    /// Calls the callback once more while it is unwound.
    fn parting_word(&self, f: &mut dyn FnMut(String));
    fn fine(&self) -> String;
}

struct Caller;

impl Plugin for Caller {
    fn create(_: &Services) -> Result<Self> {
        Ok(Caller)
    }
}

impl Calls for Caller {
    fn none(&self, times: u32, f: &mut dyn FnMut()) {
        (0..times).for_each(|_| f());
    }
    fn one(&self, words: &str, each: &mut dyn FnMut(String)) -> u32 {
        let words: Vec<_> = words.split_whitespace().map(String::from).collect();
        words.into_iter().map(each).count() as u32
    }
    fn two(&self, f: &mut dyn FnMut(u32, Option<String>)) {
        f(1, Some("one".into()));
        f(2, None);
    }
    fn three(&self, f: &mut dyn FnMut(Pod, Vec<u8>, Shape)) -> Result<String> {
        f(POD, vec![1, 2, 3], Shape::Polygon(vec![(1, -1)]));
        f(POD, vec![], Shape::Circle(0.5));
        Ok("done".into())
    }
    fn both(&self, left: &mut dyn FnMut(u8), right: &mut dyn FnMut(u8)) {
        for n in 0..4 {
            if n % 2 == 0 { left(n) } else { right(n) }
        }
    }
    fn stubborn(&self, f: &mut dyn FnMut(u32)) -> u32 {
        (0..3).filter(|n| catch_unwind(AssertUnwindSafe(|| f(*n))).is_ok()).count() as u32
    }
    fn parting_word(&self, f: &mut dyn FnMut(String)) {
        struct Parting<'a>(&'a mut dyn FnMut(String));
        impl Drop for Parting<'_> {
            fn drop(&mut self) {
                (self.0)("farewell".into());
            }
        }
        (Parting(f).0)("hello".into());
    }
    fn fine(&self) -> String {
        "fine".into()
    }
}

const POD: Pod = Pod { flag: true, count: 5, side: Metres(1.5), letters: ['a', 'b'] };

export_plugin!(Caller: Calls, name = "caller");

#[test]
fn a_callback_gets_what_the_plugin_hands_over_in_its_order() {
    let loaded = Loaded::<Caller>::create();
    let calls = loaded.enter::<dyn Calls>();

    let mut times = 0;
    calls.none(3, &mut || times += 1).unwrap();
    assert_eq!(times, 3);

    let mut words = Vec::new();
    assert_eq!(calls.one("to be or not", &mut |word| words.push(word)).unwrap(), 4);
    assert_eq!(words, ["to", "be", "or", "not"]);

    let mut pairs = Vec::new();
    calls.two(&mut |n, text| pairs.push((n, text))).unwrap();
    assert_eq!(pairs, [(1, Some("one".into())), (2, None)]);

    let mut all = Vec::new();
    assert_eq!(calls.three(&mut |pod, bytes, shape| all.push((pod, bytes, shape))).unwrap(), "done");
    assert_eq!(all, [(POD, vec![1, 2, 3], Shape::Polygon(vec![(1, -1)])), (POD, vec![], Shape::Circle(0.5))]);
}

#[test]
fn two_callbacks_are_told_apart() {
    let loaded = Loaded::<Caller>::create();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loaded.enter::<dyn Calls>().both(&mut |n| left.push(n), &mut |n| right.push(n)).unwrap();
    assert_eq!((left, right), (vec![0, 2], vec![1, 3]));
}

#[test]
fn a_callback_that_panics_unwinds_to_its_owner_with_its_own_payload() {
    let loaded = Loaded::<Caller>::create();
    let calls = loaded.enter::<dyn Calls>();
    let mut seen = 0;
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        calls.one("one two three", &mut |word| {
            seen += 1;
            if word == "two" {
                std::panic::panic_any(4711u32);
            }
        })
    }));
    assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&4711u32));
    assert_eq!(seen, 2, "it is not called again");
    assert_eq!(calls.fine().unwrap(), "fine", "and the plugin stays callable");
}

#[test]
fn a_callback_that_panicked_is_not_called_again_even_if_the_plugin_insists() {
    let loaded = Loaded::<Caller>::create();
    let calls = loaded.enter::<dyn Calls>();
    let mut seen = Vec::new();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        calls.stubborn(&mut |n| {
            seen.push(n);
            panic!("enough");
        })
    }));
    assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"enough"));
    assert_eq!(seen, [0]);
    assert_eq!(calls.stubborn(&mut |_| ()).unwrap(), 3);
}

#[test]
fn a_destructor_that_calls_back_during_the_unwinding_does_not_end_the_process() {
    let loaded = Loaded::<Caller>::create();
    let calls = loaded.enter::<dyn Calls>();
    let mut heard = Vec::new();
    calls.parting_word(&mut |word| heard.push(word)).unwrap();
    assert_eq!(heard, ["hello", "farewell"]);
    let unwound = catch_unwind(AssertUnwindSafe(|| calls.parting_word(&mut |_| panic!("silence"))));
    assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"silence"));
}

#[test]
fn a_callback_may_call_the_plugin() {
    let loaded = Loaded::<Caller>::create();
    let calls = loaded.enter::<dyn Calls>();
    let mut answers = Vec::new();
    calls
        .none(2, &mut || {
            let mut inner = 0;
            calls.none(5, &mut || inner += 1).unwrap();
            answers.push((calls.fine().unwrap(), inner));
        })
        .unwrap();
    assert_eq!(answers, [("fine".into(), 5), ("fine".into(), 5)]);
}
