//! What the plugins of one transaction know of one another: who changes with whom, and who stays.

use std::sync::Arc;

use crate::file::{InterfaceManifest, Manifest};
use crate::peer::Calls;
use crate::plugin::{Build, Plugin, Serving, Transaction, Used};

/// The plugins of one transaction, providers before those who call them. Whoever has it has the turn of each.
pub(crate) struct Together {
    pub(super) members: Vec<Member>,
}

/// One of them.
pub(super) struct Member {
    pub(super) turn: Transaction,
    pub(super) plugin: Arc<Plugin>,
    /// What is to serve.
    pub(super) build: Arc<Build>,
    /// What does.
    pub(super) serving: Option<Serving>,
}

impl Member {
    /// As it stands now.
    pub(super) fn new(turn: Transaction, plugin: Arc<Plugin>, build: Arc<Build>) -> Member {
        let serving = plugin.record().serving.clone();
        Member { turn, plugin, build, serving }
    }
}

impl Together {
    pub(super) fn alone(turn: Transaction, plugin: &Arc<Plugin>, build: impl Into<Arc<Build>>) -> Together {
        Together { members: vec![Member::new(turn, plugin.clone(), build.into())] }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.members.iter().any(|member| member.turn.is_cancelled())
    }

    /// The manifest of what is to serve of a plugin, if it changes.
    pub(crate) fn manifest_of(&self, plugin: &Plugin) -> Option<&Manifest> {
        self.member(plugin).map(|member| &member.build.manifest)
    }

    pub(super) fn member(&self, plugin: &Plugin) -> Option<&Member> {
        self.members.iter().find(|member| std::ptr::eq(&*member.plugin, plugin))
    }

    /// The interfaces of a plugin that the host has handles of, or that somebody calls who stays or comes, by number. What
    /// only those call who leave with this transaction is not among them.
    pub(super) fn used_of(&self, plugin: &Plugin) -> Vec<(usize, Arc<InterfaceManifest>)> {
        let record = plugin.record();
        let used = record.interfaces.iter().enumerate();
        let used = used.filter(|(_, used)| self.is_in_use(used));
        used.map(|(number, used)| (number, used.interface.clone())).collect()
    }

    /// Whether somebody uses it who stays or comes.
    pub(super) fn is_in_use(&self, used: &Used) -> bool {
        used.by_the_host || used.callers() > self.leaving().map(|calls| calls.of(used)).sum()
    }

    /// What those call who serve and are to be replaced.
    fn leaving(&self) -> impl Iterator<Item = &Calls> {
        self.members.iter().filter_map(|member| member.serving.as_ref()).map(|serving| &*serving.calls)
    }
}
