//! The processor as the kernel describes it.

use std::collections::BTreeSet;

/// The processor of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Model as the processor calls itself.
    pub model: String,
    /// Feature flags, sorted.
    pub features: Vec<String>,
    /// Cores.
    pub cores: u32,
    /// Hardware threads.
    pub threads: u32,
}

/// The processor of this host.
pub fn look() -> Cpu {
    parse(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// Reads `/proc/cpuinfo` of x86-64.
pub fn parse(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    let mut cores = BTreeSet::new();
    for block in text.split("\n\n").filter(|block| block.contains("processor")) {
        let field = |name: &str| {
            block.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            })
        };
        cpu.threads += 1;
        cores.insert((field("physical id"), field("core id")));
        if cpu.model.is_empty() {
            cpu.model = field("model name").unwrap_or_default();
            let flags: BTreeSet<String> =
                field("flags").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
            cpu.features = flags.into_iter().collect();
        }
    }
    // A guest's kernel may not tell cores apart; then each thread counts as one.
    let told = !cores.contains(&(None, None));
    cpu.cores = if told { u32::try_from(cores.len()).unwrap_or(cpu.threads) } else { cpu.threads };
    cpu
}

/// How many numbers a list such as `0-3,8` names.
pub fn count_list(list: &str) -> u32 {
    let count = |part: &str| -> Option<u32> {
        match part.trim().split_once('-') {
            Some((from, to)) => Some(to.parse::<u32>().ok()?.checked_sub(from.parse().ok()?)? + 1),
            None => part.trim().parse::<u32>().ok().map(|_| 1),
        }
    };
    list.split(',').filter_map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_cores_threads_and_features_are_told_apart() {
        let block = |n: u32, core: u32| {
            format!(
                "processor\t: {n}\nmodel name\t: Thing 9000\nphysical id\t: 0\ncore id\t: {core}\nflags\t: sse avx avx\n\n"
            )
        };
        let cpu = parse(&[block(0, 0), block(1, 0), block(2, 1), block(3, 1)].concat());
        assert_eq!((cpu.model.as_str(), cpu.cores, cpu.threads), ("Thing 9000", 2, 4));
        assert_eq!(cpu.features, ["avx", "sse"]);
        assert_eq!(parse("processor : 0\nflags : a\n\nprocessor : 1\n\n").cores, 2);
        assert_eq!((count_list("0-3,8\n"), count_list("")), (5, 0));
        assert!(look().threads > 0);
    }
}
