//! Whether a migration comes to an end: from the figures that its source sees once a second to what is to be done.
//!
//! A guest that writes memory faster than it is sent leaves the same amount again after every pass. What counts is
//! therefore the least that was ever left: while it falls there is progress, however slow. Within a later pass, which
//! begins with more, falling counts as long as the guest writes less than is sent: then each pass leaves less than the one
//! before. It is the source's own rule, so that it holds while the gateway is away.

use basalt_model::{
    CapabilityReason, DateTime,
    migrations::{MotionProgress, StallPolicy},
};
use chrono::TimeDelta;

/// So long may the least that was left stay the same. Detected and decided within 15 s, with the sampling.
pub const STALL_SECONDS: i64 = 13;
/// With throttling a guest is slowed down step by step; each step is given its time.
pub const THROTTLED_STALL_SECONDS: i64 = 60;

/// What has been seen of one migration so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    policy: StallPolicy,
    /// The least that was left, and when it was first so.
    least: Option<(u64, DateTime)>,
    /// The pass that was seen last, and the least that was left in it.
    pass: (u32, u64),
    throttle_percent: u32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It goes on.
    Go,
    /// It does not come to an end: it is to be stopped, and this is why.
    Abort(CapabilityReason),
    /// It does not come to an end: the guest is to go on at the target at once.
    PostCopy,
}

impl Stall {
    /// Nothing was seen yet.
    pub fn new(policy: StallPolicy) -> Self {
        Self { policy, least: None, pass: (0, u64::MAX), throttle_percent: 0 }
    }

    /// Another sample.
    pub fn sample(&mut self, seen: &MotionProgress, now: DateTime) -> Verdict {
        // Nothing is known of its size before the first figures, and a link that carries nothing at all is libvirt's to see.
        let left = if seen.total_bytes == 0 { u64::MAX } else { seen.remaining_bytes };
        let of_pass = if seen.passes == self.pass.0 { self.pass.1 } else { left };
        let outruns = seen.dirty_bytes_per_second >= seen.sent_bytes_per_second;
        let falls = self.least.is_none_or(|(least, _)| left < least) || (left < of_pass && !outruns);
        self.pass = (seen.passes, of_pass.min(left));
        // Slowed down further, it deserves another chance.
        if falls || seen.throttle_percent > self.throttle_percent {
            let least = self.least.map_or(left, |(least, _)| least.min(left));
            (self.least, self.throttle_percent) = (Some((least, now)), seen.throttle_percent);
            return Verdict::Go;
        }
        let since = self.least.map_or(now, |(_, at)| at);
        if now - since < TimeDelta::seconds(self.patience()) {
            return Verdict::Go;
        }
        match self.policy {
            StallPolicy::PostCopy => Verdict::PostCopy,
            StallPolicy::Cancel | StallPolicy::Throttle => Verdict::Abort(self.reason(seen, since, now)),
        }
    }

    fn patience(&self) -> i64 {
        match self.policy {
            StallPolicy::Cancel | StallPolicy::PostCopy => STALL_SECONDS,
            // Until it was slowed down at all it is judged like any other.
            StallPolicy::Throttle if self.throttle_percent == 0 => 2 * STALL_SECONDS,
            StallPolicy::Throttle => THROTTLED_STALL_SECONDS,
        }
    }

    fn reason(&self, seen: &MotionProgress, since: DateTime, now: DateTime) -> CapabilityReason {
        let remedy = match self.policy {
            StallPolicy::Throttle => "migrate it when it writes less, or cold, or with on_stall post_copy",
            _ => "migrate it when it writes less, consent to a longer pause, or choose another on_stall",
        };
        let reason = CapabilityReason::new(
            "migration_stalled",
            "migration",
            "the guest writes its memory faster than it is sent, so it was left where it is",
            remedy,
        );
        let least = self.least.map_or(0, |(least, _)| least);
        reason.with_evidence(format!(
            "no less than {least} bytes were left for {} s; {} bytes left now, {} written and {} sent each second, \
             {} passes, slowed down by {} %",
            (now - since).num_seconds(),
            seen.remaining_bytes,
            seen.dirty_bytes_per_second,
            seen.sent_bytes_per_second,
            seen.passes,
            seen.throttle_percent,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn left(remaining_bytes: u64) -> MotionProgress {
        MotionProgress {
            total_bytes: 1 << 30,
            remaining_bytes,
            dirty_bytes_per_second: 400,
            sent_bytes_per_second: 300,
            passes: 9,
            ..MotionProgress::default()
        }
    }

    /// The second at which a verdict other than "go" falls, of samples of what is left at each second.
    fn falls(policy: StallPolicy, samples: impl Fn(i64) -> MotionProgress) -> Option<(i64, Verdict)> {
        let mut stall = Stall::new(policy);
        (0..600).map(|s| (s, stall.sample(&samples(s), at(s)))).find(|(_, v)| *v != Verdict::Go)
    }

    #[test]
    fn r52_a_guest_that_outruns_its_migration_is_seen_within_15_seconds() {
        // It falls for 20 s, then swings between two amounts for ever.
        let swings = |s: i64| left(if s < 20 { 1 << 30 >> s } else { 5000 + (s as u64 % 7) * 100 });
        let (second, verdict) = falls(StallPolicy::Cancel, swings).unwrap();
        assert!((20..=20 + 15).contains(&second), "{second}");
        let Verdict::Abort(reason) = verdict else { panic!("{verdict:?}") };
        assert_eq!(reason.code, "migration_stalled");
        assert!(reason.evidence.contains("400 written and 300 sent"), "{}", reason.evidence);
        assert!(matches!(falls(StallPolicy::PostCopy, swings), Some((_, Verdict::PostCopy))));
    }

    #[test]
    fn r52_slow_progress_is_progress() {
        assert_eq!(falls(StallPolicy::Cancel, |s| left(1_000_000 - s as u64)), None);
        // Every tenth second it comes a little further than ever before.
        let steps = |s: i64| left(1_000_000 - (s / 10) as u64 + u64::from(s % 10 != 0) * 5000);
        assert_eq!(falls(StallPolicy::Cancel, steps), None);
    }

    #[test]
    fn r52_long_passes_of_a_guest_that_writes_less_than_is_sent_are_progress() {
        // The second pass begins with much more than the first left at its end, and takes minutes.
        let long = |s: i64| MotionProgress {
            passes: 1 + u32::from(s >= 20),
            dirty_bytes_per_second: 100,
            ..left(if s < 20 { 100_000 - 5_000 * s as u64 } else { 200_000 - 300 * (s as u64 - 20) })
        };
        assert_eq!(falls(StallPolicy::Cancel, long), None);
        let outrun = |s: i64| MotionProgress { dirty_bytes_per_second: 300, ..long(s) };
        assert!(falls(StallPolicy::Cancel, outrun).is_some_and(|(s, _)| s <= 35));
    }

    #[test]
    fn r52_a_link_that_carries_nothing_counts_as_no_progress() {
        assert!(falls(StallPolicy::Cancel, |_| MotionProgress::default()).is_some_and(|(s, _)| s <= 15));
    }

    #[test]
    fn r52_a_throttled_guest_is_given_time_at_each_step_and_no_more() {
        let throttled = |s: i64| MotionProgress {
            throttle_percent: u32::try_from(s / 20 * 10).unwrap().min(99),
            ..left(5000)
        };
        let (second, verdict) = falls(StallPolicy::Throttle, throttled).unwrap();
        assert!((200..=270).contains(&second), "{second}");
        assert!(matches!(verdict, Verdict::Abort(_)));
        // Where nothing is slowed down it is given up soon.
        assert!(falls(StallPolicy::Throttle, |_| left(5000)).unwrap().0 <= 30);
    }
}
