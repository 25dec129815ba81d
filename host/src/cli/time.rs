//! Times as people write and read them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The clock on somebody's wall.
#[derive(Clone)]
pub struct Clock {
    zone: TimeZone,
}

impl Clock {
    /// The operator's.
    pub fn local() -> Clock {
        Clock { zone: TimeZone::system() }
    }

    #[cfg(test)]
    pub fn utc() -> Clock {
        Clock { zone: TimeZone::UTC }
    }

    /// A time as `14:03:22.123`; one that was not on the day of `now_ms`, with its date before.
    pub fn show(&self, at_ms: u64, now_ms: u64) -> String {
        let local = |ms: u64| {
            let since = Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX));
            since.unwrap_or(Timestamp::MAX).to_zoned(self.zone.clone())
        };
        let (at, now) = (local(at_ms), local(now_ms));
        let form = if at.date() == now.date() { "%H:%M:%S%.3f" } else { "%Y-%m-%d %H:%M:%S%.3f" };
        at.strftime(form).to_string()
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time that has passed, in one number and one unit.
pub fn roughly(passed: Duration) -> String {
    let seconds = passed.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `90s`, `10m`, `2h` or `1d`.
///
/// # Errors
/// It is nothing of that kind.
pub fn duration(text: &str) -> Result<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => bail!("write a number and s, m, h or d, as in 10m"),
    };
    let number: u64 = number.parse().ok().context("write a number and s, m, h or d, as in 10m")?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let clock = Clock::utc();
        let noon = 1_700_000_000_123;
        assert_eq!(clock.show(noon, noon + 1000), "22:13:20.123");
        assert_eq!(clock.show(noon, noon + 7_200_000), "2023-11-14 22:13:20.123");
    }

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs()).ok();
        assert_eq!(
            [seconds("90s"), seconds("10m"), seconds("2h"), seconds("1d")],
            [90, 600, 7200, 86_400].map(Some)
        );
        assert_eq!([seconds("10"), seconds("m"), seconds(""), seconds("-1m"), seconds("1 m")], [None; 5]);
    }
}
