//! How many hosts a lab has: asked for, kept from then on, grown when more are asked for, never fewer.
//!
//! The directories of the hosts are the memory of it: a host that was made once holds disks and an identity that the
//! gateway knows, so it is a host of the lab until everything is forgotten.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;

/// More would fit the networks, but no machine that one tries this on.
pub const MOST_HOSTS: u8 = 8;
/// Open vSwitch, libvirt and the agent, and one small VM under emulation.
const MEMORY_OF_A_HOST_MIB: u64 = 512;

/// The name of host number `number`.
pub fn host_name(number: u8) -> String {
    format!("h{number}")
}

/// A number of hosts as a person writes it.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(count @ 1..=MOST_HOSTS) => Ok(count),
        Ok(0) => Err(format!("a cluster without hosts runs nothing: give 1 to {MOST_HOSTS}")),
        _ => Err(format!("a lab has 1 to {MOST_HOSTS} hosts on this one machine: give a number in between")),
    }
}

/// How many hosts the lab had so far; 0 before its first start.
pub fn kept(layout: &Layout) -> u8 {
    (1..=MOST_HOSTS).rev().find(|n| layout.host_dir(&host_name(*n)).is_dir()).unwrap_or(0)
}

/// How many it shall have now.
pub fn decide(kept: u8, asked: Option<u8>) -> Result<u8> {
    match asked {
        Some(asked) if asked < kept => bail!(
            "--hosts {asked}: this lab has {kept} already, and what lies on {} would be out of reach; leave --hosts out to \
             go on with {kept}, or begin anew with `up --reset --hosts {asked}`, which forgets everything stored",
            host_name(kept)
        ),
        Some(asked) => Ok(asked),
        None => Ok(kept.max(1)),
    }
}

/// Refuses another number than the one that runs.
pub fn check_running(running: usize, asked: Option<u8>) -> Result<()> {
    let running = u8::try_from(running)?;
    match asked {
        Some(asked) if decide(running, Some(asked))? != running => bail!(
            "--hosts {asked}: the lab runs with {running}, and hosts are added at its start only; `down`, then \
             `up --hosts {asked}`"
        ),
        _ => Ok(()),
    }
}

/// Says what `count` hosts need, or refuses when the machine has less.
pub fn check_memory(count: u8, available_mib: u64) -> Result<String> {
    let needed = u64::from(count) * MEMORY_OF_A_HOST_MIB;
    let hosts = if count == 1 { "1 host needs".to_owned() } else { format!("{count} hosts need") };
    let text = format!("{hosts} about {needed} MiB of memory, and {available_mib} MiB are available");
    if needed > available_mib {
        bail!("{text}: ask for fewer hosts with --hosts, or end something else first");
    }
    Ok(text)
}

/// Memory that programs may still take on this machine.
pub fn available_mib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("MemAvailable is no number")?;
    Ok(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_no_lab_are_refused_with_the_remedy() {
        assert_eq!((parse("1"), parse("8")), (Ok(1), Ok(8)));
        for bad in ["0", "9", "300", "-1", "x", ""] {
            let said = parse(bad).unwrap_err();
            assert!(said.contains("1 to 8"), "{bad}: {said}");
        }
    }

    #[test]
    fn a_lab_keeps_its_hosts_grows_and_does_not_shrink() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(&dir.path().join("d")).unwrap();
        assert_eq!((kept(&layout), decide(0, None).unwrap()), (0, 1));
        for number in 1..=3 {
            fs::create_dir_all(layout.host_dir(&host_name(number))).unwrap();
        }
        assert_eq!((kept(&layout), decide(3, None).unwrap(), decide(3, Some(5)).unwrap()), (3, 3, 5));
        let said = decide(3, Some(2)).unwrap_err().to_string();
        assert!(said.contains("h3") && said.contains("up --reset --hosts 2"), "{said}");
    }

    #[test]
    fn a_running_lab_is_not_grown() {
        assert!(check_running(2, None).is_ok() && check_running(2, Some(2)).is_ok());
        let said = check_running(2, Some(3)).unwrap_err().to_string();
        assert!(said.contains("`down`, then"), "{said}");
        assert!(check_running(2, Some(1)).unwrap_err().to_string().contains("--reset"));
    }

    #[test]
    fn memory_is_said_or_refused() {
        assert!(check_memory(3, 4000).unwrap().contains("3 hosts need about 1536 MiB"));
        assert!(check_memory(3, 1000).unwrap_err().to_string().contains("fewer hosts"));
        assert!(available_mib().unwrap() > 0);
    }
}
