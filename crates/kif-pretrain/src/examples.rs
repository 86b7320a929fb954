//! The corpus as token ids, and the batch of every step.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kif_data::chance::{self, Purpose};
use kif_data::{
    Batch, Content, CorpusItem, Encoded, Format, Limits, Ragged, Row, Tokenizer, corpus_items,
};
use kif_io::failure::BadInput;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::config::Batches;
use super::corrupt::{Noise, corrupt};
use super::shard::{Shard, is_shard};

/// Pieces of a corpus that are tokenized at a time.
const CHUNK: usize = 8192;

/// Passages shorter than this, in tokens, are not worth learning.
const MIN_PASSAGE: usize = 8;

/// The corpus as token ids, split into training and validation.
pub struct Examples {
    pairs: Pairs,
    /// Without end tokens.
    passages: Ragged,
    held_out: HeldOut,
    batches: Batches,
    special: Special,
    seed: u64,
    /// Passages that were too short to use.
    pub n_short: usize,
    /// Tokenized pairs that were longer than the limits.
    pub n_long: usize,
}

/// What the model learns of a passage, and with it how texts are laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objective {
    /// An encoder-decoder writes back what was taken out of it. Inputs end as targets do.
    Spans {
        /// What spans leave, in the order of their use.
        sentinels: Vec<u32>,
    },
    /// A decoder-only model writes every token from those before it. An input is gone on with: it
    /// does not end.
    Causal,
}

/// How rows are made.
#[derive(Clone, Debug)]
pub struct Special {
    /// Ends targets.
    pub end: u32,
    /// What is made of passages.
    pub objective: Objective,
}

#[derive(Default)]
struct Pairs {
    inputs: Ragged,
    targets: Ragged,
}

/// Rows that training never sees.
#[derive(Debug, Default, PartialEq)]
pub struct HeldOut {
    /// Pairs.
    pub pairs: Vec<Encoded>,
    /// Passages, as the model learns them.
    pub spans: Vec<Encoded>,
}

/// Calls `each` with every piece of the corpus, document marks left out.
pub fn for_each_item(
    files: &[PathBuf],
    mut each: impl FnMut(CorpusItem) -> Result<()>,
) -> Result<()> {
    for file in files {
        for item in corpus_items(file)? {
            match item? {
                CorpusItem::Document(_) => {}
                item => each(item)?,
            }
        }
    }
    Ok(())
}

impl Examples {
    /// Reads and tokenizes the corpus. Of pairs and passages, `n_validation` each are held out, at
    /// most a tenth.
    pub fn read(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        special: Special,
        batches: Batches,
        n_validation: usize,
        seed: u64,
    ) -> Result<Self> {
        let mut reader = Reader {
            tokenizer,
            format: special.format(),
            limits: limits(batches),
            pairs: Pairs::default(),
            passages: Ragged::default(),
            n_short: 0,
            n_long: 0,
        };
        let (shards, texts): (Vec<PathBuf>, Vec<PathBuf>) =
            files.iter().cloned().partition(|file| is_shard(file));
        for file in &shards {
            reader.add(Shard::read(file, tokenizer.vocab_size())?);
        }
        let mut chunk = Vec::with_capacity(CHUNK);
        for_each_item(&texts, |item| {
            chunk.push(item);
            if chunk.len() == CHUNK {
                reader.take(&mut chunk)
            } else {
                Ok(())
            }
        })?;
        reader.take(&mut chunk)?;
        let Reader {
            pairs,
            passages,
            n_short,
            n_long,
            ..
        } = reader;
        if pairs.inputs.n_rows() + passages.n_rows() == 0 {
            bail!(BadInput(
                "the corpus has nothing to learn: no pair, and no passage of 8 tokens".into()
            ));
        }
        let mut all = Self {
            pairs,
            passages,
            held_out: HeldOut::default(),
            batches,
            special,
            seed,
            n_short,
            n_long,
        };
        all.hold_out(n_validation);
        Ok(all)
    }

    /// Rows that training never sees.
    pub fn held_out(&self) -> &HeldOut {
        &self.held_out
    }

    /// Training pairs, training passages, and tokens of all inputs, targets and passages together.
    pub fn counts(&self) -> (usize, usize, usize) {
        let n_tokens =
            self.pairs.inputs.n_tokens() + self.pairs.targets.n_tokens() + self.passages.n_tokens();
        (self.pairs.inputs.n_rows(), self.passages.n_rows(), n_tokens)
    }

    /// Every training text as ids: inputs, targets and passages.
    pub fn texts(&self) -> impl Iterator<Item = &[u32]> {
        self.pairs
            .inputs
            .rows()
            .chain(self.pairs.targets.rows())
            .chain(self.passages.rows())
    }

    /// The batch of a step: rows drawn with replacement until they have the tokens asked for.
    pub fn batch(&self, step: u64) -> Batch {
        let mut rng = chance::stream(self.seed, Purpose::Pretrain, 0, step);
        let (n_pairs, n_passages) = (self.pairs.inputs.n_rows(), self.passages.n_rows());
        let mut batch = Batch::default();
        while batch.inputs.n_tokens() + batch.targets.n_tokens() < self.batches.batch_tokens {
            let span = f64::from(chance::uniform(&mut rng)) < self.batches.span_share;
            if n_pairs == 0 || (span && n_passages > 0) {
                let passage = self.passages.row(chance::below(&mut rng, n_passages));
                let row = self.passage_row(passage, &mut rng);
                batch.inputs.push(&row.input_ids);
                batch.targets.push(&row.target_ids);
            } else {
                let row = chance::below(&mut rng, n_pairs);
                batch.inputs.push(self.pairs.inputs.row(row));
                batch.targets.push(self.pairs.targets.row(row));
            }
        }
        batch
    }

    /// A window of a passage with something to write.
    fn passage_row(&self, passage: &[u32], rng: &mut ChaCha8Rng) -> Encoded {
        let most = self.batches.max_input - 1;
        let start = if passage.len() > most {
            chance::below(rng, passage.len() - most + 1)
        } else {
            0
        };
        let end = (start + most).min(passage.len());
        let window = &passage[start..end];
        let (input_ids, target_ids) = match &self.special.objective {
            Objective::Spans { sentinels } => self.span_row(window, sentinels, rng),
            Objective::Causal => self.causal_row(window, end == passage.len()),
        };
        Encoded {
            input_ids,
            target_ids,
            cut: false,
        }
    }

    /// A corrupted window and what was taken out.
    fn span_row(
        &self,
        window: &[u32],
        sentinels: &[u32],
        rng: &mut ChaCha8Rng,
    ) -> (Vec<u32>, Vec<u32>) {
        let noise = Noise {
            density: self.batches.noise_density,
            mean_span: self.batches.mean_span,
        };
        let (mut input_ids, mut target_ids) = corrupt(window, noise, sentinels, rng);
        input_ids.push(self.special.end);
        target_ids.push(self.special.end);
        (input_ids, target_ids)
    }

    /// The first token, and all that follow; the end token where the passage ends with the window.
    fn causal_row(&self, window: &[u32], ends: bool) -> (Vec<u32>, Vec<u32>) {
        let (first, rest) = window.split_at(1);
        let end = ends.then_some(self.special.end);
        (first.to_vec(), rest.iter().copied().chain(end).collect())
    }

    fn hold_out(&mut self, n_validation: usize) {
        let chosen = |n: usize, kind: u64| {
            let mut rows = chance::permutation(
                &mut chance::stream(self.seed, Purpose::Validation, kind, 0),
                n,
            );
            rows.truncate(n_validation.min(n / 10));
            rows.sort_unstable();
            rows
        };
        let pairs = chosen(self.pairs.inputs.n_rows(), 0);
        let passages = chosen(self.passages.n_rows(), 1);
        let pair = |&row: &usize| Encoded {
            input_ids: self.pairs.inputs.row(row).to_vec(),
            target_ids: self.pairs.targets.row(row).to_vec(),
            cut: false,
        };
        let span = |&row: &usize| {
            let mut rng = chance::stream(self.seed, Purpose::Pretrain, 1, row as u64);
            self.passage_row(self.passages.row(row), &mut rng)
        };
        self.held_out = HeldOut {
            pairs: pairs.iter().map(pair).collect(),
            spans: passages.iter().map(span).collect(),
        };
        self.pairs.inputs = without(&self.pairs.inputs, &pairs);
        self.pairs.targets = without(&self.pairs.targets, &pairs);
        self.passages = without(&self.passages, &passages);
    }
}

/// What [`Examples::read`] collects.
struct Reader<'a> {
    tokenizer: &'a Tokenizer,
    format: Format,
    limits: Limits,
    pairs: Pairs,
    passages: Ragged,
    n_short: usize,
    n_long: usize,
}

impl Reader<'_> {
    /// Takes in what is tokenized already. Pairs that are too long are left out whole: their ends
    /// would be lost.
    fn add(&mut self, shard: Shard) {
        let Limits {
            max_input,
            max_target,
        } = self.limits;
        for (input, target) in shard.inputs.rows().zip(shard.targets.rows()) {
            if input.len() <= max_input && target.len() <= max_target {
                self.pairs.inputs.push(input);
                self.pairs.targets.push(target);
            } else {
                self.n_long += 1;
            }
        }
        for passage in shard.passages.rows() {
            if passage.len() >= MIN_PASSAGE {
                self.passages.push(passage);
            } else {
                self.n_short += 1;
            }
        }
    }

    /// Tokenizes pieces, in parallel and in order.
    fn take(&mut self, chunk: &mut Vec<CorpusItem>) -> Result<()> {
        let encoded: Vec<Result<Encoded>> =
            chunk.par_drain(..).map(|item| self.encode(item)).collect();
        for row in encoded {
            let row = row?;
            if !row.target_ids.is_empty() {
                self.pairs.inputs.push(&row.input_ids);
                self.pairs.targets.push(&row.target_ids);
            } else if row.input_ids.len() >= MIN_PASSAGE {
                self.passages.push(&row.input_ids);
            } else {
                self.n_short += 1;
            }
        }
        Ok(())
    }

    /// A pair; or a passage without its end token, whole, with an empty target.
    fn encode(&self, item: CorpusItem) -> Result<Encoded> {
        let row = |prompt: String, target| Row {
            id: "of the corpus".into(),
            content: Content::Text {
                prompt: prompt.into(),
                references: vec![target],
            },
        };
        match item {
            CorpusItem::Pair { prompt, target } => {
                let row = row(prompt, target);
                Ok(self
                    .tokenizer
                    .encode_row_as(&row, self.limits, &self.format)?)
            }
            CorpusItem::Text(text) => {
                let input_ids = match self.format.end_id {
                    None => {
                        let mut ids = self.tokenizer.encode(&text)?;
                        ids.pop();
                        ids
                    }
                    // What the tokenizer puts in front of a prompt stands in front of a passage.
                    Some(_) => {
                        let row = row(text, String::new());
                        let whole = Limits {
                            max_input: usize::MAX,
                            ..self.limits
                        };
                        self.tokenizer
                            .encode_row_as(&row, whole, &self.format)?
                            .input_ids
                    }
                };
                Ok(Encoded {
                    input_ids,
                    target_ids: Vec::new(),
                    cut: false,
                })
            }
            CorpusItem::Document(_) => unreachable!("document marks are left out"),
        }
    }
}

impl Special {
    fn format(&self) -> Format {
        Format {
            end_id: (self.objective == Objective::Causal).then_some(self.end),
            ..Format::default()
        }
    }
}

fn limits(batches: Batches) -> Limits {
    Limits {
        max_input: batches.max_input,
        max_target: batches.max_target,
    }
}

/// All rows but the given ones, which are in order.
fn without(rows: &Ragged, left_out: &[usize]) -> Ragged {
    Ragged::from_rows(
        (0..rows.n_rows())
            .filter(|row| left_out.binary_search(row).is_err())
            .map(|row| rows.row(row)),
    )
}

/// What the tokenizer appends to a text; a tokenizer that appends nothing, or more than one token,
/// is refused.
pub fn appended_end_token(tokenizer: &Tokenizer, path: &Path) -> Result<u32> {
    match tokenizer.encode("")?.as_slice() {
        [end] => Ok(*end),
        ids => {
            let problem = format!(
                "appends {} tokens to a text, expected one end token",
                ids.len()
            );
            bail!(BadInput(format!("{}: {problem}", path.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(seed: u64) -> Examples {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("a.txt");
        let words = |n: usize| {
            (0..n)
                .map(|w| format!("w{}", 10 + w))
                .collect::<Vec<_>>()
                .join(" ")
        };
        std::fs::write(
            &text,
            format!(
                "<|doc|>x\n{}\n{}\n{}\n",
                words(3),
                words(300),
                words(20).repeat(2)
            ),
        )
        .unwrap();
        let rows = folder.path().join("b.jsonl");
        let row = |n: usize| format!("{{\"input\": \"w{n} w5\", \"output\": \"w{}\"}}\n", n + 1);
        std::fs::write(&rows, (10..60).map(row).collect::<String>()).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fixtures/golden/tiny-t5/tokenizer.json");
        let tokenizer = Tokenizer::from_file(&golden).unwrap();
        let special = Special {
            end: appended_end_token(&tokenizer, &golden).unwrap(),
            objective: Objective::Spans {
                sentinels: vec![511, 510, 509, 508, 507, 506, 505],
            },
        };
        let batches = Batches {
            batch_tokens: 200,
            max_input: 32,
            max_target: 8,
            span_share: 0.5,
            noise_density: 0.15,
            mean_span: 3.0,
        };
        Examples::read(&[text, rows], &tokenizer, special, batches, 3, seed).unwrap()
    }

    #[test]
    fn batches_have_the_tokens_asked_for_and_rows_that_end() {
        let examples = examples(1);
        assert_eq!(
            (examples.counts().0, examples.counts().1, examples.n_short),
            (47, 2, 1)
        );
        assert_eq!(examples.held_out().pairs.len(), 3);
        for step in 0..20 {
            let batch = examples.batch(step);
            let n_tokens = batch.inputs.n_tokens() + batch.targets.n_tokens();
            assert!((200..260).contains(&n_tokens), "{n_tokens} tokens");
            for row in batch.inputs.rows().chain(batch.targets.rows()) {
                assert!(row.len() <= 32 && row.last() == Some(&1), "{row:?}");
            }
        }
    }

    #[test]
    fn a_step_names_its_batch_and_the_seed_changes_it() {
        assert_eq!(examples(1).batch(7), examples(1).batch(7));
        assert_ne!(examples(1).batch(7), examples(1).batch(8));
        assert_ne!(examples(1).batch(7), examples(2).batch(7));
    }

    #[test]
    fn held_out_pairs_are_never_drawn() {
        let examples = examples(3);
        let drawn: Vec<Batch> = (0..200).map(|step| examples.batch(step)).collect();
        for held in &examples.held_out().pairs {
            assert!(
                drawn
                    .iter()
                    .all(|batch| batch.inputs.rows().all(|row| row != held.input_ids))
            );
        }
    }
}
