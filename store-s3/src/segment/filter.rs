//! Which texts of three bytes a block may hold: enough to pass over most blocks that have no match.
//!
//! A filter is a set of bits, a power of two of them. Each trigram of the block's bytes, its ASCII letters made small, sets
//! the bit that its hash names. One bit per trigram, for a pattern has many: of a text of ten bytes all eight trigrams
//! have to be there. A filter starts large and is folded in halves until about half of it would be set.

use bytes::Bytes;

/// As many bits as a filter has before it is folded: more distinct trigrams than these has no block of text.
const MOST_BITS: usize = 1 << 16;

/// The smallest filter, in bytes.
const LEAST_BYTES: usize = 8;

/// A filter is folded as long as at most one bit in so many is set, so that about 40 % are in the end.
const SPARSE: usize = 5;

/// The filter of a block, as it lies in the segment.
#[derive(Clone, Debug)]
pub(crate) struct Filter(Bytes);

impl Filter {
    /// `None` where these bytes are none: then every block may match.
    pub(crate) fn new(bytes: Bytes) -> Option<Self> {
        (bytes.len() >= LEAST_BYTES && bytes.len().is_power_of_two()).then_some(Self(bytes))
    }

    /// Whether the trigram with this position may be there.
    pub(crate) fn has(&self, position: usize) -> bool {
        let bit = position & (self.0.len() * 8 - 1);
        self.0.get(bit / 8).is_none_or(|byte| byte & (1 << (bit % 8)) != 0)
    }
}

/// Where a trigram of small letters stands in the largest filter; in smaller ones at what is left of it.
pub(crate) fn position(trigram: [u8; 3]) -> usize {
    let [a, b, c] = trigram.map(u32::from);
    place((a << 16) | (b << 8) | c)
}

const fn gathered(eight: u64) -> u8 {
    let [highest, ..] = eight.wrapping_mul(GATHERS).to_be_bytes();
    highest
}

fn place(trigram: u32) -> usize {
    // Knuth's multiplicative hash: the upper half depends on all bits of the trigram.
    (trigram.wrapping_mul(0x9E37_79B1) >> 16) as usize
}

/// Makes the filters of blocks.
#[derive(Debug)]
pub(super) struct Sieve {
    /// The bytes with small letters.
    small: Vec<u8>,
    /// A byte for each bit of the largest filter: to set it takes no look at what was there.
    seen: Box<[u8; MOST_BITS]>,
    bits: Vec<u8>,
}

/// Gathers the lowest bits of eight bytes in the highest byte, the first of them lowest.
const GATHERS: u64 = 0x0102_0408_1020_4080;

impl Sieve {
    pub(super) fn new() -> Self {
        Self { small: Vec::new(), seen: Box::new([0; MOST_BITS]), bits: Vec::with_capacity(MOST_BITS / 8) }
    }

    /// The filter of these bytes. Trigrams that reach over the end of a line are in it too: sorting them out would cost
    /// more than their bits.
    pub(super) fn filter(&mut self, bytes: &[u8]) -> &[u8] {
        self.small.clear();
        self.small.extend_from_slice(bytes);
        self.small.make_ascii_lowercase();
        self.seen.fill(0);
        // Four bytes are one load; that of the last three has none.
        let mut set = |trigram| {
            // Always there: a place has 16 bits.
            if let Some(seen) = self.seen.get_mut(place(trigram)) {
                *seen = 1;
            }
        };
        self.small.array_windows().for_each(|four| set(u32::from_be_bytes(*four) >> 8));
        if let Some([a, b, c]) = self.small.last_chunk() {
            set(u32::from_be_bytes([0, *a, *b, *c]));
        }
        self.bits.clear();
        let (eights, _) = self.seen.as_chunks();
        self.bits.extend(eights.iter().map(|eight| gathered(u64::from_le_bytes(*eight))));
        self.fold();
        &self.bits
    }

    fn fold(&mut self) {
        let mut set: usize = self.bits.iter().map(|byte| byte.count_ones() as usize).sum();
        while self.bits.len() > LEAST_BYTES && set * SPARSE <= self.bits.len() * 8 {
            let half = self.bits.len() / 2;
            let (low, high) = self.bits.split_at_mut(half);
            low.iter_mut().zip(high).for_each(|(low, high)| *low |= *high);
            self.bits.truncate(half);
            set = self.bits.iter().map(|byte| byte.count_ones() as usize).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, Sieve, position};
    use bytes::Bytes;
    use proptest::prelude::{prop_assert, proptest};

    fn filter(bytes: &[u8]) -> Filter {
        Filter::new(Bytes::copy_from_slice(Sieve::new().filter(bytes))).unwrap()
    }

    proptest! {
        #[test]
        fn every_trigram_of_a_block_is_in_its_filter(bytes in proptest::collection::vec(0u8.., 3..3000)) {
            let filter = filter(&bytes);
            for window in bytes.windows(3) {
                let [a, b, c] = [window[0], window[1], window[2]].map(|byte| byte.to_ascii_lowercase());
                prop_assert!(filter.has(position([a, b, c])));
            }
        }
    }

    #[test]
    fn a_filter_is_as_small_as_its_block_allows() {
        let text: String = (0..3000).map(|n| format!("{n} compiling crate number {}\n", n * 7919)).collect();
        let filter = filter(text.as_bytes());
        assert!(filter.0.len() <= 1024, "{} bytes", filter.0.len());
        let absent = (0..1000u32).filter(|n| !filter.has((n * 65_537 / 7) as usize % (1 << 16)));
        assert!(absent.count() > 400, "more than a few are told to be absent");
        assert_eq!(super::Sieve::new().filter(b"").len(), super::LEAST_BYTES);
    }
}
