//! Lets relib generate the module's side of the exports.

fn main() {
    relib_interface::module::generate_exports(relib_shared::EXPORTS, "relib_shared::exports::Exports");
}
