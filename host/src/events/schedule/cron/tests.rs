use super::*;
use jiff::ToSpan;
use proptest::prelude::*;

fn cron(text: &str, zone: &str) -> Cron {
    Cron::parse(text, TimeZone::get(zone).unwrap()).unwrap()
}

/// The firings after a moment, by the clocks of the zone.
fn firings(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let cron = cron(text, zone);
    let after: Timestamp = after.parse().unwrap();
    let all = std::iter::successors(cron.next_after(after), |at| cron.next_after(*at));
    all.take(count).map(|at| at.to_zoned(cron.zone.clone()).strftime("%F %H:%M %z").to_string()).collect()
}

#[test]
fn it_fires_when_the_fields_say() {
    for (text, expected) in [
        ("0 3 * * *", ["2026-11-24 03:00", "2026-11-25 03:00"]),
        ("*/15 * * * *", ["2026-11-23 12:15", "2026-11-23 12:30"]),
        ("5/20 12 * * *", ["2026-11-23 12:05", "2026-11-23 12:25"]),
        ("30 9 * * mon-fri", ["2026-11-24 09:30", "2026-11-25 09:30"]),
        ("30 9 * * 6,7", ["2026-11-28 09:30", "2026-11-29 09:30"]),
        ("0 0 31 * *", ["2026-12-31 00:00", "2027-01-31 00:00"]),
        ("0 0 29 FEB *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        // Neither day field begins with a star, so one of them is enough; else both must match.
        ("0 0 13 * 5", ["2026-11-27 00:00", "2026-12-04 00:00"]),
        ("0 0 */2 * 5", ["2026-11-27 00:00", "2026-12-11 00:00"]),
        ("59 23 31 12 *", ["2026-12-31 23:59", "2027-12-31 23:59"]),
    ] {
        let expected = expected.map(|time| format!("{time} +0000"));
        assert_eq!(firings(text, "UTC", "2026-11-23T12:00:00Z", 2), expected, "{text}");
    }
}

#[test]
fn an_error_names_the_field() {
    let refused = |text: &str| Cron::parse(text, TimeZone::UTC).unwrap_err();
    for (text, wrong) in [
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of month"),
        ("* * * 13 *", "month"),
        ("* * * mom *", "month"),
        ("* * * * 8", "day of week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("+5 * * * *", "minute"),
        ("-5 * * * *", "minute"),
        ("1/2/3 * * * *", "minute"),
        ("* * L * *", "day of month"),
    ] {
        assert!(matches!(refused(text), InvalidCron::Field { field, .. } if field == wrong), "{text}");
    }
    assert_eq!(refused("* * * *"), InvalidCron::Fields(4));
    assert_eq!(refused("@daily"), InvalidCron::Fields(1));
    assert_eq!(refused("0 0 30 2 *"), InvalidCron::Never("0 0 30 2 *".into()));
    assert_eq!(refused(&"*".repeat(257)), InvalidCron::Length);
    let expected = "expected 0 to 23 as its hour, or a list, range or step of these, found `24`";
    assert_eq!(refused("* 24 * * *").to_string(), expected);
}

#[test]
fn a_time_of_the_day_that_the_clock_skips_comes_at_once_afterwards() {
    let berlin = firings("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3);
    assert_eq!(berlin, ["2026-03-28 02:30 +0100", "2026-03-29 03:00 +0200", "2026-03-30 02:30 +0200"]);
    // All that is skipped comes together, and once with what is then anyway.
    let berlin = firings("0,15,30 2,3 * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", 3);
    assert_eq!(berlin, ["2026-03-29 03:00 +0200", "2026-03-29 03:15 +0200", "2026-03-29 03:30 +0200"]);
}

#[test]
fn a_time_of_the_day_that_comes_twice_is_meant_once() {
    let berlin = firings("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
    assert_eq!(berlin, ["2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"]);
    // Also for one who comes in between.
    let berlin = firings("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1);
    assert_eq!(berlin, ["2026-10-26 02:30 +0100"]);
    let berlin = firings("0 3 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1);
    assert_eq!(berlin, ["2026-10-25 03:00 +0100"]);
}

#[test]
fn every_half_hour_is_half_an_hour_whatever_the_clock_does() {
    for (zone, after) in [
        ("Europe/Berlin", "2026-10-24T20:00:00Z"),
        ("Europe/Berlin", "2026-03-28T20:00:00Z"),
        // Here the clock is changed by half an hour.
        ("Australia/Lord_Howe", "2026-04-04T06:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T06:00:00Z"),
    ] {
        let cron = cron("*/30 * * * *", zone);
        let mut at: Timestamp = after.parse().unwrap();
        for _ in 0..48 {
            let next = cron.next_after(at).unwrap();
            assert_eq!(next.duration_since(at), SignedDuration::from_mins(30), "{zone} {at}");
            at = next;
        }
    }
}

#[test]
fn the_last_of_many_missed_firings_is_found_without_going_through_all() {
    let cron = cron("* * * * *", "UTC");
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let last = cron.last_between(at("1990-01-01T00:00:00Z"), at("2026-11-24T12:34:56Z"));
    assert_eq!(last, Some(at("2026-11-24T12:34:00Z")));
    assert_eq!(cron.last_between(at("2026-11-24T12:34:00Z"), at("2026-11-24T12:34:59Z")), None);
    assert_eq!(cron.last_between(at("2026-11-24T12:34:00Z"), at("2026-11-24T12:30:00Z")), None);
}

fn field(least: u8, most: u8) -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        (least..=most).prop_map(|value| value.to_string()),
        (least..=most, least..=most).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        (2..20u8).prop_map(|step| format!("*/{step}")),
        (least..=most, least..=most).prop_map(|(a, b)| format!("{a},{b}")),
    ]
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[0-9*/,A-Za-z -]{0,40}") {
        let _ = Cron::parse(&text, TimeZone::UTC);
    }

    /// Against the plain way: to look at every minute.
    #[test]
    fn it_finds_what_looking_at_every_minute_finds(
        minute in field(0, 59), hour in field(0, 23), weekday in field(0, 7), start in 0..525_600i64,
    ) {
        let cron = cron(&format!("{minute} {hour} * * {weekday}"), "UTC");
        let start: Timestamp = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + start.minutes();
        let matches = |at: &Timestamp| {
            let time = at.to_zoned(TimeZone::UTC).datetime();
            cron.matches(time.date()) && cron.hours.has(time.hour()) && cron.minutes.has(time.minute())
        };
        let plain = (1..=8 * 24 * 60i64).map(|minutes| start + minutes.minutes()).find(matches);
        prop_assert_eq!(cron.next_after(start), plain);
    }

    /// In a zone with daylight saving time: later, never twice, and always by the clocks except after a gap.
    #[test]
    fn firings_go_on_in_every_zone(
        minute in field(0, 59), hour in field(0, 23), start in 0..525_600i64,
        zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    ) {
        let cron = cron(&format!("{minute} {hour} * * *"), zone);
        let mut at = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + start.minutes();
        for _ in 0..5 {
            let next = cron.next_after(at).unwrap();
            prop_assert!(next > at);
            let time = next.to_zoned(cron.zone.clone());
            let matches = cron.hours.has(time.hour()) && cron.minutes.has(time.minute());
            let changed = cron.zone.preceding(next + 1.nanosecond()).next().is_some_and(|it| it.timestamp() == next);
            prop_assert!(matches || changed, "{} {}", cron.as_str(), time);
            // Nothing in between was left out: a time of the calendar that comes once is never skipped.
            prop_assert_eq!(cron.next_after(next - 1.nanosecond()), Some(next));
            at = next;
        }
    }
}
