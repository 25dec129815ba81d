//! What happens when native code is replaced while it is in use: one host, real libraries, real threads.

#![allow(clippy::result_large_err)] // as in the library: a refusal carries what a person needs

/// A browser, driven from outside.
mod browser;
/// Threads that call without pause.
mod callers;
/// A process of its own, for what would harm this one.
mod child;
/// The bytes of libraries: fixtures, and what is made from them.
mod library;
/// Threads that live on while generations come and go.
mod long_lived;
/// Twelve plugins that call one another, and how several of them change.
mod net;
/// What the kernel and the C library say about this process.
mod process;
/// The `reseat` program, run as a person would.
mod program;
/// A directory with plugins, and a host that watches it.
mod scene;
/// Waiting for a condition, with a deadline.
mod waiting;
/// A copy of the example plugin that is changed and built.
mod workshop;

/// Fourteen kinds of bad builds, again and again, under load.
mod artefacts;
/// What a host that can be reached is asked by those who mean harm.
mod attacks;
/// Files that are not what they should be.
mod bad_files;
/// Batches of several consumers, and reloads between them.
mod batches;
/// How much may linger, and what becomes of it.
mod budget;
/// Builds that somebody else runs, what is told of them, and a file that is tried again; `reseat dev` with many crates.
mod builds;
/// Calls and their outcomes: typed and by name, nested, leased, panicking, large.
mod calls;
/// Candidates: builds that get a part of the scopes before they take over.
mod canary;
/// What becomes of candidates when something else happens meanwhile.
mod canary_meanwhile;
/// What the reloaders of other languages are known to fail at.
mod classics;
/// The command line, HTTP, and what they say.
mod cli;
/// What an operator does with candidates and with old generations that are kept.
mod cli_generations;
/// What an operator types beside that: settings, events, listings, the manual, and how an end is told.
mod cli_operator;
/// `reseat state`, and what `reseat run` begins with.
mod cli_state;
/// Code that runs when a library is opened.
mod constructors;
/// The dashboard, in a browser.
mod dashboard;
/// Things that happen at the same time.
mod encounters;
/// Real builds of a real plugin, under load.
mod end_to_end;
/// The end of a host while something else is under way in it.
mod endings;
/// Things that go wrong on purpose, at every step, in the host and in the plugin.
mod faults;
/// Old generations that stay beside the one that serves, for those who ask for them.
mod generations;
/// State on its way from one build to the next, and what can go wrong on it.
mod handover;
/// Who holds a generation: the thread, the method, and since when.
mod holders;
/// What programs read of a host, and what the documentation says of that.
mod json;
/// What a host keeps for the next one: builds and states.
mod kept;
/// Hosts that are killed, and how the next one begins.
mod killed;
/// Plugins that are opened at their first call.
mod lazy;
/// Calls that last, and are told when something waits for them.
mod leaving;
/// What the dashboard is made from: the stream of events and states, and what is done over HTTP.
mod live;
/// Every shape of plugin, a hundred times over; an outside observer says what is mapped. And the soak.
mod matrix;
/// What is done with one plugin while another, or the same, is being replaced.
mod meanwhile;
/// What a host says of itself to those who watch over many.
mod metrics;
/// When builds take over: at once, on demand, between scopes, never, and not too soon after one another.
mod modes;
/// What `reseat new` writes: it builds, passes its tests, and serves.
mod new_plugin;
/// Who is told of what comes and goes, and in which order.
mod observers;
/// Builds that fit one another only, and files that change at the same time.
mod partners;
/// Builds that have taken over and prove bad, and the way back.
mod probation;
/// Builds that are tried in a helper process, and what they do there.
mod probe;
/// What the README says of the source, and what the book and the README name.
mod readme;
/// Memory that builds hand on to one another as it is.
mod regions;
/// What plugins register with a host, and what becomes of that when they are replaced.
mod registrations;
/// The ways in which files change, and what follows from each.
mod reloads;
/// Plugins that call plugins.
mod requirements;
/// Units of work that see one generation of each plugin.
mod scopes;
/// What service managers, terminals and containers expect of a host.
mod service;
/// Plugins that change at one moment, all of them or none.
mod sets;
/// Options and settings that change while a host runs.
mod settings;
/// Libraries that somebody has to have signed.
mod signed;
/// What the host says of what it does, and what reaches a plugin from it.
mod status_and_events;
/// Calls that do not end, callers that wait for them, and plugins that reload themselves.
mod stuck;
/// Many threads, many plugins, many builds.
mod threads;
/// House rules that a machine can check.
mod tidy;
/// Requests of an HTTP service that are units of work.
mod tower;
/// Who is told around units of work.
mod units;
/// Whether what is replaced is out of memory, and why not.
mod unload;
/// Builds of five state versions: which take over from which, and what becomes of the state.
mod versions;
/// Who tells a host of files: the system, a clock, somebody, an embedder's own source.
mod watchers;
/// Who waits for whom.
mod why;
/// Who is in a library by what is on the stacks, against what the host counts.
mod witness;
