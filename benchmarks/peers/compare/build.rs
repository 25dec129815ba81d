//! Lets relib generate the host's side of the exports.

fn main() {
    relib_interface::host::generate_exports(relib_shared::EXPORTS, "relib_shared::exports::Exports");
}
