use plugin_api::prelude::*;

export_plugin!();

fn main() {}
