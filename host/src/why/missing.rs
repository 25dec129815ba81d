//! What plugins require and do not have, from one to the next: it waits for one that waits for another.

use std::collections::{BTreeMap, BTreeSet};

use super::Missing;
use crate::file::{Manifest, RequirementManifest};
use crate::lock::lock;
use crate::registry::Core;
use crate::requirements::implements;

/// What a plugin lacks, then what those lack who would implement that, and so on; and a circle among them.
pub(super) fn missing(core: &Core, plugin: &str) -> (Vec<Missing>, Vec<String>) {
    let waiting = lock(&core.waiting).clone();
    let mut chain = Chain { core, waiting, seen: BTreeSet::new(), found: Vec::new(), circle: Vec::new() };
    chain.follow(&mut vec![plugin.to_owned()]);
    (chain.found, chain.circle)
}

struct Chain<'a> {
    core: &'a Core,
    /// The builds that have been looked at and do not serve, by plugin.
    waiting: BTreeMap<String, Manifest>,
    seen: BTreeSet<String>,
    found: Vec<Missing>,
    circle: Vec<String>,
}

impl Chain<'_> {
    /// On from the last plugin of a path.
    fn follow(&mut self, path: &mut Vec<String>) {
        let of = path.last().expect("it begins with one").clone();
        if !self.seen.insert(of.clone()) {
            return;
        }
        let requires = self.waiting.get(&of).map(|manifest| manifest.requires.clone()).unwrap_or_default();
        let lacks = requires.iter().filter(|requirement| !requirement.optional);
        let lacks: Vec<_> = lacks.filter_map(|requirement| self.lack(&of, requirement)).collect();
        let next: Vec<_> = lacks.iter().flat_map(|missing| missing.waiting.clone()).collect();
        self.found.extend(lacks);
        for plugin in next {
            match path.iter().position(|one| *one == plugin) {
                Some(at) if self.circle.is_empty() => self.circle = path[at..].to_vec(),
                Some(_) => {}
                None => {
                    path.push(plugin);
                    self.follow(path);
                    path.pop();
                }
            }
        }
    }

    /// `None`: there is exactly one that serves.
    fn lack(&self, of: &str, requirement: &RequirementManifest) -> Option<Missing> {
        let wanted = &requirement.interface;
        let (fitting, unfit) = self.core.implementing(of, wanted, None);
        if fitting.len() == 1 {
            return None;
        }
        let named = self.core.named(of, wanted);
        let is_asked = |name: &str| name != of && named.as_deref().is_none_or(|named| named == name);
        let would = |it: &&Manifest| is_asked(&it.plugin) && matches!(implements(it, wanted), Some(Ok(())));
        let waiting = self.waiting.values().filter(would).filter(|_| fitting.is_empty());
        Some(Missing {
            plugin: of.to_owned(),
            interface: wanted.name.clone(),
            version: wanted.version.to_string(),
            waiting: waiting.map(|it| it.plugin.clone()).collect(),
            several: fitting.iter().map(|plugin| plugin.name.clone()).collect(),
            of: named,
            unfit,
        })
    }
}
