//! Declarations that are a little unusual, under the strictest lints: generated code must not be the author's
//! problem. That this file compiles, and passes clippy, is the test.
#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    unused,
    unreachable_pub,
    single_use_lifetimes,
    trivial_casts,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used
)]

use plugin_api::prelude::*;

/// An ordinary interface, with all kinds of arguments.
#[plugin_api::interface(version = "1.3")]
pub trait Ordinary {
    /// Nothing in, nothing out.
    fn nothing(&self);
    /// Lends and gives, one parameter without a name.
    fn lent(&self, text: &str, bytes: &[u8], pod: &Pod, _: u32) -> Option<String>;
    /// Takes callbacks.
    ///
    /// # Errors
    /// Never.
    fn callback(&self, each: &mut dyn FnMut(Pod, String)) -> Result<()>;
    /// A unit as an argument.
    fn unit(&self, unit: ());
    /// Has a body.
    fn provided(&self, number: u32) -> u32 {
        number + 1
    }
    /// Came later.
    #[since("1.3")]
    #[must_use]
    fn later(&self) -> Vec<Shape>;
    /// Six arguments, which are eight in the exported function.
    ///
    /// # Errors
    /// Never.
    fn six(&self, one: u8, two: u8, three: u8, four: u8, five: u8, six: u8) -> Result<Vec<(u8, [u16; 2])>>;
    /// Goes soon.
    #[deprecated(since = "1.2.0", note = "use `later`")]
    fn goes_soon(&self) -> u8;
}

/// Nothing but callbacks: the JSON entry can refuse only.
#[plugin_api::interface(version = "1.0")]
pub trait OnlyCallbacks {
    /// Calls back.
    fn each(&self, f: &mut dyn FnMut());
}

/// Not public.
#[plugin_api::interface(version = "1.0")]
trait Private {
    fn private(&self, hidden: Hidden) -> Hidden;
}

#[derive(AbiType, Clone, Copy)]
#[repr(C)]
struct Hidden {
    inside: u8,
}

/// Public, around something that is not.
#[derive(AbiType, Clone, Copy)]
#[repr(C)]
pub struct Pod {
    hidden: Hidden,
    #[deprecated]
    old: u16,
}

/// An enum with one variant that is on its way out.
#[derive(AbiType, Clone)]
pub enum Shape {
    /// Nothing.
    Point,
    /// Something.
    #[deprecated]
    Circle(f64, Option<String>),
    /// More.
    Named {
        /// Its name.
        name: String,
    },
}

/// Declares an interface inside of a macro, with types from both sides of it.
macro_rules! declared_by_a_macro {
    ($name:ident, $method:ident, $ty:ty) => {
        /// Declared by a macro.
        #[plugin_api::interface(version = "1.0")]
        pub trait $name {
            /// A type from outside, and types from inside.
            fn $method(&self, given: $ty, own: String, lent: &[u16]) -> Vec<$ty>;
        }
    };
}
declared_by_a_macro!(ByMacro, by_macro, Option<(u8, String)>);

struct Everything;

impl Plugin for Everything {
    fn create(_: &Services) -> Result<Self> {
        Ok(Everything)
    }
}

impl Ordinary for Everything {
    fn nothing(&self) {}
    fn lent(&self, text: &str, _: &[u8], pod: &Pod, number: u32) -> Option<String> {
        Some(format!("{text} {} {number}", pod.hidden.inside))
    }
    fn callback(&self, each: &mut dyn FnMut(Pod, String)) -> Result<()> {
        #[expect(deprecated)]
        let pod = Pod { hidden: Hidden { inside: 1 }, old: 2 };
        each(pod, "two".into());
        Ok(())
    }
    fn unit(&self, (): ()) {}
    fn later(&self) -> Vec<Shape> {
        vec![Shape::Point, Shape::Named { name: "a".into() }]
    }
    fn six(&self, one: u8, two: u8, three: u8, four: u8, five: u8, six: u8) -> Result<Vec<(u8, [u16; 2])>> {
        ensure!(one > two, "{three}");
        Ok(vec![(four, [u16::from(five), u16::from(six)])])
    }
    fn goes_soon(&self) -> u8 {
        1
    }
}

impl OnlyCallbacks for Everything {
    fn each(&self, f: &mut dyn FnMut()) {
        f();
    }
}

impl Private for Everything {
    fn private(&self, hidden: Hidden) -> Hidden {
        hidden
    }
}

impl ByMacro for Everything {
    fn by_macro(&self, given: Option<(u8, String)>, _: String, _: &[u16]) -> Vec<Option<(u8, String)>> {
        vec![given]
    }
}

export_plugin!(Everything: Ordinary + OnlyCallbacks + Private + ByMacro);

#[test]
fn generated_code_is_quiet_under_the_strictest_lints() {
    let host = plugin_api::testing::services("everything", serde_json::json!({}));
    let plugin = Everything::create(&host).expect("it has no reason to fail");
    assert_eq!(plugin.provided(1), 2);
    assert_eq!(plugin.by_macro(None, String::new(), &[]), [None]);
    assert_eq!(plugin.private(Hidden { inside: 3 }).inside, 3);
}
