//! From the metadata of a GGUF file to the texts of its tokenizer, as `tokenizers` and transformers
//! read them.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::Gguf;
use super::names::EMBEDDING;
use super::pre_tokenizers::PreTokenizer;
use crate::ModelError;
use crate::files::config::ModelConfig;
use crate::files::json::short;

/// What stands for a space in SentencePiece's tokens.
const SPACE: &str = "\u{2581}";
/// The most tokens; the largest published vocabularies have a sixteenth of it.
const MAX_TOKENS: usize = 1 << 22;
/// The longest token in bytes.
const MAX_TOKEN: usize = 1024;
/// The most bytes of merges that are made from scores.
const MAX_MERGES: usize = 128 << 20;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const TEMPLATE: &str = "tokenizer.chat_template";

/// Keys that end up in the tokenizer's texts.
pub(super) const KEYS: [&str; 17] = [
    MODEL,
    PRE,
    TOKENS,
    TYPES,
    SCORES,
    MERGES,
    TEMPLATE,
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.token_type_count",
];

/// Names of the texts that a file stands for.
pub(in crate::files) const TEXTS: [&str; 4] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// Types of tokens.
const UNKNOWN: f32 = 2.0;
const CONTROL: f32 = 3.0;
const USER_DEFINED: f32 = 4.0;

impl Gguf {
    /// The text that stands for the file `name` of a Hugging Face directory, if there is one.
    pub(in crate::files) fn text_file(&self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        match name {
            "tokenizer.json" => self.tokenizer(),
            "tokenizer_config.json" => self.tokenizer_config(),
            "generation_config.json" => self.generation_config().map(Some),
            "chat_template.jinja" => Ok(self.text(TEMPLATE)?.map(|text| text.as_bytes().to_vec())),
            _ => Ok(None),
        }
    }

    /// Number of tokens; 0 without a tokenizer.
    pub(super) fn n_tokens(&self) -> Result<usize, ModelError> {
        Ok(self.list(TOKENS)?.map_or(0, |list| list.len))
    }

    /// Demands a row of the embedding for every token.
    pub(super) fn check_rows(&self) -> Result<(), ModelError> {
        let (n_tokens, embedding) = (self.n_tokens()?, self.header.tensors.get(EMBEDDING));
        match embedding.map(|place| place.shape[0]) {
            Some(n_rows) if n_tokens > n_rows => {
                let problem = format!(
                    "has {n_tokens} tokens, expected {n_rows} at most, the rows of {EMBEDDING}"
                );
                Err(self.bad(TOKENS, problem))
            }
            _ => Ok(()),
        }
    }

    fn tokenizer(&self) -> Result<Option<Vec<u8>>, ModelError> {
        let Some(vocabulary) = Vocabulary::of(self)? else {
            return Ok(None);
        };
        let file = match self.text(MODEL)? {
            Some("gpt2") => byte_level(self, &vocabulary)?,
            Some("llama") => sentence_piece(self, &vocabulary)?,
            None => return Err(self.missing(MODEL, "\"gpt2\" or \"llama\"")),
            Some(other) => {
                let name = short(&json!(other));
                let problem = format!("{name} is not supported, expected \"gpt2\" or \"llama\"");
                return Err(self.bad(MODEL, problem));
            }
        };
        let text = serde_json::to_vec(&file);
        text.map(Some).map_err(|e| self.bad(TOKENS, e.to_string()))
    }

    fn tokenizer_config(&self) -> Result<Option<Vec<u8>>, ModelError> {
        let Some(tokens) = self.texts(TOKENS)? else {
            return Ok(None);
        };
        let mut fields = Map::new();
        for (field, name) in [
            ("bos", "bos"),
            ("eos", "eos"),
            ("unk", "unknown"),
            ("pad", "padding"),
        ] {
            if let Some(id) = self.special_id(name)? {
                let token = tokens
                    .get(id as usize)
                    .ok_or_else(|| self.no_token(name, id))?;
                fields.insert(format!("{field}_token"), json!(token));
            }
        }
        if let ModelConfig::Decoder(config) = self.config()? {
            fields.insert(
                "model_max_length".into(),
                json!(config.max_position_embeddings),
            );
        }
        fields.insert("clean_up_tokenization_spaces".into(), json!(false));
        fields.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        Ok(Some(format!("{:#}\n", Value::Object(fields)).into_bytes()))
    }

    fn generation_config(&self) -> Result<Vec<u8>, ModelError> {
        let config = self.config()?;
        let ends = match config.end_ids() {
            [one] => json!(one),
            several => json!(several),
        };
        let fields = json!({
            "bos_token_id": self.special_id("bos")?,
            "eos_token_id": ends,
            "pad_token_id": self.special_id("padding")?,
        });
        Ok(format!("{fields:#}\n").into_bytes())
    }

    fn no_token(&self, name: &str, id: u32) -> ModelError {
        let key = format!("tokenizer.ggml.{name}_token_id");
        self.bad(&key, format!("{id} is outside the vocabulary"))
    }

    /// What is put around a text: the begin token in front unless the file says otherwise, the end
    /// token behind it if it says so.
    fn post_processor(
        &self,
        vocabulary: &Vocabulary<'_>,
        begins: bool,
    ) -> Result<Value, ModelError> {
        let mut around = [Vec::new(), Vec::new()];
        let mut special = Map::new();
        let sides = [("bos", begins), ("eos", false)];
        for (place, (name, default)) in around.iter_mut().zip(sides) {
            let added = self.flag(&format!("tokenizer.ggml.add_{name}_token"))?;
            if !added.unwrap_or(default) {
                continue;
            }
            let Some(id) = self.special_id(name)? else {
                continue;
            };
            let token = vocabulary.tokens.get(id as usize);
            let token = token.ok_or_else(|| self.no_token(name, id))?;
            place.push(json!({"SpecialToken": {"id": token, "type_id": 0}}));
            let what = json!({"id": token, "ids": [id], "tokens": [token]});
            special.insert(token.to_string(), what);
        }
        if special.is_empty() {
            return Ok(Value::Null);
        }
        let of = |ids: &[&str]| -> Vec<Value> {
            let [front, behind] = &around;
            let texts = ids
                .iter()
                .map(|id| json!({"Sequence": {"id": id, "type_id": 0}}));
            front
                .iter()
                .cloned()
                .chain(texts)
                .chain(behind.iter().cloned())
                .collect()
        };
        Ok(json!({
            "type": "TemplateProcessing",
            "single": of(&["A"]),
            "pair": of(&["A", "B"]),
            "special_tokens": special,
        }))
    }
}

/// The tokens of a file, by their ids.
struct Vocabulary<'a> {
    tokens: Vec<Cow<'a, str>>,
    /// Those that are looked for before anything else.
    added: Vec<AddedToken<'a>>,
    /// The first token that stands for what is none.
    unknown: Option<usize>,
}

impl<'a> Vocabulary<'a> {
    fn of(gguf: &'a Gguf) -> Result<Option<Self>, ModelError> {
        let Some(tokens) = gguf.texts(TOKENS)? else {
            return Ok(None);
        };
        if tokens.len() > MAX_TOKENS {
            let problem = format!(
                "{} tokens are above the limit of {MAX_TOKENS}",
                tokens.len()
            );
            return Err(gguf.bad(TOKENS, problem));
        }
        gguf.check_rows()?;
        if let Some(id) = tokens.iter().position(|token| token.len() > MAX_TOKEN) {
            let problem = format!("token {id} is longer than the limit of {MAX_TOKEN} bytes");
            return Err(gguf.bad(TOKENS, problem));
        }
        let types = gguf.numbers(TYPES)?.unwrap_or_default();
        if !types.is_empty() && types.len() != tokens.len() {
            let problem = format!("{} types for {} tokens", types.len(), tokens.len());
            return Err(gguf.bad(TYPES, problem));
        }
        // SentencePiece's files spell a token of spaces with spaces, and look it up with what
        // stands for them; as such it is no token of its own, but made of smaller ones.
        let of_pieces = gguf.text(MODEL)? == Some("llama");
        let is_spaces =
            |token: &str| of_pieces && !token.is_empty() && token.bytes().all(|byte| byte == b' ');
        let is_added = |kind: f32| [UNKNOWN, CONTROL, USER_DEFINED].contains(&kind);
        let added = (0..).zip(&tokens).zip(&types);
        let added = added.filter_map(|((id, &content), &kind)| {
            let whole = is_added(kind) && !content.is_empty() && !is_spaces(content);
            whole.then(|| AddedToken::new(id, content, kind != USER_DEFINED))
        });
        let spelled = |token: &'a str| match is_spaces(token) {
            true => Cow::Owned(SPACE.repeat(token.len())),
            false => Cow::Borrowed(token),
        };
        Ok(Some(Self {
            added: added.collect(),
            unknown: types.iter().position(|&kind| kind == UNKNOWN),
            tokens: tokens.iter().map(|&token| spelled(token)).collect(),
        }))
    }

    /// Ids by token. A token that stands twice is an error.
    fn ids(&self, gguf: &Gguf) -> Result<HashMap<&str, u32>, ModelError> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, token) in (0..).zip(&self.tokens) {
            if let Some(first) = ids.insert(&**token, id) {
                let problem = format!("tokens {first} and {id} are the same, {:?}", token);
                return Err(gguf.bad(TOKENS, problem));
            }
        }
        Ok(ids)
    }
}

/// A vocabulary over bytes, with merges (GPT-2's).
fn byte_level<'a>(
    gguf: &'a Gguf,
    vocabulary: &'a Vocabulary<'a>,
) -> Result<TokenizerFile<'a>, ModelError> {
    let expected = || format!("expected one of {}", PreTokenizer::names());
    let name = gguf.text(PRE)?;
    let name = name.ok_or_else(|| gguf.bad(PRE, format!("is missing, {}", expected())))?;
    let pre = PreTokenizer::named(name).ok_or_else(|| {
        let name = short(&json!(name));
        gguf.bad(PRE, format!("{name} is not supported, {}", expected()))
    })?;
    let merges = stored_merges(gguf, vocabulary)?;
    Ok(TokenizerFile {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: &vocabulary.added,
        normalizer: pre.normalizer(),
        pre_tokenizer: pre.to_json(),
        post_processor: gguf.post_processor(vocabulary, pre.begins)?,
        decoder: json!({
            "type": "ByteLevel",
            "add_prefix_space": true,
            "trim_offsets": true,
            "use_regex": true,
        }),
        model: Bpe {
            ignore_merges: pre.whole_pieces,
            vocab: Ids(&vocabulary.tokens),
            merges,
            ..Bpe::default()
        },
    })
}

/// The merges of a file, the best first: pairs of tokens that make a token.
fn stored_merges<'a>(
    gguf: &'a Gguf,
    vocabulary: &Vocabulary<'_>,
) -> Result<Vec<(&'a str, &'a str)>, ModelError> {
    let ids = vocabulary.ids(gguf)?;
    let stored = gguf.texts(MERGES)?;
    let stored = stored.ok_or_else(|| gguf.missing(MERGES, "a list of pairs of tokens"))?;
    let pair = |(i, merge): (usize, &'a str)| {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(gguf.bad(MERGES, format!("element {i} is no pair of tokens")));
        };
        for part in [left, right, &format!("{left}{right}")] {
            if !ids.contains_key(part) {
                let part = short(&json!(part));
                let problem = format!("element {i}: {part} is no token, expected one of {TOKENS}");
                return Err(gguf.bad(MERGES, problem));
            }
        }
        Ok((left, right))
    };
    stored.into_iter().enumerate().map(pair).collect()
}

/// SentencePiece's vocabulary over characters, with bytes for those that it lacks.
fn sentence_piece<'a>(
    gguf: &'a Gguf,
    vocabulary: &'a Vocabulary<'a>,
) -> Result<TokenizerFile<'a>, ModelError> {
    let is_gemma = gguf.architecture()?.starts_with("gemma");
    let merges = merges_from_ranks(gguf, vocabulary, is_gemma)?;
    let unknown = match gguf.special_id("unknown")? {
        Some(id) => Some(id as usize),
        None => vocabulary.unknown,
    };
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let back = json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "});
    let mut decoders = vec![
        back,
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let has_prefix = gguf
        .flag("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true);
    let normalizer = if has_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        json!({
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace],
        })
    } else {
        replace
    };
    Ok(TokenizerFile {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: &vocabulary.added,
        normalizer,
        pre_tokenizer: Value::Null,
        post_processor: gguf.post_processor(vocabulary, true)?,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: Bpe {
            unk_token: unknown
                .and_then(|id| vocabulary.tokens.get(id))
                .map(|token| &**token),
            fuse_unk: true,
            byte_fallback: true,
            vocab: Ids(&vocabulary.tokens),
            merges,
            ..Bpe::default()
        },
    })
}

/// Every pair of tokens that makes a token, the best first: by score, or by place in the vocabulary
/// where scores do not follow the order of the merges, as in Gemma's.
fn merges_from_ranks<'a>(
    gguf: &Gguf,
    vocabulary: &'a Vocabulary<'a>,
    by_place: bool,
) -> Result<Vec<(&'a str, &'a str)>, ModelError> {
    let scores = if by_place {
        Vec::new()
    } else {
        let scores = gguf.numbers(SCORES)?;
        scores.ok_or_else(|| gguf.missing(SCORES, "a number for every token"))?
    };
    if !by_place && scores.len() != vocabulary.tokens.len() {
        let problem = format!(
            "{} scores for {} tokens",
            scores.len(),
            vocabulary.tokens.len()
        );
        return Err(gguf.bad(SCORES, problem));
    }
    let ids = vocabulary.ids(gguf)?;
    let mut merges = Vec::new();
    let mut n_bytes = 0;
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        let token: &'a str = token;
        let start = merges.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((id, (l, r), (left, right)));
                n_bytes += token.len();
            }
        }
        if n_bytes > MAX_MERGES {
            let problem = format!("merges are longer than the limit of {MAX_MERGES} bytes");
            return Err(gguf.bad(TOKENS, problem));
        }
        merges[start..].sort_by_key(|&(_, ids, _)| ids);
    }
    let lengths =
        |(left, right): (&str, &str)| Reverse((left.chars().count(), right.chars().count()));
    if by_place {
        merges.sort_by_cached_key(|&(id, _, pair)| (id, lengths(pair)));
    } else {
        // Larger scores first; as bits in the order of the numbers.
        let rank = |id: usize| {
            let bits = scores[id].to_bits();
            Reverse(if bits >> 31 == 1 {
                !bits
            } else {
                bits | 1 << 31
            })
        };
        merges.sort_by_cached_key(|&(id, _, pair)| (rank(id), lengths(pair)));
    }
    Ok(merges.into_iter().map(|(_, _, pair)| pair).collect())
}

/// A `tokenizer.json`.
#[derive(Serialize)]
struct TokenizerFile<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: &'a [AddedToken<'a>],
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Bpe<'a>,
}

#[derive(Serialize)]
struct AddedToken<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl<'a> AddedToken<'a> {
    fn new(id: u32, content: &'a str, special: bool) -> Self {
        Self {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special,
        }
    }
}

#[derive(Serialize)]
struct Bpe<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: (),
    unk_token: Option<&'a str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Ids<'a>,
    merges: Vec<(&'a str, &'a str)>,
}

impl Default for Bpe<'_> {
    fn default() -> Self {
        Self {
            kind: "BPE",
            dropout: (),
            unk_token: None,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: Ids(&[]),
            merges: Vec::new(),
        }
    }
}

/// Tokens as an object of their ids.
struct Ids<'a>(&'a [Cow<'a, str>]);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(0_u32..))
    }
}
