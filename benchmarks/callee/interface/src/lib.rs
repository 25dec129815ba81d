//! What is called, in every way that is compared.

use plugin_api::prelude::*;

/// The interface, for typed and for dynamic calls.
#[plugin_api::interface(version = "1.0")]
pub trait Callee {
    /// `a * 31 + b`, wrapping.
    fn step(&self, a: u64, b: u64) -> u64;
    /// The order with its total.
    fn price(&self, order: Order) -> Order;
    /// Where the library's [`Table`] is.
    fn table(&self) -> u64;
}

/// What calls the callee, from another plugin.
#[plugin_api::interface(version = "1.0")]
pub trait Caller {
    /// So many calls, each of which enters it, by a loop at a place of a cache line (`harness::calls::PLACES`).
    fn entering(&self, place: u32, count: u64);
    /// So many calls through one guard.
    fn keeping(&self, place: u32, count: u64);
}

/// What each of a thousand plugins implements.
#[plugin_api::interface(version = "1.0")]
pub trait Part {
    /// As [`Callee::step`].
    fn step(&self, a: u64, b: u64) -> u64;
}

/// A payload for dynamic calls.
#[derive(AbiType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Order {
    /// Who orders.
    pub customer: String,
    /// What, and how many.
    pub lines: Vec<Line>,
    /// What it costs.
    pub total: u64,
}

/// One line of an order.
#[derive(AbiType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Line {
    /// The article's name.
    pub article: String,
    /// How many.
    pub count: u32,
    /// The price of one.
    pub price: u64,
}

/// The same function behind a plain pointer: what nothing can be cheaper than.
#[repr(C)]
pub struct Table {
    /// As [`Callee::step`], with the instance that a method has.
    pub step: unsafe extern "C" fn(instance: *const u8, a: u64, b: u64) -> u64,
}

/// The symbol under which the library exports its [`Table`].
pub const TABLE: &str = "CALLEE_TABLE";
/// The symbol of the function itself.
pub const STEP: &str = "callee_step";
