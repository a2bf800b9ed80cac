//! LZ4's block format, as bodies of version 4 and segments of version 5 have it.

/// Shorter ones are sent as they are.
const WORTH_IT: usize = 128;

/// What one byte of LZ4 can stand for at most.
const MAX_RATIO: usize = 255;

/// `raw_len` bytes out of a block; `None` if it does not hold just so many. Allocates no more than
/// the block can hold, whatever `raw_len` says.
pub(super) fn inflate(block: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    if raw_len > block.len().saturating_mul(MAX_RATIO) {
        return None;
    }
    let mut out = vec![0; raw_len];
    let written = lz4_flex::block::decompress_into(block, &mut out).ok()?;
    (written == raw_len).then_some(out)
}

/// A block of `raw`, if that is shorter.
pub(super) fn deflate(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() < WORTH_IT {
        return None;
    }
    let block = lz4_flex::block::compress(raw);
    (block.len() < raw.len()).then_some(block)
}

/// The length that a compressed body of version 4 says it has, and its block.
pub(super) fn announced(body: &[u8]) -> Option<(usize, &[u8])> {
    let (len, block) = body.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_be_bytes(*len)).ok()?, block))
}

/// A compressed body of version 4, if that is shorter.
pub(super) fn deflate_body(raw: &[u8]) -> Option<Vec<u8>> {
    let block = deflate(raw)?;
    let mut out = u32::try_from(raw.len()).ok()?.to_be_bytes().to_vec();
    out.extend_from_slice(&block);
    (out.len() < raw.len()).then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_best_ratio_is_within_the_bound() {
        let raw = vec![7u8; 1 << 20];
        let block = deflate(&raw).unwrap();
        assert!(block.len() * MAX_RATIO >= raw.len(), "{}", block.len());
        assert_eq!(inflate(&block, raw.len()), Some(raw));
    }

    proptest! {
        #[test]
        fn what_was_deflated_is_inflated_to_its_length_only(
            raw in prop::collection::vec(0u8..4, 0..4000),
            other: u16,
        ) {
            if let Some(body) = deflate_body(&raw) {
                let (len, block) = announced(&body).unwrap();
                prop_assert_eq!(len, raw.len());
                prop_assert_eq!(inflate(block, len), Some(raw.clone()));
                let other = usize::from(other);
                prop_assert!(other == len || inflate(block, other).is_none());
            }
        }

        #[test]
        fn any_block_is_judged_without_a_panic(block: Vec<u8>, len in 0usize..100_000) {
            let _ = inflate(&block, len);
            let _ = announced(&block);
        }
    }
}
