//! `reseat registrations` and `reseat command`: what plugins have registered.

use std::fmt::Write as _;

use serde_json::Value;

use super::Failure;
use super::args::{CommandArgs, RegistrationsArgs};
use super::client::{arguments, ask, pretty, print};
use super::listing::text;
use crate::serve::protocol::Request;

/// `reseat command`
pub fn command(args: &CommandArgs) -> Result<(), Failure> {
    let (kind, key) = ("command".to_owned(), args.command.clone());
    let request = Request::Dispatch { kind, key, arguments: arguments(&args.arguments)? };
    print(&ask(&args.state, &request)?.to_string())
}

/// `reseat registrations`
pub fn registrations(args: &RegistrationsArgs) -> Result<(), Failure> {
    let listed = ask(&args.state, &Request::Registrations { kind: args.kind.clone() })?;
    match args.json {
        true => print(&pretty(&listed)),
        false => print(listing(&listed).trim_end()),
    }
}

const HEAD: [&str; 6] = ["KIND", "KEY", "PLUGIN", "METHOD", "SINCE", "DETAILS"];

fn listing(listed: &Value) -> String {
    let listed = listed.as_array().map_or(&[][..], Vec::as_slice);
    if listed.is_empty() {
        return "nothing is registered\n".to_owned();
    }
    let rows = listed.iter().map(row);
    let rows: Vec<[String; 6]> = std::iter::once(HEAD.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut listing = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(listing, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    listing
}

fn row(one: &Value) -> [String; 6] {
    let every = one["every_ms"].as_f64().map(|ms| format!("every {ms} ms"));
    let details = (!one["details"].is_null()).then(|| one["details"].to_string());
    let more: Vec<_> = every.into_iter().chain(details).collect();
    let [kind, key, plugin, method] = ["kind", "key", "plugin", "method"].map(|name| text(&one[name]));
    [kind, key, plugin, method, format!("generation {}", one["since"]), more.join(", ")]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::listing;

    #[test]
    fn columns_stand_below_their_heads() {
        let of = |kind, key, every_ms: Option<f64>| json!({ "kind": kind, "key": key, "plugin": "greeter", "method": "greet", "since": 3, "every_ms": every_ms, "details": null });
        let mut listed = [of("route", "GET /hello", None), of("timer", "tidy", Some(500.0))];
        listed[0]["details"] = json!({ "help": "x" });
        assert_eq!(
            listing(&json!(listed)),
            "KIND   KEY         PLUGIN   METHOD  SINCE         DETAILS\n\
             route  GET /hello  greeter  greet   generation 3  {\"help\":\"x\"}\n\
             timer  tidy        greeter  greet   generation 3  every 500 ms\n"
        );
        assert_eq!(listing(&json!([])), "nothing is registered\n");
    }
}
