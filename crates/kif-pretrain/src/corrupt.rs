//! Span corruption: tokens are taken out of a passage and have to be written back.
//!
//! Raffel et al., *Exploring the Limits of Transfer Learning with a Unified Text-to-Text
//! Transformer* (JMLR 2020), section 3.1.4: 15 % of the tokens in spans of 3 on average; each span
//! leaves a sentinel of its own.

use kif_data::chance;
use rand_chacha::ChaCha8Rng;

/// What is taken out of a passage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Share of tokens, in (0, 1).
    pub density: f64,
    /// Mean length of a span, in tokens; at least 1.
    pub mean_span: f64,
}

/// The passage with sentinels where spans were, and the spans after their sentinels; no end tokens.
///
/// `ids` has at least two tokens, none of them a sentinel; at least one token is taken out and one
/// stays. There are never more spans than sentinels.
pub fn corrupt(
    ids: &[u32],
    noise: Noise,
    sentinels: &[u32],
    rng: &mut ChaCha8Rng,
) -> (Vec<u32>, Vec<u32>) {
    assert!(
        ids.len() >= 2 && !sentinels.is_empty(),
        "{} tokens, {} sentinels",
        ids.len(),
        sentinels.len()
    );
    let n_noise = ((ids.len() as f64 * noise.density).round() as usize).clamp(1, ids.len() - 1);
    let n_clean = ids.len() - n_noise;
    let n_spans = (n_noise as f64 / noise.mean_span).round() as usize;
    let n_spans = n_spans.clamp(1, n_noise.min(n_clean).min(sentinels.len()));
    let (clean, taken) = (
        partition(n_clean, n_spans, rng),
        partition(n_noise, n_spans, rng),
    );
    let (mut input, mut target, mut at) = (Vec::new(), Vec::new(), 0);
    for ((n_clean, n_taken), &sentinel) in clean.into_iter().zip(taken).zip(sentinels) {
        input.extend_from_slice(&ids[at..at + n_clean]);
        input.push(sentinel);
        target.push(sentinel);
        target.extend_from_slice(&ids[at + n_clean..at + n_clean + n_taken]);
        at += n_clean + n_taken;
    }
    (input, target)
}

/// The inverse of [`corrupt`]: the passage that input and target were made from.
pub fn fill(input: &[u32], target: &[u32], sentinels: &[u32]) -> Vec<u32> {
    let span_of = |sentinel: u32| {
        let after = target.iter().skip_while(move |&&id| id != sentinel).skip(1);
        after.take_while(|id| !sentinels.contains(id)).copied()
    };
    let mut ids = Vec::new();
    for &id in input {
        if sentinels.contains(&id) {
            ids.extend(span_of(id))
        } else {
            ids.push(id)
        }
    }
    ids
}

/// `n` as a sum of `n_parts` positive numbers, all such sums equally likely.
fn partition(n: usize, n_parts: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut cuts = chance::permutation(rng, n - 1);
    cuts.truncate(n_parts - 1);
    cuts.sort_unstable();
    let ends = cuts.into_iter().map(|cut| cut + 1).chain([n]);
    let mut start = 0;
    ends.map(|end| end - std::mem::replace(&mut start, end))
        .collect()
}

#[cfg(test)]
mod tests {
    use kif_data::chance::{Purpose, stream};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn filling_the_gaps_gives_the_passage_back(
            ids in prop::collection::vec(100u32..1000, 2..200),
            density in 0.01..0.99f64,
            mean_span in 1.0..9.0f64,
            n_sentinels in 1usize..40,
            seed: u64,
        ) {
            let sentinels: Vec<u32> = (0..n_sentinels as u32).collect();
            let mut rng = stream(seed, Purpose::Pretrain, 0, 0);
            let (input, target) = corrupt(&ids, Noise { density, mean_span }, &sentinels, &mut rng);
            prop_assert_eq!(fill(&input, &target, &sentinels), ids.clone());
            prop_assert_eq!(input.iter().filter(|id| sentinels.contains(id)).count() * 2 + ids.len(), input.len() + target.len());
        }
    }

    #[test]
    fn fifteen_percent_in_spans_of_three() {
        let ids: Vec<u32> = (100..200).collect();
        let sentinels: Vec<u32> = (0..20).collect();
        let noise = Noise {
            density: 0.15,
            mean_span: 3.0,
        };
        let (input, target) = corrupt(
            &ids,
            noise,
            &sentinels,
            &mut stream(1, Purpose::Pretrain, 0, 0),
        );
        assert_eq!((input.len(), target.len()), (85 + 5, 15 + 5));
        assert_eq!(target[0], 0);
    }
}
