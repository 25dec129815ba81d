//! Commands about generations beside the one that serves: candidates, and those that are kept.

use super::Failure;
use super::args::{OutcomeArgs, PluginArgs, ReleaseArgs};
use super::client::{ask, pretty, print, transaction};
use crate::serve::protocol::Request;

/// `reseat promote`
pub fn promote(args: &OutcomeArgs) -> Result<(), Failure> {
    let shown = transaction(&args.state, &args.plugin, "promotion");
    let outcome = ask(&args.state, &Request::Promote { plugin: args.plugin.clone() })?;
    drop(shown);
    if args.json {
        return print(&pretty(&outcome));
    }
    let (generation, from) = (&outcome["generation"], &outcome["from"]);
    print(&format!("generation {generation} of {} serves, after generation {from}", args.plugin))
}

/// `reseat discard`
pub fn discard(args: &PluginArgs) -> Result<(), Failure> {
    ask(&args.state, &Request::Discard { plugin: args.plugin.clone() })?;
    print(&format!("the candidate of {} is discarded, and its build is denied", args.plugin))
}

/// `reseat release`
pub fn release(args: &ReleaseArgs) -> Result<(), Failure> {
    let (plugin, generation) = (args.plugin.clone(), args.generation);
    ask(&args.state, &Request::Release { plugin, generation })?;
    print(&format!("generation {generation} of {} is kept no longer", args.plugin))
}
