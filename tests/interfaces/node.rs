use plugin_api::prelude::*;

/// One place in a net of plugins, as those call it that have it on their left.
#[plugin_api::interface(version = "1.0")]
pub trait Left {
    /// Who was called on the way down, this one first: see [`mark`].
    fn left(&self) -> Result<Vec<u32>>;
}

/// The same plugin, as those call it that have it on their right.
#[plugin_api::interface(version = "1.0")]
pub trait Right {
    /// See [`Left::left`].
    fn right(&self) -> Result<Vec<u32>>;
}

/// What tests ask of a place.
#[plugin_api::interface(version = "1.0")]
pub trait Node {
    /// See [`Left::left`].
    fn down(&self) -> Result<Vec<u32>>;
    /// The same, but waits for a while before it goes on, see [`crate::held::hold`].
    fn down_later(&self, until: &str) -> Result<Vec<u32>>;
    /// How often it was called, if it has a state.
    fn calls(&self) -> u64;
}

/// Whom a place calls.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Below {
    /// Somebody who implements [`Left`].
    pub left: bool,
    /// Somebody who implements [`Right`].
    pub right: bool,
}

/// A place and its build: node 7 of build 12 is 70012.
pub fn mark(name: &str, build: u32) -> u32 {
    let number: u32 = name.trim_start_matches("node").parse().expect("nodes are numbered");
    number * 10_000 + build
}

/// Which node, and which build of it.
pub fn marked(mark: u32) -> (u32, u32) {
    (mark / 10_000, mark % 10_000)
}

/// Implements the three for a type with `name`, `left`, `right` and a function `count`, and exports it as `node00`.
#[macro_export]
macro_rules! is_node {
    ($plugin:ty) => {
        impl $plugin {
            fn trace(&self) -> plugin_api::prelude::Result<Vec<u32>> {
                let mut met = vec![$crate::node::mark(&self.name, reseat_tests::stamp!())];
                self.count();
                if let Some(left) = &self.left {
                    met.extend(left.enter()?.left()?);
                }
                if let Some(right) = &self.right {
                    met.extend(right.enter()?.right()?);
                }
                Ok(met)
            }
        }

        impl $crate::node::Left for $plugin {
            fn left(&self) -> plugin_api::prelude::Result<Vec<u32>> {
                self.trace()
            }
        }

        impl $crate::node::Right for $plugin {
            fn right(&self) -> plugin_api::prelude::Result<Vec<u32>> {
                self.trace()
            }
        }

        impl $crate::node::Node for $plugin {
            fn down(&self) -> plugin_api::prelude::Result<Vec<u32>> {
                self.trace()
            }
            fn down_later(&self, until: &str) -> plugin_api::prelude::Result<Vec<u32>> {
                $crate::held::hold(until);
                self.trace()
            }
            fn calls(&self) -> u64 {
                self.counted()
            }
        }

        use $crate::node::{Left, Node, Right};
        plugin_api::export_plugin!(
            $plugin: Node + Left + Right,
            name = "node00",
            requires = [optional Left, optional Right]
        );
    };
}
