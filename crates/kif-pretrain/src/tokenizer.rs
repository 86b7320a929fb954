//! A tokenizer made from the corpus: byte-pair merges within words, and bytes for what no merge
//! reaches.
//!
//! The vocabulary is laid out as T5's: `<pad>` 0, `</s>` 1, `<unk>` 2, then 256 bytes, then pieces,
//! and the sentinels at the end with `<extra_id_0>` last. Runs of white space count as one space, a
//! word starts with `▁`, punctuation stands alone, and for a T5 `</s>` is appended; the prompt of a
//! decoder-only model is gone on with, and ends in nothing.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, anyhow};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::strip::Strip;
use tokenizers::normalizers::unicode::NFKC;
use tokenizers::normalizers::utils::Sequence as NormalizerSequence;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizerSequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, SplitDelimiterBehavior, TokenizerBuilder, Trainer,
};

/// The first ids.
const SPECIAL: [&str; 3] = ["<pad>", END, "<unk>"];

/// The token that ends a text.
pub const END: &str = "</s>";

/// Learns at most `vocab_size` tokens from texts and returns the text of a `tokenizer.json`;
/// whether it appends the end token to a text is for `appends_end` to say.
///
/// The same texts give the same bytes. Rare characters, beyond a quarter of the vocabulary, are
/// left to bytes.
pub fn train<'a>(
    texts: impl Iterator<Item = &'a str>,
    vocab_size: usize,
    n_sentinels: usize,
    appends_end: bool,
) -> Result<String> {
    let words = count_words(texts)?;
    let n_reserved = SPECIAL.len() + 256 + n_sentinels;
    let n_pieces = vocab_size.saturating_sub(n_reserved);
    let (pieces, merges) = learn_merges(&words, n_pieces)?;

    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = SPECIAL
        .iter()
        .map(|&token| token.to_owned())
        .chain(bytes)
        .chain(pieces);
    let vocab = tokens.zip(0u32..).collect();
    let mut model = BPE::new(vocab, merges);
    (model.unk_token, model.byte_fallback) = (Some("<unk>".into()), true);

    let (normalizer, pre_tokenizer) = (normalizer()?, pre_tokenizer());
    let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
    let decoder = DecoderSequence::new(vec![
        ByteFallback::new().into(),
        metaspace.into(),
        Fuse::new().into(),
    ]);
    let builder = TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(Some(normalizer))
        .with_pre_tokenizer(Some(pre_tokenizer))
        .with_post_processor(appends_end.then(end_appended).transpose()?)
        .with_decoder(Some(decoder));
    let mut tokenizer = builder.build().map_err(made)?;
    let special = |name: String| AddedToken::from(name, true);
    tokenizer
        .add_special_tokens(
            SPECIAL
                .iter()
                .map(|&name| special(name.into()))
                .collect::<Vec<_>>(),
        )
        .map_err(made)?;
    let sentinels = (0..n_sentinels)
        .rev()
        .map(|n| special(format!("<extra_id_{n}>")));
    tokenizer
        .add_special_tokens(sentinels.collect::<Vec<_>>())
        .map_err(made)?;
    tokenizer.to_string(true).map_err(made)
}

/// Sentinels of a tokenizer in the order in which spans use them, up to the first that it does not
/// have.
pub fn sentinels(tokenizer: &tokenizers::Tokenizer) -> Vec<u32> {
    (0..100)
        .map_while(|n| tokenizer.token_to_id(&format!("<extra_id_{n}>")))
        .collect()
}

/// What a T5's tokenizer does after a text.
fn end_appended() -> Result<TemplateProcessing> {
    Ok(TemplateProcessing::builder()
        .try_single("$A </s>")
        .and_then(|builder| builder.try_pair("$A </s> $B </s>"))
        .map_err(|e| anyhow!("making the tokenizer: {e}"))?
        .special_tokens(vec![(END, 1)])
        .build()?)
}

fn normalizer() -> Result<NormalizerSequence> {
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(made)?;
    Ok(NormalizerSequence::new(vec![
        NFKC.into(),
        spaces.into(),
        Strip::new(true, true).into(),
    ]))
}

fn pre_tokenizer() -> PreTokenizerSequence {
    let words = Metaspace::new('▁', PrependScheme::Always, true);
    PreTokenizerSequence::new(vec![
        words.into(),
        Punctuation::new(SplitDelimiterBehavior::Isolated).into(),
    ])
}

/// How often each word occurs, as the tokenizer will split it.
fn count_words<'a>(texts: impl Iterator<Item = &'a str>) -> Result<BTreeMap<String, u64>> {
    let (normalizer, pre_tokenizer) = (normalizer()?, pre_tokenizer());
    let mut words = BTreeMap::new();
    for text in texts {
        let mut normalized = NormalizedString::from(text);
        normalizer.normalize(&mut normalized).map_err(made)?;
        let mut split = PreTokenizedString::from(normalized);
        pre_tokenizer.pre_tokenize(&mut split).map_err(made)?;
        for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            match words.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(words.insert(word.to_owned(), 1)),
            }
        }
    }
    Ok(words)
}

/// Two pieces that become one.
type Merge = (String, String);

/// At most `n_pieces` pieces in the order of their ids, and the merges that make them.
fn learn_merges(
    words: &BTreeMap<String, u64>,
    n_pieces: usize,
) -> Result<(Vec<String>, Vec<Merge>)> {
    // The trainer breaks ties among rare characters by chance, so the alphabet is cut here: by
    // count, then by character.
    let mut counts: BTreeMap<char, u64> = BTreeMap::new();
    for (word, n) in words {
        word.chars()
            .for_each(|c| *counts.entry(c).or_default() += n);
    }
    let mut alphabet: Vec<(char, u64)> = counts.into_iter().collect();
    alphabet.sort_by_key(|&(c, n)| (std::cmp::Reverse(n), c));
    alphabet.truncate(n_pieces / 4);
    let alphabet: HashSet<char> = alphabet.into_iter().map(|(c, _)| c).collect();

    let mut trainer = BpeTrainer::builder()
        .vocab_size(n_pieces)
        .show_progress(false)
        .min_frequency(2)
        .build();
    // Counts become repetitions, capped in ratio: the trainer counts texts, not weighted words.
    let repeated = words
        .iter()
        .flat_map(|(word, &n)| std::iter::repeat_n(word.as_str(), n as usize));
    let known = |word: &str| {
        word.split(|c| !alphabet.contains(&c))
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect()
    };
    trainer
        .feed(repeated, |word| Ok(known(word)))
        .map_err(made)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(made)?;
    let mut pieces: Vec<(u32, String)> = model
        .get_vocab()
        .into_iter()
        .map(|(piece, id)| (id, piece))
        .collect();
    pieces.sort_unstable();
    Ok((
        pieces.into_iter().map(|(_, piece)| piece).collect(),
        merges_of(&model)?,
    ))
}

/// The merges of a trained model in order, as its file has them.
fn merges_of(model: &BPE) -> Result<Vec<(String, String)>> {
    let file = serde_json::to_value(model)?;
    Ok(serde_json::from_value(file["merges"].clone())?)
}

fn made(error: tokenizers::Error) -> anyhow::Error {
    anyhow!("making the tokenizer: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained() -> String {
        trained_for(true)
    }

    fn trained_for(appends_end: bool) -> String {
        let texts = [
            "the goat sees the hen.",
            "the hen, the goat",
            "a goat\n\n  a hen",
        ]
        .repeat(5);
        train(texts.into_iter(), 512, 10, appends_end).unwrap()
    }

    #[test]
    fn ids_are_laid_out_as_t5s_and_the_end_is_appended() {
        let tokenizer: tokenizers::Tokenizer = trained().parse().unwrap();
        let n = tokenizer.get_vocab_size(true) as u32;
        for (token, id) in [
            ("<pad>", 0),
            ("</s>", 1),
            ("<unk>", 2),
            ("<0x00>", 3),
            ("<extra_id_0>", n - 1),
        ] {
            assert_eq!(tokenizer.token_to_id(token), Some(id), "{token}");
        }
        assert_eq!(sentinels(&tokenizer), (n - 10..n).rev().collect::<Vec<_>>());
        let encoding = tokenizer.encode("the  goat\n.", true).unwrap();
        assert_eq!(encoding.get_tokens(), ["▁the", "▁goat", "▁", ".", "</s>"]);
    }

    #[test]
    fn a_prompt_that_is_gone_on_with_does_not_end() {
        let [t5, decoder] = [true, false].map(|appends_end| {
            let tokenizer: tokenizers::Tokenizer = trained_for(appends_end).parse().unwrap();
            let encoding = tokenizer.encode("the goat", true).unwrap();
            encoding.get_tokens().to_vec()
        });
        assert_eq!(decoder, ["▁the", "▁goat"]);
        assert_eq!(t5, [&decoder[..], &[END.to_owned()]].concat());
    }

    #[test]
    fn any_text_survives_as_bytes() {
        let tokenizer: tokenizers::Tokenizer = trained().parse().unwrap();
        for text in ["the goat, the hen.", "Ωmega größer 犬 🐐", "x<y>z_w"] {
            let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
            assert!(!ids.contains(&2), "{text}: {ids:?}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        }
    }

    #[test]
    fn the_same_corpus_gives_the_same_bytes() {
        assert_eq!(trained(), trained());
    }
}
