//! Collects errors, so that an author sees all of them at once.

use syn::Error;

#[derive(Default)]
pub struct Errors(Option<Error>);

impl Errors {
    /// Keeps the error, hands on the value.
    pub fn note<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        match (result, &mut self.0) {
            (Ok(value), _) => return Some(value),
            (Err(error), Some(all)) => all.combine(error),
            (Err(error), none) => *none = Some(error),
        }
        None
    }

    /// Is there none?
    pub fn none(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
