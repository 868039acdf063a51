//! Long vectors that live as long as a graph: they grow by an eighth, for a vector left to itself doubles and keeps what it
//! does not need.

/// Fewest entries that room is made for at once.
const AT_LEAST: usize = 16;

/// Appends an entry.
pub(crate) fn push<T>(slots: &mut Vec<T>, entry: T) {
    if slots.len() == slots.capacity() {
        slots.reserve_exact((slots.len() / 8).max(AT_LEAST));
    }
    slots.push(entry);
}

#[cfg(test)]
mod tests {
    #[test]
    fn little_more_is_taken_than_is_needed() {
        let mut slots = Vec::new();
        let mut moves = 0;
        for n in 0..100_000_u32 {
            let before = slots.capacity();
            super::push(&mut slots, n);
            moves += usize::from(slots.capacity() != before);
        }
        assert!(
            slots.capacity() <= slots.len() + slots.len() / 8 + 1,
            "{} for {}",
            slots.capacity(),
            slots.len()
        );
        assert!(moves < 100, "moved {moves} times");
    }
}
