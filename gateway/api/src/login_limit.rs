//! How often a login may fail, by user name and by the client's address.
//!
//! ```text
//! attempt ──► address has failures left? ──► name has failures left? ──► taken from both ──► the hash is computed
//!                     │ no                           │ no                                        │
//!                     └───────────► 429, with the seconds until one is forgiven        right: given back to both
//!                                                                                       wrong: forgiven in time
//! ```
//! An attempt is taken before it is judged, so that many at once are no way around. Names that nobody has are counted
//! like all others, so that a refusal tells nothing. An address from which a user signed in before is not bound by what
//! others do to the user's name: nobody is locked out from afar. All of it is in the memory of one gateway, within
//! bounds, and forgotten with a restart.

use basalt_model::{DateTime, Name};
use chrono::TimeDelta;
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Failures in a row of one user name, and the time after which one is forgiven.
const OF_A_NAME: Rule = Rule { failures: 10, forgiven_after: TimeDelta::seconds(30) };
/// The same of one address: several people may sit behind it.
const OF_AN_ADDRESS: Rule = Rule { failures: 30, forgiven_after: TimeDelta::seconds(5) };
/// Most names, addresses, and pairs of both that are remembered.
const MOST: usize = 10_000;

#[derive(Clone, Copy)]
struct Rule {
    failures: i32,
    forgiven_after: TimeDelta,
}

/// A client: its IPv4 address, or the network of an IPv6 address, of which a client has 2^64. `None` where no socket is.
type Client = Option<IpAddr>;

/// Who failed how often.
#[derive(Default)]
pub struct LoginLimit(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    names: Failures<Name>,
    addresses: Failures<Client>,
    /// Where users signed in from, and when last.
    known: HashMap<(Name, Client), DateTime>,
}

/// An attempt that was let through; it counts as failed until [`LoginLimit::forgive`] takes it back.
pub struct Attempt {
    name: Name,
    client: Client,
    by_name: bool,
}

/// Seconds after which it is worth trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub u64);

impl LoginLimit {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an attempt, or says how long to wait.
    pub fn attempt(&self, name: &Name, address: Option<IpAddr>, now: DateTime) -> Result<Attempt, Wait> {
        let client = address.map(client);
        let mut tables = self.tables();
        let by_name = !tables.known.contains_key(&(name.clone(), client));
        tables.addresses.check(&client, OF_AN_ADDRESS, now)?;
        if by_name {
            tables.names.check(name, OF_A_NAME, now)?;
            tables.names.add(name.clone(), OF_A_NAME, now);
        }
        tables.addresses.add(client, OF_AN_ADDRESS, now);
        Ok(Attempt { name: name.clone(), client, by_name })
    }

    /// The attempt was no failure of the caller's.
    pub fn forgive(&self, attempt: &Attempt) {
        let mut tables = self.tables();
        tables.addresses.take_back(&attempt.client, OF_AN_ADDRESS);
        if attempt.by_name {
            tables.names.take_back(&attempt.name, OF_A_NAME);
        }
    }

    /// The attempt was right: it is forgiven, and the address is known to be the user's.
    pub fn succeeded(&self, attempt: Attempt, now: DateTime) {
        self.forgive(&attempt);
        let known = &mut self.tables().known;
        make_room(known);
        known.insert((attempt.name, attempt.client), now);
    }
}

/// Failures by key: for each the time at which all of them are forgiven.
struct Failures<K>(HashMap<K, DateTime>);

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Failures<K> {
    /// When all is forgiven. More than a full count is of a clock that was set back since, and nobody waits for that.
    fn forgiven_at(&self, key: &K, rule: Rule, now: DateTime) -> DateTime {
        let longest = now + rule.forgiven_after * rule.failures;
        self.0.get(key).filter(|at| **at <= longest).map_or(now, |at| now.max(*at))
    }

    fn check(&self, key: &K, rule: Rule, now: DateTime) -> Result<(), Wait> {
        let after = self.forgiven_at(key, rule, now) + rule.forgiven_after;
        let over = after - now - rule.forgiven_after * rule.failures;
        match over.num_milliseconds() {
            ..=0 => Ok(()),
            millis => Err(Wait(millis.unsigned_abs().div_ceil(1000))),
        }
    }

    fn add(&mut self, key: K, rule: Rule, now: DateTime) {
        let at = self.forgiven_at(&key, rule, now) + rule.forgiven_after;
        if !self.0.contains_key(&key) {
            make_room(&mut self.0);
        }
        self.0.insert(key, at);
    }

    fn take_back(&mut self, key: &K, rule: Rule) {
        if let Some(at) = self.0.get_mut(key) {
            *at -= rule.forgiven_after;
        }
    }
}

/// In a full table the earliest goes: of failures those that are forgiven first, which count least.
fn make_room<K: Eq + Hash + Clone>(table: &mut HashMap<K, DateTime>) {
    if table.len() >= MOST
        && let Some(earliest) = table.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())
    {
        table.remove(&earliest);
    }
}

fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }
    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }
    fn from(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }
    /// How many of a hundred attempts are let through, each of which fails, and what the last is told.
    fn failures(limit: &LoginLimit, user: &str, address: &str, now: DateTime) -> (usize, u64) {
        let tried: Vec<_> = (0..100).map(|_| limit.attempt(&name(user), from(address), now)).collect();
        let wait = tried.last().unwrap().as_ref().err().map_or(0, |w| w.0);
        (tried.iter().filter(|t| t.is_ok()).count(), wait)
    }

    #[test]
    fn s13_a_name_fails_ten_times_in_a_row_and_one_is_forgiven_every_half_minute() {
        let limit = LoginLimit::default();
        assert_eq!(failures(&limit, "ada", "10.0.0.1", at(0)), (10, 30));
        assert_eq!(failures(&limit, "ada", "10.0.0.2", at(29)), (0, 1), "from wherever");
        assert_eq!(failures(&limit, "ada", "10.0.0.2", at(30)), (1, 30));
        assert_eq!(failures(&limit, "ada", "10.0.0.2", at(1000)), (10, 30));
    }

    #[test]
    fn s13_an_address_fails_thirty_times_whatever_the_names() {
        let limit = LoginLimit::default();
        let tried = |address: &str, now| {
            (0..100).filter(|n| limit.attempt(&name(&format!("u{n}")), from(address), now).is_ok()).count()
        };
        assert_eq!(tried("10.0.0.1", at(0)), 30);
        assert_eq!(tried("::ffff:10.0.0.1", at(0)), 0, "the same in other words");
        assert_eq!(tried("10.0.0.1", at(5)), 1);
        assert_eq!(tried("2001:db8:0:1::1", at(0)), 30);
        assert_eq!(tried("2001:db8:0:1:ffff::9", at(0)), 0, "a client has the whole network");
        assert_eq!(tried("2001:db8:0:2::1", at(0)), 30);
    }

    #[test]
    fn s13_what_was_right_costs_nothing_and_nobody_is_locked_out_from_afar() {
        let limit = LoginLimit::default();
        for _ in 0..100 {
            let attempt = limit.attempt(&name("ada"), from("10.0.0.1"), at(0)).unwrap();
            limit.succeeded(attempt, at(0));
        }
        assert_eq!(failures(&limit, "ada", "10.6.6.6", at(0)).0, 10);
        // At her own address only her own failures count.
        assert_eq!(failures(&limit, "ada", "10.0.0.1", at(0)).0, 30);
        assert!(limit.attempt(&name("bob"), from("10.0.0.3"), at(0)).is_ok());
    }

    #[test]
    fn the_tables_are_bounded_and_keep_who_failed_most() {
        let limit = LoginLimit::default();
        assert_eq!(failures(&limit, "ada", "10.0.0.1", at(0)).0, 10);
        for n in 0..12_000u32 {
            let address = Some(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into());
            let attempt = limit.attempt(&name(&format!("u{n}")), address, at(0)).unwrap();
            if n % 2 == 0 {
                limit.succeeded(attempt, at(0));
            }
        }
        let tables = limit.tables();
        assert!(
            tables.names.0.len() <= MOST && tables.addresses.0.len() <= MOST && tables.known.len() <= MOST
        );
        drop(tables);
        assert_eq!(failures(&limit, "ada", "10.0.0.2", at(0)).0, 0);
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let limit = LoginLimit::default();
        failures(&limit, "ada", "10.0.0.1", at(1_000_000));
        assert_eq!(failures(&limit, "ada", "10.0.0.2", at(0)), (10, 30));
    }
}
