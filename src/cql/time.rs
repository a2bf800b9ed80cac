//! Dates, times and durations: text to numbers and back. The proleptic Gregorian calendar; years
//! beyond four digits only as numbers.

/// Days from 1970-01-01 to a date (Howard Hinnant's `days_from_civil`).
#[must_use]
pub fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a number of days from 1970-01-01.
#[must_use]
pub fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn digits(text: &str, len: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let fits = len.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

/// Days of `2024-02-29`.
#[must_use]
pub fn parse_date(text: &str) -> Option<i64> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = rest.split('-');
    let year = digits(parts.next()?, 1..=7)?;
    let (month, day) = (digits(parts.next()?, 1..=2)?, digits(parts.next()?, 1..=2)?);
    let year = if negative { -year } else { year };
    let days = days_of(year, month, day);
    (parts.next().is_none() && date_of(days) == (year, month, day)).then_some(days)
}

/// Nanoseconds of day of `hh:mm[:ss[.fraction]]`.
#[must_use]
pub fn parse_time(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let hour = digits(parts.next()?, 1..=2).filter(|hour| *hour < 24)?;
    let minute = digits(parts.next()?, 1..=2).filter(|minute| *minute < 60)?;
    let (second, nanos) = match parts.next() {
        None => (0, 0),
        Some(second) => {
            let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
            let nanos = format!("{fraction:0<9}");
            (digits(second, 1..=2).filter(|second| *second < 60)?, digits(&nanos, 9..=9)?)
        }
    };
    let seconds = (hour * 60 + minute) * 60 + second;
    parts.next().is_none().then_some(seconds * 1_000_000_000 + nanos)
}

/// Milliseconds of a date, perhaps a time after `T` or a blank, perhaps a zone; or of a number.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(millis) = text.parse::<i64>() {
        return Some(millis);
    }
    // The date ends at the first T or blank; a zone may stand right after the date.
    let cut = text.find(['T', 't', ' ']);
    let (date, rest) = match cut {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    let (date, date_zone) = match date.find(['+', 'Z', 'z']) {
        Some(at) => date.split_at(at),
        None => (date, ""),
    };
    let days = parse_date(date)?;
    let zone_at = rest.find(['+', '-', 'Z', 'z', ' ']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let nanos = if time.is_empty() { 0 } else { parse_time(time)? };
    let zone = if zone.trim().is_empty() { date_zone } else { zone.trim() };
    let offset = parse_zone(zone)?;
    (days.checked_mul(86_400_000)?).checked_add(nanos / 1_000_000 - offset * 60_000)
}

/// Minutes east of UTC.
fn parse_zone(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.as_bytes().first() {
        None | Some(b'Z' | b'z') => return (zone.len() <= 1).then_some(0),
        Some(b'+') => (1, &zone[1..]),
        Some(b'-') => (-1, &zone[1..]),
        Some(_) => return matches!(zone, "UTC" | "GMT").then_some(0),
    };
    let (hours, minutes) = match rest.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if rest.len() == 4 && rest.is_ascii() => rest.split_at(2),
        None => (rest, "00"),
    };
    let (hours, minutes) = (digits(hours, 1..=2)?, digits(minutes, 2..=2)?);
    (hours <= 18 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

/// `2024-02-29`
#[must_use]
pub fn date_text(days: i64) -> String {
    let (year, month, day) = date_of(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2024-02-29T01:02:03.004Z`
#[must_use]
pub fn timestamp_text(millis: i64) -> String {
    let (days, of_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (seconds, millis) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z", date_text(days))
}

/// `01:02:03.000000004`
#[must_use]
pub fn time_text(nanos: i64) -> String {
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{nanos:09}")
}

/// Months, days and nanoseconds.
pub type Duration = (i64, i64, i64);

const UNITS: &[(&str, Duration)] = &[
    ("mo", (1, 0, 0)),
    ("ms", (0, 0, 1_000_000)),
    ("us", (0, 0, 1_000)),
    ("µs", (0, 0, 1_000)),
    ("ns", (0, 0, 1)),
    ("y", (12, 0, 0)),
    ("w", (0, 7, 0)),
    ("d", (0, 1, 0)),
    ("h", (0, 0, 3_600_000_000_000)),
    ("m", (0, 0, 60_000_000_000)),
    ("s", (0, 0, 1_000_000_000)),
];

/// A duration of `1y2mo3d4h`, ISO 8601's `P1Y2M3DT4H` or `P0001-02-03T04:05:06`; `-` before it
/// turns all of it round.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let iso = rest.strip_prefix(['P', 'p']);
    let (months, days, nanos) = match iso {
        Some(iso) => parse_iso(&iso.to_ascii_lowercase())?,
        None => sum_units(&rest.to_lowercase(), UNITS)?,
    };
    let bounded = [months, days].iter().all(|n| i32::try_from(*n).is_ok());
    let sign = if negative { -1 } else { 1 };
    bounded.then_some((sign * months, sign * days, sign * nanos))
}

fn parse_iso(text: &str) -> Option<Duration> {
    const DATE: &[(&str, Duration)] =
        &[("y", (12, 0, 0)), ("m", (1, 0, 0)), ("w", (0, 7, 0)), ("d", (0, 1, 0))];
    let (date, time) = text.split_once('t').unwrap_or((text, ""));
    if date.contains('-') {
        let mut parts = date.split('-').map(|part| digits(part, 1..=4));
        let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
        let nanos = if time.is_empty() { 0 } else { parse_time(time)? };
        return Some((year * 12 + month, day, nanos));
    }
    let (months, days, _) = if date.is_empty() { (0, 0, 0) } else { sum_units(date, DATE)? };
    let (_, _, nanos) = if time.is_empty() { (0, 0, 0) } else { sum_units(time, UNITS)? };
    Some((months, days, nanos))
}

fn sum_units(text: &str, units: &[(&str, Duration)]) -> Option<Duration> {
    let mut rest = text;
    let mut total: Duration = (0, 0, 0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count = digits(&rest[..len], 1..=18)?;
        rest = &rest[len..];
        let (name, unit) = units.iter().find(|(name, _)| rest.starts_with(name))?;
        rest = &rest[name.len()..];
        let add = |total: i64, unit: i64| total.checked_add(count.checked_mul(unit)?);
        total = (add(total.0, unit.0)?, add(total.1, unit.1)?, add(total.2, unit.2)?);
    }
    Some(total)
}

/// `1y2mo3d4h5m6s7ns`, as cqlsh shows it.
#[must_use]
pub fn duration_text((months, days, nanos): Duration) -> String {
    let mut out = String::new();
    if months < 0 || days < 0 || nanos < 0 {
        out.push('-');
    }
    let mut show = |n: u64, unit: &str| {
        if n > 0 {
            out.push_str(&format!("{n}{unit}"));
        }
    };
    let (months, nanos) = (months.unsigned_abs(), nanos.unsigned_abs());
    show(months / 12, "y");
    show(months % 12, "mo");
    show(days.unsigned_abs(), "d");
    show(nanos / 3_600_000_000_000, "h");
    show(nanos / 60_000_000_000 % 60, "m");
    show(nanos / 1_000_000_000 % 60, "s");
    show(nanos / 1_000_000 % 1000, "ms");
    show(nanos / 1_000 % 1000, "us");
    show(nanos % 1000, "ns");
    if out.is_empty() { "0s".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_read_back() {
        assert_eq!(parse_date("1970-01-01"), Some(0));
        assert_eq!(parse_date("2000-02-29"), Some(11_016));
        assert_eq!(parse_date("2001-02-29"), None);
        for days in [-800_000, -1, 0, 59, 60, 365, 11_016, 20_000, 2_000_000] {
            assert_eq!(parse_date(&date_text(days)), Some(days));
        }
        assert_eq!(parse_time("01:02:03.5"), Some(3_723_500_000_000));
        assert_eq!(parse_time("24:00:00"), None);
    }

    #[test]
    fn timestamps_take_every_zone_and_separator() {
        let millis = 1_709_172_123_400;
        for text in [
            "2024-02-29T02:02:03.4Z",
            "2024-02-29 02:02:03.4",
            "2024-02-29 03:02:03.400+01",
            "2024-02-29 03:02:03.400+0100",
            "2024-02-28T21:02:03.400-05:00",
            "1709172123400",
        ] {
            assert_eq!(parse_timestamp(text), Some(millis), "{text}");
        }
        assert_eq!(timestamp_text(millis), "2024-02-29T02:02:03.400Z");
        assert_eq!(parse_timestamp("2024-02-29"), Some(1_709_164_800_000));
        assert_eq!(parse_timestamp("2024-02-29+0000"), Some(1_709_164_800_000));
        assert_eq!(parse_timestamp("yesterday"), None);
    }

    #[test]
    fn durations_have_three_forms() {
        let all = (14, 3, 14_706_000_000_007);
        assert_eq!(parse_duration("1y2mo3d4h5m6s7ns"), Some(all));
        assert_eq!(parse_duration("P1Y2M3DT4H5M6S"), Some((14, 3, 14_706_000_000_000)));
        assert_eq!(parse_duration("P0001-02-03T04:05:06"), Some((14, 3, 14_706_000_000_000)));
        assert_eq!(parse_duration("-1d"), Some((0, -1, 0)));
        assert_eq!(parse_duration(&duration_text(all)), Some(all));
        assert_eq!(parse_duration("1x"), None);
    }
}
