//! Why: dates, times, instants and decimals have one text each, and reading it back gives the same value. Never rounds: what does not fit is `None`.

use std::io::Write;

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;
/// The days from 1970-01-01 to 0000-01-01 and to 9999-12-31: RFC 3339 has years of four digits.
const DAYS: std::ops::RangeInclusive<i64> = -719_528..=2_932_896;

/// Writes `2026-11-24` for days since 1970-01-01.
pub(super) fn write_date(days: i64, out: &mut Vec<u8>) -> Option<()> {
    if !DAYS.contains(&days) {
        return None;
    }
    let (year, month, day) = civil_from_days(days);
    write!(out, "{year:04}-{month:02}-{day:02}").ok()
}

/// Writes `13:45:00.123456` for nanoseconds since midnight; nine digits only where six would lose something.
pub(super) fn write_time(nanos: i64, out: &mut Vec<u8>) -> Option<()> {
    if !(0..DAY_MICROS * 1_000).contains(&nanos) {
        return None;
    }
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    write!(out, "{:02}:{:02}:{:02}.", seconds / 3600, seconds / 60 % 60, seconds % 60).ok()?;
    if nanos % 1_000 == 0 { write!(out, "{:06}", nanos / 1_000).ok() } else { write!(out, "{nanos:09}").ok() }
}

/// Writes `2026-11-24T13:45:00.123456Z` for `ticks` since the epoch, of which a second has `per_second`.
pub(super) fn write_timestamp(ticks: i64, per_second: i64, out: &mut Vec<u8>) -> Option<()> {
    let per_day = per_second * 86_400;
    write_date(ticks.div_euclid(per_day), out)?;
    out.push(b'T');
    write_time(ticks.rem_euclid(per_day) * (1_000_000_000 / per_second), out)?;
    out.push(b'Z');
    Some(())
}

/// Writes an integer scaled by 10^`scale`: `-0.05` for −5 and 2.
pub(super) fn write_decimal(unscaled: i128, scale: u8, out: &mut Vec<u8>) {
    let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    out.extend(if unscaled < 0 { "-" } else { "" }.bytes().chain(whole.bytes()));
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend(fraction.bytes());
    }
}

/// Days since 1970-01-01 of `2026-11-24`.
pub(super) fn parse_date(text: &str) -> Option<i32> {
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = *text.as_bytes() else { return None };
    let year = number(&[y0, y1, y2, y3])?;
    let (month, day) = (number(&[m0, m1])?, number(&[d0, d1])?);
    if !(1..=12).contains(&month) || day < 1 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    // A 30th of February comes back as a day of March.
    (civil_from_days(days) == (year, month, day)).then(|| i32::try_from(days).expect("four-digit years fit"))
}

/// Microseconds since midnight of `13:45`, `13:45:00` or `13:45:00.123456`; digits after the sixth must be 0.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let [h0, h1, b':', m0, m1, ref rest @ ..] = *clock.as_bytes() else { return None };
    let seconds = match rest {
        [] if !text.contains('.') => 0,
        [b':', s0, s1] => number(&[*s0, *s1])?,
        _ => return None,
    };
    let (hours, minutes) = (number(&[h0, h1])?, number(&[m0, m1])?);
    if hours > 23 || minutes > 59 || seconds > 59 || fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let (kept, rest) = fraction.split_at(fraction.len().min(6));
    if number(rest.as_bytes())? != 0 {
        return None;
    }
    let micros = number(kept.as_bytes())? * 10_i64.pow(6 - u32::try_from(kept.len()).expect("at most six"));
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

/// Microseconds since the epoch of an RFC 3339 instant, in any zone.
pub(super) fn parse_timestamp(text: &str) -> Option<i64> {
    let date = i64::from(parse_date(text.get(..10)?)?);
    let rest = text.get(10..)?.strip_prefix(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone_at);
    let ahead = match *zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign, h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (number(&[h0, h1])?, number(&[m0, m1])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if sign == b'-' { -60_000_000 } else { 60_000_000 }
        }
        _ => return None,
    };
    if clock.len() < 8 {
        return None;
    }
    let micros = date * DAY_MICROS + parse_time(clock)? - ahead;
    DAYS.contains(&micros.div_euclid(DAY_MICROS)).then_some(micros)
}

/// The integer that `text` is when scaled by 10^`scale`, if it has at most `precision` digits. Takes an exponent, as JSON numbers may have one.
pub(super) fn parse_decimal(text: &str, precision: u8, scale: u8) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i16>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || (digits.contains('.') && fraction.is_empty()) {
        return None;
    }
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|byte| byte.is_ascii_digit().then(|| byte - b'0')).collect::<Option<_>>()?;
    // How many zeros to append (or, negative, to take away) until the digits are the scaled integer.
    let mut shift = i64::from(scale) + i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
    while shift < 0 && !digits.is_empty() {
        if digits.pop() != Some(0) {
            return None;
        }
        shift += 1;
    }
    let mut unscaled = 0_i128;
    for digit in digits {
        unscaled = unscaled.checked_mul(10)?.checked_add(i128::from(digit))?;
    }
    while shift > 0 && unscaled != 0 {
        unscaled = unscaled.checked_mul(10)?;
        shift -= 1;
    }
    (unscaled < 10_i128.checked_pow(u32::from(precision))?).then_some(if negative { -unscaled } else { unscaled })
}

/// A number of ASCII digits only; none is 0.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0_i64, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
}

/// Year, month and day of days since 1970-01-01, in the proleptic Gregorian calendar (Hinnant's algorithm).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn knows_the_corners() {
        assert_eq!(text(|out| write_date(0, out)), "1970-01-01");
        assert_eq!(text(|out| write_date(*DAYS.start(), out)), "0000-01-01");
        assert_eq!(text(|out| write_date(*DAYS.end(), out)), "9999-12-31");
        assert_eq!(write_date(DAYS.end() + 1, &mut Vec::new()), None);
        assert_eq!(write_date(i64::MIN / 86_400, &mut Vec::new()), None);
        assert_eq!(text(|out| write_timestamp(-1, 1_000_000, out)), "1969-12-31T23:59:59.999999Z");
        assert_eq!(text(|out| write_timestamp(1, 1_000_000_000, out)), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(write_timestamp(i64::MAX, 1, &mut Vec::new()), None);
        assert_eq!(write_time(-1, &mut Vec::new()), None);
        assert_eq!(parse_timestamp("2026-11-24T13:45:00+01:00"), parse_timestamp("2026-11-24 12:45:00.000000000Z"));
        for bad in ["2026-02-29", "2026-13-01", "2026-00-01", "2026-01-00", "26-01-01", "2026-1-01", "+026-01-01", ""] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
        assert_eq!(parse_date("2024-02-29"), Some(19_782));
        for bad in ["24:00:00", "12:60:00", "12:00:60", "12", "12:00:00.", "12:00:00.0000001", "12:00.5", "-1:00:00"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
        for bad in ["2026-11-24T13:45:00", "2026-11-24", "2026-11-24T13:45Z", "2026-11-24T13:45:00+1", "0000-01-01T00:00:00+01:00", "2026-11-24é13:45:00Z"] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        assert_eq!(parse_decimal("1.50", 5, 2), Some(150));
        assert_eq!(parse_decimal("1.500", 5, 2), Some(150));
        assert_eq!(parse_decimal("1.505", 5, 2), None);
        assert_eq!(parse_decimal("1.5e2", 5, 2), Some(15_000));
        assert_eq!(parse_decimal("1e-2", 5, 2), Some(1));
        assert_eq!(parse_decimal("-0.05", 3, 2), Some(-5));
        assert_eq!(parse_decimal("1000", 5, 2), None);
        assert_eq!(parse_decimal("0e30000", 5, 2), Some(0));
        assert_eq!(parse_decimal("0e-30000", 5, 2), Some(0));
        for bad in ["", "-", ".5", "5.", "1,5", "+1", "1e", "NaN", "--1", "1e99999", " 1"] {
            assert_eq!(parse_decimal(bad, 38, 10), None, "{bad}");
        }
        assert_eq!(parse_decimal(&"9".repeat(38), 38, 0), Some(10_i128.pow(38) - 1));
        assert_eq!(parse_decimal(&"9".repeat(39), 38, 0), None);
    }

    proptest! {
        #[test]
        fn dates_and_instants_come_back(days in DAYS, micros in *DAYS.start() * DAY_MICROS..=*DAYS.end() * DAY_MICROS) {
            prop_assert_eq!(parse_date(&text(|out| write_date(days, out))).map(i64::from), Some(days));
            prop_assert_eq!(parse_timestamp(&text(|out| write_timestamp(micros, 1_000_000, out))), Some(micros));
            let time = micros.rem_euclid(DAY_MICROS);
            prop_assert_eq!(parse_time(&text(|out| write_time(time * 1_000, out))), Some(time));
        }

        #[test]
        fn decimals_come_back(unscaled in -(10_i128.pow(38) - 1)..10_i128.pow(38), scale in 0..=38_u8) {
            let text = text(|out| { write_decimal(unscaled, scale, out); Some(()) });
            prop_assert_eq!(parse_decimal(&text, 38, scale), Some(unscaled));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}|[0-9T:Z.+e-]{0,30}", precision in 1..=38_u8, scale in 0..=38_u8) {
            let _ = (parse_date(&text), parse_time(&text), parse_timestamp(&text), parse_decimal(&text, precision, scale));
        }
    }
}
