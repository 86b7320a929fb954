//! From a corpus and a configuration to a Hugging Face directory.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kif_data::{CorpusItem, Tokenizer};
use kif_io::atomic;
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::hash::hash_of;
use kif_io::progress::Progress;
use kif_io::signal::StopFlag;
use kif_model::{LanguageModel, ModelConfig, ModelOptions, from_parts, random_weights};

use super::checkpoint::Checkpoint;
use super::config::{PretrainConfig, Start, TokenizerSource};
use super::examples::{Examples, Objective, Special, appended_end_token, for_each_item};
use super::export::{CorpusFile, Record, export};
use super::shard::is_shard;
use super::{start, tokenizer, trainer};

/// What a run reads and writes.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Corpus files: `.jsonl[.zst]`, `.txt[.zst]`, or token ids in `.safetensors`.
    pub corpus: Vec<PathBuf>,
    /// The model directory to be.
    pub out: PathBuf,
}

/// Trains a model and writes it; goes on from a checkpoint of the same run, and does nothing where
/// it is done.
///
/// `options` says where and in which precision; what it says of trainable weights must be all of
/// them.
pub fn run(
    inputs: &Inputs,
    config: &PretrainConfig,
    options: &ModelOptions,
    stop: &StopFlag,
    progress: &mut Progress,
) -> Result<Record> {
    let started = Instant::now();
    let corpus = inputs
        .corpus
        .iter()
        .map(|file| CorpusFile::of(file))
        .collect::<Result<Vec<_>>>()?;
    let (tokenizer_text, tokenizer_path) = prepare_tokenizer(inputs, config, progress)?;
    let identity = identity(config, &corpus, &tokenizer_text, options)?;
    if let Some(record) = Record::read(&inputs.out)? {
        if record.identity == identity.to_hex().as_str() {
            progress.line("done already");
            return Ok(record);
        }
        let out = inputs.out.display();
        bail!(BadInput(format!(
            "{out} holds a base of another configuration, corpus or tokenizer; choose another folder"
        )));
    }

    let tokenizer = Tokenizer::from_file(&tokenizer_path)?;
    let special = special_tokens(config, &tokenizer, &tokenizer_text, &tokenizer_path)?;
    let examples = read_examples(inputs, config, &tokenizer, special.rows, progress)?;
    let (n_pairs, n_passages, n_tokens) = examples.counts();

    let vocab_size = tokenizer.vocab_size();
    let model_config = config.model.model(vocab_size, special.pad, special.end)?;
    let mut model = build(&model_config, config, &examples, options)?;
    progress.line(&format!(
        "{} weights, {} tokens in the vocabulary",
        model.params().len(),
        tokenizer.vocab_size()
    ));
    let checkpoint = Checkpoint::new(&inputs.out, identity);
    let validations = trainer::train(&mut *model, &examples, config, &checkpoint, stop, progress)?;

    let record = Record {
        config: config.clone(),
        corpus,
        identity: identity.to_hex().to_string(),
        n_weights: model.params().len(),
        vocab_size: tokenizer.vocab_size(),
        n_pairs,
        n_passages,
        n_short_passages: examples.n_short,
        n_tokens,
        exact_share: trainer::exact_share(&*model, &examples.held_out().pairs)?,
        validations,
        program: format!("kif {}", env!("CARGO_PKG_VERSION")),
        commit: std::env::var("KIF_GIT_COMMIT").ok(),
        threads: rayon::current_num_threads(),
        wall_s: started.elapsed().as_secs_f64(),
    };
    export(
        &inputs.out,
        &model_config,
        &special.end_name,
        model.layout(),
        model.params(),
        &record,
    )?;
    checkpoint.remove()?;
    progress.finish();
    Ok(record)
}

/// The corpus as ids; says how much it is, and what was left out.
fn read_examples(
    inputs: &Inputs,
    config: &PretrainConfig,
    tokenizer: &Tokenizer,
    special: Special,
    progress: &mut Progress,
) -> Result<Examples> {
    progress.line("tokenizing the corpus");
    let examples = Examples::read(
        &inputs.corpus,
        tokenizer,
        special,
        config.batches,
        config.validation_rows,
        config.seed,
    )?;
    let (n_pairs, n_passages, n_tokens) = examples.counts();
    progress.line(&format!(
        "{n_pairs} pairs and {n_passages} passages, {n_tokens} tokens"
    ));
    if examples.n_long > 0 {
        let n = examples.n_long;
        progress.line(&format!(
            "{n} tokenized pairs are longer than max_input or max_target and left out"
        ));
    }
    Ok(examples)
}

/// The text of the tokenizer and its file in the model directory.
fn prepare_tokenizer(
    inputs: &Inputs,
    config: &PretrainConfig,
    progress: &mut Progress,
) -> Result<(String, PathBuf)> {
    let path = inputs.out.join("tokenizer.json");
    let text = match &config.tokenizer {
        TokenizerSource::File(file) => std::fs::read_to_string(file)
            .or_bad_input(|| format!("reading tokenizer {}", file.display()))?,
        TokenizerSource::Train {
            vocab_size,
            n_sentinels,
        } => {
            if let Some(shard) = inputs.corpus.iter().find(|file| is_shard(file)) {
                let shard = shard.display();
                bail!(BadInput(format!(
                    "{shard} is tokenized already: `tokenizer` must name the tokenizer file that it was made with"
                )));
            }
            progress.line("learning a vocabulary");
            let mut texts = Vec::new();
            for_each_item(&inputs.corpus, |item| {
                match item {
                    CorpusItem::Pair { prompt, target } => texts.extend([prompt, target]),
                    CorpusItem::Text(text) | CorpusItem::Document(text) => texts.push(text),
                }
                Ok(())
            })?;
            let appends_end = config.model.architecture.family().is_none();
            let texts = texts.iter().map(String::as_str);
            tokenizer::train(texts, *vocab_size, *n_sentinels, appends_end)?
        }
    };
    // A finished base keeps its file; the check of the record tells whether it is this one.
    if Record::read(&inputs.out)?.is_none() {
        atomic::write(&path, text.as_bytes())?;
    }
    Ok((text, path))
}

/// Everything that decides the bits of the result.
fn identity(
    config: &PretrainConfig,
    corpus: &[CorpusFile],
    tokenizer: &str,
    options: &ModelOptions,
) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    // The folder of a tokenizer file is no part of the run, its content is.
    let mut config = config.clone();
    if let TokenizerSource::File(file) = &mut config.tokenizer {
        *file = file.file_name().map(PathBuf::from).unwrap_or_default();
    }
    hasher.update(ron::to_string(&config)?.as_bytes());
    for file in corpus {
        hasher.update(file.blake3.as_bytes());
    }
    hasher.update(tokenizer.as_bytes());
    hasher.update(format!("{:?} {:?}", options.device, options.precision).as_bytes());
    Ok(hasher.finalize())
}

/// Tokens with a meaning of their own.
struct SpecialTokens {
    rows: Special,
    /// Starts the decoder of a T5.
    pad: u32,
    end: u32,
    end_name: String,
}

fn special_tokens(
    config: &PretrainConfig,
    tokenizer: &Tokenizer,
    text: &str,
    path: &Path,
) -> Result<SpecialTokens> {
    let raw: tokenizers::Tokenizer = text
        .parse()
        .map_err(|e: tokenizers::Error| BadInput(format!("{}: {e}", path.display())))?;
    let missing = |token: &str, why: &str| {
        let path = path.display();
        BadInput(format!("{path}: has no token {token}, {why}"))
    };
    let (end, pad, objective) = if config.model.architecture.family().is_some() {
        let end = written_end(config, tokenizer)?.with_context(|| {
            missing(
                tokenizer::END,
                "and no tokenizer_config.json beside it that names the end token",
            )
        })?;
        (end, end, Objective::Causal)
    } else {
        let pad = raw.token_to_id("<pad>");
        let pad = pad.with_context(|| missing("<pad>", "which starts the decoder"))?;
        let sentinels = tokenizer::sentinels(&raw);
        if sentinels.is_empty() {
            bail!(missing("<extra_id_0>", "which span corruption needs"));
        }
        let end = appended_end_token(tokenizer, path)?;
        (end, pad, Objective::Spans { sentinels })
    };
    let end_name = raw.id_to_token(end).unwrap_or_default();
    Ok(SpecialTokens {
        rows: Special { end, objective },
        pad,
        end,
        end_name,
    })
}

/// What a decoder-only model writes after a text: the end token that the `tokenizer_config.json`
/// beside a tokenizer names, or [`END`](tokenizer::END).
fn written_end(config: &PretrainConfig, tokenizer: &Tokenizer) -> Result<Option<u32>> {
    let named = match &config.tokenizer {
        TokenizerSource::File(file) => {
            kif_data::end_token(&file.with_file_name("tokenizer_config.json"), tokenizer)?
        }
        TokenizerSource::Train { .. } => None,
    };
    Ok(named.or_else(|| tokenizer.id_of(tokenizer::END)))
}

fn build(
    model_config: &ModelConfig,
    config: &PretrainConfig,
    examples: &Examples,
    options: &ModelOptions,
) -> Result<Box<dyn LanguageModel>> {
    let weights = random_weights(model_config, config.seed);
    let mut model = from_parts(model_config, weights, options)?;
    if let Start::CoOccurrence { window } = config.start {
        let (vocab_size, width) = (model_config.vocab_size(), config.model.d_model);
        let texts = examples.texts();
        let embeddings = start::co_occurrence(texts, vocab_size, width, window, config.seed);
        let mut params = model.params().to_vec();
        start::quiet_reader(model_config, model.layout(), &mut params, &embeddings);
        model.set_params(&params)?;
    }
    Ok(model)
}

impl CorpusFile {
    fn of(path: &Path) -> Result<Self> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            name,
            blake3: hash_of(path).or_bad_input(|| format!("reading corpus {}", path.display()))?,
        })
    }
}
