//! How byte-level vocabularies cut a text before they look for tokens, by the name that GGUF has
//! for it.

use serde_json::{Value, json};

/// One way to cut texts.
pub(super) struct PreTokenizer {
    /// `tokenizer.ggml.pre`.
    name: &'static str,
    cut: Cut,
    /// Whether a text begins with the begin token where the file does not say.
    pub(super) begins: bool,
    /// Whether a piece that is a token is taken whole, whatever the merges say.
    pub(super) whole_pieces: bool,
    /// Whether texts are composed first (NFC).
    composed: bool,
}

enum Cut {
    /// At the words of GPT-2.
    Gpt2,
    /// The same, every digit by itself first.
    Digits,
    /// At what a pattern matches.
    Pattern(&'static str),
}

/// Contractions in any case; letters with one sign in front; digits by up to three; signs with the
/// ends of line behind them; ends of line; spaces.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// The same with digits one by one.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// All that are known.
const ALL: [PreTokenizer; 4] = [
    PreTokenizer {
        name: "llama-bpe",
        cut: Cut::Pattern(LLAMA3),
        begins: true,
        whole_pieces: true,
        composed: false,
    },
    PreTokenizer {
        name: "smollm",
        cut: Cut::Digits,
        begins: false,
        whole_pieces: false,
        composed: false,
    },
    PreTokenizer {
        name: "qwen2",
        cut: Cut::Pattern(QWEN2),
        begins: false,
        whole_pieces: false,
        composed: true,
    },
    PreTokenizer {
        name: "gpt-2",
        cut: Cut::Gpt2,
        begins: false,
        whole_pieces: false,
        composed: false,
    },
];

impl PreTokenizer {
    /// By its name in a file.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        const KNOWN: &[PreTokenizer] = &ALL;
        KNOWN.iter().find(|pre| pre.name == name)
    }

    /// Names of all, for messages.
    pub(super) fn names() -> String {
        ALL.map(|pre| format!("{:?}", pre.name)).join(", ")
    }

    /// What a `tokenizer.json` has as `normalizer`.
    pub(super) fn normalizer(&self) -> Value {
        if self.composed {
            json!({"type": "NFC"})
        } else {
            Value::Null
        }
    }

    /// What a `tokenizer.json` has as `pre_tokenizer`.
    pub(super) fn to_json(&self) -> Value {
        let bytes = |use_regex: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": true,
                "use_regex": use_regex,
            })
        };
        let then = |first: Value, bytes: Value| json!({"type": "Sequence", "pretokenizers": [first, bytes]});
        match self.cut {
            Cut::Gpt2 => bytes(true),
            Cut::Digits => then(
                json!({"type": "Digits", "individual_digits": true}),
                bytes(true),
            ),
            Cut::Pattern(pattern) => then(
                json!({
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": false,
                }),
                bytes(false),
            ),
        }
    }
}
