//! What an author sees who asks for something that cannot be: each misuse beside its message.
//!
//! `TRYBUILD=overwrite cargo test -p reseat-plugin-api --test ui` writes the messages anew; read each as the
//! author would.

#[test]
fn each_misuse_is_answered_with_a_sentence() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
