//! The Porter stemmer (M. F. Porter, "An algorithm for suffix stripping", 1980)
//! with NLTK's extensions.
//!
//! `rouge-score` stems with NLTK's `PorterStemmer` in its default mode. That is the published
//! algorithm and these departures: a pool of irregular words; words of up to two letters stay;
//! `ies` and `ied` become `ie` in words of four letters and `i` in longer ones; `y` becomes `i`
//! after a consonant that is not the word's first letter, instead of after any vowel; `bli`
//! replaces `abli`; `alli` is reduced twice; `fulli` and `logi` are suffixes too; a stem of one
//! vowel and one consonant counts as short. Snowball's "English" (Porter 2) is another algorithm.
//!
//! The steps are tables of suffixes. In a step, the first suffix in the table that a word ends with
//! decides alone: where its condition does not hold, the word is left as it is.

/// The stem of a lower-case ASCII word.
pub(crate) fn stem(word: &str) -> String {
    assert!(word.is_ascii(), "stemming {word:?}, which is not ASCII");
    if let Some((stem, _)) = IRREGULAR.iter().find(|(_, words)| words.contains(&word)) {
        return (*stem).to_owned();
    }
    let mut word = word.to_owned();
    if word.len() > 2 {
        for step in [
            plural,
            past,
            final_y,
            double_suffix,
            single_suffix,
            bare_suffix,
            final_e,
            final_ll,
        ] {
            word = step(word);
        }
    }
    word
}

/// Stems that the rules would miss, each with its words.
const IRREGULAR: [(&str, &[&str]); 12] = [
    ("sky", &["sky", "skies"]),
    ("die", &["dying"]),
    ("lie", &["lying"]),
    ("tie", &["tying"]),
    ("news", &["news"]),
    ("inning", &["innings", "inning"]),
    ("outing", &["outings", "outing"]),
    ("canning", &["cannings", "canning"]),
    ("howe", &["howe"]),
    ("proceed", &["proceed"]),
    ("exceed", &["exceed"]),
    ("succeed", &["succeed"]),
];

type Rule = (&'static str, &'static str);

const DOUBLE_SUFFIXES: [Rule; 22] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
    ("logi", "log"),
];

const SINGLE_SUFFIXES: [Rule; 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

const BARE_SUFFIXES: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou",
    "ism", "ate", "iti", "ous", "ive", "ize",
];

/// Step 1a: plurals.
fn plural(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ies") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if word.ends_with("ss") || !word.ends_with('s') {
        return word;
    }
    let n_cut = if word.ends_with("sses") { 2 } else { 1 };
    cut(word, n_cut)
}

/// Step 1b: past and progressive forms, and the repair of what they leave (hop(p)ing, fil(e)ing).
fn past(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 {
            format!("{stem}ee")
        } else {
            word
        };
    }
    let stem = word.strip_suffix("ed").or_else(|| word.strip_suffix("ing"));
    let Some(stem) = stem.filter(|stem| has_vowel(stem)) else {
        return word;
    };
    let short = measure(stem) == 1 && ends_short(stem);
    let stem = stem.to_owned();
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        stem + "e"
    } else if ends_double_consonant(&stem) {
        if stem.ends_with(['l', 's', 'z']) {
            stem
        } else {
            cut(stem, 1)
        }
    } else if short {
        stem + "e"
    } else {
        stem
    }
}

/// Step 1c: final y.
fn final_y(word: String) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && is_consonant(stem.as_bytes(), stem.len() - 1) => {
            format!("{stem}i")
        }
        _ => word,
    }
}

/// Step 2: double suffixes become single ones, where the stem has a measure above 0.
fn double_suffix(word: String) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return double_suffix(format!("{stem}al"));
    }
    let Some((suffix, replacement)) = DOUBLE_SUFFIXES
        .iter()
        .find(|(suffix, _)| word.ends_with(suffix))
    else {
        return word;
    };
    // The l of "logi" counts to the stem, so that "geologi" is reduced.
    let n_counted = if *suffix == "logi" { 3 } else { suffix.len() };
    if measure(&word[..word.len() - n_counted]) > 0 {
        replaced(&word, suffix, replacement)
    } else {
        word
    }
}

/// Step 3: further suffixes, where the stem has a measure above 0.
fn single_suffix(word: String) -> String {
    match SINGLE_SUFFIXES
        .iter()
        .find(|(suffix, _)| word.ends_with(suffix))
    {
        Some((suffix, replacement)) if measure(&word[..word.len() - suffix.len()]) > 0 => {
            replaced(&word, suffix, replacement)
        }
        _ => word,
    }
}

/// Step 4: suffixes without replacement, where the stem has a measure above 1.
fn bare_suffix(word: String) -> String {
    let Some(suffix) = BARE_SUFFIXES.iter().find(|suffix| word.ends_with(*suffix)) else {
        return word;
    };
    let stem = &word[..word.len() - suffix.len()];
    let goes = measure(stem) > 1 && (*suffix != "ion" || stem.ends_with(['s', 't']));
    if goes { stem.to_owned() } else { word }
}

/// Step 5a: final e.
fn final_e(word: String) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem)) => {
            stem.to_owned()
        }
        _ => word,
    }
}

/// Step 5b: final ll.
fn final_ll(word: String) -> String {
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        cut(word, 1)
    } else {
        word
    }
}

fn cut(mut word: String, n_letters: usize) -> String {
    word.truncate(word.len() - n_letters);
    word
}

fn replaced(word: &str, suffix: &str, replacement: &str) -> String {
    format!("{}{replacement}", &word[..word.len() - suffix.len()])
}

/// Whether letter `i` is a consonant: not a, e, i, o, u, nor a y after a consonant.
fn is_consonant(word: &[u8], i: usize) -> bool {
    // A run of y alternates, starting with a consonant unless a consonant stands before it.
    match word[i] {
        b'a' | b'e' | b'i' | b'o' | b'u' => false,
        b'y' => i == 0 || !is_consonant(word, i - 1),
        _ => true,
    }
}

/// The m in `[C](VC)^m[V]`: how often consonants follow vowels.
fn measure(stem: &str) -> usize {
    let kinds: Vec<bool> = (0..stem.len())
        .map(|i| is_consonant(stem.as_bytes(), i))
        .collect();
    kinds.windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(stem: &str) -> bool {
    (0..stem.len()).any(|i| !is_consonant(stem.as_bytes(), i))
}

fn ends_double_consonant(word: &str) -> bool {
    match word.as_bytes() {
        [.., a, b] => a == b && is_consonant(word.as_bytes(), word.len() - 1),
        _ => false,
    }
}

/// Whether it ends in consonant, vowel, consonant, the last not w, x or y; or is just a
/// vowel and a consonant.
fn ends_short(word: &str) -> bool {
    let letters = word.as_bytes();
    let consonant = |from_end: usize| is_consonant(letters, letters.len() - from_end);
    match letters.len() {
        0 | 1 => false,
        2 => !consonant(2) && consonant(1),
        _ => consonant(3) && !consonant(2) && consonant(1) && !word.ends_with(['w', 'x', 'y']),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_every_step() {
        let examples = [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("dies", "die"),
            ("agreed", "agre"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("sing", "sing"),
            ("happy", "happi"),
            ("enjoy", "enjoy"),
            ("relational", "relat"),
            ("geology", "geolog"),
            ("hopefully", "hope"),
            ("triplicate", "triplic"),
            ("adoption", "adopt"),
            ("rate", "rate"),
            ("controller", "control"),
            ("skies", "sky"),
        ];
        for (word, expected) in examples {
            assert_eq!(stem(word), expected, "{word}");
        }
    }

    #[test]
    fn every_fixture_word_has_nltks_stem() {
        let fixture: Vec<(String, String)> =
            serde_json::from_str(include_str!("../tests/fixtures/stems.json")).unwrap();
        assert!(fixture.len() > 1500, "{} words", fixture.len());
        let wrong: Vec<_> = fixture
            .iter()
            .filter(|(word, expected)| stem(word) != *expected)
            .collect();
        assert!(
            wrong.is_empty(),
            "{} of {} stems differ: {wrong:?}",
            wrong.len(),
            fixture.len()
        );
    }
}
