//! Cron expressions: when a schedule fires.
//!
//! The five fields of `crontab(5)`: minute, hour, day of month, month, day of week. Each is `*`, a number, a range
//! `1-5`, any of these with a step `*/15`, or a list of them; months and days of the week have names too. As in every
//! cron, a day must match both day fields where one of them begins with `*`, and one of them where neither does.
//!
//! Written here and taken from no crate, because those at hand are wrong where it matters: on the two days a year on
//! which a clock is changed, they leave a firing out or do it twice. What happens on those days:
//!
//! - Where the hour is given, a firing belongs to a time of the day, and is once a day. A time that the clock skips comes
//!   as soon as it has skipped it; of a time that comes twice, the first is meant.
//! - Where the hour begins with `*`, a firing belongs to the time that passes: every ten minutes are ten minutes.

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime},
    tz::{Offset, TimeZone},
};

/// The longest cron expression, in bytes.
const MAX_LENGTH: usize = 256;
/// How far ahead is looked for a day that matches: at worst a leap day that is a given day of the week, over a year that
/// the calendar leaves without one.
const MAX_DAYS: usize = 41 * 366;

/// When a schedule fires: a cron expression in a time zone.
#[derive(Clone, Debug)]
pub struct Cron {
    text: String,
    zone: TimeZone,
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
}

/// Why a text is no cron expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCron {
    /// It has not five fields.
    #[error("expected five fields (minute, hour, day of month, month, day of week) such as `0 3 * * *`, found {0}")]
    Fields(usize),
    /// It is too long to be meant.
    #[error("expected a cron expression of at most {MAX_LENGTH} bytes")]
    Length,
    /// A field is wrong.
    #[error("expected {expected} as its {field}, or a list, range or step of these, found `{}`", .found.escape_debug())]
    Field {
        /// Which field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// No day is ever like that.
    #[error("`{0}` never comes: no month of it has such a day")]
    Never(String),
}

/// The numbers that a field stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Set {
    bits: u64,
    /// Whether it is written with a `*` at its beginning.
    star: bool,
}

/// What a field may hold.
struct Field {
    name: &'static str,
    expected: &'static str,
    least: u8,
    most: u8,
    /// The names of the numbers from `least` on.
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", expected: "0 to 59", least: 0, most: 59, names: &[] };
const HOUR: Field = Field { name: "hour", expected: "0 to 23", least: 0, most: 23, names: &[] };
const DAY: Field = Field { name: "day of month", expected: "1 to 31", least: 1, most: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    expected: "1 to 12 or JAN to DEC",
    least: 1,
    most: 12,
    names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
};
/// Sunday is 0 and 7.
const WEEKDAY: Field = Field {
    name: "day of week",
    expected: "0 to 7 or SUN to SAT",
    least: 0,
    most: 7,
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
};

// === impl Cron ===

impl Cron {
    /// Reads the expression of a schedule by the clocks of `zone`.
    ///
    /// # Errors
    ///
    /// Says which field is wrong, and what it may be.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Self, InvalidCron> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidCron::Length);
        }
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(InvalidCron::Fields(fields.len()));
        };
        let cron = Self {
            text: fields.join(" "),
            zone,
            minutes: MINUTE.read(minutes)?,
            hours: HOUR.read(hours)?,
            days: DAY.read(days)?,
            months: MONTH.read(months)?,
            weekdays: WEEKDAY.read(weekdays)?,
        };
        // What does not come in all that is looked at from here on never does.
        let start = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
        if cron.at_or_after(start).is_none() { Err(InvalidCron::Never(cron.text)) } else { Ok(cron) }
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first firing after a moment. `None` only where the calendar ends.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let mut offset = self.zone.to_offset(after);
        let mut civil = truncated(offset.to_datetime(after)).checked_add(SignedDuration::from_mins(1)).ok()?;
        if !self.hours.star
            && let Some(second_time) = self.comes_twice_until(after, offset)
        {
            civil = civil.max(second_time);
        }
        let mut reached = after;
        loop {
            let found = self.at_or_after(civil)?;
            let at = offset.to_timestamp(found).ok()?;
            // The clock is changed before: what follows is by another offset.
            let Some(change) = self.zone.following(reached).next().filter(|change| change.timestamp() <= at) else {
                return Some(at);
            };
            reached = change.timestamp();
            let (before, then) = (offset.to_datetime(reached), change.offset().to_datetime(reached));
            if !self.hours.star && found < then {
                return Some(reached);
            }
            civil = if self.hours.star { then } else { then.max(before) };
            offset = change.offset();
        }
    }

    /// The last firing after a moment and up to another.
    pub fn last_between(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        // Looked for in longer and longer times before the end, so that a schedule of every minute that was away for a
        // year is not gone through minute by minute.
        let mut length = SignedDuration::from_mins(2);
        loop {
            let start = until.checked_sub(length).map_or(after, |start| start.max(after));
            let firings = std::iter::successors(self.next_after(start), |at| self.next_after(*at));
            let last = firings.take_while(|at| *at <= until).last();
            if last.is_some() || start == after {
                return last;
            }
            length = length.saturating_mul(2);
        }
    }

    /// Up to when, by the clocks, the times after the last change of the clock have been before.
    fn comes_twice_until(&self, at: Timestamp, offset: Offset) -> Option<DateTime> {
        let change = self.zone.preceding(at.checked_add(SignedDuration::from_nanos(1)).ok()?).next()?.timestamp();
        let before = self.zone.to_offset(change.checked_sub(SignedDuration::from_nanos(1)).ok()?);
        (before > offset).then(|| before.to_datetime(change))
    }

    /// The first minute of the calendar that matches, at this time or later.
    fn at_or_after(&self, time: DateTime) -> Option<DateTime> {
        let mut time = truncated(time);
        for _ in 0..MAX_DAYS {
            if self.matches(time.date()) {
                for hour in self.hours.from(time.hour()) {
                    let from = if hour == time.hour() { time.minute() } else { 0 };
                    if let Some(minute) = self.minutes.from(from).next() {
                        return Some(time.date().at(hour, minute, 0, 0));
                    }
                }
            }
            time = time.date().tomorrow().ok()?.at(0, 0, 0, 0);
        }
        None
    }

    fn matches(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        let both = self.days.star || self.weekdays.star;
        self.months.has(date.month()) && if both { day && weekday } else { day || weekday }
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl Eq for Cron {}

/// The beginning of a minute. Clocks of the past were set by the second, and a schedule is not.
fn truncated(time: DateTime) -> DateTime {
    time.date().at(time.hour(), time.minute(), 0, 0)
}

// === impl Field ===

impl Field {
    fn read(&self, text: &str) -> Result<Set, InvalidCron> {
        let bits = text.split(',').map(|item| self.item(item)).try_fold(0, |bits, item| Some(bits | item?));
        let bits = bits.ok_or_else(|| InvalidCron::Field {
            field: self.name,
            expected: self.expected,
            found: text.to_owned(),
        })?;
        // Only a day of the week is 7, and it is 0 too.
        let bits = if self.most == 7 { (bits | bits >> 7) & 0x7f } else { bits };
        Ok(Set { bits, star: text.starts_with('*') })
    }

    /// One item of a list.
    fn item(&self, text: &str) -> Option<u64> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| *step > 0)?)),
            None => (text, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            // `5/15` is `5-59/15`, as in most crons.
            None if step.is_some() => (self.value(range)?, self.most),
            None => (self.value(range)?, self.value(range)?),
        };
        let steps = (first..=last).step_by(usize::from(step.unwrap_or(1)));
        (first <= last).then(|| steps.fold(0, |bits, value| bits | 1 << value))
    }

    fn value(&self, text: &str) -> Option<u8> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|at| u8::try_from(at).ok()).map(|at| at + self.least);
        named.or_else(|| number(text)).filter(|value| (self.least..=self.most).contains(value))
    }
}

fn number(text: &str) -> Option<u8> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

// === impl Set ===

impl Set {
    fn has(self, value: i8) -> bool {
        self.bits >> value & 1 == 1
    }

    /// Its numbers from this one on.
    fn from(self, least: i8) -> impl Iterator<Item = i8> {
        (least..60).filter(move |value| self.has(*value))
    }
}

#[cfg(test)]
mod tests;
