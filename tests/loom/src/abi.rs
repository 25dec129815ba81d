//! The two types of the boundary that the books speak of. Here a destructor may unwind, so that what fails in
//! one is reported.

use std::ffi::c_void;

pub type ThreadExitFn = unsafe extern "C-unwind" fn(object: *mut c_void);
pub type ThreadStartFn = unsafe extern "C-unwind" fn(argument: *mut c_void) -> *mut c_void;
