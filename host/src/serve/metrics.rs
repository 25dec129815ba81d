//! `GET /metrics`: what the host does, in the text format of Prometheus.
//!
//! What happens is counted as it happens; what is, is asked when somebody looks.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use reseat::{CallFigures, Event, Host, Phase, StepTime};

/// From 0.1 ms to 100 s.
const SECONDS: [f64; 13] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
/// From 100 ns to 1 s, for calls; in nanoseconds.
const CALL_NANOS: [u64; 15] = [
    100,
    300,
    1_000,
    3_000,
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Of {
    plugin: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct At {
    plugin: String,
    step: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Why {
    plugin: String,
    step: String,
    reason: String,
}

/// Counts what happens. A clone counts in the same place.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Counts>>);

struct Counts {
    registry: Registry,
    loads: Family<Of, Counter>,
    reloads: Family<Of, Counter>,
    rollbacks: Family<Of, Counter>,
    promotions: Family<Of, Counter>,
    discards: Family<Of, Counter>,
    unloads: Family<Of, Counter>,
    refusals: Family<Why, Counter>,
    reload_seconds: Family<Of, Histogram, fn() -> Histogram>,
    closed_seconds: Family<Of, Histogram, fn() -> Histogram>,
    step_seconds: Family<At, Histogram, fn() -> Histogram>,
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    fn new() -> Metrics {
        let counts = Counts {
            registry: Registry::default(),
            loads: Family::default(),
            reloads: Family::default(),
            rollbacks: Family::default(),
            promotions: Family::default(),
            discards: Family::default(),
            unloads: Family::default(),
            refusals: Family::default(),
            reload_seconds: Family::new_with_constructor(histogram),
            closed_seconds: Family::new_with_constructor(histogram),
            step_seconds: Family::new_with_constructor(histogram),
        };
        let mut registry = Registry::with_prefix("reseat");
        registry.register("loads", "Plugins that began to serve", counts.loads.clone());
        registry.register("reloads", "Builds that took over from another", counts.reloads.clone());
        registry.register("rollbacks", "Builds that took over again", counts.rollbacks.clone());
        registry.register("promotions", "Candidates that took over", counts.promotions.clone());
        registry.register("discards", "Candidates that were discarded", counts.discards.clone());
        registry.register("unloads", "Old generations that are out of memory", counts.unloads.clone());
        registry.register(
            "refusals",
            "Builds that were refused, by the step that did and the reason",
            counts.refusals.clone(),
        );
        registry.register_with_unit(
            "reload",
            "From noticing a file to its serving",
            Unit::Seconds,
            counts.reload_seconds.clone(),
        );
        registry.register_with_unit(
            "gate_closed",
            "How long callers may have waited for a handover",
            Unit::Seconds,
            counts.closed_seconds.clone(),
        );
        registry.register_with_unit(
            "reload_step",
            "What each step of a reload took",
            Unit::Seconds,
            counts.step_seconds.clone(),
        );
        Metrics(Arc::new(Mutex::new(Counts { registry, ..counts })))
    }

    /// Counts what happens in a host from its beginning to its end.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn of(host: &Host) -> io::Result<Metrics> {
        let metrics = Metrics::new();
        // Subscribed before the past is read, so that nothing falls between the two.
        let mut events = host.events();
        let past = host.recent_events();
        past.iter().for_each(|recorded| metrics.count(&recorded.event));
        let last = past.last().map_or(0, |recorded| recorded.sequence);
        let counting = metrics.clone();
        std::thread::Builder::new().name("reseat-metrics".into()).spawn(move || {
            while let Some(recorded) = events.next_recorded() {
                if recorded.sequence > last {
                    counting.count(&recorded.event);
                }
            }
        })?;
        Ok(metrics)
    }

    /// Counts an event.
    fn count(&self, event: &Event) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |plugin: &String| Of { plugin: plugin.clone() };
        match event {
            Event::Loaded { plugin, took_ms, steps, .. } => {
                counts.loads.get_or_create(&of(plugin)).inc();
                counts.took(plugin, *took_ms, steps);
            }
            Event::Reloaded { plugin, took_ms, closed_ms, steps, .. } => {
                counts.reloads.get_or_create(&of(plugin)).inc();
                counts.closed_seconds.get_or_create(&of(plugin)).observe(closed_ms / 1e3);
                counts.took(plugin, *took_ms, steps);
            }
            Event::RolledBack { plugin, closed_ms, .. } => {
                counts.rollbacks.get_or_create(&of(plugin)).inc();
                counts.closed_seconds.get_or_create(&of(plugin)).observe(closed_ms / 1e3);
            }
            Event::Promoted { plugin, .. } => drop(counts.promotions.get_or_create(&of(plugin)).inc()),
            Event::Discarded { plugin, .. } => drop(counts.discards.get_or_create(&of(plugin)).inc()),
            Event::Unloaded { plugin, .. } => drop(counts.unloads.get_or_create(&of(plugin)).inc()),
            Event::Refused { plugin, step, kind, .. } => {
                let (plugin, reason) = (plugin.clone().unwrap_or_default(), (*kind).to_owned());
                counts.refusals.get_or_create(&Why { plugin, step: step.to_string(), reason }).inc();
            }
            _ => {}
        }
    }

    /// All of it, as text, with what is now.
    ///
    /// # Errors
    /// None that a text can have.
    pub fn text(&self, host: &Host) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &counts.registry)?;
        // The end is written by what is now.
        let counted = text.strip_suffix("# EOF\n").unwrap_or(&text).to_owned();
        let mut now = Registry::with_prefix("reseat");
        now.register_collector(Box::new(Now { status: host.status(), figures: host.figures() }));
        let mut text = counted;
        encode(&mut text, &now)?;
        Ok(text)
    }
}

impl Counts {
    fn took(&self, plugin: &str, took_ms: f64, steps: &[StepTime]) {
        let plugin = plugin.to_owned();
        self.reload_seconds.get_or_create(&Of { plugin: plugin.clone() }).observe(took_ms / 1e3);
        for StepTime { step, ms } in steps {
            let at = At { plugin: plugin.clone(), step: step.to_string() };
            self.step_seconds.get_or_create(&at).observe(ms / 1e3);
        }
    }
}

/// What is, when somebody looks.
#[derive(Debug)]
struct Now {
    status: reseat::HostStatus,
    figures: Vec<CallFigures>,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let plugins = &self.status.plugins;
        let mut gauge = |name: &str, help: &str, values: Vec<(Vec<(&str, String)>, i64)>| {
            let gauge = ConstGauge::new(0_i64);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for (labels, value) in values {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
            Ok::<_, fmt::Error>(())
        };
        let of = |plugin: &str| vec![("plugin", plugin.to_owned())];
        let serving = plugins.iter().filter_map(|it| Some((of(&it.name), it.generation?.cast_signed())));
        gauge("generation", "The generation that serves", serving.collect())?;
        let in_phase = |plugin: &reseat::PluginStatus, phase: Phase| {
            plugin.generations.iter().filter(|generation| generation.phase == phase).count() as i64
        };
        let phases = [
            (Phase::Draining, "draining"),
            (Phase::Retiring, "retiring"),
            (Phase::Lingering, "lingering"),
            (Phase::Leaked, "leaked"),
        ];
        let old = plugins.iter().flat_map(|plugin| {
            phases.iter().map(move |(phase, name)| {
                let labels = vec![("plugin", plugin.name.clone()), ("phase", (*name).to_owned())];
                (labels, in_phase(plugin, *phase))
            })
        });
        gauge("old_generations", "Generations that serve no more and are in memory", old.collect())?;
        let beside = plugins.iter().flat_map(|plugin| {
            [(Phase::Candidate, "candidate"), (Phase::Kept, "kept")].map(|(phase, name)| {
                let labels = vec![("plugin", plugin.name.clone()), ("phase", name.to_owned())];
                (labels, in_phase(plugin, phase))
            })
        });
        gauge(
            "beside_generations",
            "Generations that can be called beside the serving one",
            beside.collect(),
        )?;
        let lingering = |plugin: &reseat::PluginStatus| {
            let lingers = plugin.generations.iter().filter(|generation| generation.phase == Phase::Lingering);
            lingers.filter_map(|generation| generation.bytes).sum::<u64>()
        };
        let of_each = |part: &dyn Fn(&reseat::PluginStatus) -> Option<u64>| {
            plugins.iter().filter_map(|it| Some((of(&it.name), part(it)?.cast_signed()))).collect()
        };
        let bytes = of_each(&|it| Some(lingering(it)));
        gauge("lingering_bytes", "Address space of generations that linger", bytes)?;
        gauge(
            "in_flight",
            "Guards, leases and scopes in the serving generation",
            of_each(&|it| it.in_flight),
        )?;
        gauge("waiting", "Callers that wait at a closed gate", of_each(&|it| Some(it.waiting)))?;
        gauge("state_bytes", "The state when it was written down last", of_each(&|it| it.state_bytes))?;
        let counters = plugins.iter().flat_map(|plugin| {
            let labels = |name: &str| vec![("plugin", plugin.name.clone()), ("counter", name.to_owned())];
            plugin.counters.iter().map(move |(name, value)| (labels(name), value.cast_signed()))
        });
        gauge("plugin_counter", "What plugins count themselves", counters.collect())?;
        self.calls(encoder)
    }
}

impl Now {
    fn calls(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let labels = |figures: &CallFigures| {
            [("plugin", figures.plugin.clone()), ("generation", figures.generation.to_string())]
        };
        type Part = fn(&CallFigures) -> u64;
        let parts: [(&str, &str, Part); 3] = [
            ("calls", "Calls that have ended, of generations whose calls are measured", |it| it.calls),
            ("call_errors", "Those that failed", |it| it.errors),
            ("call_panics", "Those that panicked", |it| it.panics),
        ];
        for (name, help, part) in parts {
            let counter = ConstCounter::new(0_u64);
            let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            for figures in &self.figures {
                ConstCounter::new(part(figures)).encode(family.encode_family(&labels(figures))?)?;
            }
        }
        let help = "What calls took, of those that were timed";
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("call_duration", help, unit, MetricType::Histogram)?;
        for figures in &self.figures {
            Durations(&figures.latencies).encode(family.encode_family(&labels(figures))?)?;
        }
        Ok(())
    }
}

/// What calls took, as [`CallFigures::latencies`] has it.
struct Durations<'a>(&'a [(u64, u64)]);

impl EncodeMetric for Durations<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let between = |above: u64, to: u64| {
            let within = self.0.iter().filter(|(nanos, _)| (above..to).contains(nanos));
            within.map(|(_, count)| count).sum()
        };
        // Up to the bound, and the bound itself.
        let ends = CALL_NANOS.map(|bound| bound + 1);
        let begins = [0].into_iter().chain(ends);
        let mut buckets: Vec<(f64, u64)> =
            begins.zip(ends).map(|(above, to)| (seconds(to - 1), between(above, to))).collect();
        buckets.push((f64::MAX, between(ends[ends.len() - 1], u64::MAX)));
        // Of the upper ends of what they are known to lie between.
        let sum = self.0.iter().map(|(nanos, count)| seconds(*nanos) * *count as f64).sum();
        let count = self.0.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
