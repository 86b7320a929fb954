//! Soft prompts: trained rows that the model reads in front of the text, and how a text gets its
//! own.

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// Most rows of all prompts together; more are taken for a broken file.
pub const MAX_PROMPT_ROWS: usize = 16_384;

/// Soft prompts over a frozen base (Lester et al. 2021, arXiv 2104.08691): the rows of some prompts
/// are prepended to the embeddings of every text. They take part in positions as tokens do, and
/// come on top of the text's tokens.
///
/// Which prompts take part is [`Prompted::activate_prompts`](crate::Prompted::activate_prompts);
/// none do in a fresh model, which is the base to the bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptConfig {
    /// Number of prompts. At least 1.
    pub n_prompts: usize,
    /// Rows of each. At least 1.
    pub length: usize,
    /// Which of the active prompts a text gets.
    pub selection: PromptSelection,
}

/// Which of the active prompts stand in front of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum PromptSelection {
    /// All of them, in the order in which they were activated.
    Fixed,
    /// Those whose trained keys are closest to the text's mean embedding, see [`closest_keys`]; the
    /// closest first.
    Pool {
        /// So many of them, or all if fewer are active. At least 1.
        top_k: usize,
    },
}

impl PromptConfig {
    /// Checks all bounds.
    pub fn validate(&self) -> Result<(), ModelError> {
        let bad = |field, problem| Err(ModelError::Prompts { field, problem });
        if self.n_prompts == 0 {
            return bad("n_prompts", "0 is not at least 1".to_owned());
        }
        if self.length == 0 {
            return bad("length", "0 is not at least 1".to_owned());
        }
        if let PromptSelection::Pool { top_k } = self.selection
            && !(1..=self.n_prompts).contains(&top_k)
        {
            let problem = format!("{top_k} is outside 1..={}", self.n_prompts);
            return bad("top_k", problem);
        }
        match self.n_prompts.checked_mul(self.length) {
            Some(n_rows) if n_rows <= MAX_PROMPT_ROWS => Ok(()),
            _ => {
                let (n_prompts, length) = (self.n_prompts, self.length);
                let problem =
                    format!("{n_prompts} prompts of {length} rows are more than {MAX_PROMPT_ROWS}");
                bad("length", problem)
            }
        }
    }
}

/// The `n` of the prompts `among` whose keys have the largest cosine with `query`, the closest
/// first and the earlier of equals first. `keys` is `[prompts, D]`, `query` `[D]`; a zero vector
/// has cosine 0 with everything.
pub fn closest_keys(keys: &[f32], query: &[f32], among: &[usize], n: usize) -> Vec<usize> {
    let width = query.len();
    let cosine_with = |i: usize| cosine(&keys[i * width..][..width], query);
    let mut ranked: Vec<(usize, f64)> = among.iter().map(|&i| (i, cosine_with(i))).collect();
    // A stable sort: equals keep their order.
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.into_iter().take(n).map(|(i, _)| i).collect()
}

/// `a . b / (|a| |b|)`, in f64; 0 where either is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 {
        dot(a, b) / lengths
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_keys_come_first_whatever_their_length() {
        let keys = [3.0, 0.0, 0.1, 0.1, 0.0, 9.0, 0.0, 0.0];
        assert_eq!(
            closest_keys(&keys, &[1.0, 0.8], &[0, 1, 2, 3], 3),
            [1, 0, 2]
        );
        assert_eq!(closest_keys(&keys, &[1.0, 0.8], &[3, 2], 3), [2, 3]);
        assert_eq!(
            closest_keys(&keys, &[0.0, 0.0], &[2, 0, 1], 2),
            [2, 0],
            "equals keep their order"
        );
        assert!((cosine(&[3.0, 4.0], &[0.0, -2.0]) + 0.8).abs() < 1e-12);
    }

    #[test]
    fn sizes_out_of_bounds_are_refused_by_name() {
        let fine = PromptConfig {
            n_prompts: 4,
            length: 10,
            selection: PromptSelection::Pool { top_k: 3 },
        };
        fine.validate().unwrap();
        let refused = |config: PromptConfig| config.validate().unwrap_err().to_string();
        assert!(
            refused(PromptConfig {
                n_prompts: 0,
                ..fine
            })
            .contains("n_prompts")
        );
        assert!(refused(PromptConfig { length: 0, ..fine }).contains("length"));
        assert!(
            refused(PromptConfig {
                length: 1 << 62,
                ..fine
            })
            .contains("length")
        );
        let selection = PromptSelection::Pool { top_k: 5 };
        assert!(refused(PromptConfig { selection, ..fine }).contains("top_k: 5 is outside 1..=4"));
    }
}
