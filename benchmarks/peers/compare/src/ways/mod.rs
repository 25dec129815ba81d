//! The ways of calling that are compared, one file for each library.

pub mod with_dynamic_reload;
pub mod with_hot_lib_reloader;
pub mod with_hotload;
pub mod with_relib;
pub mod with_reseat;
pub mod with_tables;
