//! Which keys `reseat.toml` may have. Serde knows them, and is asked: there is no second list.

use anyhow::{Result, bail};
use serde::de::{Deserialize, Deserializer, Visitor, value};
use toml::de::{DeTable, DeValue};

/// The names of the fields of a struct.
pub fn of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // It ends in an error always: there is nothing to make a value of.
    let _ = T::deserialize(Asked(&mut names));
    names
}

/// A source of values that has none, and takes down which fields it is asked for.
struct Asked<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
        Err(serde::de::Error::custom("there is no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, value::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Refuses a text with keys that nobody knows: all of them are named, each with its line and with what it was perhaps
/// meant to be. A text that is no TOML is left to whoever parses it.
///
/// # Errors
/// There are such keys.
pub fn refuse_unknown(text: &str, known: &[&str], known_of_a_plugin: &[&str]) -> Result<()> {
    let Ok(whole) = DeTable::parse(text) else { return Ok(()) };
    let whole = whole.get_ref();
    let mut unknown = unknown_in(text, whole, known, "");
    let plugins = whole.get("plugins").and_then(|plugins| match plugins.get_ref() {
        DeValue::Table(plugins) => Some(plugins),
        _ => None,
    });
    for (name, plugin) in plugins.into_iter().flatten() {
        if let DeValue::Table(plugin) = plugin.get_ref() {
            let place = format!(" of [plugins.{}]", name.get_ref());
            unknown.extend(unknown_in(text, plugin, known_of_a_plugin, &place));
        }
    }
    unknown.sort();
    match unknown.is_empty() {
        true => Ok(()),
        false => bail!(unknown.into_iter().map(|(_, words)| words).collect::<Vec<_>>().join("; ")),
    }
}

/// The keys of one table that nobody knows: where each begins, and what is said of it.
fn unknown_in(text: &str, table: &DeTable<'_>, known: &[&str], place: &str) -> Vec<(usize, String)> {
    let keys = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
    let told = keys.map(|key| {
        let (name, at) = (key.get_ref(), key.span().start);
        let line = 1 + text[..at].matches('\n').count();
        let hint = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "there is {}",
                known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
            ),
        };
        (at, format!("line {line}: unknown key `{name}`{place}: {hint}"))
    });
    told.collect()
}

/// What there is to say of tables for plugins that are not there: they may come yet, or their names may be mistyped.
pub fn of_nobody(tables: &[&str], plugins: &[&str]) -> Vec<String> {
    let without = tables.iter().filter(|table| !plugins.contains(table));
    let told = without.map(|table| {
        // Whoever has a table of its own is not meant by another one.
        let unnamed: Vec<_> = plugins.iter().filter(|plugin| !tables.contains(plugin)).copied().collect();
        let hint = nearest(table, &unnamed).map(|near| format!(": did you mean [plugins.{near}]?"));
        format!("[plugins.{table}] is for a plugin that is not there{}", hint.unwrap_or_default())
    });
    told.collect()
}

/// What somebody who wrote `key` may have meant.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let without_its_end = |known: &str| known.strip_prefix(key).is_some_and(|end| end.starts_with('_'));
    let likeness = |known: &str| match without_its_end(known) {
        true => 1.0, // the unit, most likely
        false => strsim::jaro_winkler(key, known),
    };
    let rated = known.iter().map(|known| (likeness(known), *known));
    let (likeness, near) = rated.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (likeness > 0.85).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["drain_deadline_ms", "drain_policy", "plugins", "probe"];

    fn said(text: &str) -> String {
        refuse_unknown(text, &KNOWN, &["config", "probe"])
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_mistyped_key_is_refused_with_what_it_was_meant_to_be() {
        assert_eq!(said("probe = true\ndrain_deadline_ms = 1\n[plugins.x]\nprobe = 2\nconfig.any = 3"), "");
        let meant = "line 1: unknown key `drain_deadline`: did you mean `drain_deadline_ms`?";
        assert_eq!(said("drain_deadline = 5"), meant);
        assert_eq!(said("\nprobes = 5"), "line 2: unknown key `probes`: did you mean `probe`?");
    }

    #[test]
    fn a_key_that_is_like_no_other_is_refused_with_all_there_are() {
        let all = "there is `drain_deadline_ms`, `drain_policy`, `plugins`, `probe`";
        assert_eq!(said("burst = 5"), format!("line 1: unknown key `burst`: {all}"));
    }

    #[test]
    fn a_table_of_a_plugin_that_is_not_there_is_told_of_with_the_one_that_is_perhaps_meant() {
        let plugins = ["ledger", "limiter", "store"];
        assert_eq!(of_nobody(&["limiter", "store"], &plugins), [""; 0]);
        let alone = "[plugins.limter] is for a plugin that is not there";
        assert_eq!(of_nobody(&["limter"], &plugins), [format!("{alone}: did you mean [plugins.limiter]?")]);
        assert_eq!(of_nobody(&["limiter", "limter"], &plugins), [alone]);
        assert_eq!(
            of_nobody(&["cache", "store"], &plugins),
            ["[plugins.cache] is for a plugin that is not there"]
        );
    }

    #[test]
    fn keys_of_a_plugins_table_are_looked_at_too_and_all_are_named_in_their_order() {
        let text = "plugin.x = 1\n[plugins.limiter]\nprob = true\nconfig = { prob = 1 }\n";
        assert_eq!(
            said(text),
            "line 1: unknown key `plugin`: did you mean `plugins`?; line 3: unknown key `prob` of [plugins.limiter]: \
             did you mean `probe`?"
        );
    }
}
