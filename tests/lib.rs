//! The interfaces of the fixtures, shared by the fixtures that implement them and the tests that call them, and
//! the few things that many fixtures need.
//!
//! Modules that declare the same trait stand for builds of one interface at different times.

/// Things that say who they are: the plainest interface.
#[path = "interfaces/echo.rs"]
pub mod echo;

/// `Echo` after somebody gave `say` another parameter.
#[path = "interfaces/echo_signature.rs"]
pub mod echo_signature;

/// `Echo` after somebody reordered the fields of `Measure`.
#[path = "interfaces/echo_layout.rs"]
pub mod echo_layout;

/// `Echo` 1.1: one more method.
#[path = "interfaces/echo_appended.rs"]
pub mod echo_appended;

/// State that must not get lost.
#[path = "interfaces/counter.rs"]
pub mod counter;

/// `Counter` in its next major version.
#[path = "interfaces/counter_next.rs"]
pub mod counter_next;

/// Plugins that call one another in a net.
#[path = "interfaces/node.rs"]
pub mod node;

/// State in five versions, and the steps between them.
#[path = "interfaces/tally.rs"]
pub mod tally;

/// State in a region, that builds hand on as it is.
#[path = "interfaces/cells.rs"]
pub mod cells;

/// Calls that last, that call back, that are large, or whose meaning is a fixture's own business.
#[path = "interfaces/misc.rs"]
pub mod misc;

/// Methods that are called by what they are registered as.
#[path = "interfaces/registers.rs"]
pub mod registers;

/// Calls that last until they are told to leave.
#[path = "interfaces/streams.rs"]
pub mod streams;

/// Waiting inside of a plugin, until a test says go.
#[path = "interfaces/held.rs"]
pub mod held;

/// A number in the library's bytes that a test can change, to make another build without a compiler.
#[path = "interfaces/stamp.rs"]
pub mod stamp;

/// Code that runs when a library is opened.
#[path = "interfaces/constructor.rs"]
pub mod constructor;

/// C code that fixtures can link.
#[path = "interfaces/in_c.rs"]
pub mod in_c;

/// What can go wrong in a plugin, as a number that a test can change in the library's bytes.
#[path = "interfaces/fault.rs"]
pub mod fault;
