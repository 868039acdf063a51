//! Ids for what the reconciler makes: of what it is made for, so that a run is repeated as it was.

use basalt_model::DateTime;
use basalt_store::Ids;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use uuid::Uuid;

/// New ids, made of another: asked again, the same come.
pub(crate) fn new(of: Uuid, now: DateTime) -> Ids {
    let millis = u128::from(now.timestamp_millis().unsigned_abs()) & 0xffff_ffff_ffff;
    let seed = (of.as_u128() >> 64) as u64 ^ of.as_u128() as u64;
    let next = AtomicU64::new(1);
    Arc::new(move || {
        // Weyl's sequence and a finaliser, as in SplitMix64: neighbours differ in every byte.
        let n = next.fetch_add(1, Ordering::Relaxed);
        let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let tail = u128::from(z ^ (z >> 31)) & 0x3fff_ffff_ffff_ffff;
        Uuid::from_u128(millis << 80 | 0x7 << 76 | u128::from(n & 0xfff) << 64 | 0x8 << 60 | tail)
    })
}
