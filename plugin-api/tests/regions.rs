//! Regions in a program without a host, such as a plugin's own tests: ordinary memory, kept by the services.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};

use plugin_api::prelude::*;
use plugin_api::region::{LIMIT, layout_of};
use plugin_api::testing::{hand_over, services};

#[derive(Shared)]
#[repr(C)]
struct Cell {
    hits: AtomicU64,
}

/// As a later build has it: on cache lines of its own.
#[derive(Shared)]
#[repr(C, align(64))]
struct Wide {
    hits: AtomicU64,
    kinds: [AtomicU8; 3],
}

struct First(Region<Cell>);

impl Plugin for First {
    const STATE_VERSION: u32 = 1;
    fn create(host: &Services) -> Result<Self> {
        Ok(First(host.region("cells", 3)?))
    }
    fn restore(host: &Services, _: Saved) -> Result<Self> {
        Self::create(host)
    }
}

struct Second(Region<Wide>);

impl Plugin for Second {
    const STATE_VERSION: u32 = 1;
    fn create(host: &Services) -> Result<Self> {
        Ok(Second(host.region("cells", 4)?))
    }
    fn restore(host: &Services, _: Saved) -> Result<Self> {
        let new = Self::create(host)?;
        if let Some(before) = new.0.take_before() {
            let old = before.as_slice_of::<Cell>().context("these are other cells")?;
            new.0.iter().zip(old).for_each(|(new, old)| new.hits.store(old.hits.load(SeqCst), SeqCst));
        }
        Ok(new)
    }
}

fn hits(cells: &Region<Wide>) -> Vec<u64> {
    cells.iter().map(|cell| cell.hits.load(SeqCst)).collect()
}

#[test]
fn a_region_is_zero_at_first_and_handed_on_as_it_is() {
    let host = services("cells", serde_json::json!({}));
    let first = First::create(&host).unwrap();
    assert!(first.0.is_new() && first.0.serves() && first.0.take_before().is_none());
    assert_eq!((first.0.len(), first.0[2].hits.load(SeqCst)), (3, 0));
    first.0[2].hits.store(7, SeqCst);
    let next: First = hand_over(&first, &host).unwrap();
    assert!(!next.0.is_new());
    assert_eq!(next.0[2].hits.fetch_add(1, SeqCst), 7);
    assert_eq!(first.0[2].hits.load(SeqCst), 8);
    // Others have their own.
    let other = services("cells", serde_json::json!({}));
    assert_eq!(First::create(&other).unwrap().0[2].hits.load(SeqCst), 0);
}

#[test]
fn a_build_with_another_layout_converts_what_it_finds() {
    let host = services("cells", serde_json::json!({}));
    let first = First::create(&host).unwrap();
    (1..).zip(&*first.0).for_each(|(hits, cell)| cell.hits.store(hits, SeqCst));
    let second: Second = hand_over(&first, &host).unwrap();
    assert_eq!(hits(&second.0), [1, 2, 3, 0]);
    assert!(second.0.is_new() && second.0.take_before().is_none());
    assert_eq!(second.0.as_ptr().addr() % 64, 0);
    let again: Second = hand_over(&second, &host).unwrap();
    assert_eq!(hits(&again.0), [1, 2, 3, 0]);
}

#[test]
fn what_was_before_can_be_read_as_bytes_and_outlives_the_rest() {
    let host = services("cells", serde_json::json!({}));
    host.region::<AtomicU8>("bytes", 3).unwrap()[1].store(5, SeqCst);
    let before = host.region::<AtomicU8>("bytes", 4).unwrap().take_before().unwrap();
    drop(host);
    assert_eq!((before.to_vec(), before.layout()), (vec![0, 5, 0], layout_of::<AtomicU8>()));
    assert!(before.as_slice_of::<Cell>().is_none());
    assert_eq!(before.as_slice_of::<AtomicU8>().unwrap().len(), 3);
}

#[test]
fn what_cannot_be_is_an_error() {
    let host = services("cells", serde_json::json!({}));
    let refused = |name: &str, len| host.region::<Cell>(name, len).unwrap_err().to_string();
    assert!(refused("", 1).starts_with("a region's name has 1 to 64 bytes"));
    assert!(refused("a\nb", 1).ends_with(r#"this one is "a\nb""#));
    assert!(refused(&"n".repeat(65), 1).starts_with("a region's name"));
    assert_eq!(
        refused("none", 0),
        "region `none` would be empty: ask for at least one element, of at least one byte"
    );
    assert!(refused("all", usize::MAX).contains("are more than there can be"));
    assert!(refused("half", usize::MAX / 16).contains("are more than there can be"));
    for number in 0..LIMIT {
        host.region::<Cell>(&number.to_string(), 1).unwrap();
    }
    assert_eq!(refused("more", 1), "a plugin can have at most 64 regions");
}
